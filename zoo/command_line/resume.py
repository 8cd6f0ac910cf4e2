"""Where ``--ckpt_path last`` leads: to the newest checkpoint of the newest version of the configured run.

A run is named by its logger's ``save_dir`` and ``name``: CSV and TensorBoard loggers number its versions. Without a
logger it is the ``default_root_dir``. Any other logger's run is for Lightning to find: Weights & Biases numbers no
versions, and continues a run if the command has its ``id`` and ``resume``.
"""

import re
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

VERSIONED = ("CSVLogger", "ResumableCSVLogger", "TensorBoardLogger")  # <save_dir>/<name>/version_<n>


def run_folder(trainer: Any) -> tuple[Path | None, Any]:
    """The folder of the run that is configured, None if only Lightning knows it; its logger if that has versions."""
    logger = trainer.get("logger")
    if isinstance(logger, list):  # checkpoints are in the folder of the first one
        logger = logger[0] if logger else False
    if logger is False:
        return Path(trainer.get("default_root_dir") or "."), None
    if logger in (None, True) or logger.class_path.rpartition(".")[2] not in VERSIONED:
        return None, None
    return Path(logger.init_args.save_dir, logger.init_args.get("name") or ""), logger


def find_last(folder: Path, logger: Any) -> Path | None:
    """The newest checkpoint of the newest version that has one, of the run in the folder and of the logger."""
    versions = [folder]
    if logger and (version := logger.init_args.get("version")) is not None:
        versions = [folder / (version if isinstance(version, str) else f"version_{version}")]
    elif logger:
        numbered = [path for path in folder.glob("version_*") if re.fullmatch(r"version_\d+", path.name)]
        versions = sorted(numbered, key=lambda path: int(path.name[8:]), reverse=True)
    for each in versions:
        if checkpoints := [path for path in (each / "checkpoints").glob("*.ckpt") if path.is_file()]:
            return max(checkpoints, key=lambda path: path.stat().st_mtime_ns)
    return None


def resolve(config: Any, fits: bool) -> None:
    """Replace ``last`` in a subcommand's configuration by the file; a fit without one starts anew.

    Raises:
        FileNotFoundError: There is no checkpoint to judge.
    """
    folder, logger = run_folder(config.trainer)
    if folder is None:  # for Lightning to find
        return
    if (path := find_last(folder, logger)) is None:
        missing = f"--ckpt_path last: no checkpoint of an earlier run in {folder}"
        if not fits:
            raise FileNotFoundError(missing)
        rank_zero_warn(f"{missing}, so this one starts anew")
    elif fits:
        resume_from(path, config)
    config.ckpt_path = None if path is None else str(path)


def resume_from(path: Path, config: Any) -> None:
    """Let a fit continue from a checkpoint, with its logger in the version of the checkpoint; changes `config`."""
    config.ckpt_path = str(path)
    logger = run_folder(config.trainer)[1]
    number = re.fullmatch(r"version_(\d+)", path.parent.parent.name)
    if logger and number and logger.init_args.get("version") is None:
        logger.init_args.version = int(number[1])
    if logger and logger.class_path.endswith(".CSVLogger"):  # it would delete its rows
        logger.class_path = "callbacks.ResumableCSVLogger"
