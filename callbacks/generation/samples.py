"""Pictures of what a generative module draws."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..shared.loggers import log_images, png, tile, to_uint8
from ..shared.random_state import preserved_random_state


class SampleGrid(Callback):
    """Shows a grid of samples in every logger, after every n-th epoch and at the end of a test.

    For any module with ``sample(n) -> (n, C, H, W)`` in [0, 1]. It is called on all ranks, because a module's
    forward may be collective, in evaluation mode, without gradients and at the trainer's precision; modes and
    random state are put back, so a run trains to the same weights with this callback and without. The draws
    start from the same seed each time: a generator that maps noise to pictures is seen to improve.

    Args:
        every_n_epochs: How often a grid is drawn.
        number: Pictures in a grid.
        seed: Start of the draws.

    Attributes:
        grid: The last grid on rank zero, (H, W, C) uint8, or ``None``.
    """

    report_key = "samples"

    def __init__(self, every_n_epochs: int = 1, number: int = 36, seed: int = 0) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("number", number)):
            if value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")
        self.every_n_epochs = every_n_epochs
        self.number = number
        self.seed = seed
        self.grid: np.ndarray | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that cannot sample."""
        if not callable(getattr(pl_module, "sample", None)):
            raise TypeError(
                f"SampleGrid needs a module with sample(n) -> (n, C, H, W) in [0, 1]; "
                f"{type(pl_module).__name__} has no method 'sample'"
            )

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

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pictures = to_uint8(self._draw(trainer, pl_module))
        if trainer.is_global_zero:
            # digits of 8 x 8 pixels would be a stamp on a dashboard
            scale = max(1, 48 // max(pictures.shape[1:3]))
            grid = tile(pictures.repeat(scale, axis=1).repeat(scale, axis=2), gap=scale)
            log_images(trainer, "samples", grid.transpose(2, 0, 1)[None])
            self.grid = grid

    def _draw(self, trainer: Trainer, pl_module: Any) -> Tensor:
        device = trainer.strategy.root_device
        modes = {module: module.training for module in pl_module.modules()}
        pl_module.eval()
        try:
            with (
                torch.no_grad(),
                preserved_random_state(device),
                trainer.precision_plugin.forward_context(),
            ):
                torch.manual_seed(self.seed + trainer.global_rank)
                samples = pl_module.sample(self.number)
        finally:
            for module, training in modes.items():
                module.training = training
        if not isinstance(samples, Tensor) or samples.ndim != 4 or len(samples) != self.number:
            found = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
            raise ValueError(f"expected {self.number} samples of shape (n, C, H, W), got {found}")
        return samples
