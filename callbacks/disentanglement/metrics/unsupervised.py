"""Scores that need no factors: how far the latents depend on each other, by their covariance."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .checks import check_codes


class Correlation(NamedTuple):
    """How far latents depend on each other by their covariance, as if they were jointly normal.

    Attributes:
        total_correlation: KL divergence from the product of the marginals, in nats; infinite where a latent is a linear
            function of others.
        wasserstein: Squared 2-Wasserstein distance to the product of the marginals, in squared units of the codes.
        wasserstein_normalised: The same divided by the total variance.
    """

    total_correlation: float
    wasserstein: float
    wasserstein_normalised: float


def correlation_of_covariance(covariance: ArrayLike) -> Correlation:
    """Gaussian total correlation and Wasserstein correlation of a covariance (L, L), positive semi-definite.

    Total correlation: ½ (Σ ln S_ii - ln det S). Wasserstein: 2 tr S - 2 tr (D½ S D½)½ with D the diagonal of S (the
    official code takes the root of D S, which has the same eigenvalues). A latent without variance depends on nothing
    and is left out; the official total correlation is NaN then.
    """
    matrix = np.asarray(covariance, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"expected a covariance (L, L) of finite numbers, got {matrix.tolist()}")
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=0) or (np.diag(matrix) < 0).any():
        raise ValueError(f"expected a symmetric covariance with variances of at least 0, got {matrix.tolist()}")
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
    """`correlation_of_covariance` of the covariance of codes (n, L), with the divisor n - 1.

    For independent latents the total correlation is about L (L - 1) / 4n instead of 0.
    """
    values = check_codes(codes)
    varies = np.ptp(values, axis=0) > 0
    covariance = np.zeros((values.shape[1],) * 2)
    if varies.any():  # the rounding errors of constant latents would correlate with each other
        covariance[np.ix_(varies, varies)] = np.cov(values[:, varies], rowvar=False, ddof=1)
    return correlation_of_covariance(covariance)


def kl_per_latent(mean: ArrayLike, deviation: ArrayLike) -> np.ndarray:
    """KL divergence (L,) in nats of normal posteriors from the standard normal prior, averaged over images.

    Args:
        mean: (n, L).
        deviation: (n, L) standard deviations, positive.
    """
    centre, scale = np.asarray(mean, dtype=np.float64), np.asarray(deviation, dtype=np.float64)
    if not len(scale) or not (scale > 0).all():
        raise ValueError(f"expected positive standard deviations of an image at least, got shape {scale.shape}")
    log_variance = 2 * np.log(scale)
    # `expm1`, because near the prior σ² - ln σ² - 1 is lost in the rounding of 1
    return 0.5 * (centre**2 + np.maximum(np.expm1(log_variance) - log_variance, 0)).mean(0)
