"""Does a long training keep flat? ``python -m benchmarks.speed.soak --minutes 120``.

Trains JEM by its recipe, with all callbacks of the recipe, through the command line, for a given time. Every few
seconds the memory, the open files and the sizes of the run's files are read; the folder then holds ``soak.csv``,
``soak.png`` and the run. Printed are the slopes after the warm-up: a leak shows as one that is many standard errors
above zero.
Further arguments go to ``train.py fit``: ``--model Classifier --data MNIST``.
"""

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from train import main as train

from ..shared.timing import print_machine

MIB = 2**20
BLOCKS = 20  # neighbouring samples resemble one another: the standard error comes from this many means
COLUMNS = {  # of soak.csv: what is measured, and its unit
    "memory": "MiB",  # resident
    "open_files": "descriptors",
    "threads": "threads",
    "checkpoints": "MiB",
    "logs": "MiB",  # everything else in the folder
    "files": "files",
}


class Resources(Callback):
    """Writes a row of ``soak.csv`` every few seconds of the training, and one at its end.

    Args:
        folder: Of the run: the sizes of all files in it are counted.
        seconds: Between two rows.
    """

    def __init__(self, folder: str, seconds: float = 10.0) -> None:
        self.folder = Path(folder)
        self.seconds = seconds
        self._started = self._next = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Measure if it is time."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.seconds
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        place = {
            "hours": (time.monotonic() - self._started) / 3600,
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
        }
        row = place | resources(self.folder)
        path = self.folder / "soak.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, row)
            if new:
                writer.writeheader()
            writer.writerow(row)


def resources(folder: Path) -> dict[str, float]:
    """What this process holds now (Linux only), and the sizes of the files in a folder."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    files = sizes(folder)
    checkpoints = sum(size for path, size in files.items() if path.suffix == ".ckpt")
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1024,
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "checkpoints": checkpoints / MIB,
        "logs": (sum(files.values()) - checkpoints) / MIB,
        "files": len(files),
    }


def sizes(folder: Path) -> dict[Path, int]:
    """The bytes of each file in a folder but for the measurements' own."""
    of_files = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.name.startswith("soak."):
                of_files[path.relative_to(folder)] = path.stat().st_size
        except FileNotFoundError:  # a checkpoint that was replaced at this moment
            continue
    return of_files


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope of y in x and its standard error, from means of consecutive samples."""
    number = min(BLOCKS, len(x))
    x, y = (np.array([part.mean() for part in np.array_split(values, number)]) for values in (x, y))
    centred = x - x.mean()
    spread = (centred**2).sum()
    if number < 3 or spread == 0:
        return math.nan, math.nan
    value = (centred * y).sum() / spread
    left = y - y.mean() - value * centred
    return float(value), float(math.sqrt((left**2).sum() / (number - 2) / spread))


def load(path: Path) -> dict[str, np.ndarray]:
    """The columns of ``soak.csv``."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


def print_slopes(columns: dict[str, np.ndarray], warmup: float) -> None:
    """Print for each quantity the first and last value and the slopes after the warm-up."""
    kept = columns["hours"] >= columns["hours"][0] + warmup / 60
    after = {key: values[kept] for key, values in columns.items()}
    steps, hours = np.ptp(after["step"]), np.ptp(after["hours"])
    print(f"\n{columns['step'][-1]:,.0f} steps in {columns['epoch'][-1]:,.0f} epochs and {columns['hours'][-1]:.2f} h")
    print(f"after {warmup:g} minutes of warm-up: {steps:,.0f} steps, {hours:.2f} h, {kept.sum()} samples")
    print(f"{'':14}{'first':>10}{'last':>10}{'largest':>10}{'a 1,000 steps':>24}{'an hour':>24}")
    for key, unit in COLUMNS.items():
        values = after[key]
        slopes = [slope(after["step"] / 1000, values), slope(after["hours"], values)]
        cells = "".join(f"{f'{value:+.4f} ± {error:.4f}':>24}" for value, error in slopes)
        print(f"{key:14}{values[0]:10.2f}{values[-1]:10.2f}{values.max():10.2f}{cells}  {unit}")


def draw(columns: dict[str, np.ndarray], warmup: float, path: Path) -> None:
    """One panel for each quantity over the hours; the warm-up is grey."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    for axes, (key, unit) in zip(figure.subplots(2, 3).flat, COLUMNS.items(), strict=True):
        axes.plot(columns["hours"], columns[key], linewidth=1.2)
        axes.axvspan(columns["hours"][0], columns["hours"][0] + warmup / 60, color="0.92")
        axes.set(title=key.replace("_", " "), xlabel="hours", ylabel=unit, ylim=(0, 1.15 * columns[key].max() or 1))
    figure.savefig(path, dpi=130)


def main() -> None:
    """Train for the given time, then print the slopes and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--warmup", type=float, help="minutes that are left out; by default a quarter, at most 15")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two samples")
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"), help="new, or empty")
    arguments, overrides = parser.parse_known_args()
    folder: Path = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"--folder {folder}: expected a folder that is new or empty")
    folder.mkdir(parents=True, exist_ok=True)
    minutes, seconds = divmod(round(60 * arguments.minutes), 60)
    watch = {
        "class_path": "benchmarks.speed.soak.Resources",
        "init_args": {"folder": str(folder), "seconds": arguments.every},
    }
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "", "version": ""}}
    command = ["fit", *([] if "--model" in overrides else ["--model=JEM"]), *overrides]
    print_machine()
    print(f"python train.py {' '.join(command)}, for {arguments.minutes:g} minutes", flush=True)
    train(
        [
            *command,
            f"--trainer.max_time={minutes // 1440:02}:{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}",
            "--trainer.max_epochs=-1",
            f"--trainer.default_root_dir={folder}",
            f"--trainer.logger={json.dumps(logger)}",
            f"--trainer.callbacks+={json.dumps(watch)}",
            "--trainer.enable_progress_bar=false",
        ]
    )
    warmup = min(15.0, arguments.minutes / 4) if arguments.warmup is None else arguments.warmup
    columns = load(folder / "soak.csv")
    print_slopes(columns, warmup)
    draw(columns, warmup, folder / "soak.png")
    print("\nlargest files at the end")
    for file, size in sorted(sizes(folder).items(), key=lambda item: -item[1])[:8]:
        print(f"  {size / MIB:10.3f} MiB  {file}")


if __name__ == "__main__":
    main()
