"""Checkpoints in the middle of an epoch, for long ones."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ..shared.private_names import can_resume_from_here


class MidEpochCheckpoint(ModelCheckpoint):
    """Writes ``last-mid-epoch.ckpt`` every few batches or minutes, beside the checkpoints of each epoch.

    With `Randomness`, `KeptLogs` and the data modules of ``datamodules``, a run that resumes from it
    (``--ckpt_path last``) ends like the uninterrupted one. Use it beside a ``ModelCheckpoint``, not instead of one.

    A checkpoint is put off for a batch or two where Lightning could not resume from it: in the middle of an
    accumulation of gradients, which are lost; and after a batch that a validation or the end of the epoch follows,
    which a resumed run would leave out.

    Args:
        every_n_batches: Batches between two checkpoints, or None.
        every_n_minutes: Minutes between two checkpoints, or None.
        dirpath: Where to write; by default where ``ModelCheckpoint`` does.

    Raises:
        ValueError: Neither is given, or one is not positive.
    """

    def __init__(
        self, every_n_batches: int | None = None, every_n_minutes: float | None = None, dirpath: str | None = None
    ) -> None:
        given = {"every_n_batches": every_n_batches, "every_n_minutes": every_n_minutes}
        for name, value in given.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; expected a positive number")
        if not any(given.values()):
            raise ValueError("MidEpochCheckpoint needs every_n_batches or every_n_minutes")
        super().__init__(dirpath, "last-mid-epoch", save_top_k=0)
        self.every_n_batches, self.every_n_minutes = every_n_batches, every_n_minutes
        self._due, self._written = False, time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the timer."""
        self._due, self._written = False, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the checkpoint if it is due and Lightning can resume from here."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if self.every_n_batches and batches % self.every_n_batches == 0:
            self._due = True
        if self.every_n_minutes:
            late = time.monotonic() - self._written >= 60 * self.every_n_minutes
            self._due |= trainer.strategy.broadcast(late)
        if self._due and can_resume_from_here(trainer):
            trainer.save_checkpoint(Path(str(self.dirpath), "last-mid-epoch.ckpt"))
            self._due, self._written = False, time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: ``ModelCheckpoint`` writes here."""

    on_validation_end = on_train_end = on_train_epoch_end
