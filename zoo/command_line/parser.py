"""The parser of the command line: YAML without duplicate keys, short names of classes, errors that name the file."""

import re
from argparse import ArgumentError
from collections.abc import Mapping
from typing import Any, NoReturn

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from ..shared.private_names import subcommand_parser
from .messages import IN_FILE, did_you_mean

jsonargparse_loader = get_loader("yaml")  # unlike PyYAML's it reads 1e-3 as a number


class AmbiguousYAML(yaml.YAMLError):
    """A duplicate key, of which the last would win, or a list or dictionary that contains itself."""


def load(text: str) -> Any:
    """Read the value of a text in YAML or JSON; any error is a ``yaml.YAMLError``."""
    try:
        check_node(yaml.compose(text, Loader=yaml.SafeLoader))
        return jsonargparse_loader(text)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # a tag that does not fit, endless nesting
        raise yaml.YAMLError(str(error)) from error


def check_node(node: yaml.Node | None, parents: tuple[yaml.Node, ...] = ()) -> None:
    """Raise ``AmbiguousYAML`` if a node of the text, or a part of it, is ambiguous."""
    if node in parents:
        raise AmbiguousYAML(f"a list or dictionary contains itself, in line {parents[-1].start_mark.line + 1}")
    keys: set[str] = set()
    for part in node.value if isinstance(node, yaml.CollectionNode) else ():
        key, value = part if isinstance(node, yaml.MappingNode) else (None, part)
        if isinstance(key, yaml.ScalarNode):
            if key.value in keys:
                raise AmbiguousYAML(f"the key {key.value!r} is there twice, in line {key.start_mark.line + 1}")
            keys.add(key.value)
        check_node(value, (*parents, node))


set_loader("yaml", load, (yaml.YAMLError,))  # for files, texts and the values of flags


class Parser(LightningArgumentParser):
    """Names the file of a bad configuration, and what a misspelt argument may have meant."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file."""
        try:
            return super().parse_path(path, *args, **kwargs)
        except (ArgumentError, UnicodeDecodeError) as error:
            raise ArgumentError(None, f"{path}{IN_FILE}{error}") from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an ``ArgumentError``."""
        if unknown := re.match(r"unrecognized arguments: --([\w.]+)|.* does not accept option '(.+)'", message):
            options = [*subcommand_parser(ex, self).get_defaults().keys()]
            name = unknown[1] or unknown[2]
            message = f"--{name}: no such argument{did_you_mean(name, options)}"
        super().error(message, ex)


def spell_out(args: list[str], names: Mapping[str, Mapping[str, str]]) -> tuple[list[str], dict[str, str]]:
    """The arguments with `names` for short names, which a user's classes may have, too; the flags with their values."""
    args, flags = list(args), {}
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        value = value if equals else "".join(args[i + 1 : i + 2])
        if full := names.get(flag.removeprefix("--").removesuffix(".help"), {}).get(value):
            args[i if equals else i + 1] = f"{flag}={full}" if equals else full
        if flag.startswith("-"):
            flags[flag] = full or value
    return args, flags
