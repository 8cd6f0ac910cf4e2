"""MNIST through our data module and through a per-sample DataLoader: ``python -m benchmarks.speed.image_loader``.

The whole pipeline is timed (sampler, fetch, augmentation, normalisation) in one process on one thread. Printed are
images per second of CPU time, and the ratio of them to the first contestant's [min, max]: more is better.
"""

import argparse
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import v2

from datamodules import MNISTDataModule
from datamodules.shared.augment import normalise, random_crop

from ..shared.runs import quiet_trainer, silence_lightning
from ..shared.timing import alternate, print_machine, print_ratios

BATCH = 256
PER_SAMPLE_IMAGES = 40 * BATCH  # of the 60,000: the usual way is slow
PADDING = 2

Epoch = tuple[int, Callable[[], None]]  # number of images, and what runs through them


def ours(data_dir: str, augment: bool) -> Epoch:
    """One epoch of our data module with its hook on each batch, as the Trainer calls it."""
    data = MNISTDataModule(data_dir, batch_size=BATCH, val_split=0, augment=augment)
    loader = data.train_dataloader()
    data.trainer = quiet_trainer(accelerator="cpu", devices=1)
    data.trainer.training = True
    return len(loader) * BATCH, lambda: exhaust(data.on_after_batch_transfer(batch, 0) for batch in loader)


def per_sample(data_dir: str, augment: bool) -> Epoch:
    """The usual way: a v2 transform on each PIL image, default collation."""
    crop = [v2.RandomCrop(28, padding=PADDING)] if augment else []
    steps = [*crop, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]
    images = Subset(MNIST(data_dir, transform=v2.Compose(steps)), range(PER_SAMPLE_IMAGES))
    loader = DataLoader(images, batch_size=BATCH, shuffle=True, drop_last=True)
    return len(loader) * BATCH, lambda: exhaust(loader)


def exhaust(batches: Iterable[Any]) -> None:
    """Run through the batches."""
    for _ in batches:
        pass


def index_arithmetic(images: Tensor, padding: int) -> Tensor:
    """Random crop by an index for each pixel."""
    number, _, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, number))
    padded = F.pad(images, (padding,) * 4)
    rows = top[:, None, None, None] + torch.arange(height)[:, None]
    columns = left[:, None, None, None] + torch.arange(width)
    channels = torch.arange(images.shape[1])[:, None, None]
    return padded[torch.arange(number)[:, None, None, None], channels, rows, columns]


def unfolded_view(images: Tensor, padding: int) -> Tensor:
    """Random crop by an index into the view of all windows."""
    number, _, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, number))
    view = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return view[torch.arange(number), :, top, left]


def slices(images: Tensor, padding: int) -> Tensor:
    """Random crop by a Python loop over the samples."""
    height, width = images.shape[2:]
    offsets = torch.randint(0, 2 * padding + 1, (len(images), 2)).tolist()
    padded = F.pad(images, (padding,) * 4)
    return torch.stack([one[:, i : i + height, j : j + width] for one, (i, j) in zip(padded, offsets, strict=True)])


def grid_sampled(images: Tensor, padding: int) -> Tensor:
    """Random crop by resampling floats, as libraries that build on affine transforms do."""
    shift = torch.randint(-padding, padding + 1, (len(images), 2)) * 2 / images.shape[-1]
    theta = torch.cat([torch.eye(2).expand(len(images), 2, 2), shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="nearest", align_corners=False)


def crop_candidate(crop: Callable[[Tensor, int], Tensor], shape: tuple[int, ...]) -> Epoch:
    """Crop and normalisation alone, on 40 batches of random bytes."""
    images = torch.randint(0, 256, (BATCH, *shape), dtype=torch.uint8)
    padding = PADDING if shape[0] == 1 else 4
    return 40 * BATCH, lambda: exhaust(normalise(crop(images, padding)) for _ in range(40))


def compare(contestants: dict[str, Epoch], rounds: int) -> None:
    """Run the contestants in turn and print images/s and the ratio to the first."""
    seconds = alternate({name: run for name, (_, run) in contestants.items()}, rounds)
    speeds = {name: [contestants[name][0] / value for value in values] for name, values in seconds.items()}
    print_ratios(speeds, unit="thousand images/s", scale=1e-3)
    print()


def main() -> None:
    """Compare whole pipelines, then the random crop alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=os.environ.get("ZOO_DATA", "data"), help="folder with MNIST/raw")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    silence_lightning()
    data_dir = arguments.data_dir
    print_machine()
    print(f"batch {BATCH}, {arguments.rounds} rounds\n")
    print("MNIST, a random crop for each sample, the whole pipeline")
    compare({"v2 on each PIL image": per_sample(data_dir, True), "ours": ours(data_dir, True)}, arguments.rounds)
    print("MNIST, normalisation only, the whole pipeline")
    compare({"v2 on each PIL image": per_sample(data_dir, False), "ours": ours(data_dir, False)}, arguments.rounds)
    for shape in ((1, 28, 28), (3, 32, 32)):
        print(f"crop and normalisation of a {'x'.join(map(str, shape))} batch alone")
        candidates = (index_arithmetic, unfolded_view, slices, grid_sampled, random_crop)
        compare({crop.__name__: crop_candidate(crop, shape) for crop in candidates}, arguments.rounds)


if __name__ == "__main__":
    main()
