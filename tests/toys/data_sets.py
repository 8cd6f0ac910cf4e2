"""A small own set, a module that keeps what it got, and a quiet Trainer, for the tests of the data modules."""

import lightning.pytorch as pl
import pytest
import torch

from datamodules.images.base import ImageDataModule

IN_A_FORK = pytest.mark.skipif(
    torch.cuda.is_available(), reason="pinned memory cannot be used in a fork after CUDA has begun"
)


class Numbered(ImageDataModule):
    """A user's own set: image i is a plane of value i, so that every image can be recognised."""

    name, num_classes, image_shape = "numbered", 4, (1, 4, 4)

    def load_split(self, train):
        count = 40 if train else 20
        values = torch.arange(count, dtype=torch.uint8) + (0 if train else 100)
        return values.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), torch.arange(count) % 4


class Recorder(pl.LightningModule):
    """Keeps what each stage got; the bytes behind the floats identify the images of ``Numbered``."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch)
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen["test"].append((dataloader_idx, batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(**kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", enable_model_summary=False, max_epochs=1, **quiet, **kwargs)


def images_of(loader):
    return torch.cat([images for images, _ in loader])


def as_bytes(images):
    return ((images + 1) * 127.5).round().byte()
