"""The frame of every timing: contestants stepped in turn in one process, ratios with their spread."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch

from .runs import quiet_trainer

Step = Callable[[], Any]


def now() -> float:
    """Seconds on the clock of all timings: the GPU's work done so far if there is one, else the process' CPU time.

    CPU time, because another process on the same cores makes wall-clock time useless; on an idle machine with one
    thread the two are equal.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def alternate(contestants: dict[str, Step], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Step all contestants in turn: A B C, A B C, ...

    Args:
        contestants: Name to a function that makes one step.
        rounds: Number of timed turns.
        warmup: Turns before them that are not timed.

    Returns:
        Name to the seconds of each timed step.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, step in contestants.items():
            start = now()
            step()
            if turn >= warmup:
                seconds[name].append(now() - start)
    return seconds


class Turns(L.Callback):
    """Times a module's training step inside ``Trainer.fit``; between two batches the other contestants step.

    Args:
        others: Name to a function that makes one step.
        warmup: Batches that are not timed.
    """

    def __init__(self, others: dict[str, Step], warmup: int) -> None:
        self.others = others
        self.warmup = warmup
        self.of_module: list[float] = []
        self.of_others: dict[str, list[float]] = {name: [] for name in others}

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the module's clock."""
        self.start = now()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        """Stop the module's clock, then time one step of each other contestant."""
        seconds = now() - self.start
        others = alternate(self.others, rounds=1, warmup=0)
        if i >= self.warmup:
            self.of_module.append(seconds)
            for name, times in others.items():
                self.of_others[name] += times


def take_turns(
    name: str, module: L.LightningModule, batches: Any, others: dict[str, Step], precision: Any = None, warmup: int = 1
) -> dict[str, list[float]]:
    """Train a module on the given batches, and let each other contestant make a step after each of its steps.

    Returns:
        Name to the seconds of each timed step: the others' first, then the module's under ``name``.
    """
    turns = Turns(others, warmup)
    quiet_trainer(max_epochs=1, callbacks=[turns], devices=1, precision=precision).fit(module, batches)
    return {**turns.of_others, name: turns.of_module}


def medians_of_rounds(seconds: dict[str, list[float]], steps: int) -> dict[str, list[float]]:
    """The median of each round, where so many consecutive steps make a round."""
    return {
        name: [statistics.median(times[i : i + steps]) for i in range(0, len(times), steps)]
        for name, times in seconds.items()
    }


def print_ratios(values: dict[str, list[float]], unit: str = "s", scale: float = 1.0) -> dict[str, float]:
    """Print each contestant's median and its ratio to the first: median over the rounds [smallest, largest].

    Args:
        values: Name to one value a round: seconds as from :func:`alternate`, or speeds.
        unit: Name of the printed unit.
        scale: What the printed medians are multiplied by.

    Returns:
        Name to the median ratio.
    """
    base = next(iter(values.values()))
    medians = {}
    width = max(map(len, values))
    for name, of_rounds in values.items():
        ratios = [value / reference for value, reference in zip(of_rounds, base, strict=True)]
        medians[name] = statistics.median(ratios)
        spread = f"[{min(ratios):.3f}, {max(ratios):.3f}]"
        print(f"{name:{width}}  {scale * statistics.median(of_rounds):9.3f} {unit}  ratio {medians[name]:.3f} {spread}")
    return medians


def print_machine() -> None:
    """Print what timings depend on: torch, threads, device and date."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {device}, {time.strftime('%Y-%m-%d')}")


def step_time_parser(description: str | None, batch_size: int) -> argparse.ArgumentParser:
    """The options that all ``step_time`` benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each pair")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="images or rows of a step; of each domain")
    return parser
