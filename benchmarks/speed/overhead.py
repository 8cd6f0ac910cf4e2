"""What ``Trainer.fit`` with everything on costs over a raw loop: ``python -m benchmarks.speed.overhead``.

The same classifier, batches and optimiser; on one side a loop of five lines, on the other the Trainer with a progress
bar, a CSV logger, W&B offline, checkpoints and all the callbacks of the recipe. Whole runs in turn, raw first.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CalibrationEvaluation, OODEvaluation, Randomness, Report
from zoo import Classifier

from ..shared.runs import quiet_trainer
from ..shared.timing import print_machine, print_ratios


class Clock(L.Callback):
    """CPU time from the first batch to the last; the first and the last callback of the trainer."""

    seconds = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Start the clock."""
        self.seconds = -time.process_time()

    def on_train_end(self, *_: Any) -> None:
        """Stop it."""
        self.seconds += time.process_time()


def batches(steps: int, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    """Digits, repeated for as many steps."""
    digits = load_digits()
    index = torch.arange(steps * batch_size) % len(digits.target)
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    return DataLoader(TensorDataset(images[index], torch.from_numpy(digits.target)[index]), batch_size, shuffle=True)


def raw_loop(width: int, loader: DataLoader[tuple[Tensor, ...]]) -> float:
    """CPU seconds of the plain loop."""
    network = Classifier(network_args={"width": width}).network
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    start = time.process_time()
    for x, y in loader:
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - start


def bare_trainer(width: int, loader: DataLoader[tuple[Tensor, ...]]) -> float:
    """CPU seconds of the Trainer with everything off."""
    clock = Clock()
    trainer = quiet_trainer(max_epochs=1, accelerator="cpu", callbacks=[clock])
    trainer.fit(Classifier(network_args={"width": width}), loader)
    return clock.seconds


def full_trainer(width: int, loader: DataLoader[tuple[Tensor, ...]], refresh_rate: int = 1) -> float:
    """CPU seconds of the Trainer with everything on, the progress bar drawn at every ``refresh_rate``-th step."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wandb = WandbLogger(save_dir=folder, project="overhead", offline=True)
        loggers = [CSVLogger(folder, name="", version=""), wandb]
        evaluation = [Randomness(), CalibrationEvaluation(), OODEvaluation(), Report(), TQDMProgressBar(refresh_rate)]
        trainer = L.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=[*evaluation, clock], logger=loggers, default_root_dir=folder
        )
        trainer.fit(Classifier(network_args={"width": width}), loader)
        wandb.experiment.finish()
    return clock.seconds


def main() -> None:
    """Measure whole runs in turn and print the time of a step and its ratio to the raw loop's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="training steps of one run")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=64, help="of the network; 64 gives a step of about 20 ms here")
    arguments = parser.parse_args()
    print_machine()
    runs: dict[str, Callable[[int, DataLoader[tuple[Tensor, ...]]], float]] = {
        "raw loop": raw_loop,
        "Trainer, everything off": bare_trainer,
        "Trainer, everything on": full_trainer,
        "the same, TQDM_MINITERS=10": functools.partial(full_trainer, refresh_rate=10),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(arguments.rounds + 1):  # the first turn is the warm-up
        for name, run in runs.items():
            torch.manual_seed(turn)
            measured = run(arguments.width, batches(arguments.steps, arguments.batch_size))
            if turn:
                seconds[name].append(measured / arguments.steps)
    print()
    print_ratios(seconds, unit="ms", scale=1000)


if __name__ == "__main__":
    main()
