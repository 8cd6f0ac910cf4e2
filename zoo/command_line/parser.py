"""What the command line needs beside Lightning's own: its parser, the saved configuration, checkpoints."""

import re
from argparse import ArgumentError
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn, Union, get_args

import yaml
from jsonargparse import Namespace, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from ..shared import checkpoints
from . import yaml_text as config_text
from .messages import IN_FILE, suggestion

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
