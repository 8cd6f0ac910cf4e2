"""Small networks of local errors, random images with labels, and a fit of an epoch."""

from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from zoo import LocalErrorSignals

LOSSES = ("pred", "sim", "predsim", "pred-bpf", "sim-bpf", "predsim-bpf")
SMALL_VGG: dict[str, Any] = {"network": "VGG", "network_args": {"layers": [4, "M", 6], "hidden": [8]}, "max_dim": 64}


def batches(count: int = 4, size: int = 12, seed: int = 0) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count * size, 1, 8, 8, generator=generator) * 2 - 1
    return DataLoader(TensorDataset(x, torch.arange(count * size) % 3), size)


def fit(module: LocalErrorSignals, data: DataLoader, callbacks: Any = (), **arguments: Any) -> L.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "log_every_n_steps": 1, "max_epochs": 1,
    }  # fmt: skip
    trainer = L.Trainer(**quiet | arguments, callbacks=list(callbacks))
    trainer.fit(module, data)
    return trainer
