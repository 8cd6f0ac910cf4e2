"""Checkpoints as files that anybody may have written: what is read of them, and what is refused.

A file decides nothing about what is run. Torch reads tensors and plain values only; and as plain values may name
classes that jsonargparse would import and build, `check_classes` lets pass what this process has imported already.
"""

import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints
from zipfile import ZipFile, is_zipfile

import torch
import yaml
from lightning.pytorch import LightningDataModule
from packaging.version import InvalidVersion, Version
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

FORMAT_KEY = "zoo_format"  # in every checkpoint of the command line and every file of `zoo.weights`
FORMAT = 1  # of this version; one more with each change that an older version of the zoo would misread
VERSION_KEY = "pytorch-lightning_version"
LAYOUT: dict[str, type] = {  # what Lightning and the zoo rely on, where it is there
    "state_dict": dict,
    "hyper_parameters": dict,
    "command_line_config": dict,
    "callbacks": dict,
    "loops": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "epoch": int,
    "global_step": int,
    VERSION_KEY: str,
}
BUILT = (nn.Module, LightningDataModule, Optimizer, LRScheduler)  # what a file may name, none of which acts when built
TEXT = (str, int, float, bool, PurePath, Enum)  # types for which a text is converted or refused, and nothing imported


def load_plain(called: str, path: str | Path, expected: str) -> Any:
    """Read a file of ``torch.save`` with tensors and plain values only, without loading its tensors into memory.

    Reads it once more to compare its checksums, which torch does not look at.

    Args:
        called: What the file is called in messages.
        path: The file.
        expected: What it should be, for the message.

    Raises:
        ValueError: It is something else or damaged, or holds any other object, which is not built.
    """
    try:
        mapped = is_zipfile(path)  # torch's oldest format is none, and cannot be mapped
        if mapped:
            with ZipFile(path) as archive:
                if (record := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {record} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch, zipfile and the unpickler raise anything for a damaged file
        what = f"damaged, or is not {expected} that can be read: one with tensors and plain values only"
        raise ValueError(f"{called}: {what}") from error


def read_checkpoint(called: str, path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that Lightning saved, without loading its tensors into memory.

    Args:
        called: What the file is called in messages.
        path: The file.

    Raises:
        ValueError: It is something else or damaged, or of a newer version of the zoo.
    """
    checkpoint = load_plain(called, path, "a checkpoint of Lightning")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{called}: holds no `state_dict`; expected a checkpoint that Lightning saved")
    if VERSION_KEY not in checkpoint:
        raise ValueError(f"{called}: holds no `{VERSION_KEY}`; expected a checkpoint that Lightning saved")
    check_format(called, checkpoint.get(FORMAT_KEY, FORMAT))
    for key, kind in LAYOUT.items():
        if not isinstance(checkpoint.get(key, kind()), kind):
            found = type(checkpoint[key]).__name__
            raise ValueError(f"{called}: its `{key}` is a {found}; a checkpoint of Lightning has a {kind.__name__}")
    for key in ("state_dict", "hyper_parameters"):
        if strange := [name for name in checkpoint.get(key, {}) if not isinstance(name, str)]:
            raise ValueError(f"{called}: {strange[0]!r} in its `{key}` is no name; expected a checkpoint of Lightning")
    try:
        Version(checkpoint[VERSION_KEY])
    except InvalidVersion as error:
        found = checkpoint[VERSION_KEY]
        raise ValueError(f"{called}: its `{VERSION_KEY}` is {found!r}; expected a checkpoint of Lightning") from error
    return checkpoint


def check_format(called: str, found: Any) -> None:
    """Refuse a file of a newer version of the zoo, which may mean something else.

    Args:
        called: What the file is called in messages.
        found: The file's number, the value of ``FORMAT_KEY``.

    Raises:
        ValueError: It is newer than ``FORMAT``, or no such number.
    """
    if type(found) is not int or found < 1:
        raise ValueError(f"{called}: its `{FORMAT_KEY}` is {found!r}; expected a whole number from 1 to {FORMAT}")
    if found > FORMAT:
        raise ValueError(
            f"{called}: was written by a newer version of the zoo, as a checkpoint of format {found}; this one reads "
            f"up to {FORMAT}: update it"
        )


# ---------------------------------------------------------------- classes that a file names


def imported(class_path: object) -> type | None:
    """The class of an import path such as ``zoo.JEM``, if its module has been imported; nothing is imported here."""
    package, _, name = class_path.rpartition(".") if isinstance(class_path, str) else ("", "", "")
    found = getattr(sys.modules.get(package), name, None)
    return found if isinstance(found, type) else None


def check_classes(called: str, spec: Mapping[str, Any]) -> None:
    """Refuse a configuration out of a file that names what this process has not imported, at any depth.

    jsonargparse imports whatever stands where it expects a class, and builds classes even where an argument takes
    anything, out of a dictionary or of a text in YAML.

    Args:
        called: What the file is called in messages.
        spec: A class as the command line saves it, ``{"class_path": ..., "init_args": ...}``.

    Raises:
        ValueError: A class has not been imported or is no module, data module, optimiser or schedule; or a text stands
            where a class is expected, or would be read as a dictionary.
    """
    path = spec.get("class_path")
    kind = imported(path)
    if kind is None:
        raise ValueError(
            f"{called}: names {path!r}, which nothing here has imported, and a file decides nothing about that: "
            "name it on the command line, by --model, --data or --config, if you trust the file"
        )
    if not issubclass(kind, BUILT):
        raise ValueError(f"{called}: names {path!r}, which is no module, data module, optimiser or schedule: refused")
    for given in (spec.get("init_args"), spec.get("dict_kwargs")):
        if not isinstance(given, Mapping | None):
            raise ValueError(f"{called}: the arguments of {path} are {given!r}; expected a dictionary")
        check_arguments(called, kind, given or {})


def check_arguments(called: str, kind: type, arguments: Mapping[str, Any]) -> None:
    """`check_classes` for the arguments of a class that somebody else chose.

    Args:
        called: What the file is called in messages.
        kind: The class.
        arguments: What the file gives for its constructor.

    Raises:
        ValueError: As for `check_classes`.
    """
    hints = constructor_hints(kind)
    for name, value in arguments.items():
        _check_value(called, f"{name} of {kind.__name__}", value, hints.get(name, Any))


def constructor_hints(kind: type) -> dict[str, Any]:
    """The types of a class's arguments, and of its bases', to which it may pass them on."""
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        with suppress(NameError, TypeError, AttributeError):  # an annotation that cannot be resolved says nothing
            hints |= get_type_hints(vars(base)["__init__"]) if "__init__" in vars(base) else {}
    return hints


def _check_value(called: str, name: str, value: Any, hint: Any) -> None:
    if isinstance(value, str):
        if not _takes_text(hint):
            raise ValueError(f"{called}: {name} is {value!r}; the command line saves a class with its arguments here")
        if not _is_plain(value):
            raise ValueError(f"{called}: {name} is {value!r}; expected no dictionary in a text")
    elif isinstance(value, Mapping) and "class_path" in value:
        check_classes(called, value)
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            _check_value(called, name, each, hint)


def _takes_text(hint: Any) -> bool:
    """Whether a text stands for itself in an argument of this type, or in a part of it."""
    if hint is Any or get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, TEXT)):
        return True
    return any(map(_takes_text, get_args(hint)))


def _is_plain(text: str) -> bool:
    """Whether no parser of YAML or JSON makes anything but a scalar of a text."""
    if ":" not in text:  # of which there is one in every dictionary with a value
        return True
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)  # no values: aliases multiply them
    except yaml.YAMLError:
        return False
    return node is None or isinstance(node, yaml.ScalarNode)
