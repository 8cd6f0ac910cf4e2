"""Checkpoints as files that anybody may have written: what is read of them, and what is refused.

A file decides nothing about what is run. Torch reads tensors and plain values only; and as plain values may name
classes that jsonargparse would import and build, `check_classes` lets pass what this process has imported already.
Below, `called` is what a file is called in messages.
"""

import inspect
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
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

FORMAT_KEY = "zoo_format"  # in every checkpoint of the command line and every file of `zoo.weights`
FORMAT = 1  # of this version; one more with each change that an older version of the zoo would misread
VERSION_KEY = "pytorch-lightning_version"
CONFIG_KEY = "command_line_config"  # the configuration that a checkpoint of the command line was trained with
BUILT = (nn.Module, LightningDataModule, Optimizer, LRScheduler)  # what a file may name, none of which acts when built
TEXT = (str, int, float, bool, PurePath, Enum)  # types for which a string is converted or refused, and nothing imported


def load_plain(called: str, path: str | Path, expected: str) -> Any:
    """Read a file of ``torch.save`` with tensors and plain values only; its tensors stay on the disk until needed.

    The file is read once more to compare its checksums, which torch does not look at.

    Raises:
        ValueError: It is not what is `expected`, damaged, or holds any other object, which is not built.
    """
    try:
        mapped = is_zipfile(path)  # torch's oldest format is none, and cannot be mapped
        if mapped:
            with ZipFile(path) as archive:
                if (record := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {record} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch, zipfile and the unpickler raise anything for a damaged file
        raise ValueError(f"{called}: damaged, or not {expected} with tensors and plain values only") from error


def read_checkpoint(called: str, path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that Lightning saved, without loading its tensors into memory.

    Raises:
        ValueError: It is something else or damaged, or of a newer version of the zoo.
    """
    checkpoint = load_plain(called, path, "a checkpoint of Lightning")
    if not isinstance(checkpoint, dict) or not {"state_dict", VERSION_KEY} <= checkpoint.keys():
        raise ValueError(f"{called}: lacks `state_dict` or `{VERSION_KEY}`; expected a checkpoint of Lightning")
    check_format(called, checkpoint.get(FORMAT_KEY, FORMAT))
    for key in ("state_dict", "hyper_parameters", CONFIG_KEY):
        entry = checkpoint.get(key, {})
        if not isinstance(entry, dict) or not all(isinstance(name, str) for name in entry):
            raise ValueError(f"{called}: its `{key}` is no dictionary of names; expected a checkpoint of Lightning")
    return checkpoint


def check_format(called: str, number: Any) -> None:
    """Raise a ``ValueError`` for the format of a newer version of the zoo, which may mean something else."""
    if type(number) is not int or not 1 <= number <= FORMAT:
        problem = f"its `{FORMAT_KEY}` is {number!r}, as of a newer version of the zoo"
        raise ValueError(f"{called}: {problem}; expected a whole number from 1 to {FORMAT}")


# ---------------------------------------------------------------- classes that a file names


def imported(class_path: object) -> type | None:
    """The class of an import path such as ``zoo.JEM``, if its module has been imported; nothing is imported here."""
    package, _, name = class_path.rpartition(".") if isinstance(class_path, str) else ("", "", "")
    kind = getattr(sys.modules.get(package), name, None)
    return kind if isinstance(kind, type) else None


def check_classes(called: str, spec: Mapping[str, Any]) -> None:
    """Refuse a configuration out of a file that names what this process has not imported, at any depth.

    jsonargparse imports whatever stands where it expects a class, and builds classes even where an argument takes
    anything, out of a dictionary or of a string in YAML. `spec` is ``{"class_path": ..., "init_args": ...}``.

    Raises:
        ValueError: A class has not been imported or is no module, data module, optimiser or schedule; or a string
            stands where a class is expected, or would be read as a dictionary.
    """
    path = spec.get("class_path")
    kind = imported(path)
    if kind is None:
        raise ValueError(f"{called}: names {path!r}, which nothing here has imported: name it yourself if you trust it")
    if not issubclass(kind, BUILT):
        raise ValueError(f"{called}: names {path!r}, which is no module, data module, optimiser or schedule: refused")
    for arguments in (spec.get("init_args"), spec.get("dict_kwargs")):
        if not isinstance(arguments, Mapping | None):
            raise ValueError(f"{called}: the arguments of {path} are {arguments!r}; expected a dictionary")
        check_arguments(called, kind, arguments or {})


def check_arguments(called: str, kind: type, arguments: Mapping[str, Any]) -> None:
    """`check_classes` for the arguments that a file gives for the constructor of a class that somebody else chose."""
    types = constructor_arguments(kind)
    for name, value in arguments.items():
        _check_value(called, f"{name} of {kind.__name__}", value, types.get(name, Any))


def constructor_arguments(kind: type) -> dict[str, Any]:
    """Names and types of a class's constructor arguments, and of its bases' where it may pass more on to them."""
    types: dict[str, Any] = {}
    for function in (vars(base)["__init__"] for base in kind.__mro__[:-1] if "__init__" in vars(base)):
        hints, passes_on = {}, False
        with suppress(NameError, TypeError, AttributeError):  # an annotation that cannot be resolved says nothing
            hints = get_type_hints(function)
        for each in [*inspect.signature(function).parameters.values()][1:]:
            if each.kind is each.VAR_KEYWORD:
                passes_on = True
            elif each.kind is not each.VAR_POSITIONAL and types.get(each.name, Any) is Any:
                types[each.name] = hints.get(each.name, Any)
        if not passes_on:
            break
    return types


def _check_value(called: str, name: str, value: Any, expected: Any) -> None:
    if isinstance(value, str):
        if not (_accepts_str(expected) and _is_plain(value)):
            raise ValueError(f"{called}: {name} is {value!r}; expected no class and no dictionary in a string")
    elif isinstance(value, Mapping) and "class_path" in value:
        check_classes(called, value)
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            _check_value(called, name, each, expected)


def _accepts_str(expected: Any) -> bool:
    """Whether jsonargparse takes a string for an argument of this type, or for a part of it, as it is."""
    converted = isinstance(expected, type) and issubclass(expected, TEXT)
    return expected is Any or converted or get_origin(expected) is Literal or any(map(_accepts_str, get_args(expected)))


def _is_plain(text: str) -> bool:
    """Whether no parser of YAML or JSON makes anything but a scalar of a string."""
    try:  # a dictionary with a value has a colon, a list that repeats itself an asterisk; values would multiply aliases
        node = yaml.compose(text, Loader=yaml.SafeLoader) if {":", "*"} & set(text) else None
    except (yaml.YAMLError, RecursionError):
        return False
    return node is None or isinstance(node, yaml.ScalarNode)
