"""Sets of images in memory, and how validation is set apart from them."""

import torch
from sklearn.utils import check_random_state
from torch import Tensor

from ..shared.memory import MemorySet


class ImageSet(MemorySet):
    """Images (N, C, H, W) uint8, possibly none, with labels (N,) int64."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(images, labels)
        self.images, self.labels = images, labels


class UnlabelledSet(MemorySet):
    """Images (N, C, H, W) uint8 without labels."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.images = images


def stratified_split(labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sets ``size`` of N samples apart, of each class in proportion (to one sample), with a fixed draw.

    Returns:
        Indices of the remaining N - size samples and of the ``size`` samples, both ascending.
    """
    order = torch.from_numpy(check_random_state(0).permutation(len(labels)))
    shuffled = labels[order]
    position = torch.empty(len(labels), dtype=torch.float64)  # where in its class a sample stands, in (0, 1)
    for label in shuffled.unique():
        members = (shuffled == label).nonzero().view(-1)
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    ranked = order[position.argsort(stable=True)]
    return ranked[size:].sort().values, ranked[:size].sort().values
