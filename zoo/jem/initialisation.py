"""Where Langevin chains start: uniform noise, or Gaussians fitted to the classes."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Generator, Tensor

from ..shared.batches import check_labelled_batch


def uniform_start(
    count: int, image_shape: tuple[int, ...], device: torch.device, generator: Generator | None
) -> Tensor:
    """Images ``(count, *image_shape)`` from U(-1, 1), JEM's p0."""
    return torch.rand(count, *image_shape, device=device, generator=generator).mul_(2).sub_(1)


class ClassGaussians(NamedTuple):
    """A Gaussian with full covariance for each class: the informative initialisation of JEM++ (Yang and Ji 2021).

    Attributes:
        mean: ``(K, D)``.
        factor: ``(K, D, D)``, lower-triangular Cholesky factors of the covariances.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def from_moments(cls, count: Tensor, total: Tensor, outer: Tensor) -> "ClassGaussians":
        """Fit to the sums of `class_moments`, added up over the processes; 1e-4 is added to each variance.

        Raises:
            ValueError: When a class has no image, or NaN, infinity or images too far from [-1, 1] for float64.
        """
        mean = total / count[:, None]
        covariance = outer / count[:, None, None] - mean[:, :, None] * mean[:, None, :]
        covariance.diagonal(dim1=1, dim2=2).add_(1e-4)
        factor, failures = torch.linalg.cholesky_ex(covariance)
        if broken := torch.nonzero((count == 0) | (failures != 0)).flatten().tolist():
            raise ValueError(f"no Gaussian fits the training images of classes {broken}; expected some, near [-1, 1]")
        return cls(mean.float(), factor.float())

    def sample(self, labels: Tensor, image_shape: tuple[int, ...], generator: Generator | None) -> Tensor:
        """Images ``(B, *image_shape)`` of these classes ``(B,)``, clamped to [-1, 1]."""
        size = len(labels), self.mean.shape[1]
        noise = torch.randn(size, dtype=self.mean.dtype, device=self.mean.device, generator=generator)
        images = torch.empty_like(noise)
        for label in labels.unique():  # one product per class: no copy of a factor for each image
            rows = labels == label
            images[rows] = self.mean[label] + noise[rows] @ self.factor[label].T
        return images.clamp_(-1, 1).view(-1, *image_shape)


def class_moments(batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count ``(K,)``, sum ``(K, D)`` and sum of outer products ``(K, D, D)`` of each class' images, in float64.

    The batches, at least one, are of images ``(B, ...)`` and labels ``(B,)`` in [0, K).
    """
    moments: list[Tensor] = []
    for x, y in batches:
        flat = x.flatten(1).double()
        size = flat.shape[1]
        moments = moments or [flat.new_zeros(num_classes, *more) for more in ((), (size,), (size, size))]
        count, total, outer = moments
        for label in y.unique():
            rows = flat[y == label]
            count[label] += len(rows)
            total[label] += rows.sum(0)
            outer[label].addmm_(rows.T, rows)
    count, total, outer = moments
    return count, total, outer


def fit_class_gaussians(trainer: Trainer, image_shape: tuple[int, ...], num_classes: int) -> ClassGaussians:
    """Fit class Gaussians in one pass over the training batches as a step sees them; the same on all processes.

    Raises:
        ValueError: For a batch that the training would refuse, or a class without an image.
    """

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for batch, _, _ in CombinedLoader(trainer.train_dataloader, "max_size_cycle"):
            moved = trainer.strategy.batch_to_device(batch, trainer.strategy.root_device)
            x, y = moved["labelled"] if isinstance(moved, dict) else moved
            check_labelled_batch(x, y, image_shape, num_classes)
            yield x, y

    moments = class_moments(batches(), num_classes)
    return ClassGaussians.from_moments(*(trainer.strategy.reduce(moment, reduce_op="sum") for moment in moments))
