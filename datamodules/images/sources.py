"""The published image sets: where their files lie, how they are fetched, and how they become tensors of bytes."""

import bz2
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100, KMNIST, MNIST, STL10, SVHN, USPS, FashionMNIST, VisionDataset

Split = tuple[Tensor, Tensor]
USPS_LIMIT = 128  # MiB of text, six times what there is


@dataclass(frozen=True)
class Source:
    """One published set.

    Attributes:
        title: Spelling of the set in the name of its data module; the name of the set is this in lower case.
        num_classes: Number of classes.
        image_shape: (C, H, W).
        load: ``load(root, train, download)`` gives (N, C, H, W) uint8 images and (N,) int64 labels.
        files: The files of both splits, relative to the root; none for an embedded set.
        folder: Name of its subfolder of ``data_dir``; empty for the title.
    """

    title: str
    num_classes: int
    image_shape: tuple[int, int, int]
    load: Callable[[str, bool, bool], Split]
    files: tuple[str, ...] = ()
    folder: str = ""

    @property
    def name(self) -> str:
        """Name of the set, as in ``far/svhn``."""
        return self.title.lower()

    def root(self, data_dir: str) -> Path:
        """The folder that holds the files: ``data_dir`` or, so that sets can lie side by side, its subfolder."""
        own = Path(data_dir, self.folder or self.title)
        files = {folder: sum((folder / file).is_file() for file in self.files) for folder in (own, Path(data_dir))}
        if any(files.values()):
            return max(files, key=lambda folder: files[folder])
        # torchvision makes a folder of its own for all but the loose files of USPS and SVHN.
        return own if self.files and os.sep not in self.files[0] else Path(data_dir)

    def fetch(self, data_dir: str, download: bool) -> None:
        """Downloads the files if they are missing and ``download`` is true.

        Raises:
            FileNotFoundError: Files are missing, and not asked for or not to be had; the message says which.
        """
        if not self._missing(data_dir):
            return
        if not download:
            raise FileNotFoundError(self._message(data_dir))
        root = self.root(data_dir)
        try:
            root.mkdir(parents=True, exist_ok=True)
            for train in (True, False):
                self.load(str(root), train, True)
        except Exception as error:  # of the network, or of a file that is there and damaged
            cause = " ".join(str(error).split())  # torchvision's has several lines
            raise FileNotFoundError(f"{self._message(data_dir)} The download failed: {cause}") from error

    def read(self, data_dir: str, train: bool) -> Split:
        """Reads one published split: images (N, C, H, W) uint8 and labels (N,) int64.

        Raises:
            FileNotFoundError: Files are missing; the message says which, and how to get them.
            ValueError: Files are there and cannot be read.
        """
        self.fetch(data_dir, download=False)
        root = self.root(data_dir)
        try:
            images, labels = self.load(str(root), train, False)
            check_split(images, labels, self.image_shape, self.num_classes)  # the files may be of another set
            return images, labels
        except Exception as error:  # torchvision, scipy and NumPy raise anything for a damaged file
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"the files of {self.title} in {str(root)!r} cannot be read ({why}); they are damaged or incomplete. "
                f"Delete them and run: {self._command(data_dir)}"
            ) from error

    def _missing(self, data_dir: str) -> list[str]:
        root = self.root(data_dir)
        return [file for file in self.files if not (root / file).is_file()]

    def _command(self, data_dir: str) -> str:
        call = f"datamodules.{self.title}DataModule(data_dir={data_dir!r}, download=True).prepare_data()"
        return f'python -c "import datamodules; {call}"'

    def _message(self, data_dir: str) -> str:
        return (
            f"{self.title} is not in data_dir={data_dir!r}: missing in {str(self.root(data_dir))!r}: "
            f"{', '.join(self._missing(data_dir))}. With a network, get it by `--data.download true` on the command "
            f"line, or by: {self._command(data_dir)}"
        )


def check_split(images: Tensor, labels: Tensor, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Raise ``ValueError`` if images or labels are not what a set consists of; a GPU would give no useful error."""
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != image_shape:
        got = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ValueError(f"images must be uint8 of shape {('N', *image_shape)}, got {got}")
    if tuple(labels.shape) != (len(images),) or not len(labels):
        raise ValueError(f"{len(images)} images have labels of shape {tuple(labels.shape)}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}")


def _tensors(dataset: VisionDataset) -> Split:
    """Images as (N, C, H, W) bytes, whatever torchvision keeps: (N, H, W), (N, H, W, C) or (N, C, H, W)."""
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    images = torch.as_tensor(dataset.data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(labels, dtype=torch.int64)


def _digits(root: str, train: bool, download: bool) -> Split:
    """The 1,797 digits of scikit-learn: 1,497 to train on and 300 to test, of each class alike."""
    pixels, labels = load_digits(return_X_y=True)
    # 0..16 to 0..255. scikit-learn's split rests on NumPy's frozen stream: the same on every version.
    images = np.rint(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    chosen = train_test_split(np.arange(len(labels)), test_size=300, random_state=0, stratify=labels)[0 if train else 1]
    return torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen]).long()


def _by_flag(dataset: type[MNIST] | type[CIFAR10] | type[USPS]) -> Callable[[str, bool, bool], Split]:
    """Reads a set whose two splits torchvision tells apart by ``train``."""
    return lambda root, train, download: _tensors(dataset(root, train=train, download=download))


def _by_name(dataset: type[SVHN] | type[STL10]) -> Callable[[str, bool, bool], Split]:
    """Reads a set whose two splits torchvision tells apart by name."""
    return lambda root, train, download: _tensors(dataset(root, split="train" if train else "test", download=download))


def _mnist_like(dataset: type[MNIST]) -> Source:
    archives = [os.path.splitext(archive)[0] for archive, _ in dataset.resources]
    files = tuple(os.path.join(dataset.__name__, "raw", archive) for archive in archives)
    return Source(dataset.__name__, 10, (1, 28, 28), _by_flag(dataset), files)


def _cifar(dataset: type[CIFAR10], num_classes: int) -> Source:
    names = [file for file, _ in dataset.train_list + dataset.test_list] + [dataset.meta["filename"]]
    files = tuple(os.path.join(dataset.base_folder, name) for name in names)
    return Source(dataset.__name__, num_classes, (3, 32, 32), _by_flag(dataset), files)


def _usps(root: str, train: bool, download: bool) -> Split:
    path = Path(root, USPS.split_list["train" if train else "test"][1])
    if path.is_file():  # torchvision unpacks it whole, and kilobytes may be gigabytes then
        with bz2.open(path) as file:
            if sum(map(len, islice(iter(partial(file.read, 2**20), b""), USPS_LIMIT + 1))) > USPS_LIMIT * 2**20:
                raise ValueError(f"{path.name} unpacks to more than {USPS_LIMIT} MiB")
    return _by_flag(USPS)(root, train, download)


def _svhn_extra(root: str, train: bool, download: bool) -> Split:
    own = _by_name(SVHN)(root, train, download)
    if not train:
        return own
    images, labels = _tensors(SVHN(root, split="extra", download=download))
    return torch.cat([own[0], images]), torch.cat([own[1], labels])


class _LabelledSTL10(STL10):
    """Without the 2.6 GB of unlabelled images, which torchvision would want and check whenever it reads a split."""

    train_list: ClassVar[list[list[str]]] = STL10.train_list[:2]


DIGITS_SOURCE = Source("Digits", 10, (1, 8, 8), _digits)
MNIST_SOURCE = _mnist_like(MNIST)
FASHION_MNIST_SOURCE = _mnist_like(FashionMNIST)
KMNIST_SOURCE = _mnist_like(KMNIST)
USPS_SOURCE = Source("USPS", 10, (1, 16, 16), _usps, ("usps.bz2", "usps.t.bz2"))
SVHN_SOURCE = Source("SVHN", 10, (3, 32, 32), _by_name(SVHN), ("train_32x32.mat", "test_32x32.mat"))
SVHN_EXTRA_SOURCE = Source(
    "SVHNExtra", 10, (3, 32, 32), _svhn_extra, (*SVHN_SOURCE.files, "extra_32x32.mat"), folder="SVHN"
)
CIFAR10_SOURCE = _cifar(CIFAR10, 10)
CIFAR100_SOURCE = _cifar(CIFAR100, 100)
STL10_FILES = [os.path.join(STL10.base_folder, file) for file, _ in _LabelledSTL10.train_list + STL10.test_list]
STL10_SOURCE = Source("STL10", 10, (3, 96, 96), _by_name(_LabelledSTL10), tuple(STL10_FILES))

SOURCES = {  # those that can be out-of-distribution sets
    source.name: source
    for source in (
        *(DIGITS_SOURCE, MNIST_SOURCE, FASHION_MNIST_SOURCE, KMNIST_SOURCE, USPS_SOURCE, SVHN_SOURCE),
        *(CIFAR10_SOURCE, CIFAR100_SOURCE, STL10_SOURCE),
    )
}
