"""Errors in one line: what is wrong in the input, or where the traceback of an unexpected error is."""

import difflib
import os
import pickle
import re
import traceback
from argparse import ArgumentError
from collections.abc import Collection, Mapping
from pathlib import Path

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from ..shared.checkpoints import constructor_arguments, imported

IN_FILE = " (the configuration file): "
LONGEST = 2000  # characters of a message
CONFIGURED = (LightningModule, LightningDataModule, Callback, Logger, Trainer)
OURS = ("zoo", "datamodules", "callbacks", "train", "__main__")  # modules whose ValueErrors are written for the user


def explain(error: Exception, known: Mapping[str, Collection[str]]) -> tuple[int, str]:
    """The exit status (2 for the command line itself, 1 for what goes wrong later) and one printable line.

    `known` has the names of the classes for each argument that takes a class.
    """
    parsing = isinstance(error, ArgumentError)
    message = in_one_line(str(error), known) if parsing else expected(error) or unexpected(error)
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
    return 1 + parsing, line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} [...] {line[-LONGEST // 2 :]}"


def expected(error: BaseException | None) -> str | None:
    """The message of an error in the input, for which nobody needs a traceback; None for any other error."""
    if error is None:
        return None
    if isinstance(error, pickle.UnpicklingError):
        return f"a checkpoint is damaged, or holds more than tensors and plain values: {str(error).splitlines()[0]}"
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}"
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = isinstance(error, ValueError) and modules[-1:] and modules[-1].partition(".")[0] in OURS
    return str(error) if ours or isinstance(error, OSError) else expected(error.__cause__)


def unexpected(error: BaseException) -> str:
    """The kind and the message of any other error, the class that could not be built, and the way to the traceback."""
    where = "; ".join(getattr(error, "__notes__", ["ZOO_DEBUG=1 shows where"]))
    while error.__cause__:  # which says more than what jsonargparse makes of it
        error = error.__cause__
    calls = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "__init__"]
    instances = [call.f_locals.get("self") for call in calls]
    built = [type(each).__name__ for each in instances if isinstance(each, CONFIGURED)]
    what = f"{built[0]} cannot be built with these arguments: " if built else ""
    return f"{what}{type(error).__name__}: {error} ({where})"


class TracebackFile(Callback):
    """Writes the traceback of an unexpected error into the run's folder; the line of the error names the file."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write it into the folder of the first logger that has one, or else into ``default_root_dir``."""
        if not isinstance(exception, Exception) or expected(exception) or os.environ.get("ZOO_DEBUG"):
            return
        # another process may count the versions of a logger in another way than the first one
        folders = [logger.log_dir for logger in trainer.loggers if logger.log_dir and trainer.is_global_zero]
        path = Path([*folders, trainer.default_root_dir][0], f"traceback-{trainer.global_rank}.txt")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(traceback.format_exception(exception)), encoding="utf-8")
            exception.add_note(f"traceback in {path}")
        except OSError:  # such as a full disk
            traceback.print_exception(exception)


def in_one_line(message: str, known: Mapping[str, Collection[str]]) -> str:
    """The essence of a message of jsonargparse: which argument, where, what was expected, what came."""
    where, _, message = message.rpartition(IN_FILE)
    where = f"{where}: " if where else ""
    message = re.sub(r"NestedArg\(key='[^']*', val='((?:[^'\\]|\\.)*)'\)", r"'\1'", message)
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.(?=\w)", r"\1", message)
    message = re.sub(r"(?<!-)\b(?:fit|validate|test|predict)\.(?=data|model)", "--", message)
    keys = re.findall(r'Parser key "([^"]+)":', message)
    inner = message[message.rfind("Parser key") :] if keys else message
    kinds = re.findall(r"Expected an? (?!NoneType|path but|dot import)(\w+(?:\[.*\])?)", inner)
    errors = re.findall(r"Errors:\s+- (.+)", inner)
    given = re.search(r"(?:Given|Got) value: (.{1,80})", inner)
    if option := re.search(r"given class_path '([^']+)':\s+Option '([^']+)' is not accepted", inner):
        kind = imported(option[1])
        essence = f"{option[1]} takes no such argument{did_you_mean(option[2], constructor_arguments(kind or object))}"
        if kind in CONFIGURED or option[2] == "class_path":
            essence = f"expected a class, by --{keys[0]} NAME or class_path, with its arguments below init_args"
        keys.append(option[2])
    elif name := re.search(r"Expected a dot import path string: (\S*)", inner):
        takes = keys[-1] if keys else next((key for key in known if f"--{key}.help" in message), "")
        essence = f"no such class: {name[1]}{did_you_mean(name[1], known.get(takes, ()))}"
        keys = keys or [f"{takes}.help"]
    elif problem := re.search(r"given class_path '([^']+)':\s+(.+)", inner):
        essence = f"{problem[1]}: {problem[2]}"
    elif given and (kinds or errors):
        essence = f"expected {' or '.join(dict.fromkeys(kinds))}" if kinds else errors[0].partition(". Got value")[0]
        essence += f", got {given[1]}"
    else:
        essence = " ".join(re.sub(r'Parser key "[^"]+":|"<unicode string>",', "", inner).split())
    option_name = ".".join(keys).replace("trainer.trainer", "trainer")  # of a whole group in one flag
    return f"{where}--{option_name}: {essence}" if keys else where + essence


def did_you_mean(name: str, known: Collection[str]) -> str:
    """What was expected instead of an unknown name: all of a few names, and those that are like it."""
    alike = difflib.get_close_matches(name, known, 3)
    all_of_them = f"; expected one of {', '.join(sorted(known))}" if 0 < len(known) <= 40 else ""
    return all_of_them + (f"; did you mean {' or '.join(alike)}?" if alike else "")
