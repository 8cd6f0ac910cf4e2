"""The frame of every timing: contestants stepped in turn in one process, ratios with their spread."""

import platform
import statistics
import time
from collections.abc import Callable

import torch


def alternate(contestants: dict[str, Callable[[], None]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Step all contestants in turn: A B C, A B C, ...

    Args:
        contestants: Name to a function that makes one step.
        rounds: Number of timed turns.
        warmup: Turns before them that are not timed.

    Returns:
        Name to the process' CPU seconds of each timed step. CPU time, because another process on the same cores makes
        wall-clock time useless; on an idle machine with one thread the two are equal.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, step in contestants.items():
            start = time.process_time()
            step()
            if turn >= warmup:
                seconds[name].append(time.process_time() - start)
    return seconds


def print_ratios(seconds: dict[str, list[float]], unit: str = "s", scale: float = 1.0) -> dict[str, float]:
    """Print each contestant's median step and its ratio to the first: median over the rounds [smallest, largest].

    Args:
        seconds: From :func:`alternate`.
        unit: Name of the printed unit.
        scale: Seconds are multiplied by it.

    Returns:
        Name to the median ratio.
    """
    base = next(iter(seconds.values()))
    medians = {}
    width = max(map(len, seconds))
    for name, values in seconds.items():
        ratios = [value / reference for value, reference in zip(values, base, strict=True)]
        medians[name] = statistics.median(ratios)
        spread = f"[{min(ratios):.3f}, {max(ratios):.3f}]"
        print(f"{name:{width}}  {scale * statistics.median(values):9.3f} {unit}  ratio {medians[name]:.3f} {spread}")
    return medians


def print_machine() -> None:
    """Print what the figures depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {device}, {time.strftime('%Y-%m-%d')}")
