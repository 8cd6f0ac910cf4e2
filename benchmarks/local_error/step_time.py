"""Time of a step of local errors against a plain loop: ``python -m benchmarks.local_error.step_time``.

Local error signals on VGG8B, predsim, and random images of 3x32x32. The module's step is the real one, inside
``Trainer.fit``; the official algorithm in float32, written down plainly, makes a step between two batches.
"""

from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from zoo import LocalErrorSignals

from ..shared.runs import silence_lightning
from ..shared.timing import print_machine, print_ratios, step_time_parser, take_turns
from .loop import PlainVGG8B


def main() -> None:
    """Compare each way of making the step with the plain loop."""
    parser = step_time_parser(__doc__, batch_size=128)
    parser.add_argument("--all", action="store_true", help="each way of saving time alone, and back-propagation")
    arguments = parser.parse_args()
    silence_lightning()
    print_machine()
    size = arguments.batch_size
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = torch.rand(size, 3, 32, 32) * 2 - 1, torch.arange(size) % 10
    batches = DataLoader(TensorDataset(*(t.repeat(arguments.rounds + 1, *[1] * (t.dim() - 1)) for t in (x, y))), size)
    plain, x, y = PlainVGG8B().to(device), x.to(device), y.to(device)
    # training, layout, precision, and whether a block computes its maps again instead of holding them
    variants: dict[str, tuple[Any, torch.memory_format, Any, bool]] = {
        "channels-last": ("blockwise", torch.channels_last, "32-true", True),
        "channels-last, bf16-mixed": ("blockwise", torch.channels_last, "bf16-mixed", True),
    }
    if arguments.all:
        variants |= {
            "channels-last, all maps held": ("blockwise", torch.channels_last, "32-true", False),
            "contiguous": ("blockwise", torch.contiguous_format, "32-true", True),
            "channels-last, back-propagation": ("global", torch.channels_last, "32-true", False),
        }
    for name, (training, layout, precision, frugal) in variants.items():
        module = LocalErrorSignals(10, (3, 32, 32), "VGG8B", max_dim=2048, dropout=0.2, training=training)
        module.network.to(memory_format=layout)
        module.network.blocks[1].body.frugal = frugal
        print_ratios(take_turns(name, module, batches, {"plain loop": lambda: plain(x, y)}, precision))


if __name__ == "__main__":
    main()
