"""The learning rate over a run."""

import math
from typing import Any


def learning_rate_factor(step: int, epoch: int, warmup_steps: int, decay_epochs: list[int], decay_rate: float) -> float:
    """Linear warm-up from 0 over ``warmup_steps``, then ``decay_rate`` for each decay epoch that has begun.

    Args:
        step: Optimiser steps so far.
        epoch: The current epoch, from 0.
        warmup_steps: Length of the warm-up, 0 for none.
        decay_epochs: Epochs from whose start on the rate is lower.
        decay_rate: Factor for each of them, in (0, 1].

    Returns:
        The factor of the learning rate, in [0, 1].
    """
    if step <= warmup_steps and warmup_steps > 0:
        return step / warmup_steps
    return decay_rate ** sum(epoch >= decay for decay in decay_epochs)


def epoch_of_step(trainer: Any, step: int) -> int:
    """The epoch, from 0, of an optimiser step of a training whose epochs are all as long as the current one."""
    batches = trainer.num_training_batches / trainer.accumulate_grad_batches
    if math.isinf(batches):  # before the loaders are set up, and for a loader without a length
        return trainer.current_epoch
    return step // max(math.ceil(batches), 1)
