"""The inter-twinned moons and their rotation; a training batch is ``{"source": (x, y), "target": x}``, x (B, 2)."""

import math
from typing import ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from sklearn.datasets import make_moons
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, Sampler, SequentialSampler

from ..images.image_set import ImageSet, UnlabelledSet
from ..shared.arguments import check_at_least, check_finite
from ..shared.collate import as_is
from ..shared.resumable import ResumableLoader
from ..shared.samplers import RestartingSampler, sampler_shares

SOURCE_STATE, TARGET_STATE, SOURCE_VAL_STATE, TARGET_VAL_STATE = 1, 2, 3, 4  # the first two are the authors'


class MoonsDataModule(LightningDataModule):
    """Two moons as the source, and other draws of the same moons, rotated, as the target: points, not images.

    The toy problem of Ganin et al. 2016 (https://arxiv.org/abs/1505.07818, section 5.1.1, and the authors' code): both
    domains are draws of scikit-learn's ``make_moons`` with random states 1 and 2; the mean of the source is subtracted
    from both, both are multiplied by 2, and the target is rotated about the origin, counter-clockwise. Labels are
    those of the text, the lower moon 0 and the upper moon 1; scikit-learn and the authors' code swap them.

    Training is as in the authors' code: source points in a fixed order, one a step, each with a target point that is
    drawn uniformly, with replacement; an epoch is one pass over the source. Under a strategy of several processes these
    share out the source points, and a shuffled order of the target points instead. Test sets are the very points
    trained on, as in the paper, where the target's labels were not used; validation sets are other draws of the same
    two distributions, as many points.

    Attributes:
        num_classes: 2.
        image_shape: (2,), the shape of a point.
        source_name: ``"moons"``.
        target_name: ``"rotated_moons"``.
        val_sets: Names of the validation loaders.
        test_sets: Names of the test loaders.
        tips: Places of the four moon tips that the paper's Figure 2 marks, by letter.
    """

    num_classes = 2
    image_shape = (2,)
    source_name = "moons"
    target_name = "rotated_moons"
    val_sets = ("moons", "target/rotated_moons")
    test_sets = val_sets
    tips: ClassVar[dict[str, tuple[float, float]]] = {
        "A": (-2.4, -1.6), "B": (-1.2, 0.4), "C": (0.8, -0.5), "D": (2.5, 1.5)
    }  # fmt: skip

    def __init__(
        self,
        points: int = 300,
        noise: float = 0.05,
        rotation: float = 35.0,
        batch_size: int = 1,
        shuffle: bool = False,
        eval_batch_size: int = 1024,
    ) -> None:
        """Checks the arguments.

        Args:
            points: Points of each domain, half of them on either moon. The text has 300; the authors' code draws 150.
            noise: Standard deviation of the noise in both coordinates, before the multiplication by 2.
            rotation: Angle of the target, degrees counter-clockwise.
            batch_size: Points of each domain in a training batch (for each process); a last smaller one is kept.
            shuffle: Whether the source points come in a new random order in each epoch.
            eval_batch_size: Points in a batch of validation, test and prediction.
        """
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_at_least(2, points=points)
        check_at_least(1, eval_batch_size=eval_batch_size)
        check_finite(rotation=rotation)
        if not 1 <= batch_size <= points:
            raise ValueError(f"batch_size must lie in 1..{points}, the number of points, got {batch_size}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be finite and not negative, got {noise}")
        self.points, self.noise, self.rotation = points, noise, rotation
        self.batch_size, self.shuffle, self.eval_batch_size = batch_size, shuffle, eval_batch_size

    def source_points(self) -> tuple[Tensor, Tensor]:
        """The source points trained on, (N, 2) float32, and their labels (N,) int64; without ``setup``."""
        return self._domain(SOURCE_STATE, 0.0)

    def target_points(self) -> tuple[Tensor, Tensor]:
        """The target points trained on, (N, 2) float32, and their labels (N,) int64, for evaluation only."""
        return self._domain(TARGET_STATE, self.rotation)

    def train_dataloader(self) -> dict[str, DataLoader]:
        """The two loaders, with as many batches each; Lightning combines them."""
        source, target = ImageSet(*self.source_points()), UnlabelledSet(self.target_points()[0])
        order: Sampler[int] = RandomSampler(source) if self.shuffle else SequentialSampler(source)
        drawn: Sampler[int] = RandomSampler(target, replacement=True, num_samples=len(source))
        if shares := sampler_shares(self.trainer):
            drawn = RestartingSampler(target, **shares)
            if not self.shuffle:  # Lightning would
                order = DistributedSampler(source, shares["num_replicas"], shares["rank"], shuffle=False)
        return {
            "source": ResumableLoader(source, self.batch_size, sampler=order, collate_fn=as_is),
            "target": ResumableLoader(target, self.batch_size, sampler=drawn, collate_fn=as_is),
        }

    def val_dataloader(self) -> list[DataLoader]:
        """One loader for each of ``val_sets``, in that order."""
        return self._loaders(self._domain(SOURCE_VAL_STATE, 0.0), self._domain(TARGET_VAL_STATE, self.rotation))

    def test_dataloader(self) -> list[DataLoader]:
        """One loader for each of ``test_sets``, in that order."""
        return self._loaders(self.source_points(), self.target_points())

    def predict_dataloader(self) -> DataLoader:
        """The target points; batches are ``(x, y)``."""
        return self.test_dataloader()[1]

    def _loaders(self, *domains: tuple[Tensor, Tensor]) -> list[DataLoader]:
        return [DataLoader(ImageSet(*domain), batch_size=self.eval_batch_size, collate_fn=as_is) for domain in domains]

    def _domain(self, random_state: int, rotation: float) -> tuple[Tensor, Tensor]:
        """One draw of a domain, placed by the mean of the training source."""
        centre = make_moons(self.points, noise=self.noise, random_state=SOURCE_STATE)[0].mean(0)
        drawn, moons = make_moons(self.points, noise=self.noise, random_state=random_state)
        angle = math.radians(rotation)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])  # of row vectors
        placed = 2 * (drawn - centre) @ turn
        return torch.from_numpy(placed).float(), torch.from_numpy(1 - moons).long()
