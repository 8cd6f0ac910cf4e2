"""A sine with an offset, learnt by the histogram loss and by l2: ``python -m benchmarks.histogram_loss.synthetic``.

The synthetic study of Imani et al. 2024, in small by default: 100 points of ``sin(4 x) + offset`` on a network of two
hidden layers of 128, 1001 steps of Adam on full batches, support [-1.5, 11.5]; l2 learns the labels as they are, on no
other scale. ``--frequency 10 --points 500 --width 1024`` is the authors' size, with one learning rate instead of
the best of five. Prints the final training error, and draws the curves, the norms of the gradients and the fits.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure

from datamodules import SineDataModule
from zoo import HistogramRegression, PointRegression

from ..shared.runs import quiet_trainer
from ..shared.timing import print_machine

NAMES = {"l2": "tab:orange", "histogram loss": "tab:blue"}


class Curves(L.Callback):
    """Training error and norm of the gradient, in each tenth step."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y
        self.steps: list[int] = []
        self.errors: list[float] = []
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: L.LightningModule, *_: Any) -> None:
        """Looks at the module after its step."""
        norm = trainer.callback_metrics.get("train/gradient_norm")
        if norm is None or trainer.global_step % trainer.log_every_n_steps:
            return
        with torch.no_grad():
            error = (module(self.x) - self.y).square().mean().item()
        self.steps.append(trainer.global_step)
        self.errors.append(error)
        self.norms.append(float(norm))


def learn(name: str, offset: float, seed: int, arguments: argparse.Namespace) -> tuple[Curves, L.LightningModule]:
    """Train one network.

    Args:
        name: ``l2`` or ``histogram loss``.
        offset: Of the labels.
        seed: Of the weights.
        arguments: Of the command line.

    Returns:
        Its curves, and the trained module.
    """
    L.seed_everything(seed, verbose=False)
    shared: Any = {
        "num_features": 1, "hidden": [arguments.width] * 2, "initialisation": "torch", "lr": arguments.lr
    }  # fmt: skip
    if name == "l2":
        module: L.LightningModule = PointRegression(**shared, low=0, high=1)  # on the labels as they are
    else:
        module = HistogramRegression(**shared, bins=100, sigma_ratio=2.0, padding_sigmas=0.0, low=-1.5, high=11.5)
    data = SineDataModule(arguments.frequency, offset, arguments.points, batch_size=arguments.points)
    rows = data.sets()[0]
    curves = Curves(rows.features, rows.targets)
    trainer = quiet_trainer(
        max_epochs=arguments.steps, log_every_n_steps=10, limit_val_batches=0, callbacks=[curves], accelerator="cpu"
    )
    trainer.fit(module, datamodule=data)
    return curves, module.eval()


def draw(runs: dict[tuple[str, float], list[tuple[Curves, L.LightningModule]]], path: Path) -> None:
    """Draw the curves, the gradients and the fits: a column for each offset.

    Args:
        runs: Name and offset to the runs of all seeds.
        path: Of the picture.
    """
    offsets = sorted({offset for _, offset in runs})
    figure = Figure(figsize=(5 * len(offsets), 9), layout="constrained")
    axes = figure.subplots(3, len(offsets), squeeze=False, sharey="row")
    for column, offset in enumerate(offsets):
        for name, colour in NAMES.items():
            of_seeds = runs[name, offset]
            for row, key in ((0, "errors"), (1, "norms")):
                for number, (curves, _) in enumerate(of_seeds):
                    label = name if number == 0 else None
                    axes[row, column].plot(curves.steps, getattr(curves, key), color=colour, alpha=0.7, label=label)
            curves, module = of_seeds[0]
            with torch.no_grad():
                axes[2, column].plot(curves.x[:, 0], module(curves.x) - offset, color=colour, label=name)
        axes[2, column].plot(curves.x[:, 0], curves.y - offset, color="black", linewidth=0.8, label="label")
        axes[0, column].set(title=f"offset {offset:g}", yscale="log", xlabel="step")
        axes[1, column].set(yscale="log", xlabel="step")
        axes[2, column].set(xlabel="x, standardised")
        axes[2, column].set_ylim(bottom=-1.5)
        axes[2, column].legend(loc="lower center", ncols=3, fontsize="small")
    axes[0, 0].set_ylabel("training error (MSE)")
    axes[1, 0].set_ylabel("norm of the loss's gradient")
    axes[2, 0].set_ylabel("prediction - offset, first seed")
    axes[0, 0].legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Train both losses on each offset over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frequency", type=float, default=4.0)
    parser.add_argument("--offsets", type=float, nargs="+", default=[0.0, 10.0])
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=1001)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--picture", type=Path, help="file for the picture")
    arguments = parser.parse_args()
    print_machine()
    runs = {
        (name, offset): [learn(name, offset, seed, arguments) for seed in arguments.seeds]
        for offset in arguments.offsets
        for name in NAMES
    }
    print(f"training error after {arguments.steps} steps, seeds {arguments.seeds}; median norm of the gradient")
    for (name, offset), of_seeds in runs.items():
        errors = "  ".join(f"{curves.errors[-1]:.2e}" for curves, _ in of_seeds)
        norms = statistics.median(norm for curves, _ in of_seeds for norm in curves.norms)
        print(f"offset {offset:4g}  {name:15}  {errors}   {norms:.2e}")
    if arguments.picture:
        draw(runs, arguments.picture)


if __name__ == "__main__":
    main()
