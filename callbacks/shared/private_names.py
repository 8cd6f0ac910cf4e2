"""Everything in this package that touches a private name of Lightning, so that a new release is checked in one place.

``tests/callbacks/shared/test_private_names.py`` fails when one of these names moves.
"""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment


def cluster_environment(trainer: Trainer) -> Any:
    """Lightning's plugin for the cluster, for example ``SLURMEnvironment``, or its default for none."""
    return trainer._accelerator_connector.cluster_environment


def last_step_saved(checkpoint: ModelCheckpoint) -> int:
    """The ``global_step`` of the newest checkpoint that this callback wrote."""
    return checkpoint._last_global_step_saved


def can_resume_from_here(trainer: Trainer) -> bool:
    """Whether a run that resumes from a checkpoint written after this batch ends like the uninterrupted run.

    Not in the middle of an accumulation, whose gradients no checkpoint holds, nor where a validation or the end of the
    epoch comes next, which a resumed run would leave out.
    """
    loop, fetcher = trainer.fit_loop, trainer.fit_loop._data_fetcher
    if loop._should_accumulate() or loop.epoch_loop._num_ready_batches_reached():
        return False
    return fetcher is None or not loop.epoch_loop._should_check_val_fx(fetcher)


def restore_loader_positions(trainer: Trainer) -> None:
    """Move the training loaders to where the checkpoint says, if they were set up before that was known.

    That happens when a module asks for the number of steps in ``configure_optimizers``.
    """
    loop = trainer.fit_loop
    if loop._combined_loader_states_to_load and loop._data_fetcher is not None:
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)


def unlogged_row(trainer: Trainer) -> dict[str, Any] | None:
    """The row of metrics that Lightning logs only after the checkpoint that is written now; None if there is none.

    It logs a step after ``on_train_batch_end``, and the averages of an epoch after ``on_train_epoch_end``. The result
    has the metrics by their names as ``row``, and as ``step`` the number under which they are logged.
    """
    loop, connector = trainer.fit_loop, trainer._logger_connector
    batch: Any = loop.epoch_loop.batch_progress.current  # annotated as trackers without "processed", which they have
    epoch: Any = loop.epoch_progress.current
    step = loop.epoch_loop._batches_that_stepped
    if batch.processed > batch.completed:
        if loop._should_accumulate() or not connector.should_update_logs:
            return None
    elif epoch.processed > epoch.completed:
        step -= 1
    else:
        return None
    row = {name: float(value) for name, value in connector.metrics["log"].items()}
    step = int(row.pop("step", step))
    return {"row": {"epoch": trainer.current_epoch} | row, "step": step} if row else None


class _AppendingWriter(ExperimentWriter):
    """Lightning's deletes the rows that it finds."""

    def _check_log_dir_exists(self) -> None:
        if Path(self.metrics_file_path).exists():
            with Path(self.metrics_file_path).open(newline="", encoding="utf-8") as file:
                self.metrics_keys = next(csv.reader(file), [])


class AppendingCSVLogger(CSVLogger):
    """A ``CSVLogger`` that appends to the ``metrics.csv`` of its version."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment


def switch_to_offline(logger: Any) -> bool:
    """Let a logger of Weights & Biases that is online start offline; False if it is another logger, or offline."""
    if getattr(logger, "_offline", None) is not False or not hasattr(logger, "_wandb_init"):
        return False
    logger._offline, logger._wandb_init["mode"] = True, "offline"
    return True


def sampler_inside(sampler: Any) -> Any:
    """The user's sampler inside the one that Lightning puts around it on several processes; None if there is none."""
    return getattr(getattr(sampler, "dataset", None), "_sampler", None)
