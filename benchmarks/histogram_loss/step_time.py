"""Time of a step of the histogram loss against one of l2: ``python -m benchmarks.histogram_loss.step_time``.

Both train the 4x192 network of CT slices inside ``Trainer.fit``, a few steps each in turn. Then the targets alone are
timed, looked up in the table of the training labels and computed in each step, as shares of the whole step.
"""

import statistics

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from zoo import HistogramRegression, PointRegression
from zoo.histogram_loss.support import TargetTable

from ..shared.runs import silence_lightning
from ..shared.timing import Step, alternate, print_machine, print_ratios, step_time_parser, take_turns

STEPS = 60  # of one turn


class Direct(HistogramRegression):
    """The histogram loss with targets that are computed in each step."""

    def on_training_labels(self, labels: Tensor) -> None:
        """Make no table of targets."""


def main() -> None:
    """Compare the steps, then time the targets alone."""
    arguments = step_time_parser(__doc__, batch_size=256).parse_args()
    silence_lightning()
    print_machine()
    size = arguments.batch_size
    torch.manual_seed(0)
    x, y = torch.randn(STEPS * size, 384), torch.rand(STEPS * size) * 100
    batches = DataLoader(TensorDataset(x, y), size)
    modules: dict[str, L.LightningModule] = {
        "l2": PointRegression(384, input_dropout=0.05),
        "histogram loss": HistogramRegression(384, input_dropout=0.05),
        "histogram loss, targets in each step": Direct(384, input_dropout=0.05),
    }
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    for turn in range(arguments.rounds + 1):
        for name, module in modules.items():
            steps = take_turns(name, module, batches, {}, warmup=0)[name]
            if turn:  # the first one warms up
                seconds[name].append(statistics.median(steps))
    print_ratios(seconds, "ms", 1e3)
    module = modules["histogram loss"].to("cuda" if torch.cuda.is_available() else "cpu")
    assert isinstance(module, HistogramRegression)
    labels = y[:size].to(module.device)
    contestants: dict[str, Step] = {"targets in each step": lambda: module.target(labels)}
    if module.device.type == "cpu":
        table = TargetTable(y, module.target)
        contestants["targets looked up"] = lambda: table.find(labels)
    step = statistics.median(seconds["histogram loss"])
    for name, times in alternate(contestants, 200, warmup=10).items():
        median = statistics.median(times)
        print(f"{name}: {1e6 * median:.0f} us, {median / step:.2%} of the step")


if __name__ == "__main__":
    main()
