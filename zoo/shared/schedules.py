"""When a training step logs."""

import math
from typing import Any


def logs_now(trainer: Any) -> bool:
    """Whether this is one of the trainer's every n-th steps, whose figures loggers keep.

    A logged key costs 0.3 ms in each step, whether or not a logger takes it: so modules ask first. For modules with one
    optimiser; ``global_step`` counts the steps of all optimisers.

    Args:
        trainer: The Lightning trainer.

    Returns:
        True on the steps n - 1, 2 n - 1, ... for ``log_every_n_steps`` n; never when that is 0.
    """
    every = trainer.log_every_n_steps
    return bool(every) and (trainer.global_step + 1) % every == 0


def warmup_cosine(step: int, warmup_steps: int, total: float) -> float:
    """Factor of the learning rate: a linear rise over ``warmup_steps``, then a cosine down to 0 at ``total``."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(total - warmup_steps, 1)
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2
