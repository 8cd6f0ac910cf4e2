"""Sets of images in memory, and how validation is set apart from them."""

import torch
from sklearn.utils import check_random_state
from torch import Tensor
from torch.utils.data import Dataset

from ..shared.collate import as_tensor


class ImageSet(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels in memory, fetched a batch at a time (``__getitems__``), so without Python for each sample.

    Args:
        images: (N, C, H, W) uint8, possibly none.
        labels: (N,) int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image (C, H, W) and its label ()."""
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A batch: images (B, C, H, W) uint8 and labels (B,), in the order of the indices."""
        chosen = as_tensor(indices)
        return self.images.index_select(0, chosen), self.labels.index_select(0, chosen)


class UnlabelledSet(Dataset[Tensor]):
    """Images in memory without labels, fetched a batch at a time.

    Args:
        images: (N, C, H, W) uint8.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """One image (C, H, W)."""
        return self.images[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        """A batch of images (B, C, H, W) uint8."""
        return self.images.index_select(0, as_tensor(indices))


def stratified_split(labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sets ``size`` samples apart, of each class in proportion (to one sample), with a fixed draw.

    Args:
        labels: (N,) int64.
        size: Number of samples to set apart, in [0, N].

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
