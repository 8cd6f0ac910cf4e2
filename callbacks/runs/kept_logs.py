"""What a run has logged so far: kept in its checkpoints, so that an interrupted one goes on with whole logs."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

KEY = "kept_logs"


class _Writer(ExperimentWriter):
    """Appends to the rows that are there, which Lightning's would delete."""

    def _check_log_dir_exists(self) -> None:
        if Path(self.metrics_file_path).exists():
            self.metrics_keys = read_rows(self.metrics_file_path)[0]


class ResumableCSVLogger(CSVLogger):
    """A CSVLogger that goes on with the ``metrics.csv`` of its version; `KeptLogs` says from which row.

    The arguments are those of ``CSVLogger``, with ``version`` that of the interrupted run.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment

    @rank_zero_only
    def truncate(self, rows: int) -> None:
        """Keep so many rows, and the columns with anything in them; a whole file takes the place of the old one."""
        writer = self.experiment
        path = Path(writer.metrics_file_path)
        kept = read_rows(path)[1][:rows] if path.exists() else []
        writer.metrics, writer.metrics_keys = [], sorted({key for row in kept for key, value in row.items() if value})
        new = path.with_suffix(".csv.new")
        with new.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, writer.metrics_keys, extrasaction="ignore")
            table.writeheader()
            table.writerows(kept)
        if kept:
            os.replace(new, path)
        else:  # as before the first row
            path.unlink(missing_ok=True)
            new.unlink()


def count_rows(path: Path) -> int:
    """Rows of a table of numbers below its header: one a line, so that a long one need not be parsed."""
    with path.open("rb") as file:
        return max(0, sum(1 for _ in file) - 1)


def read_rows(path: str | Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a table."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        return list(table.fieldnames or []), list(table)


class KeptLogs(Callback):
    """Keeps in each checkpoint what was logged until then, which Lightning does not.

    A run that goes on from it has the metrics that were last logged, also those of a validation some epochs ago, which
    a monitor or a report may ask for; the row of a step whose checkpoint was written before the step was logged; and,
    with `ResumableCSVLogger`, exactly the rows of that moment. Other loggers keep what they got after the checkpoint:
    TensorBoard shows such steps twice, and Weights & Biases goes on with a run if it is told its ``id`` and ``resume``.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write down what was logged; loggers write what they hold."""
        for logger in trainer.loggers:
            logger.save()
        tables = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger) and trainer.is_global_zero]
        files = [Path(logger.log_dir, "metrics.csv") for logger in tables]
        checkpoint[KEY] = {
            "callback": _plain(trainer.callback_metrics),
            "logged": _plain(trainer.logged_metrics),
            "progress_bar": _plain(trainer.progress_bar_metrics),
            "due": due_row(trainer),
            "rows": [count_rows(path) if path.exists() else 0 for path in files],
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Hold it until a fit starts."""
        self._kept = checkpoint.get(KEY, {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take back what was logged after the checkpoint, and the metrics."""
        self._restore(trainer)
        tables = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        for logger, rows in zip(tables, self._kept.get("rows", []), strict=False):
            if isinstance(logger, ResumableCSVLogger):
                logger.truncate(rows)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the row that was due; a sanity check has emptied the metrics."""
        self._restore(trainer)
        if due := self._kept.get("due"):
            for logger in trainer.loggers:
                logger.log_metrics(due["row"], step=due["step"])
                logger.save()
        self._kept = {}

    def _restore(self, trainer: Trainer) -> None:
        if self._kept:
            trainer.callback_metrics.update(self._kept["callback"])
            trainer.logged_metrics.update(self._kept["logged"])
            trainer.progress_bar_metrics.update(self._kept["progress_bar"])


def due_row(trainer: Trainer) -> dict[str, Any] | None:
    """The row that Lightning will log after the checkpoint that is written now; None if there is none.

    It logs a step after ``on_train_batch_end``, and the averages of an epoch after ``on_train_epoch_end``.
    """
    loop, connector = trainer.fit_loop, trainer._logger_connector
    step: Any = loop.epoch_loop
    batch: Any = step.batch_progress.current  # typed as trackers without "processed", which they have
    epoch: Any = loop.epoch_progress.current
    if batch.processed > batch.completed:
        if loop._should_accumulate() or not connector.should_update_logs:
            return None
        at = step._batches_that_stepped
    elif epoch.processed > epoch.completed:
        at = step._batches_that_stepped - 1
    else:
        return None
    row = {key: float(value) for key, value in connector.metrics["log"].items()}
    at = int(row.pop("step", at))
    return {"row": {"epoch": trainer.current_epoch} | row, "step": at} if row else None


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value.detach().cpu().clone() if isinstance(value, Tensor) else value for key, value in metrics.items()}
