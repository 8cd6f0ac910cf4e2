"""A sine with an offset, for the study of how fast a loss is learnt; batches are ``(x, y)``: x (B, 1), y (B,)."""

import math

import torch
from torch import Tensor

from ..shared.arguments import check_at_least, check_finite
from .base import RowSet, TabularDataModule


class SineDataModule(TabularDataModule):
    """``y = sin(frequency x) + offset`` on evenly spaced x in [-pi, pi), without noise; a batch is ``(x, y)``.

    x is standardised by the training points, y keeps its units. Test points lie in the middle between training points,
    validation points at a quarter of the way. The study of Imani et al. 2024: frequencies of 1, 10 and 20 with offset
    0, offsets of 0, 1 and 10 with frequency 10, full batches.
    """

    name = "sine"
    num_features = 1
    target_name = "sin(frequency x) + offset"

    def __init__(
        self,
        frequency: float = 10.0,
        offset: float = 0.0,
        points: int = 500,
        batch_size: int = 500,
        eval_batch_size: int = 1024,
    ) -> None:
        """Checks the arguments.

        Args:
            frequency: Periods over the range of x.
            offset: Added to each label.
            points: Number of training points, at least 2, and of validation and test points too.
            batch_size: Training points in a batch; ``points`` for full batches.
            eval_batch_size: Points in a batch of validation, test and prediction.
        """
        super().__init__(batch_size, eval_batch_size)
        check_at_least(2, points=points)
        check_finite(frequency=frequency, offset=offset)
        if frequency == 0:
            raise ValueError("frequency must not be 0: a constant has nothing to learn")
        self.frequency, self.offset, self.points = frequency, offset, points

    def setup(self, stage: str) -> None:
        """Computes the points, unless that has been done."""
        if self._sets is not None:
            return
        start = self._at(0.0)
        self.mean, self.std = start.mean().numpy(), start.std(correction=0).numpy()
        sets = []
        for place in (0.0, 0.25, 0.5):
            x = self._at(place)
            y = torch.sin(self.frequency * x) + self.offset
            sets.append(RowSet(self.standardise(x[:, None].numpy()), y.float()))
        self._sets = (sets[0], sets[1], sets[2])

    def _at(self, place: float) -> Tensor:
        """Where all points lie, (N,) float64, moved by a share of their distance."""
        return (torch.arange(self.points, dtype=torch.float64) + place) * (2 * math.pi / self.points) - math.pi
