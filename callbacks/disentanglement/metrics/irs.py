"""Interventional robustness score (Suter et al. 2019)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .checks import check_sample
from .information import BINS, discretise


class Robustness(NamedTuple):
    """The score and its parts.

    Attributes:
        score: Average over active latents, weighted by their largest deviation; at most 1. It is below 0 in odd cases,
            as in the official code: where the samples of a value lie further from their mean than any from that of all.
        per_latent: (L,), 0 for a latent without variance.
        matrix: (L, K'), of the factors that vary.
        num_active: Number of latents with a variance.
    """

    score: float
    per_latent: np.ndarray
    matrix: np.ndarray
    num_active: int


def irs(codes: ArrayLike, factors: ArrayLike, quantile: float = 0.99, bins: int | None = BINS) -> Robustness:
    """How little a latent moves while the factor that it follows stays and all others change.

    For latent l and factor k: 1 - (mean over the values v of k of the quantile of |z_l - mean of z_l where k is v|) /
    max |z_l - mean z_l|; of each latent the largest over factors. Noise does not score 0 but about 0.36.

    Args:
        codes: (n, L).
        factors: (n, K).
        quantile: In (0, 1].
        bins: The official code puts factors into 20 bins, which merge values of larger ones: a perfect code has 0.986
            on dSprites. With None (the corrected form) values stay as they are.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"expected a quantile in (0, 1], got {quantile}")
    values, labels = check_sample(codes, factors)
    if bins is not None and len(labels) >= bins:  # fewer samples than bins have fewer values than bins
        labels = discretise(labels, bins)
    largest = np.abs(values - values.mean(0)).max(0)
    active = np.ptp(values, axis=0) > 0
    matrix = np.zeros((values.shape[1], labels.shape[1]))
    for index, column in enumerate(labels.T):
        groups = [values[column == value] for value in np.unique(column)]
        deviations = [np.quantile(np.abs(group - group.mean(0)), quantile, axis=0) for group in groups]
        matrix[active, index] = 1 - np.mean(deviations, axis=0)[active] / largest[active]
    per_latent = matrix.max(1)
    score = float(np.average(per_latent[active], weights=largest[active])) if active.any() else 0.0
    return Robustness(score, per_latent, matrix, int(active.sum()))
