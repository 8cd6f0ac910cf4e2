"""Keeps what a run has logged in its checkpoints, so that an interrupted run resumes with complete logs."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ..shared.private_names import AppendingCSVLogger, unlogged_row

KEY = "kept_logs"


class ResumableCSVLogger(AppendingCSVLogger):
    """A ``CSVLogger`` that continues the ``metrics.csv`` of its version; `KeptLogs` says from which row.

    The arguments are those of ``CSVLogger``, with ``version`` that of the interrupted run.
    """

    @rank_zero_only
    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows, and of the columns those with a value in them."""
        writer = self.experiment
        path = Path(writer.metrics_file_path)
        kept: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = list(csv.DictReader(file))[:rows]
        writer.metrics, writer.metrics_keys = [], sorted({key for row in kept for key, value in row.items() if value})
        if not kept:
            path.unlink(missing_ok=True)
            return
        new = path.with_suffix(".csv.new")  # which replaces the old file once it is complete
        with new.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, writer.metrics_keys, extrasaction="ignore")
            table.writeheader()
            table.writerows(kept)
        os.replace(new, path)


def count_rows(path: Path) -> int:
    """The rows of a table of numbers below its header, which are lines: a long table need not be parsed."""
    with path.open("rb") as file:
        return max(0, sum(1 for _ in file) - 1)


class KeptLogs(Callback):
    """Saves in each checkpoint what was logged until then, which Lightning does not.

    A run that resumes from it has the metrics that were last logged, also those of a validation some epochs ago, which
    a monitor or a report may ask for; the row of a step whose checkpoint was written before the step was logged; and,
    with `ResumableCSVLogger`, exactly the rows of that moment. Other loggers keep what they got after the checkpoint:
    TensorBoard shows such steps twice, and Weights & Biases resumes a run if it is told its ``id`` and ``resume``.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Flush the loggers and store the metrics."""
        for logger in trainer.loggers:
            logger.save()
        tables = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger) and trainer.is_global_zero]
        files = [Path(logger.log_dir, "metrics.csv") for logger in tables]
        checkpoint[KEY] = {
            "callback": _on_cpu(trainer.callback_metrics),
            "logged": _on_cpu(trainer.logged_metrics),
            "progress_bar": _on_cpu(trainer.progress_bar_metrics),
            "due": unlogged_row(trainer),
            "rows": [count_rows(path) if path.exists() else 0 for path in files],
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the metrics until a fit starts."""
        self._kept = checkpoint.get(KEY, {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the metrics, and delete the rows that were logged after the checkpoint."""
        self._restore(trainer)
        tables = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        for logger, rows in zip(tables, self._kept.get("rows", []), strict=False):
            if isinstance(logger, ResumableCSVLogger):
                logger.truncate(rows)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the row that was due; restore the metrics again, since a sanity check empties them."""
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


def _on_cpu(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value.detach().cpu().clone() if isinstance(value, Tensor) else value for key, value in metrics.items()}
