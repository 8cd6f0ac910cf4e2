"""The frame of every timing: contestants stepped in turn in one process, ratios with their spread."""

import platform
import statistics
import time
from collections.abc import Callable

import torch


def now() -> float:
    """Seconds on the clock of all timings: the GPU's work done so far if there is one, else the process' CPU time.

    CPU time, because another process on the same cores makes wall-clock time useless; on an idle machine with one
    thread the two are equal.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def alternate(contestants: dict[str, Callable[[], None]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
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


def print_ratios(figures: dict[str, list[float]], unit: str = "s", scale: float = 1.0) -> dict[str, float]:
    """Print each contestant's median and its ratio to the first: median over the rounds [smallest, largest].

    Args:
        figures: Name to one figure a round: seconds as from :func:`alternate`, or speeds.
        unit: Name of the printed unit.
        scale: What the printed medians are multiplied by.

    Returns:
        Name to the median ratio.
    """
    base = next(iter(figures.values()))
    medians = {}
    width = max(map(len, figures))
    for name, values in figures.items():
        ratios = [value / reference for value, reference in zip(values, base, strict=True)]
        medians[name] = statistics.median(ratios)
        spread = f"[{min(ratios):.3f}, {max(ratios):.3f}]"
        print(f"{name:{width}}  {scale * statistics.median(values):9.3f} {unit}  ratio {medians[name]:.3f} {spread}")
    return medians


def print_machine() -> None:
    """Print what the figures depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {device}, {time.strftime('%Y-%m-%d')}")
