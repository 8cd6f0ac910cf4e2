"""Time of an autoencoder's step against its bare networks: ``python -m benchmarks.disentanglement.step_time``.

Each method trains on sprites inside ``Trainer.fit``; between two batches its bare networks make their forward pass and
the gradients of their weights. ``--peer`` adds pythae's models on the same networks, which
``pip install -e '.[peers]'`` brings. FactorVAE comes in both of its forms, and pythae's is given as many images for the
autoencoder, which makes twice as many in all, and once as many in all.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules.factors.draws import draw_factors
from datamodules.factors.render import FACTOR_SIZES, render
from zoo import DIPVAE, AnnealedVAE, BetaTCVAE, BetaVAE, FactorVAE

from ..shared.runs import silence_lightning
from ..shared.timing import medians_of_rounds, print_machine, print_ratios, step_time_parser, take_turns
from . import loop

STEPS, WARMUP = 10, 5  # steps of a round, of which the median is taken; steps before the first round
Variant = tuple[torch.memory_format, Any, bool]  # layout, precision, whether Adam is fused
VARIANTS: dict[str, Variant] = {
    "channels-last": (torch.channels_last, "32-true", True),
    "channels-last, bf16-mixed": (torch.channels_last, "bf16-mixed", True),
}
LEVERS: dict[str, Variant] = {
    "contiguous": (torch.contiguous_format, "32-true", True),
    "channels-last, plain Adam": (torch.channels_last, "32-true", False),
    "contiguous, plain Adam": (torch.contiguous_format, "32-true", False),
}


def compare(arguments: argparse.Namespace) -> None:
    """Time every method, with the same number of sprites for its autoencoder."""
    size = arguments.batch_size
    torch.manual_seed(0)
    x = render(draw_factors(FACTOR_SIZES, 2 * size, torch.Generator().manual_seed(0)))[:, None].float()
    # images of a batch, and of pythae's, if it has the method: half of FactorVAE's are for its autoencoder
    methods: dict[str, tuple[Callable[[], Any], int, tuple[int, ...]]] = {
        "BetaVAE": (BetaVAE, size, (size,)),
        "BetaTCVAE": (BetaTCVAE, size, (size,)),
        "FactorVAE": (FactorVAE, size, (2 * size, size)),
        "FactorVAE, second batch": (lambda: FactorVAE(second_batch=True), 2 * size, (2 * size,)),
        "AnnealedVAE": (AnnealedVAE, size, ()),
        "DIPVAE": (DIPVAE, size, ()),
    }
    if arguments.all:
        methods["FactorVAE, weight gradients of the total correlation"] = (loop.WeightGradients, size, ())
    for title, (build, images, of_peer) in methods.items():
        variants = VARIANTS | LEVERS if arguments.all and of_peer else VARIANTS
        for variant, (layout, precision, fused) in variants.items():
            module = build()
            module.to(memory_format=layout)
            if not fused:
                loop.plain_adam(module)
            peers = {f"pythae, {number} images": number for number in of_peer if arguments.peer}
            time_autoencoder(f"{title}, {images} images, {variant}", module, x, images, peers, precision, arguments)


def time_autoencoder(
    name: str, module: Any, x: Tensor, images: int, peers: dict[str, int], precision: Any, arguments: argparse.Namespace
) -> None:
    """Print the time of the module's step beside that of its bare networks, then beside each peer.

    Args:
        name: The module's, as printed.
        module: The method.
        x: Images (n, C, 64, 64) in [0, 1] for the largest batch.
        images: Number of images in the module's batch.
        peers: The names of pythae's contestants and the number of images in their batches.
        precision: Of the module.
        arguments: Of the command line.
    """
    layouts = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
    on_device = x.to("cuda" if torch.cuda.is_available() else "cpu")
    others = {f"bare, {kind}": loop.bare(module, on_device[:images], layout) for kind, layout in layouts.items()}
    for peer, number in peers.items():
        others[peer] = loop.pythae(module, on_device[:number])
        if arguments.all:
            others[f"{peer}, channels-last"] = loop.pythae(module, on_device[:number], torch.channels_last)
    steps = arguments.rounds * STEPS + WARMUP
    batches = DataLoader(TensorDataset((2 * x[:images] - 1).repeat(steps, 1, 1, 1)), images)
    seconds = medians_of_rounds(take_turns(name, module, batches, others, precision, WARMUP), STEPS)
    print_ratios(seconds, "ms", 1e3)
    for peer in peers:
        print_ratios({each: seconds[each] for each in (peer, name)}, "ms", 1e3)


def main() -> None:
    """Read the command line and compare."""
    parser = step_time_parser(__doc__, batch_size=64)
    parser.add_argument("--all", action="store_true", help="each way of saving time alone, too")
    parser.add_argument("--peer", action="store_true", help="pythae, too")
    arguments = parser.parse_args()
    silence_lightning()
    print_machine()
    compare(arguments)


if __name__ == "__main__":
    main()
