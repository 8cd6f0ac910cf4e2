"""A small DANN, images of two domains, and a fit of an epoch."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from zoo import DANN

SMALL: dict[str, Any] = {
    "num_classes": 3,
    "image_shape": (1, 8, 8),
    "network_args": {"padding": 2, "label_hidden": [8], "domain_hidden": [8]},
}
QUIET: dict[str, Any] = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "accelerator": "cpu", "num_sanity_val_steps": 0,
}  # fmt: skip


def images(count: int, seed: int, shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def loaders(source: int = 12, target: int = 12, batch: int = 4) -> dict[str, DataLoader]:
    labelled = TensorDataset(images(source, 0), torch.arange(source) % 3)
    return {"source": DataLoader(labelled, batch), "target": DataLoader(images(target, 1), batch)}


def fit(module: DANN, *callbacks: L.Callback, ckpt_path: Path | None = None, **arguments: Any) -> L.Trainer:
    trainer = L.Trainer(**QUIET | {"max_epochs": 1, "log_every_n_steps": 1} | arguments, callbacks=list(callbacks))
    trainer.fit(module, arguments.pop("train", None) or loaders(), ckpt_path=ckpt_path, weights_only=True)
    return trainer
