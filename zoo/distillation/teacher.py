"""The teacher: a trained module in a checkpoint, that a student only looks at."""

import importlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from ..shared.checkpoints import check_arguments, imported, read_checkpoint
from ..shared.private_names import CLASS_PATH


def load_teacher(path: str | None, class_path: str | None, example: str) -> LightningModule:
    """Load a frozen module in evaluation mode, with tensors and plain values only, and without a random draw.

    Args:
        path: A checkpoint that Lightning saved.
        class_path: Import path of its class; None where the checkpoint itself names it, because the command line wrote
            it.
        example: A module that could be the teacher, for whoever has none.

    Returns:
        The module, on the CPU; no parameter of it asks for a gradient.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is no path, or the file is something else, damaged, or does not fit its class.
    """
    first = f"train one first, for example with `python train.py fit --model {example}`"
    if path is None:
        without = "or learn from the labels alone, with alpha=0"
        raise ValueError(f"there is no teacher: {first}, and name its checkpoint, --model.teacher FILE; {without}")
    if not Path(path).is_file():
        goes_on = "for a run that goes on, load_from_checkpoint(STUDENT, teacher=FILE) in Python"
        raise FileNotFoundError(f"teacher={path}: no such file; {first}, or say where: --model.teacher FILE; {goes_on}")
    arguments = dict(read_checkpoint(f"teacher={path}", path).get("hyper_parameters", {}))
    saved = arguments.pop(CLASS_PATH, None)
    kind = find_class("teacher_class", class_path) if class_path else _imported_class(path, saved)
    check_arguments(f"teacher={path}", kind, arguments)
    try:
        with torch.random.fork_rng(devices=[]):  # its initial weights are drawn, and then replaced
            teacher = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"teacher={path} does not fit {class_path or saved}: {why}") from error
    return teacher.eval().requires_grad_(False)


def find_class(argument: str, class_path: str) -> type[LightningModule]:
    """Import a module's class.

    Args:
        argument: The argument that names it, for the error.
        class_path: For example ``zoo.Classifier``.

    Raises:
        ValueError: There is no such class, or it is no ``LightningModule``.
    """
    package, _, name = class_path.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{argument} is {class_path!r}; expected a class such as zoo.Classifier: {error}") from error
    if not (isinstance(found, type) and issubclass(found, LightningModule)):
        raise ValueError(f"{argument} is {class_path!r}, which is no LightningModule")
    return found


def check_same(teacher: LightningModule, path: str | None, **mine: Any) -> None:
    """Refuse a teacher of other data, which a fully convolutional network would accept without a word.

    Args:
        teacher: Its hyper-parameters are compared, where it has some of that name.
        path: Its file, for the error.
        **mine: The student's.

    Raises:
        ValueError: One of them differs.
    """
    for name, value in mine.items():
        theirs: Any = teacher.hparams.get(name)
        plain = [list(each) if isinstance(each, list | tuple) else each for each in (theirs, value)]
        if theirs is not None and plain[0] != plain[1]:
            raise ValueError(f"teacher={path} was trained with {name}={theirs}, but the student has {value}")


def _imported_class(path: str, class_path: object) -> type[LightningModule]:
    """A class that has been imported, so that no file decides what is run."""
    if class_path is None:
        raise ValueError(f"teacher={path} does not say of which class it is: set teacher_class, such as zoo.Classifier")
    found = imported(class_path)
    if found is None or not issubclass(found, LightningModule):
        raise ValueError(f"teacher={path} is a {class_path}, which nothing has imported: set teacher_class to it")
    return found
