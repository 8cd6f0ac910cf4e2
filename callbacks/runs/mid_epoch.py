"""Checkpoints in the middle of an epoch, for long ones."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from .clean_stop import goes_on_from_here


class MidEpochCheckpoint(ModelCheckpoint):
    """Writes ``last-mid-epoch.ckpt`` every so often, beside the checkpoints that are written when an epoch ends.

    With `Randomness`, `KeptLogs` and the data modules of ``datamodules``, a run that goes on from it
    (``--ckpt_path last``) ends like the uninterrupted one. Give it beside a ``ModelCheckpoint``, not for one.

    A checkpoint is put off for a batch or two rather than written where Lightning could not go on from it: in the
    middle of an accumulation of gradients, which are lost; and after a batch that a validation or the end of the epoch
    follows, which a resumed run would leave out.

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
        """The minutes begin."""
        self._due, self._written = False, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write it when it is due and Lightning can go on from here."""
        loop = trainer.fit_loop
        done = loop.epoch_loop.batch_progress.total.ready
        self._due |= bool(self.every_n_batches) and done % (self.every_n_batches or 1) == 0
        if self.every_n_minutes:
            late = time.monotonic() - self._written >= 60 * self.every_n_minutes
            self._due |= trainer.strategy.broadcast(late)
        if not self._due or not goes_on_from_here(trainer):
            return
        trainer.save_checkpoint(Path(str(self.dirpath), "last-mid-epoch.ckpt"))
        self._due, self._written = False, time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: other checkpoints are for this."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: other checkpoints are for this."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: other checkpoints are for this."""
