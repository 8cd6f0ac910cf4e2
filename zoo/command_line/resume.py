"""Where ``--ckpt_path last`` leads: to the newest checkpoint of the newest version of the configured run.

A run is named by its logger's ``save_dir`` and ``name``: CSV and TensorBoard loggers number its versions, and a fit
goes on in the version of the checkpoint. Without a logger it is the ``default_root_dir``. What else there is, Lightning
has to find: Weights & Biases numbers no versions, and goes on with a run if the command has its ``id`` and ``resume``.
"""

import re
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

VERSIONED = ("CSVLogger", "ResumableCSVLogger", "TensorBoardLogger")  # <save_dir>/<name>/version_<n>


def run_folder(trainer: Any) -> Path | None:
    """The folder of a run's versions, or of its only one; None where it is for Lightning to know.

    Args:
        trainer: The configuration of the trainer.
    """
    logger = first_logger(trainer)
    if logger is False:
        return Path(trainer.get("default_root_dir") or ".")
    if logger is None or logger.class_path.rpartition(".")[2] not in VERSIONED:
        return None
    arguments = logger.init_args
    return Path(arguments.save_dir, arguments.get("name") or "")


def first_logger(trainer: Any) -> Any:
    """The configuration of the logger in whose folder checkpoints are; False without any, None for Lightning's own."""
    logger = trainer.get("logger")
    if isinstance(logger, list):
        logger = logger[0] if logger else False
    return None if logger is True else logger


def find_last(trainer: Any) -> tuple[Path, int | None] | None:
    """The newest checkpoint of the newest version that has one, and the version's number.

    Args:
        trainer: The configuration of the trainer.
    """
    folder = run_folder(trainer)
    if folder is None:
        return None
    numbers = {int(path.name[8:]): path for path in folder.glob("version_*") if re.fullmatch(r"\d+", path.name[8:])}
    version = first_logger(trainer) and first_logger(trainer).init_args.get("version")
    places: list[tuple[Path, int | None]] = [(numbers[number], number) for number in sorted(numbers, reverse=True)]
    if not first_logger(trainer):
        places = [(folder, None)]
    elif version is not None:
        places = [(folder / (version if isinstance(version, str) else f"version_{version}"), version)]
    for place, number in places:
        if found := [path for path in (place / "checkpoints").glob("*.ckpt") if path.is_file()]:
            return max(found, key=lambda path: path.stat().st_mtime_ns), number
    return None


def resolve(config: Any, goes_on: bool) -> None:
    """Replace ``last`` in a subcommand's configuration by the file; without one a fit starts anew.

    Args:
        config: That of the subcommand, changed in place.
        goes_on: Whether this is a fit: then the logger goes on in the version of the checkpoint.

    Raises:
        FileNotFoundError: There is no checkpoint to judge.
    """
    folder, found = run_folder(config.trainer), find_last(config.trainer)
    if folder is None:  # for Lightning to find
        return
    if found is None:
        missing = f"--ckpt_path last: no checkpoint of an earlier run in {folder}"
        if not goes_on:
            raise FileNotFoundError(missing)
        rank_zero_warn(f"{missing}, so this one starts anew")
        config.ckpt_path = None
        return
    if goes_on:
        go_on(config, found[0])
    config.ckpt_path = str(found[0])


def go_on(config: Any, path: Path | None) -> None:
    """Make a fit go on from a checkpoint, with its logger in the version of the checkpoint.

    Args:
        config: That of the subcommand, changed in place.
        path: The checkpoint; without one nothing changes.
    """
    if path is None:
        return
    config.ckpt_path = str(path)
    logger = first_logger(config.trainer)
    if not logger or logger.class_path.rpartition(".")[2] not in VERSIONED:
        return
    if logger.init_args.get("version") is None and (number := re.fullmatch(r"version_(\d+)", path.parent.parent.name)):
        logger.init_args.version = int(number[1])
    if logger.class_path.endswith(".CSVLogger"):  # it would delete its rows
        logger.class_path = "callbacks.ResumableCSVLogger"
