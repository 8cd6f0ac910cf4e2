"""Time of DANN's training step against a plain loop and its own parts: ``python -m benchmarks.dann.step_time``.

The paper's MNIST network on random images of 3x28x28 of both domains. The module's step is the real one, inside
``Trainer.fit``; between two batches a plain loop of the algorithm makes a step, and so do the step's two parts: the
module's network trained on labels alone with as many images, and the domain head's forward and backward pass on
features alone. ``--peer`` adds pytorch-adapt.

glibc hands the memory of large feature maps back to the system after each step, or not, by a rule of its own, which
makes up to a fifth of such a step: without ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` in the environment
(4294967296 each) ratios vary by that much.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo import DANN

from ..shared.runs import silence_lightning
from ..shared.timing import medians_of_rounds, print_machine, print_ratios, step_time_parser, take_turns
from . import loop

STEPS, WARMUP = 20, 5  # steps of a round, of which the median is taken; steps before the first round


class TwoPasses(DANN):
    """DANN with a pass for each domain, where the module makes one over both."""

    def _features_of_both(self, x_s: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        return self.domain_features(x_s), self.domain_features(x_t)


class ReLUFirst(DANN):
    """DANN with ReLU before the pooling, as the paper draws it."""

    def build_features(self) -> nn.Module:
        """The plain loop's feature extractor."""
        return loop.features()


def main() -> None:
    """Compare each form of the step with the plain loop and with the step's parts."""
    parser = step_time_parser(__doc__, batch_size=64)
    parser.add_argument("--all", action="store_true", help="each way of saving time alone, too")
    parser.add_argument("--peer", action="store_true", help="pytorch-adapt, too")
    arguments = parser.parse_args()
    silence_lightning()
    print_machine()
    size = arguments.batch_size  # of each domain
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y, target = torch.rand(size, 3, 28, 28) * 2 - 1, torch.arange(size) % 10, torch.rand(size, 3, 28, 28) * 2 - 1
    steps = arguments.rounds * STEPS + WARMUP
    source: list[Tensor] = [x.repeat(steps, 1, 1, 1), y.repeat(steps)]
    batches = {
        "source": DataLoader(TensorDataset(*source), size),
        "target": DataLoader(target.repeat(steps, 1, 1, 1), size),  # type: ignore[arg-type]  # a tensor is indexed, too
    }
    x, y, target = x.to(device), y.to(device), target.to(device)
    both, labels = torch.cat([x, target]), torch.cat([y, y])
    variants: dict[str, tuple[type[DANN], Any, torch.memory_format, Any]] = {
        "DANN": (DANN, "dann", torch.channels_last, "32-true"),
        "CDAN": (DANN, "cdan", torch.channels_last, "32-true"),
        "CDAN+E": (DANN, "cdan_e", torch.channels_last, "32-true"),
        "DANN, bf16-mixed": (DANN, "dann", torch.channels_last, "bf16-mixed"),
    }
    if arguments.all:
        variants |= {
            "DANN, contiguous": (DANN, "dann", torch.contiguous_format, "32-true"),
            "DANN, ReLU before pooling": (ReLUFirst, "dann", torch.channels_last, "32-true"),
            "DANN, two passes": (TwoPasses, "dann", torch.channels_last, "32-true"),
        }
    for name, (module_class, adaptation, layout, precision) in variants.items():
        module = module_class(adaptation=adaptation)
        module.network.to(memory_format=layout)
        others = {
            "plain loop": loop.plain_loop((x, y), target),
            "labels alone": loop.labels_alone(module.network, both, labels),
            "domain head alone": loop.head_alone(module.network, both),
        }
        if arguments.peer:
            others["pytorch-adapt"] = loop.pytorch_adapt((x, y), target)
        seconds = medians_of_rounds(take_turns(name, module, batches, others, precision, WARMUP), STEPS)
        parts = zip(seconds.pop("labels alone"), seconds.pop("domain head alone"), strict=True)
        print_ratios({"labels alone + domain head alone": [sum(part) for part in parts], **seconds}, "ms", 1e3)


if __name__ == "__main__":
    main()
