"""The callback that gathers a run's record and writes the page."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..shared.loggers import define_summaries, run_folder
from ..shared.sections import Reported, sections
from .page import render
from .record import Record, describe, plain, save_record, thinned


class Report(Callback):
    """Writes ``report.html`` and ``report.json`` at the end of a fit and of a test.

    The page holds what is there: configuration, learning curves, samples, and the results of every callback that has
    ``report_key: str`` and ``report_results() -> dict``, one of your own too. Such a dict holds numbers, texts,
    matplotlib figures and PNG files (bytes); a page shows a table of the values and the pictures. A module can add
    lines of its own with ``report_notes() -> dict[str, str | int | float]``. The learning curves are kept in
    checkpoints, so a test in a fresh process shows them up to its checkpoint. W&B keeps best values in its summary.

    Args:
        folder: Where to write; by default the CSV logger's folder, else another logger's or the trainer's.
        title: Heading of the page and name of the run in comparisons; by default the class of the module.
    """

    def __init__(self, folder: str | None = None, title: str | None = None) -> None:
        self.folder = folder
        self.title = title
        self._history: list[dict[str, Any]] = []
        self._seconds: dict[str, float] = {}
        self._restored: dict[str, Any] = {}
        self._seen: dict[str, Tensor] = {}
        self._earlier: list[str] = []
        self._started = 0.0

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Raise now rather than after the run if the folder cannot be written, or if a callback has a key of ours."""
        _check_keys(trainer.callbacks)
        define_summaries(trainer)
        if _writes(trainer):
            folder = self._folder(trainer)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OSError(f"the report cannot be written to {folder}: {error.strerror}") from error

    def state_dict(self) -> dict[str, Any]:
        """Keep the learning curves."""
        return {"history": self._history, "seconds": self._elapsed("fit")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state for the start of a fit or of a test, which use it differently."""
        self._restored = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue the restored learning curves, or start new ones."""
        self._history = list(self._restored.get("history", []))
        self._seconds = dict(self._restored.get("seconds", {}))
        self._earlier, self._restored = self._restored.get("seen", []), {}
        self._started = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save which metrics earlier epochs logged: a run resumed within an epoch cannot tell them from new ones."""
        metrics = trainer.callback_metrics
        checkpoint["callbacks"][self.state_key]["seen"] = [
            key for key in metrics if self._seen.get(key) is metrics[key]
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore which metrics earlier epochs logged."""
        self._seen = {key: value for key, value in trainer.callback_metrics.items() if key in self._earlier}
        self._earlier = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which metrics earlier epochs logged."""
        self._seen = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what a validation inside the fit logged."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._record(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what the epoch logged."""
        self._record(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page with the learning curves."""
        self._seconds = self._elapsed("fit")
        self._write(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the learning curves from the checkpoint, unless they are longer here."""
        if not self._history:
            self._history = list(self._restored.get("history", []))
            self._seconds = dict(self._restored.get("seconds", {}))
        self._restored = {}
        self._started = time.monotonic()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the page after every other callback has finished its test."""
        if stage == "test":
            self._seconds["test"] = time.monotonic() - self._started
            self._write(trainer, pl_module)

    def _elapsed(self, stage: str) -> dict[str, float]:
        return self._seconds | {stage: self._seconds.get(stage, 0.0) + time.monotonic() - self._started}

    def _record(self, trainer: Trainer) -> None:
        # Lightning keeps the values of earlier loops: only values that are other objects were logged just now
        metrics = trainer.callback_metrics
        fresh = {key: plain(value) for key, value in metrics.items() if self._seen.get(key) is not value}
        self._seen = dict(metrics)
        place = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        if self._history and {key: self._history[-1][key] for key in place} == place:
            self._history[-1].update(fresh)
        elif fresh:
            self._history = thinned([*self._history, place | fresh])

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _writes(trainer):
            record, folder = self._collect(trainer, pl_module), self._folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            save_record(record, folder / "report.json")
            (folder / "report.html").write_text(render([record]), encoding="utf-8")

    def _collect(self, trainer: Any, pl_module: LightningModule) -> Record:
        parts: Record = dict.fromkeys(key for section in sections() for key in section.keys)
        own: Record = {}
        for callback in trainer.callbacks:
            if isinstance(callback, Reported) and (results := _results_of(callback)):
                (parts if callback.report_key in parts else own)[callback.report_key] = results
        in_results = tuple(f"{key}/" for key in (*parts, *own))
        metrics = {key: value for key, value in trainer.callback_metrics.items() if not key.startswith(in_results)}
        about = {
            "title": self.title or type(pl_module).__name__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": self._seconds,
            "history": self._history,
            "metrics": metrics,
            "results": own,
        }
        return plain(describe(trainer, pl_module) | about | parts)

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.folder) if self.folder else run_folder(trainer)


def _results_of(callback: Reported) -> Any:
    try:
        return callback.report_results()
    except Exception as error:  # a user's code may raise anything, and the rest of the report is worth having
        rank_zero_warn(f"{type(callback).__name__}.report_results failed, so it is not in the report: {error!r}")
        return None


def _check_keys(callbacks: Sequence[Any]) -> None:
    """Raise ``ValueError`` for a user's callback that has the key of one of this package."""
    taken = {key for section in sections() for key in section.keys}
    package = __name__.partition(".")[0]
    for callback in callbacks:
        ours = any(base.__module__.partition(".")[0] == package for base in type(callback).__mro__)
        if isinstance(callback, Reported) and callback.report_key in taken and not ours:
            name = type(callback).__name__
            raise ValueError(f"{name}.report_key is {callback.report_key!r}, of a callback of the zoo: choose another")


def _writes(trainer: Any) -> bool:
    return trainer.is_global_zero and not trainer.fast_dev_run
