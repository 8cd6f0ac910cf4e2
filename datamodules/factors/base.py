"""Data with known factors of variation; batches are ``(x, factors)``: x (B, C, 64, 64) float32 in [-1, 1].

Factors are (B, K) int64, one column for each name in ``factor_names``, in 0..``factor_sizes[k]`` - 1. As in the study
of Locatello et al. 2019 (https://arxiv.org/abs/1811.12359), training images are drawn independently and uniformly from
all combinations of factors, and there is no split: validation and test are fixed draws from the same images.
"""

import math

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ..shared.arguments import check_at_least
from ..shared.collate import as_is
from ..shared.resumable import ResumableLoader
from ..shared.samplers import process_share
from . import render as sprites
from .draws import FactorBatch, FactorDraws, FactorGrid, FixedFactors, draw_factors

VAL_SEED, TEST_SEED = 1, 2


class FactorDataModule(LightningDataModule):
    """Parent of the data modules with known factors; a batch is ``(x, factors)``.

    A batch of factors travels to the device, and ``draw`` makes the images of all of it there. For data of your own,
    set the class attributes in a subclass, or before ``super().__init__``, and override ``draw``.

    Attributes:
        name: Name of the data, the only one of ``test_sets``.
        image_shape: (C, H, W).
        factor_names: Names of the factors.
        factor_sizes: Number of values of each factor.
        deterministic_images: Whether equal factors give equal images. If not, what else an image needs (a colour,
            noise, a background, an instance) is drawn again for every access in training, and in the same way in
            every pass of validation and test.
    """

    name: str
    image_shape: tuple[int, int, int]
    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]
    deterministic_images: bool = True

    def __init__(
        self,
        batch_size: int = 64,
        images_per_epoch: int = 64_000,
        eval_batch_size: int = 256,
        val_images: int = 2_048,
        test_images: int = 10_000,
    ) -> None:
        """Checks the arguments; reads nothing.

        Args:
            batch_size: Training images in a batch (for each process); a remainder of an epoch is dropped.
            images_per_epoch: Draws in an epoch, of all processes together. With the defaults an epoch has 1,000 steps;
                the 300,000 steps of the study are 300 epochs.
            eval_batch_size: Images in a batch of validation, test and prediction.
            val_images: Number of validation images; 0 for no validation.
            test_images: Number of test images.
        """
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size, test_images=test_images)
        check_at_least(0, val_images=val_images)
        if images_per_epoch < batch_size:
            raise ValueError(f"images_per_epoch={images_per_epoch} is less than one batch: batch_size={batch_size}")
        self.batch_size, self.images_per_epoch, self.eval_batch_size = batch_size, images_per_epoch, eval_batch_size
        self.val_images, self.test_images = val_images, test_images

    @property
    def num_images(self) -> int:
        """Number of combinations of factors."""
        return math.prod(self.factor_sizes)

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the test sets in the order of ``test_dataloader``."""
        return (self.name,)

    @property
    def share(self) -> tuple[int, int]:
        """Rank of this process and number of processes, of those that train together."""
        return process_share(self.trainer)

    def draw(self, factors: Tensor, generator: torch.Generator) -> Tensor:
        """Makes images of factors that were checked; override it for data of your own.

        Args:
            factors: (n, K) int64 in their ranges.
            generator: Draws what does not follow from the factors, on whatever device it is.

        Returns:
            (n, C, H, W) float32 in [-1, 1] on the device of the factors.
        """
        raise NotImplementedError(f"{type(self).__name__} must override draw")

    def images_of(self, factors: Tensor, generator: torch.Generator) -> Tensor:
        """The images of any factors, after ``setup``, as ``draw`` makes them.

        Raises:
            ValueError: The factors have another shape or dtype, or are out of range.
        """
        sprites.check_factors(factors, self.factor_sizes)
        return self.draw(factors, generator)

    def sample_factors(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform, independent factors, (n, K) int64 on the device of the generator."""
        return draw_factors(self.factor_sizes, n, generator)

    def train_dataloader(self) -> DataLoader:
        """Independent draws, new ones in each epoch and for each process.

        Raises:
            ValueError: An epoch has less than one batch for each process.
        """
        _, processes = self.share
        if self.images_per_epoch < self.batch_size * processes:
            raise ValueError(
                f"images_per_epoch={self.images_per_epoch} is less than one batch of batch_size={self.batch_size} "
                f"for each of {processes} processes"
            )
        grid = FactorGrid(self.factor_sizes, self.share)
        draws = FactorDraws(grid, self.images_per_epoch, self.share)
        return ResumableLoader(grid, self.batch_size, sampler=draws, drop_last=True, collate_fn=as_is)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Fixed draws; an empty list for ``val_images=0``, which makes Lightning skip validation."""
        return self._fixed(self.val_images, VAL_SEED) if self.val_images else []

    def test_dataloader(self) -> list[DataLoader]:
        """Other fixed draws, one loader."""
        return [self._fixed(self.test_images, TEST_SEED)]

    def predict_dataloader(self) -> DataLoader:
        """The test draws."""
        return self.test_dataloader()[0]

    def _fixed(self, count: int, seed: int) -> DataLoader:
        factors = draw_factors(self.factor_sizes, count, torch.Generator().manual_seed(seed))
        return DataLoader(FixedFactors(factors, seed), batch_size=self.eval_batch_size, collate_fn=as_is)

    def on_after_batch_transfer(self, batch: FactorBatch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Makes the images on the device."""
        factors, seed = batch
        generator = torch.Generator(factors.device).manual_seed(seed)
        return self.draw(factors, generator), factors
