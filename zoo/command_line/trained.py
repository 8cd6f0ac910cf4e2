"""What the command line keeps in a checkpoint, and what a checkpoint says of the module that it holds and its data."""

import functools
import importlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from ..shared import checkpoints
from ..shared.private_names import CLASS_PATH, INSTANTIATOR

FROM_DATA = ("num_classes", "image_shape", "num_features")  # the module's arguments that the data decide


class SaveConfig(SaveConfigCallback):
    """Puts the configuration into every logger, into a file in each logger's own folder, and every checkpoint."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log and write it; never into a folder shared by runs, where a user's own file may have this name."""
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": self._as_dict})
            if logger.log_dir:
                Path(logger.log_dir).mkdir(parents=True, exist_ok=True)
                text = self.parser.dump(self.config, skip_none=False)
                Path(logger.log_dir, self.config_filename).write_text(text, encoding="utf-8")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it in the checkpoint, with the number of the checkpoint's format."""
        checkpoint[checkpoints.FORMAT_KEY] = checkpoints.FORMAT
        checkpoint[checkpoints.CONFIG_KEY] = self._as_dict

    @functools.cached_property
    def _as_dict(self) -> dict[str, Any]:
        return json.loads(self.parser.dump(self.config, skip_none=False, format="json"))


def read_checkpoint(path: str | None) -> dict[str, Any]:
    """Read a local file that Lightning saved; empty without a path, or with one for Lightning to find, as ``best``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, damaged, or of a newer version.
    """
    if not path or (path in ("last", "best", "hpc") and not Path(path).is_file()):
        return {}
    if not Path(path).is_file():
        how = "; of a folder make one by `python -m lightning.pytorch.utilities.consolidate_checkpoint`"
        raise FileNotFoundError(f"--ckpt_path {path}: no such file on this machine{how if Path(path).is_dir() else ''}")
    return checkpoints.read_checkpoint(f"--ckpt_path {path}", path)


def trained_data(path: str | None, model: str) -> dict[str, Any] | None:
    """The data that the module in a checkpoint was trained on, as the command line takes them; None if it is silent.

    They may name what is imported by the file of `model`, the class that the command line asks for.

    Raises:
        ValueError: They name a class that has not been imported.
    """
    if (config := read_checkpoint(path).get(checkpoints.CONFIG_KEY, {}).get("data")) is None:
        return None
    with suppress(ImportError, TypeError, ValueError):  # for jsonargparse to tell
        importlib.import_module(model.rpartition(".")[0] or __name__)
    try:
        plain = json.loads(json.dumps(config))
        checkpoints.check_classes(f"--ckpt_path {path}", plain)
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"--ckpt_path {path}: its data are no class with plain arguments: {config!r:.80}") from error
    return plain


def trained_arguments(path: str, wanted: str, flags: Collection[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments that the module in a checkpoint was trained with.

    The command line asks for the class `wanted`; its `flags` lead to the arguments `given`.

    Raises:
        ValueError: The checkpoint is one of another class, or a flag asks for another value.
    """
    arguments = {k: v for k, v in read_checkpoint(path).get("hyper_parameters", {}).items() if k != INSTANTIATOR}
    saved = arguments.pop(CLASS_PATH, None)
    if saved not in (None, wanted):
        raise ValueError(f"{path} is a checkpoint of {saved}, but --model asks for {wanted}")
    for flag in flags:
        option = re.match(r"--model\.(?:init_args\.)?(\w+)", flag)
        if option and option[1] in arguments and not equal_in_yaml(given.get(option[1]), arguments[option[1]]):
            raise ValueError(f"{flag} would be ignored: {path} brings its own {option[1]}; change it in Python")
    checkpoints.check_classes(f"--ckpt_path {path}", {"class_path": wanted, "init_args": arguments})
    for name, value in arguments.items():  # such as `teacher_class`, which its module imports
        if name.endswith("_class") and value not in (None, given.get(name)) and checkpoints.imported(value) is None:
            raise ValueError(f"{path} names {name}={value!r}, which nothing has imported: give --model.{name}, too")
    return arguments


def equal_in_yaml(one: Any, other: Any) -> bool:
    """Whether two values would be written as the same YAML: a tuple equals a list."""
    return json.dumps(one, default=vars) == json.dumps(other, default=vars)
