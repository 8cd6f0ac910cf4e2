"""Histogram losses against regression losses on tables: ``python -m benchmarks.histogram_loss.study``.

The authors' network and optimiser (four hidden layers of 64, Adam, batches of 256), trained by each loss on the same
splits from the same seeds. Printed for each table: test errors, CRPS, NLL and quantile calibration error in the
target's own units, as mean and standard deviation over the seeds, and in which epoch the training error was first as
small as the one that l2 ended with.

Each finished run is a file in the folder and is not run again, so a command that was stopped goes on where it was, and
several commands with other ``--seeds`` can share a folder.
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

import zoo
from callbacks import RegressionCalibration
from datamodules import UCIRegressionDataModule

from ..shared.runs import Record, keep, kept, print_table, quiet_trainer, silence_lightning
from ..shared.timing import print_machine

TABLES = ("diabetes", "concrete", "energy", "wine-quality-red", "naval-propulsion-plant", "power-plant", "bike-sharing")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "HL-Gaussian": ("HistogramRegression", {"target": "gaussian"}),
    "HL-OneBin": ("HistogramRegression", {"target": "dirac"}),
    "HL-Uniform": ("HistogramRegression", {"target": "uniform"}),
    "HL-Projected": ("HistogramRegression", {"target": "projected"}),
    "l2": ("PointRegression", {"loss": "l2"}),
    "l1": ("PointRegression", {"loss": "l1"}),
    "MDN": ("MixtureDensityNetwork", {}),
    "Gaussian NLL": ("GaussianRegression", {}),
}
MOMENTS = 100  # at which the training error is taken


class TrainingError(L.Callback):
    """The root mean squared error on all training rows, every so many epochs.

    Attributes:
        curve: Epochs done, and the error.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.curve: list[tuple[int, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Predict them without dropout."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it, and does not declare it
        if (trainer.current_epoch + 1) % self.every == 0:
            rows = data.sets()[0]
            pl_module.eval()
            with torch.no_grad():
                error = (pl_module(rows.features) - rows.targets).square().mean().sqrt()
            pl_module.train()
            self.curve.append((trainer.current_epoch + 1, error.item()))


def run(table: str, method: str, seed: int, epochs: int, data_dir: str) -> Record:
    """Train and judge once, and return what the tables need."""
    L.seed_everything(seed, verbose=False)
    data = UCIRegressionDataModule(table, data_dir, seed=seed)
    name, arguments = METHODS[method]
    module = getattr(zoo, name)(num_features=data.num_features, hidden=[64] * 4, **arguments)
    error, calibration = TrainingError(max(1, epochs // MOMENTS)), RegressionCalibration()
    trainer = quiet_trainer(
        max_epochs=epochs, check_val_every_n_epoch=epochs, accelerator="cpu", devices=1, num_sanity_val_steps=0,
        callbacks=[error, calibration],
    )  # fmt: skip
    start = time.process_time()
    trainer.fit(module, datamodule=data)
    seconds = time.process_time() - start
    trainer.test(module, datamodule=data, verbose=False)
    metrics = ("rmse", "mae", "crps", "nll", "qce", "sharpness", "zero_density")
    return {
        "settings": {"epochs": epochs},
        "seconds": seconds,
        "test_rows": calibration.results["samples"],
        "curve": error.curve,
        **{part: {key: calibration.results[part][key] for key in metrics} for part in ("before", "after")},
    }


def epochs_to(curve: list[list[float]], error: float) -> float:
    """The first epoch on a curve of training errors with at most this error; infinite where there is none."""
    return next((epoch for epoch, of_epoch in curve if of_epoch <= error), math.inf)


def spread(values: list[float]) -> str:
    """Mean and standard deviation, to three digits of the larger one; ``inf`` where a value is."""
    mean = sum(values) / len(values)
    if not math.isfinite(mean):
        return str(mean)
    deviation = torch.tensor(values, dtype=torch.float64).std().item() if len(values) > 1 else 0.0
    size = max(abs(mean), deviation)
    digits = max(0, 2 - math.floor(math.log10(size))) if size else 0
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(values) > 1 else "")


def rows_of(records: dict[str, dict[int, Record]]) -> list[list[str]]:
    """The printed rows of one table: a method in each."""
    head = ["RMSE", "MAE", "CRPS", "NLL", "QCE", "CRPS after", "QCE after", "density 0", "epochs to l2's", "s"]
    rows = [["", *head]]
    for method, runs in records.items():
        parts = list(runs.values())
        cells = [spread([part["before"][key] for part in parts]) for key in ("rmse", "mae", "crps", "nll", "qce")]
        cells += [spread([part["after"][key] for part in parts]) for key in ("crps", "qce")]
        outside = sum(part["before"]["zero_density"] for part in parts)
        cells.append(f"{outside / sum(part['test_rows'] for part in parts):.2%}")
        pairs = [(part, records.get("l2", {}).get(seed)) for seed, part in runs.items()]
        reached = sorted(epochs_to(part["curve"], l2["curve"][-1][1]) for part, l2 in pairs if l2)
        cells.append(f"{reached[len(reached) // 2]:g}" if reached else "-")
        rows.append([method, *cells, f"{sum(part['seconds'] for part in parts) / len(parts):.0f}"])
    return rows


def print_markdown(records: dict[str, dict[str, dict[int, Record]]], methods: list[str], key: str) -> None:
    """Print one metric of all tables and methods, the smallest mean of each table in bold."""
    print(f"\n| {key.upper()} | {' | '.join(methods)} |\n|{' --- |' * (len(methods) + 1)}")
    for table, by_method in records.items():
        values = {method: [part["before"][key] for part in by_method[method].values()] for method in methods}
        best = min(values, key=lambda method: sum(values[method]) / len(values[method]))
        cells = [f"**{spread(values[method])}**" if method == best else spread(values[method]) for method in methods]
        print(f"| {table} | {' | '.join(cells)} |")


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=os.environ.get("ZOO_DATA", "data"), help="folder with uci/<table>")
    parser.add_argument("--folder", type=Path, default=Path("runs/histogram_loss_tables"))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS], metavar="METHOD")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=500)
    arguments = parser.parse_args()
    silence_lightning()
    print_machine()
    plan = [(t, m, s) for t in arguments.tables for s in arguments.seeds for m in arguments.methods]
    records: dict[str, dict[str, dict[int, Record]]] = {}
    for number, (table, method, seed) in enumerate(plan, 1):
        path = arguments.folder / table / f"{method}_seed{seed}.json"
        record = kept(path, {"epochs": arguments.epochs})
        if record is None:
            record = run(table, method, seed, arguments.epochs, arguments.data_dir)
            keep(path, record)
            print(f"{number}/{len(plan)}  {table}, {method}, seed {seed}: {record['seconds']:.0f} s", flush=True)
        records.setdefault(table, {}).setdefault(method, {})[seed] = record
    for table, by_method in records.items():
        print(f"\n{table}, seeds {arguments.seeds}, {arguments.epochs} epochs")
        print_table(rows_of(by_method))
    for key in ("rmse", "crps"):
        print_markdown(records, arguments.methods, key)


if __name__ == "__main__":
    main()
