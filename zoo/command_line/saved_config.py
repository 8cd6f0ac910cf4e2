"""The complete configuration, in every logger, log folder and checkpoint."""

import functools
import json
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from ..shared import checkpoints
from .trained import CONFIG_KEY


class SaveConfig(SaveConfigCallback):
    """Puts the configuration into every logger, into a file in each logger's own folder, and every checkpoint."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log and write it; never into a folder shared by runs, where a user's own file may have this name."""
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": self._as_dict})
            if logger.log_dir:
                Path(logger.log_dir).mkdir(parents=True, exist_ok=True)
                Path(logger.log_dir, self.config_filename).write_text(self._dump("yaml"), encoding="utf-8")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it in the checkpoint, for the data that the checkpoint was trained on; with the number of its format."""
        checkpoint[checkpoints.FORMAT_KEY] = checkpoints.FORMAT
        checkpoint[CONFIG_KEY] = self._as_dict

    @functools.cached_property
    def _as_dict(self) -> dict[str, Any]:
        return json.loads(self._dump("json"))

    def _dump(self, form: str) -> str:
        return self.parser.dump(self.config, skip_none=False, format=form)
