"""Errors in the input, each in one line that says what to change; what is no such error keeps its traceback."""

import inspect
import os
import pickle
import re
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Collection, Mapping

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from . import yaml_text as config_text

IN_FILE = " (the configuration file): "
LONGEST = 2000  # characters of a message
BASES = ("LightningModule", "LightningDataModule", "Callback", "Logger")  # for which jsonargparse takes no name at all
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# An error that one of these modules raises by a `raise` of its own was written for whoever gives the input.
SPEAKS_TO_THE_USER = r"(zoo|datamodules|callbacks|lightning\.pytorch\.trainer\.connectors)\b"


def explain(error: BaseException, known: Mapping[str, Collection[str]]) -> tuple[int, str] | None:
    """The exit status and one line for an error in the input.

    Args:
        error: What was raised.
        known: For each argument that takes a class, the names of the classes.

    Returns:
        2 for the command line, 1 for what goes wrong later; None for a bug, and where the user wants a traceback.
    """
    if os.environ.get("ZOO_DEBUG"):
        return None
    if isinstance(error, ArgumentError):
        return 2, printable(in_one_line(error.message, known))
    cause: BaseException | None = error
    while cause:  # jsonargparse wraps an error of a constructor in its own
        if message := explanation(cause):
            return 1, printable(message)
        cause = cause.__cause__
    return None


def printable(message: str) -> str:
    """One line that a terminal shows as it is, without the middle of a very long one."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} [...] {line[-LONGEST // 2 :]}"


class NotBuilt(ValueError):
    """Arguments with which a class cannot be built."""


def not_built(error: Exception) -> NotBuilt | None:
    """What to say of a library's error while classes are built from what the user gives: there it is mostly the input.

    Args:
        error: What was raised.

    Returns:
        An error with the class and the library's message; None if it was written for the user as it is.
    """
    if explain(error, {}) or os.environ.get("ZOO_DEBUG"):
        return None
    cause: BaseException = error
    while cause.__cause__:
        cause = cause.__cause__
    frames = [frame for frame, _ in traceback.walk_tb(cause.__traceback__)]
    built = [frame.f_locals["self"] for frame in frames if frame.f_code.co_name == "__init__"]
    name = f"{type(built[0]).__name__} " if built else "a class "
    said = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
    return NotBuilt(f"{name}cannot be built with these arguments: {said} (ZOO_DEBUG=1 shows where)")


def explanation(error: BaseException) -> str | None:
    """The message, if somebody wrote it for whoever gives the input."""
    if isinstance(error, NotBuilt):
        return str(error)
    if isinstance(error, RuntimeError) and re.search(r"type \(.*\) and .* type \(.*\) should be the same", str(error)):
        return f"--trainer.precision: expected 32-true, 16-mixed or bf16-mixed, for other types meet here: {error}"
    allocating = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # of torch, on the CPU
    if allocating or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return (
            f"not enough memory: {str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}"
        )
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}"
    if str(error).startswith("Error(s) in loading state_dict"):
        return "the checkpoint does not fit the module: " + "; ".join(map(str.strip, str(error).splitlines()[:3]))
    if isinstance(error, pickle.UnpicklingError) or str(error).startswith("PytorchStreamReader failed"):
        return f"a checkpoint is damaged, or holds more than tensors and plain values: {str(error).splitlines()[0]}"
    if str(error).startswith("loaded state dict "):
        return f"the optimiser's state in the checkpoint does not fit the module: {error}"
    if isinstance(error, OSError | MisconfigurationException):
        return str(error)
    module = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    raised = (traceback.extract_tb(error.__traceback__)[-1].line or "").startswith("raise ")
    return str(error) if raised and re.match(SPEAKS_TO_THE_USER, module) else None


def in_one_line(message: str, known: Mapping[str, Collection[str]]) -> str:
    """The essence of a message of jsonargparse: which argument, where, what was expected, what came."""
    where, _, message = message.rpartition(IN_FILE)
    where = f"{where}: " if where else ""
    message = re.sub(r"NestedArg\(key='[^']*', val='((?:[^'\\]|\\.)*)'\)", r"'\1'", message)
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.(?=\w)", r"\1", message)
    message = re.sub(r"\b(?:fit|validate|test|predict)\.(?=data|model)", "--", message)
    keys = re.findall(r'Parser key "([^"]+)":', message)
    inner = message[message.rfind("Parser key") :] if keys else message
    expected = re.findall(r"Expected an? (?!NoneType|path but|dot import)(\w+(?:\[.*\])?)", inner)
    errors = re.findall(r"Errors:\s+- (.+)", inner)
    given = re.search(r"(?:Given|Got) value: (.{1,80})", inner)
    if option := re.search(r"given class_path '([^']+)':\s+Option '([^']+)' is not accepted", inner):
        keys.append(option[2])
        essence = f"{option[1]} takes no such argument{suggestion(option[2], parameters(option[1]))}"
        if option[1].rpartition(".")[2] in BASES:
            essence = f"an argument of what? Expected --{keys[0]} NAME, or class_path in the configuration file"
    elif base := re.search(r"Not a valid subclass of (\w+)\. Got value: (.{1,80})", inner):
        essence = f"expected {config_text.ENTRY}, of a {base[1]}, got {base[2]}"
    elif name := re.search(r"Expected a dot import path string: (\S+)", inner):
        kind = keys[-1] if keys else next((key for key in known if f"--{key}.help" in message), "")
        essence = f"no such class: {name[1]}{suggestion(name[1], known.get(kind, ()))}"
        keys = keys or [f"{kind}.help"]
    elif problem := re.search(r"given class_path '([^']+)':\s+(.+)", inner):
        essence = f"{problem[1]}: {problem[2]}"
    elif given and (expected or errors):
        essence = f"expected {' or '.join(dict.fromkeys(expected))}" if expected else errors[0]
        essence += f", got {given[1]}"
    else:
        essence = " ".join(re.sub(r'Parser key "[^"]+":|"<unicode string>",', "", inner).split())
    option_name = ".".join(keys).replace("trainer.trainer", "trainer")  # of a whole group in one flag
    return f"{where}--{option_name}: {essence}" if keys else where + essence


def suggestion(name: str, known: Collection[str]) -> str:
    """What was expected instead of an unknown name: all of a few, the closest of many."""
    all_of_them = f"; expected one of {', '.join(sorted(known))}" if 0 < len(known) <= 40 else ""
    return all_of_them + config_text.closest(name, known)


def parameters(class_path: str) -> set[str]:
    """Names of the arguments of a class's constructor, and of its bases' where it may pass more on to them."""
    module, _, name = class_path.rpartition(".")
    names: set[str] = set()
    for base in getattr(sys.modules[module], name).__mro__[:-1]:
        if "__init__" in vars(base):
            found = inspect.signature(vars(base)["__init__"]).parameters.values()
            names |= {each.name for each in found if each.kind not in VARIADIC} - {"self"}
            if inspect.Parameter.VAR_KEYWORD not in {each.kind for each in found}:
                break
    return names
