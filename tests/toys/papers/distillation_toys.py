"""A teacher in a file, students of it, and images whose brightness gives the class."""

from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from zoo import Classifier, KnowledgeDistillation

SMALL: dict[str, Any] = {"num_classes": 3, "image_shape": (1, 8, 8), "network_args": {"width": 4}}


def batches(count: int = 4, size: int = 12, classes: int = 3, channels: int = 1) -> DataLoader:
    """Images whose brightness gives the class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count * size) % classes
    x = torch.randn(count * size, channels, 8, 8, generator=generator) * 0.3 + (y - 1).view(-1, 1, 1, 1) * 0.7
    return DataLoader(TensorDataset(x, y), size)


def fit(
    module: L.LightningModule, data: Any = None, callbacks: Any = (), ckpt_path: Any = None, **arguments: Any
) -> Any:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "log_every_n_steps": 1, "max_epochs": 1,
    }  # fmt: skip
    trainer = L.Trainer(**quiet | arguments, callbacks=list(callbacks))
    trainer.fit(module, batches() if data is None else data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def teacher_file(path: str = "teacher.ckpt", module: L.LightningModule | None = None, **arguments: Any) -> str:
    """The checkpoint of a module that was saved from Python."""
    fit(module or Classifier(**SMALL | {"lr": 0.02}), **{"max_epochs": 3} | arguments).save_checkpoint(path)
    return path


def student(**arguments: Any) -> KnowledgeDistillation:
    given: dict[str, Any] = {"teacher": "teacher.ckpt", "teacher_class": "zoo.Classifier"}
    return KnowledgeDistillation(**SMALL | given | arguments)
