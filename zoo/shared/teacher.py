"""Teachers: trained modules in checkpoints, from which a student learns without changing them."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from .checkpoints import check_arguments, imported, read_checkpoint
from .private_names import CLASS_PATH


class Teacher:
    """A trained module that a student learns from: frozen, in evaluation mode, and no part of the student.

    A plain object holds it, because a child module would be trained, moved and saved with the student.

    Attributes:
        module: The trained module from the start to the end of a fit, else None.
    """

    module: Any = None

    def read(
        self, student: LightningModule, example: str, inputs: Sequence[int], outputs: Sequence[int], *same: str
    ) -> None:
        """Load the checkpoint that a student's arguments ``teacher`` and ``teacher_class`` name, and try it.

        Args:
            student: The module that learns; the teacher moves to its device and precision.
            example: Name of a model that could be the teacher, for the message when there is none.
            inputs: Shape of one input.
            outputs: Shape of what the teacher's ``forward`` should give for one input.
            *same: Hyper-parameters that the teacher should share if it has them.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: There is no teacher, or it is damaged, or made for other data.
        """
        h: Any = student.hparams
        teacher = load_teacher(h.teacher, h.teacher_class, example)
        check_teacher(teacher, h.teacher, torch.zeros(2, *inputs), (2, *outputs), **{name: h[name] for name in same})
        self.module = teacher.to(device=student.device, dtype=student.dtype)

    def drop(self) -> None:
        """Release the module."""
        self.module = None

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Any:
        """The teacher's outputs, without gradient."""
        return self.module(x)


def load_teacher(path: str | None, class_path: str | None, example: str) -> LightningModule:
    """Load a module to learn from: frozen, in evaluation mode, on the CPU, and without a random draw.

    Reads tensors and plain values only. The arguments and errors are those of `Teacher.read`; ``class_path`` may be
    None where the checkpoint names its class, as those of the command line do.
    """
    first = f"train one first, for example with `python train.py fit --model {example}`"
    if path is None:
        alone = "or learn from the labels alone, with alpha=0"
        raise ValueError(f"there is no teacher: {first}, and name its checkpoint, --model.teacher FILE; {alone}")
    if not Path(path).is_file():
        resumed = "for a run that goes on, load_from_checkpoint(STUDENT, teacher=FILE) in Python"
        raise FileNotFoundError(f"teacher={path}: no such file; {first}, or say where: --model.teacher FILE; {resumed}")
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


@torch.no_grad()
def check_teacher(
    teacher: LightningModule, path: str, inputs: Tensor, outputs: tuple[int, ...], **student: Any
) -> None:
    """Raise ``ValueError`` for a teacher that does not map the inputs to the shape ``outputs``, or is of other data.

    The hyper-parameters of the student that it has too tell the latter: some networks take images of any size.
    """
    for name, mine in student.items():
        theirs: Any = teacher.hparams.get(name)
        if theirs is not None and _plain(theirs) != _plain(mine):
            raise ValueError(f"teacher={path} was trained with {name}={theirs}, but the student has {mine}")
    called = f"teacher={path} ({type(teacher).__name__})"
    try:
        found = teacher(inputs)
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{called} does not take inputs of shape {tuple(inputs.shape[1:])}: {why}") from error
    if not isinstance(found, Tensor) or found.shape != outputs:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{called} gives {what} for a batch of {len(inputs)}; expected {outputs}")


def find_class(argument: str, class_path: str) -> type[LightningModule]:
    """Import a module's class, such as ``zoo.Classifier``, which an argument names.

    Raises:
        ValueError: There is no such class, or it is no ``LightningModule``.
    """
    package, _, name = class_path.rpartition(".")
    try:
        kind: Any = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{argument} is {class_path!r}; expected a class such as zoo.Classifier: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, LightningModule)):
        raise ValueError(f"{argument} is {class_path!r}, which is no LightningModule")
    return kind


def _plain(value: Any) -> Any:
    """Lists for tuples: checkpoints hold either."""
    return list(value) if isinstance(value, list | tuple) else value


def _imported_class(path: str, class_path: object) -> type[LightningModule]:
    """A class that has been imported already, so that no file decides what is run."""
    if class_path is None:
        raise ValueError(f"teacher={path} does not say of which class it is: set teacher_class, such as zoo.Classifier")
    kind = imported(class_path)
    if kind is None or not issubclass(kind, LightningModule):
        raise ValueError(f"teacher={path} is a {class_path}, which nothing has imported: set teacher_class to it")
    return kind
