"""Pictures, figures and tables for every logger of a ``Trainer``.

Lightning has no common call for them. Loggers are recognised by what they offer (so nothing is imported):
``log_image`` and ``log_table`` (Weights & Biases), ``experiment.add_image`` (TensorBoard); all others get
files under their folder: ``images/<name>.png`` and ``tables/<name>.csv``, where a ``/`` in the name makes a
folder and a later call overwrites. Without a logger nothing happens, and only rank zero writes.
"""

import csv
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from .logger_errors import surviving

Cell = str | float | int | None


def to_uint8(images: Tensor | np.ndarray) -> np.ndarray:
    """Turn pictures (N, C, H, W) into uint8 (N, H, W, C), which every logger shows alike; W&B shows floats as black.

    C is 1 or 3. Pixels are uint8 or floats in [0, 1]: rounding errors are clipped, what is not finite becomes black.

    Raises:
        ValueError: Another shape or type, or floats clearly outside [0, 1].
    """
    images = torch.as_tensor(images).detach().cpu()
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected pictures of shape (N, 1 or 3, H, W), got {tuple(images.shape)}")
    if images.is_floating_point():
        images = images.float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        if images.numel() and (images.min() < -0.01 or images.max() > 1.01):
            values = f"[{images.min().item():.3g}, {images.max().item():.3g}]"
            raise ValueError(f"expected pictures with values in [0, 1], got values in {values}")
        images = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        raise ValueError(f"expected floating-point or uint8 pictures, got {images.dtype}")
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def tile(pictures: np.ndarray, gap: int = 1) -> np.ndarray:
    """Lay pictures (N, H, W, C) uint8 out in a grid (H', W', C), as square as possible, ``gap`` white pixels apart."""
    number, height, width, channels = pictures.shape
    columns = max(1, math.ceil(math.sqrt(number)))
    rows = math.ceil(number / columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        grid[top : top + height, left : left + width] = picture
    return grid


def png(picture: np.ndarray) -> bytes:
    """Encode one (H, W, C) uint8 picture with C = 1, 3 or 4."""
    buffer = BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@rank_zero_only
def log_images(trainer: Trainer, name: str, images: Tensor | np.ndarray) -> None:
    """Show pictures (N, C, H, W), floats in [0, 1] or uint8, in every logger; a ``/`` in the name makes groups."""
    pictures = to_uint8(images)
    for logger in trainer.loggers:
        with surviving(logger):
            if hasattr(logger, "log_image"):
                logger.log_image(name, list(pictures), step=trainer.global_step)
            elif hasattr(experiment := _experiment(logger), "add_images"):
                experiment.add_images(name, pictures, trainer.global_step, dataformats="NHWC")
            else:
                _file(trainer, logger, "images", name, ".png").write_bytes(png(tile(pictures)))


def figure_png(figure: Figure) -> bytes:
    """Render a matplotlib figure on white, as a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()


@rank_zero_only
def log_figure(trainer: Trainer, name: str, figure: Figure) -> None:
    """Show a matplotlib figure in every logger, as a picture on white that is rendered once; see `log_images`."""
    if trainer.loggers:
        picture = np.array(Image.open(BytesIO(figure_png(figure))).convert("RGB"))
        log_images(trainer, name, picture.transpose(2, 0, 1)[None])


@rank_zero_only
def log_table(trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write a table to every logger: ``wandb.Table``, Markdown text in TensorBoard, a CSV file for others.

    A column holds either numbers or strings, and ``None`` where there is no value.

    Raises:
        ValueError: A row has not one cell per column.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"table {name!r}: expected {len(columns)} cells a row, got {len(row)}: {row!r}")
    cells = [[cell.item() if isinstance(cell, np.generic | Tensor) else cell for cell in row] for row in rows]
    for logger in trainer.loggers:
        with surviving(logger):
            if hasattr(logger, "log_table"):
                logger.log_table(name, columns=list(columns), data=cells, step=trainer.global_step)
            elif hasattr(experiment := _experiment(logger), "add_text"):
                experiment.add_text(name, _markdown(columns, cells), trainer.global_step)
            else:
                path = _file(trainer, logger, "tables", name, ".csv")
                with path.open("w", newline="", encoding="utf-8") as stream:
                    csv.writer(stream).writerows([list(columns), *cells])


@rank_zero_only
def define_summaries(trainer: Trainer) -> None:
    """Let the summary of a W&B run hold the best value of a metric beside the last one.

    Covers ``val/acc``, ``val/loss`` and whatever checkpoints and early stopping monitor.
    """
    goals = {"val/acc": "max", "val/loss": "min"}
    for callback in (*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks):
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and callback.monitor:
            goals[callback.monitor] = callback.mode
    for logger in trainer.loggers:
        with surviving(logger):
            if callable(define := getattr(_experiment(logger), "define_metric", None)):
                for metric, goal in goals.items():
                    # this definition replaces the logger's general one, so it has to name the axis, too
                    define(metric, step_metric="trainer/global_step", summary=f"{goal},last")


def run_folder(trainer: Trainer) -> Path:
    """Where files about this run belong: the CSV logger's folder, else another logger's or the trainer's."""
    loggers = sorted(trainer.loggers, key=lambda logger: not isinstance(logger, CSVLogger))
    folders = (logger.log_dir for logger in loggers if logger.log_dir)
    return Path(next(folders, trainer.default_root_dir))


def _experiment(logger: Logger) -> Any:
    return getattr(logger, "experiment", None)


def _file(trainer: Trainer, logger: Logger, kind: str, name: str, suffix: str) -> Path:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"expected a name like 'group/figure' without empty parts or dots, got {name!r}")
    folder = logger.log_dir or logger.save_dir or trainer.default_root_dir
    path = Path(folder, kind, *parts[:-1], parts[-1] + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    lines = (columns, ["---"] * len(columns), *rows)
    return "\n".join("| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in lines)


def _markdown_cell(cell: Cell) -> str:
    text = "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")
