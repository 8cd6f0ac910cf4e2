"""What follows the steps of a training: when metrics are logged, and how a learning rate changes."""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from .batches import check_labelled_batch, check_regression_batch


def logs_now(trainer: Any) -> bool:
    """Whether loggers keep the metrics of the current batch: of each n-th, for ``log_every_n_steps`` n; of none for 0.

    Batches are counted as Lightning's loggers count them: with several optimisers a batch counts once, and with
    accumulated gradients only those count that end in a step.
    """
    every = trainer.log_every_n_steps
    # Several optimisers need manual optimisation. There `global_step` counts the steps of all of them.
    automatic = trainer.lightning_module.automatic_optimization
    batches = trainer.global_step if automatic else trainer.fit_loop.total_batch_idx
    return bool(every) and (batches + 1) % every == 0


def check_is_due(module: LightningModule, batch_idx: int, x: Tensor) -> bool:
    """Whether a training step should look at the values of its batch, of which ``x`` is any tensor.

    On a GPU that waits for all work before it, so only the first batch of an epoch and those that are logged are
    checked there; on a CPU all are.
    """
    return batch_idx == 0 or not x.is_cuda or logs_now(module.trainer)


def check_classifier_batch(module: Any, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
    """Check the training batch ``(x, y)`` of a classifier, when that is due; see ``check_labelled_batch``."""
    x, y = batch
    if check_is_due(module, batch_idx, x):
        check_labelled_batch(x, y, module.image_shape, module.hparams["num_classes"])


def check_regressor_batch(module: Any, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
    """Check the training batch ``(x, y)`` of a regressor, when that is due; see ``check_regression_batch``."""
    x, y = batch
    if check_is_due(module, batch_idx, x):
        check_regression_batch(x, y, module.hparams["num_features"])


@torch.compiler.disable  # the bookkeeping of logs would be compiled for each number of steps
def log_training(module: LightningModule, **metrics: Tensor | float | Callable[[], Tensor | float]) -> None:
    """Log metrics of a training step as ``train/<name>``, on the steps whose metrics loggers keep.

    A metric is a scalar, or a function that computes one, which is only called when it is logged. A logged metric costs
    0.3 ms in each step, whether or not a logger keeps it. The progress bar shows ``train/loss``.
    """
    if logs_now(module.trainer):
        for name, value in metrics.items():
            module.log(f"train/{name}", value() if callable(value) else value, prog_bar=name == "loss")


def total_steps(trainer: Any) -> float:
    """Optimiser steps that a training will have made when it ends; infinity before the first of them.

    The number is asked for after the first step only: to know it, Lightning creates the iterators of the data loaders,
    which draws the order of the samples, and a resumed run has no random state yet at that time.

    Raises:
        ValueError: When the trainer does not know where the training ends.
    """
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise ValueError("max_epochs is -1 without max_steps; the schedule needs to know where it ends: set max_steps")
    if not trainer.global_step:
        return math.inf
    total = float(trainer.estimated_stepping_batches)
    if not 0 < total < math.inf:
        raise ValueError(f"the training has {total} steps; the schedule needs to know where it ends: set max_steps")
    return total


def per_step(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> Any:
    """What ``configure_optimizers`` returns for learning rates that change with each optimiser step.

    The factor, of the number of steps made, multiplies the optimiser's rates; it is called with 0 before the training.
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_cosine(step: int, warmup_steps: int, total: float) -> float:
    """Factor of the learning rate: a linear rise over ``warmup_steps``, then a cosine down to 0 at ``total``."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(total - warmup_steps, 1)
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2
