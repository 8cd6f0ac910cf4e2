"""Scores that need no factors: how far the latents depend on each other, by their covariance."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .checks import check_codes


class Correlation(NamedTuple):
    """What a covariance says about the dependence of latents, if they were jointly normal.

    Attributes:
        total_correlation: KL divergence from the product of the marginals, in nats; infinite where a latent is a linear
            function of others.
        wasserstein: Squared 2-Wasserstein distance to the product of the marginals, in squared units of the codes.
        wasserstein_normalised: The same by the total variance.
    """

    total_correlation: float
    wasserstein: float
    wasserstein_normalised: float


def correlation_of_covariance(covariance: ArrayLike) -> Correlation:
    """Gaussian total correlation and Wasserstein correlation of a covariance matrix.

    Total correlation: ½ (Σ ln S_ii - ln det S). Wasserstein: 2 tr S - 2 tr (D½ S D½)½ with D the diagonal of S (the
    official code takes the root of D S, which has the same eigenvalues). A latent without variance depends on nothing
    and is left out; the official total correlation is NaN then.

    Args:
        covariance: (L, L), symmetric, positive semi-definite.
    """
    matrix = np.asarray(covariance, dtype=np.float64)
    kept = np.flatnonzero(np.diag(matrix) > 0)
    if not len(kept):
        return Correlation(0.0, 0.0, 0.0)
    matrix = matrix[np.ix_(kept, kept)]
    variance = np.diag(matrix)
    deviation = np.sqrt(variance)
    # by the correlation matrix: its determinant does not underflow with the scale of the codes
    eigenvalues = np.linalg.eigvalsh(matrix / np.outer(deviation, deviation))
    singular = eigenvalues[0] < len(matrix) * np.finfo(np.float64).eps
    total = np.inf if singular else -0.5 * float(np.log(eigenvalues).sum())
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(matrix * np.outer(deviation, deviation)), 0))
    distance = max(2 * float(variance.sum()) - 2 * float(roots.sum()), 0.0)
    return Correlation(max(total, 0.0), distance, distance / float(variance.sum()))


def gaussian_correlation(codes: ArrayLike) -> Correlation:
    """`correlation_of_covariance` of a sample, whose covariance is divided by n - 1.

    For independent latents the total correlation is about L (L - 1) / 4n instead of 0.

    Args:
        codes: (n, L).

    Raises:
        ValueError: Fewer than two samples, or codes that are not finite.
    """
    values = check_codes(codes)
    return correlation_of_covariance(np.atleast_2d(np.cov(values, rowvar=False, ddof=1)))


def kl_per_latent(mean: ArrayLike, deviation: ArrayLike) -> np.ndarray:
    """KL divergence of normal posteriors from the standard normal prior, averaged over images.

    Args:
        mean: (n, L).
        deviation: (n, L) standard deviations, positive.

    Returns:
        (L,) float64, in nats.
    """
    centre, spread = np.asarray(mean, dtype=np.float64), np.asarray(deviation, dtype=np.float64)
    return 0.5 * (centre**2 + spread**2 - 2 * np.log(spread) - 1).mean(0)
