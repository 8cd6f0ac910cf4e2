"""`SampleGrid`: pictures of what a generative module draws."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ..shared.checks import check_at_least, check_shape, require_method
from ..shared.loggers import log_images, png, tile, to_uint8
from ..shared.random_state import evaluation_mode, preserved_random_state


class SampleGrid(Callback):
    """Shows a grid of samples of a generative module in every logger, after every n-th epoch and after a test.

    It works for any module with ``sample(n) -> (n, C, H, W)`` in [0, 1], which is called on all ranks, because a
    module's forward may be collective, in evaluation mode, without gradients and at the trainer's precision. Modes and
    random state are restored, so a run trains to the same weights with this callback and without. All grids start from
    the same seed: a generator that maps noise to pictures is seen to improve.

    Args:
        every_n_epochs: How often a grid is drawn.
        number: Number of pictures in a grid.
        seed: Seed of every grid.

    Attributes:
        grid: The last grid on rank zero, (H, W, C) uint8, or ``None``.
    """

    report_key = "samples"

    def __init__(self, every_n_epochs: int = 1, number: int = 36, seed: int = 0) -> None:
        check_at_least(1, every_n_epochs=every_n_epochs, number=number)
        self.every_n_epochs = every_n_epochs
        self.number = number
        self.seed = seed
        self.grid: np.ndarray | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise if the module cannot sample."""
        require_method(pl_module, "sample(n) -> (n, C, H, W) in [0, 1]", "SampleGrid")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw after every n-th epoch."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._show(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw with the weights that were tested."""
        self._show(trainer, pl_module)

    def report_results(self) -> bytes | None:
        """Put the last grid into the report."""
        return None if self.grid is None else png(self.grid)

    def _show(self, trainer: Trainer, pl_module: Any) -> None:
        device, context = trainer.strategy.root_device, trainer.precision_plugin.forward_context()
        with evaluation_mode(pl_module), preserved_random_state(device), context:
            torch.manual_seed(self.seed + trainer.global_rank)
            samples = pl_module.sample(self.number)
        pictures = to_uint8(check_shape(samples, (self.number, "C", "H", "W"), f"{type(pl_module).__name__}.sample(n)"))
        if trainer.is_global_zero:
            scale = max(1, 48 // max(pictures.shape[1:3]))  # digits of 8 x 8 pixels would hardly be seen
            grid = tile(pictures.repeat(scale, axis=1).repeat(scale, axis=2), gap=scale)
            log_images(trainer, "samples", grid.transpose(2, 0, 1)[None])
            self.grid = grid
