"""What the command line needs beside Lightning's own: its parser, the saved configuration, checkpoints."""

import functools
import importlib
import json
import re
from argparse import ArgumentError
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Union, get_args

import yaml
from jsonargparse import Namespace, set_loader
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from ..shared import checkpoints
from . import yaml_text as config_text
from .messages import IN_FILE, parameters, suggestion

FROM_DATA = ("num_classes", "image_shape", "num_features")  # the module's arguments that the data decide
CONFIG_KEY = "command_line_config"  # where a checkpoint keeps the configuration that it was trained with

set_loader("yaml", config_text.load, (yaml.YAMLError,))  # for files, texts and the values of flags


class Parser(LightningArgumentParser):
    """Names the file of a bad configuration, and what an unknown argument may have meant."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file."""
        try:
            return super().parse_path(path, *args, **kwargs)
        except ArgumentError as error:
            raise ArgumentError(None, f"{path}{IN_FILE}{error.message}") from error
        except UnicodeDecodeError as error:
            raise ArgumentError(None, f"{path}: expected a configuration in YAML, but this is no UTF-8") from error

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parse the text of a configuration."""
        with suppress(yaml.YAMLError):  # for jsonargparse to tell
            try:
                config_text.check_config(config_text.load(content), [*self.get_defaults().keys()])
            except ValueError as error:
                self.error(str(error), error)
        return super().parse_string(content, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an ``ArgumentError``."""
        if unknown := re.match(r"unrecognized arguments: --([\w.]+)", message):
            options = [*getattr(ex, "subcommand_parser", self).get_defaults().keys()]
            message = f"--{unknown[1]}: no such argument{suggestion(unknown[1], options)}"
        elif unknown := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
            message = f"{unknown[1]!r} is no argument; expected --NAME VALUE"
        super().error(message, ex)


def whole_numbers_first(parser: LightningArgumentParser) -> None:
    """Let ``--trainer.limit_train_batches 1`` mean one batch.

    Python may keep Lightning's ``int | float`` as ``float | int``, whichever any library wrote first. Then jsonargparse
    makes 1.0 of a 1, which Lightning takes for all batches.

    Args:
        parser: Of a subcommand, changed in place.
    """
    for action in parser._actions:
        kinds = get_args(getattr(action, "_typehint", None))
        if {int, float} <= set(kinds):
            rest = tuple(kind for kind in kinds if kind not in (int, float))
            setattr(action, "_typehint", Union[(int, float, *rest)])  # noqa: B010  no attribute that types know


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


def spell_out(args: list[str], names: Mapping[str, Mapping[str, str]]) -> tuple[list[str], dict[str, str]]:
    """Replace short names of classes: some class of a user's may have the same name.

    Args:
        args: The command line.
        names: For each argument that takes a class, the import paths of the short names.

    Returns:
        The new command line, and its flags with their values.

    Raises:
        ArgumentError: A value cannot be meant.
    """
    args, flags = list(args), {}
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        value = value if equals else "".join(args[i + 1 : i + 2])
        if full := names.get(flag.removeprefix("--").removesuffix(".help"), {}).get(value):
            value = full
            args[i if equals else i + 1] = f"{flag}={full}" if equals else full
        if flag.startswith("-"):
            flags[flag] = value
            try:
                if equals or i + 1 < len(args):
                    config_text.check_flag(flag, value)
            except ValueError as error:
                raise ArgumentError(None, str(error)) from error
    return args, flags


# ---------------------------------------------------------------- checkpoints


def read_checkpoint(path: str | None) -> dict[str, Any]:
    """Read a local file that Lightning saved, without loading its tensors into memory.

    Returns:
        Its content; nothing where there is no path, or one that is for Lightning to find, such as ``best``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is an address, a folder or something else, damaged, or of a newer version.
    """
    if not path:
        return {}
    if "://" in path:
        raise ValueError(f"--ckpt_path {path}: expected a file of this machine: download it first")
    if not Path(path).is_file() and re.match(r"(last|best|hpc)$|registry", path):
        return {}
    if Path(path).is_dir():
        how = "of a checkpoint in shards make one by `python -m lightning.pytorch.utilities.consolidate_checkpoint`"
        raise ValueError(f"--ckpt_path {path}: is a folder, expected a file; {how}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"--ckpt_path {path}: no such file; expected a checkpoint of `train.py fit`")
    return checkpoints.read_checkpoint(f"--ckpt_path {path}", path)


def trained_data(path: str | None, model: str) -> dict[str, Any] | None:
    """The data that the module in a checkpoint was trained on, as the command line takes them; None if it is silent.

    Args:
        path: The checkpoint.
        model: The class that the command line asks for; what its file imports may be named by the checkpoint.

    Raises:
        ValueError: They name a class that has not been imported.
    """
    config = read_checkpoint(path).get(CONFIG_KEY, {}).get("data")
    if config is None:
        return None
    with suppress(ImportError, TypeError, ValueError):  # for jsonargparse to tell
        importlib.import_module(model.rpartition(".")[0] or __name__)
    try:
        plain = json.loads(json.dumps(config))
        checkpoints.check_classes(f"--ckpt_path {path}", plain)
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"--ckpt_path {path}: its data are no class with plain arguments: {config!r:.80}") from error
    return plain


def check_run(config: Any) -> None:
    """Refuse what Lightning would stumble over later.

    Args:
        config: The options of a subcommand, or of none.

    Raises:
        ArgumentError: The seed is none of NumPy's, gradients are never applied, or an argument is null that may not be.
    """
    seed = config.get("seed_everything")
    if type(seed) is int and not 0 <= seed < 2**32:
        raise ArgumentError(None, f"--seed_everything: expected a whole number from 0 to {2**32 - 1}, got {seed}")
    if (batches := config.trainer.accumulate_grad_batches) < 1:
        raise ArgumentError(None, f"--trainer.accumulate_grad_batches: expected at least 1, got {batches}")
    for name in ("model", "data"):
        check_nulls(f"--{name}", config.get(name))


def check_nulls(name: str, entry: Any) -> None:
    """Refuse a null where a class expects something else: jsonargparse takes it for an argument that is not there.

    Args:
        name: The option.
        entry: A class with its arguments, perhaps with other classes among them.

    Raises:
        ArgumentError: With the argument.
    """
    kind = checkpoints.imported(entry.get("class_path")) if isinstance(entry, Mapping | Namespace) else None
    if kind is None:
        return
    hints = checkpoints.constructor_hints(kind)
    for argument, value in (entry.get("init_args") or Namespace()).items(branches=True):
        if value is None and argument in hints and not takes_null(hints[argument]):
            raise ArgumentError(None, f"{name}.{argument}: expected {hints[argument]}, got null")
        check_nulls(f"{name}.{argument}", value)


def takes_null(hint: Any) -> bool:
    """Whether None is of a type."""
    return hint in (Any, None, type(None)) or type(None) in get_args(hint)


def insist_on_weights_only(config: Any) -> None:
    """Let Lightning read tensors and plain values only, whatever TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD says.

    Args:
        config: The options of a subcommand, which are changed.

    Raises:
        ValueError: The command line asks for the opposite.
    """
    if config.get("weights_only") is False:
        raise ValueError("--weights_only false would run what a checkpoint says: expected true; load it in Python")
    config["weights_only"] = True


def trained_arguments(
    path: str | None, wanted: str, flags: Collection[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The constructor arguments that the module in a checkpoint was trained with.

    Args:
        path: The checkpoint.
        wanted: Import path of the class that the command line asks for.
        flags: The flags of the command line.
        given: The arguments that they lead to.

    Raises:
        ValueError: The checkpoint is one of another class, or a flag asks for another value.
    """
    arguments = {k: v for k, v in read_checkpoint(path).get("hyper_parameters", {}).items() if k != "_instantiator"}
    saved = arguments.pop("_class_path", None)
    if saved not in (None, wanted):
        raise ValueError(f"{path} is a checkpoint of {saved}, but --model asks for {wanted}")
    if saved is None and (foreign := arguments.keys() - parameters(wanted)):  # saved from Python
        strange = ", ".join(sorted(foreign))
        raise ValueError(f"{path} is a checkpoint of another class than {wanted}, which takes no {strange}")
    for flag in flags:
        option = re.match(r"--model\.(?:init_args\.)?(\w+)", flag)
        if option and option[1] in arguments and not same(given.get(option[1]), arguments[option[1]]):
            raise ValueError(f"{flag} would be ignored: {path} brings its own {option[1]}; change it in Python")
    checkpoints.check_classes(f"--ckpt_path {path}", {"class_path": wanted, "init_args": arguments})
    for name, value in arguments.items():  # such as `teacher_class`, which its module imports
        if name.endswith("_class") and value not in (None, given.get(name)) and checkpoints.imported(value) is None:
            raise ValueError(f"{path} names {name}={value!r}, which nothing has imported: give --model.{name}, too")
    return arguments


def same(one: Any, other: Any) -> bool:
    """Whether two arguments are one, by what a configuration file would hold."""
    return json.dumps(one, default=vars) == json.dumps(other, default=vars)


def check_data(trained: Mapping[str, Any], data: object) -> None:
    """Refuse data of another kind than a checkpoint's, which a fully convolutional network would accept.

    Raises:
        ValueError: The data have other classes or another shape than the arguments that the module was trained with.
    """
    for name in FROM_DATA:
        then, now = trained.get(name), getattr(data, name, None)
        if None not in (then, now) and json.dumps(then) != json.dumps(now):
            raise ValueError(f"the checkpoint was trained with {name}={then}, but the data have {now}: set --data")
