"""A small own set, published ones as small files, a module that keeps its batches, and a quiet Trainer."""

import bz2
import pickle
import struct
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchvision.datasets as published
from scipy.io import savemat

from datamodules.images import sources
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


def drawn(count, shape, classes, seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % classes


def write_mnist(root, name):
    """The idx format: a magic number, the sizes, the bytes."""
    folder = Path(root, name, "raw")
    folder.mkdir(parents=True)
    for split, count in (("train", 30), ("t10k", 20)):
        images, labels = drawn(count, (28, 28), 10, count)
        header = struct.pack(">4i", 0x803, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2i", 0x801, count)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())


def write_cifar(root, monkeypatch, kind, key, classes):
    """Pickled batches of rows of 3,072 bytes; the checksums are those of the real files, so they are set aside."""
    folder = Path(root, kind.base_folder)
    folder.mkdir()
    for names, attribute in ((kind.train_list, "train_list"), (kind.test_list, "test_list")):
        for number, (file, _) in enumerate(names):
            images, labels = drawn(20, (3, 32, 32), classes, number + 10 * (attribute == "test_list"))
            batch = {"data": images.reshape(20, -1), key: labels.tolist()}
            (folder / file).write_bytes(pickle.dumps(batch))
        monkeypatch.setattr(kind, attribute, [[file, None] for file, _ in names])
    meta = {**kind.meta, "md5": None}
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: [str(i) for i in range(classes)]}))
    monkeypatch.setattr(kind, "meta", meta)


def write_svhn(root, monkeypatch):
    """MATLAB files with images last and the digit 0 written as 10; without checksums, as above."""
    for split, count in (("train", 30), ("test", 20), ("extra", 25)):
        images, labels = drawn(count, (3, 32, 32), 10, count)
        labels = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(Path(root, f"{split}_32x32.mat"), {"X": images.transpose(2, 3, 1, 0), "y": labels})
    lists = {split: [url, file, None] for split, (url, file, _) in published.SVHN.split_list.items()}
    monkeypatch.setattr(published.SVHN, "split_list", lists)


def write_usps(root):
    """Lines of `label index:value ...` with labels 1..10 and values in [-1, 1]."""
    for file, count in (("usps.bz2", 30), ("usps.t.bz2", 20)):
        images, labels = drawn(count, (16, 16), 10, count)
        # Half a step up: torchvision rounds down.
        values = (images.reshape(count, -1) + 0.5) / 255 * 2 - 1
        values = np.where(values > 1, 1, values)
        lines = (
            f"{label + 1} " + " ".join(f"{i + 1}:{v:.6f}" for i, v in enumerate(row))
            for label, row in zip(labels, values, strict=True)
        )
        Path(root, file).write_bytes(bz2.compress("\n".join(lines).encode()))


def write_stl10(root, monkeypatch):
    """Bytes of one image after another, columns before rows, and labels from 1; without checksums, as above."""
    folder = Path(root, "stl10_binary")
    folder.mkdir()
    for split, count in (("train", 30), ("test", 20)):
        images, labels = drawn(count, (3, 96, 96), 10, count)
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        lists = [[f"{split}_X.bin", None], [f"{split}_y.bin", None]]
        monkeypatch.setattr(sources._LabelledSTL10, f"{split}_list", lists)
