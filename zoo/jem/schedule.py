"""The learning rate over a run."""

import math
from typing import Any


def learning_rate_factor(step: int, epoch: int, warmup_steps: int, decay_epochs: list[int], decay_rate: float) -> float:
    """The factor, in [0, 1], of the learning rate after so many optimiser steps, in an epoch counted from 0.

    A linear warm-up from 0 over ``warmup_steps``, then ``decay_rate``, in (0, 1], for each decay epoch that has begun.
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
