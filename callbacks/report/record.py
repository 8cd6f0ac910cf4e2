"""The run record: everything the page shows, as plain JSON."""

import base64
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from ..shared.batches import data_module
from ..shared.loggers import figure_png

Record = dict[str, Any]
FORMAT = 1
ROWS = 2000  # of the learning curves, at most: they are in memory, in every checkpoint and on the page
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy")


def plain(value: Any) -> Any:
    """Reduce a value to what strict JSON holds.

    Numbers that are not finite become ``None``, figures and bytes base64 (a figure as PNG), other objects text.
    """
    if isinstance(value, Figure):
        value = figure_png(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Tensor):
        value = value.detach().cpu().tolist()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set):
        return [plain(item) for item in value]
    return str(value)


def thinned(history: list[Record]) -> list[Record]:
    """Learning curves of at most `ROWS` rows: beyond, each two neighbours become one, so older ones get coarser.

    Where both of two neighbours hold a quantity, the later one stays.
    """
    if len(history) <= ROWS:
        return history
    pairs = [first | second for first, second in zip(history[:-1:2], history[1::2], strict=True)]
    return pairs + history[2 * len(pairs) :]


def describe(trainer: Trainer, pl_module: LightningModule) -> Record:
    """Collect what identifies a run: classes, arguments, seed, versions, device."""
    data = data_module(trainer)
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = torch.get_num_threads()
    notes = getattr(pl_module, "report_notes", None)
    return {
        "format": FORMAT,
        "model": type(pl_module).__name__,
        "data": None if data is None else type(data).__name__,
        "arguments": {"model": dict(pl_module.hparams), "data": {} if data is None else dict(data.hparams)},
        "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
        "seed": os.environ.get("PL_GLOBAL_SEED"),
        "device": f"{device.type} ({name}), {threads} thread{'s' if threads > 1 else ''}",
        "processes": trainer.world_size,
        "precision": str(trainer.precision),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        "notes": notes() if callable(notes) else {},
    }


def save_record(record: Record, path: Path) -> None:
    """Write strict JSON (no NaN)."""
    path.write_text(json.dumps(plain(record), indent=1, allow_nan=False, ensure_ascii=False), encoding="utf-8")


def load_record(folder: str | Path) -> Record:
    """Read the ``report.json`` in the folder of a run, or that file itself.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not a run record, or one of another version.
    """
    path = Path(folder)
    path = path / "report.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no run record at {path}: expected a folder in which the Report callback wrote")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path} is not a run record of format {FORMAT}")
    return record
