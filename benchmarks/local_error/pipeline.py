"""Unlocked training against one process with as many threads: ``python -m benchmarks.local_error.pipeline``.

Local error signals (predsim) on random images of 3x32x32, inside ``Trainer.fit``. Two processes of one thread each with
``PipelineStrategy`` take their turns with one process of two threads and, for comparison, of one. Each turn is a fresh
process. Images per second of wall-clock time at the last stage, from one batch's end to another's: on a quiet machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from zoo import LocalErrorSignals
from zoo.local_error import PipelineStrategy
from zoo.local_error.pipeline import multiplications, stages

from ..shared.runs import quiet_trainer
from ..shared.timing import print_machine, print_ratios

CASES = {  # processes, threads of each
    "one process, two threads": (1, 2),
    "pipeline, two processes": (2, 1),
    "one process, one thread": (1, 1),
}
WARMUP = 3  # batches: the pipeline fills, and memory is allocated


class Clock(L.Callback):
    """The last process writes its images per second between the warm-up and the last batch but one."""

    def __init__(self, file: Path, batches: int) -> None:
        self.file, self.batches = file, batches
        self.start = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        """Start after the warm-up; stop in time, for at the very end weights come together."""
        if number == WARMUP - 1:
            self.start = time.perf_counter()
        if number == WARMUP + self.batches - 1 and trainer.global_rank == trainer.world_size - 1:
            self.file.write_text(str(self.batches * len(batch[0]) / (time.perf_counter() - self.start)))


def build(network: str) -> LocalErrorSignals:
    """The module that all cases train."""
    torch.manual_seed(0)
    return LocalErrorSignals(10, (3, 32, 32), network, max_dim=2048, dropout=0.2)


def train(processes: int, arguments: argparse.Namespace) -> None:
    """Train for one turn, in a process of its own."""
    images = (WARMUP + arguments.batches + 1) * arguments.batch_size
    data = TensorDataset(torch.rand(images, 3, 32, 32) * 2 - 1, torch.arange(images) % 10)
    strategy: Any = PipelineStrategy(start_method="fork") if processes > 1 else "auto"
    clock = Clock(arguments.file, arguments.batches)
    trainer = quiet_trainer(
        max_epochs=1, accelerator="cpu", devices=processes, strategy=strategy, log_every_n_steps=0, callbacks=[clock]
    )
    trainer.fit(build(arguments.network), DataLoader(data, arguments.batch_size))


def main() -> None:
    """Read the command line, and let the cases take their turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--network", default="VGG8B", help="of zoo/local_error/net.py, with its default arguments")
    parser.add_argument("--batches", type=int, default=20, help=f"timed ones, after {WARMUP} others")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each case")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        train(CASES[arguments.case][0], arguments)
        return
    print_machine()
    module = build(arguments.network)
    costs, placed = multiplications(module), stages(module, 2)
    slowest = max(sum(costs[number] for number in stage) for stage in placed) / sum(costs)
    print(f"{arguments.network}, batch size {arguments.batch_size}, blocks {[len(stage) for stage in placed]}")
    print(f"the slowest stage has {slowest:.1%} of the multiplications: at most {1 / slowest:.2f} times one thread")
    speeds: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for name, (_, threads) in CASES.items():
                file = Path(folder, "speed")
                command = [sys.executable, "-m", "benchmarks.local_error.pipeline", *sys.argv[1:]]
                environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
                done = subprocess.run(
                    [*command, "--case", name, "--file", str(file)], env=environment, capture_output=True, text=True,
                    check=False,
                )  # fmt: skip
                if done.returncode:
                    raise SystemExit(done.stderr)
                speeds[name].append(float(file.read_text()))
                file.unlink()
    print_ratios(speeds, "images/s")


if __name__ == "__main__":
    main()
