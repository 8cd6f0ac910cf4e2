"""Metrics that fix one factor and vary the others: the BetaVAE score and the FactorVAE score.

Both have two steps: features of many small batches of codes are drawn, then a classifier tells which factor was fixed.
The features of one latent do not depend on other latents, so several representations can be drawn at once, side by side
in the columns of the codes; `Points.columns` takes them apart.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from .checks import check_codes
from .logistic import fit_logistic

Sample = Callable[[int, torch.Generator], ArrayLike]
"""``sample(n, generator) -> (n, K)``: rows of factors, independent and uniform."""
CodesOf = Callable[[np.ndarray, torch.Generator], ArrayLike]
"""``codes_of(factors (n, K), generator) -> (n, L)``."""

BATCH = 64  # images of one point or vote
AT_ONCE = 2**16  # rows of factors in one call
THRESHOLD = 0.05  # smallest standard deviation of an active latent


class Points(NamedTuple):
    """Features and labels that a classifier learns from or is tested on.

    Attributes:
        features: (n, L).
        labels: (n,) positions of the factors that were fixed.
    """

    features: np.ndarray
    labels: np.ndarray

    def columns(self, chosen: slice | Sequence[int]) -> "Points":
        """Return the same points with some of the latents."""
        return Points(self.features[:, chosen], self.labels)


class Votes(NamedTuple):
    """FactorVAE scores.

    Attributes:
        train: Accuracy on the votes that made the table.
        test: Accuracy on new votes, the score.
        num_active: Number of latents with a standard deviation of at least the threshold. Without any, both are 0.
    """

    train: float
    test: float
    num_active: int


def pair_differences(
    sample: Sample,
    codes_of: CodesOf,
    factor_sizes: Sequence[int],
    number: int,
    generator: torch.Generator,
    batch_size: int = BATCH,
) -> Points:
    """Draw points of the BetaVAE score: mean absolute differences between the codes of pairs that share one factor.

    Args:
        sample: Draws factors.
        codes_of: Encodes images of factors.
        factor_sizes: Number of values of each factor; one with a single value is never chosen.
        number: Number of points, at least 1.
        generator: Source of all random numbers.
        batch_size: Number of pairs in a point.
    """
    features, labels = [], []
    for fixed in _chosen(factor_sizes, number, generator, 2 * batch_size):
        rows = np.stack([_rows(sample, len(fixed), batch_size, generator) for _ in range(2)])
        points = np.arange(len(fixed))
        rows[1, points, :, fixed] = rows[0, points, :, fixed]
        codes = _codes(codes_of, rows, generator)
        features.append(np.abs(codes[0] - codes[1]).mean(1))
        labels.append(fixed)
    return Points(np.concatenate(features), np.concatenate(labels))


def beta_vae_score(train: Points, test: Points) -> float:
    """BetaVAE score (Higgins et al. 2017): test accuracy of a logistic regression that names the shared factor.

    As in the study it is scikit-learn's default regression, on features that are not standardised; dead latents stay
    in. Chance is one over the number of factors.

    Args:
        train: From `pair_differences`.
        test: Other points.
    """
    _check_points(train, test)
    if (train.labels == train.labels[0]).all():
        raise ValueError(
            f"expected training points of two factors, got {len(train.labels)} of factor {train.labels[0]}"
        )
    regression = fit_logistic(train.features, train.labels)
    return float(regression.score(test.features, test.labels))


def vote_variances(
    sample: Sample,
    codes_of: CodesOf,
    factor_sizes: Sequence[int],
    number: int,
    generator: torch.Generator,
    batch_size: int = BATCH,
) -> Points:
    """Draw votes of the FactorVAE score: variances (ddof 1) of the codes of batches in which one factor is the same.

    The arguments are those of `pair_differences`; ``batch_size`` is the number of images of a vote, at least 2.
    """
    if batch_size < 2:
        raise ValueError(f"expected batch_size of at least 2, got {batch_size}")
    features, labels = [], []
    for fixed in _chosen(factor_sizes, number, generator, batch_size):
        rows = _rows(sample, len(fixed), batch_size, generator)
        votes = np.arange(len(fixed))
        rows[votes, :, fixed] = rows[votes, :1, fixed]
        features.append(_codes(codes_of, rows, generator).var(1, ddof=1))
        labels.append(fixed)
    return Points(np.concatenate(features), np.concatenate(labels))


def factor_vae_score(train: Points, test: Points, variances: ArrayLike, threshold: float = THRESHOLD) -> Votes:
    """FactorVAE score (Kim and Mnih 2018): a majority vote by the latent with the least normalised variance.

    Each active latent stands for the factor with most of its training votes: of equal ones the first, and the first
    factor for a latent without votes.

    Args:
        train: From `vote_variances`.
        test: Other votes.
        variances: (L,) of each latent over the data, with ddof 1.
        threshold: Smallest standard deviation; latents below are dead and left out. 0.05 is that of the study; codes
            of another scale need another.
    """
    _check_points(train, test)
    overall = check_codes(np.asarray(variances)[None], 1, np.inf)[0]
    if (overall < 0).any():
        raise ValueError(f"expected variances of at least 0, got {overall.min()}")
    active = np.flatnonzero((np.sqrt(overall) >= threshold) & (overall > 0))
    if not len(active):
        return Votes(0.0, 0.0, 0)
    both = (train, test)
    winners = [(points.features[:, active] / overall[active]).argmin(1) for points in both]
    table = np.zeros((max(train.labels.max(), test.labels.max()) + 1, len(active)), np.int64)
    np.add.at(table, (train.labels, winners[0]), 1)
    named = table.argmax(0)
    hits = [named[winner] == points.labels for winner, points in zip(winners, both, strict=True)]
    return Votes(float(hits[0].mean()), float(hits[1].mean()), len(active))


def _check_points(train: Points, test: Points) -> None:
    for points, fewest in ((train, 2), (test, 1)):
        check_codes(points.features, fewest, np.inf)  # variances of large codes are larger still


def _chosen(
    factor_sizes: Sequence[int], number: int, generator: torch.Generator, rows_of_each: int
) -> Iterator[np.ndarray]:
    """Draw the factors that are fixed, in groups whose images fit into memory."""
    usable = np.flatnonzero(np.asarray(factor_sizes) > 1)
    if len(usable) < 2:
        raise ValueError(f"expected two factors with more than one value, got factor_sizes={tuple(factor_sizes)}")
    if number < 1:
        raise ValueError(f"expected a number of points or votes of at least 1, got {number}")
    drawn = usable[torch.randint(len(usable), (number,), generator=generator).numpy()]
    step = max(1, AT_ONCE // rows_of_each)
    for start in range(0, number, step):
        yield drawn[start : start + step]


def _rows(sample: Sample, batches: int, batch_size: int, generator: torch.Generator) -> np.ndarray:
    rows = np.asarray(sample(batches * batch_size, generator)).astype(np.int64)  # a copy, to write to
    return rows.reshape(batches, batch_size, -1)


def _codes(codes_of: CodesOf, rows: np.ndarray, generator: torch.Generator) -> np.ndarray:
    codes = check_codes(codes_of(rows.reshape(-1, rows.shape[-1]), generator))
    return codes.reshape(*rows.shape[:-1], -1)
