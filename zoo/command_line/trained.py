"""What a checkpoint says of the module and the data that it was trained on."""

import importlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..shared import checkpoints
from .messages import parameters

FROM_DATA = ("num_classes", "image_shape", "num_features")  # the module's arguments that the data decide


CONFIG_KEY = "command_line_config"  # where a checkpoint keeps the configuration that it was trained with


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
