"""Weights as a safetensors file, with what it takes to build the module again: to share, and to load without pickle.

    python -m zoo.weights export CHECKPOINT FILE [--model CLASS]    of a checkpoint of Lightning
    python -m zoo.weights import FILE CHECKPOINT                    back, for `train.py test --ckpt_path CHECKPOINT`

``--model`` names the class of a checkpoint that was saved from Python, such as ``zoo.JEM``. The file's metadata are the
class, the constructor's arguments and the paper's card, as JSON. Only what is in the state dict travels: no optimiser,
no random state, and of JEM neither replay memory nor Gaussians.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import LightningModule
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .shared.checkpoints import (
    FORMAT,
    FORMAT_KEY,
    VERSION_KEY,
    check_arguments,
    check_format,
    imported,
    read_checkpoint,
)
from .shared.private_names import CLASS_PATH, INSTANTIATOR

PACKAGE = "zoo"
INTERNAL = (CLASS_PATH, INSTANTIATOR)  # what the command line of Lightning adds to a module's arguments


def save_weights(module: LightningModule, path: str | Path) -> None:
    """Write a module's state dict as a safetensors file; a file that is there is replaced once the new one is whole.

    Raises:
        ValueError: Something in the state dict is no tensor, or something in the module's ``hparams`` no plain value.
    """
    _write(module.state_dict(), type(module), module.hparams, Path(path))


def load_weights(path: str | Path, kind: type[LightningModule] | None = None) -> LightningModule:
    """Build a module from a file of `save_weights`, on the CPU and without a random draw.

    Args:
        path: The file.
        kind: Its class, for one that has not been imported or has moved; None for the class that the file names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of a newer version or something else, or does not fit its class.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; expected one of `python -m zoo.weights export`")
    metadata, state = _read(path)
    if not {"class", "hyper_parameters", FORMAT_KEY} <= metadata.keys():
        raise ValueError(f"{path}: says of no class and its arguments; expected a file of `zoo.weights`")
    try:
        found, name, arguments = (json.loads(metadata[key]) for key in (FORMAT_KEY, "class", "hyper_parameters"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata are no JSON; expected a file of `zoo.weights`") from error
    check_format(str(path), found)
    if not isinstance(arguments, dict):
        raise ValueError(f"{path}: its hyper-parameters are {arguments!r:.80}; expected a dictionary")
    kind = imported(name) if kind is None else kind
    if kind is None or not issubclass(kind, LightningModule):
        raise ValueError(f"{path} is of {name!r}, no module that has been imported: import it, or give its class")
    check_arguments(str(path), kind, arguments)
    try:
        with torch.random.fork_rng(devices=[]):  # its initial weights are drawn, and then replaced
            module = kind(**arguments)
        module.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} does not fit {name}: {why}") from error
    return module


def card(kind: type) -> str:
    """What the folder of a paper says of it, the nearest one of a class's bases; of others the class's own words."""
    packages = (base.__module__.split(".") for base in kind.__mro__)
    papers = (sys.modules[".".join(parts[:2])].__doc__ for parts in packages if parts[0] == PACKAGE and parts[1:])
    return next(papers, kind.__doc__) or ""


def export(checkpoint: str, path: str, class_path: str | None = None) -> None:
    """Write the weights in a checkpoint of Lightning as a safetensors file.

    Args:
        checkpoint: The checkpoint.
        path: The file.
        class_path: Import path of the module's class; None where the command line wrote the checkpoint, which names it.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is damaged or something else, or its class is unknown.
    """
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"{checkpoint}: no such file; expected a checkpoint of `train.py fit`")
    content = read_checkpoint(checkpoint, checkpoint)
    arguments = content.get("hyper_parameters", {})
    class_path = class_path or arguments.get(CLASS_PATH)
    kind = imported(class_path)
    if kind is None or not issubclass(kind, LightningModule):
        raise ValueError(f"{checkpoint} is of the class {class_path!r}: name one of the zoo, such as --model zoo.JEM")
    _write(content["state_dict"], kind, arguments, Path(path))


def import_(path: str, checkpoint: str) -> None:
    """Write a checkpoint from which `train.py test` builds the module of a safetensors file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged or something else, or does not fit its class.
    """
    module = load_weights(path)
    content = {
        "epoch": 0,
        "global_step": 0,
        VERSION_KEY: pl.__version__,
        FORMAT_KEY: FORMAT,
        "state_dict": module.state_dict(),
        "hyper_parameters": {**module.hparams, CLASS_PATH: _public(type(module))},
    }
    _replace(Path(checkpoint), lambda place: torch.save(content, place))


def _public(kind: type) -> str:
    """Where a class is exported, as the command line names it."""
    exported = getattr(sys.modules[PACKAGE], kind.__name__, None) is kind
    return f"{PACKAGE if exported else kind.__module__}.{kind.__qualname__}"


def _read(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
    except Exception as error:  # SafetensorError, and whatever torch says of a shape
        raise ValueError(f"{path}: damaged, or not a safetensors file: {error}") from error


def _write(state: Mapping[str, Any], kind: type, hyper_parameters: Mapping[str, Any], path: Path) -> None:
    arguments = {name: value for name, value in hyper_parameters.items() if name not in INTERNAL}
    if strange := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{', '.join(strange)}: no tensors, and a safetensors file holds nothing else")
    try:
        metadata = {
            "format": "pt",
            FORMAT_KEY: json.dumps(FORMAT),
            "class": json.dumps(_public(kind)),
            "hyper_parameters": json.dumps(arguments),
            "card": json.dumps(card(kind)),
        }
    except (TypeError, ValueError) as error:
        raise ValueError(f"the arguments of {kind.__name__} are no plain values: {error}") from error
    # Copies: rows before columns, and none that shares its memory with another, which safetensors refuses.
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    _replace(path, lambda place: save_file(tensors, place, metadata))


def _replace(path: Path, write: Callable[[str], None]) -> None:
    """Write under another name, and rename: what is there stays whole until the new file is."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        place = str(Path(folder, path.name))
        write(place)
        os.replace(place, path)


def main(args: list[str] | None = None) -> None:
    """Run a command line."""
    parser = argparse.ArgumentParser(prog="python -m zoo.weights", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="write the weights of a checkpoint as a safetensors file")
    out.add_argument("checkpoint")
    out.add_argument("file")
    out.add_argument("--model", help="import path of the class, for a checkpoint that was saved from Python")
    back = commands.add_parser("import", help="write a checkpoint of the weights in a safetensors file")
    back.add_argument("file")
    back.add_argument("checkpoint")
    given = parser.parse_args(args)
    if Path(given.file).resolve() == Path(given.checkpoint).resolve():
        parser.error(f"{given.file} is both the one and the other: expected two files")
    try:
        if given.command == "export":
            export(given.checkpoint, given.file, given.model)
        else:
            import_(given.file, given.checkpoint)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
