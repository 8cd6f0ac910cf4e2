"""Mutual information of codes and factors, and the metrics made of it: MIG and modularity. All in nats.

The official metrics use 20 bins of equal width over the range of a code and plug-in estimates (Locatello et al. 2019).
That has two faults. 20 bins cannot tell 40 values of a factor apart, so a perfect code scores 0.90 on dSprites; and the
plug-in estimate for independent variables with a and b values is about (a - 1)(b - 1) / 2n instead of 0. The
corrected metrics use as many bins as the largest factor has values (`enough_bins`) and the Miller-Madow estimate
(``corrected=True``).
"""

import numpy as np
from numpy.typing import ArrayLike

from .checks import check_codes, check_factors, check_sample

BINS = 20


def enough_bins(factors: ArrayLike, fewest: int = BINS) -> int:
    """Number of bins that merges no values of factors (n, K) in an evenly spaced code: the most values, or 20."""
    whole = check_factors(factors, len(np.atleast_1d(factors)))
    return max(fewest, *(len(np.unique(column)) for column in whole.T))


def discretise(codes: ArrayLike, bins: int = BINS) -> np.ndarray:
    """Bin each latent into intervals of equal width over its range: (n, L) int64 in [0, bins).

    The largest value is in the last bin; a constant latent is in one bin. One outlier makes all bins wide.

    Args:
        codes: (n, L).
        bins: Number of bins of each latent, at least 2 and at most n.
    """
    if bins < 2:
        raise ValueError(f"expected at least 2 bins, got {bins}")
    values = check_codes(codes)
    if len(values) < bins:
        raise ValueError(f"expected at least as many samples as bins ({bins}), got {len(values)}")
    # as `numpy.histogram`, which refuses a range that is too small for the bins
    edges = [np.linspace(column.min(), column.max(), bins + 1)[1:-1] for column in values.T]
    return np.stack([np.searchsorted(e, column, side="right") for e, column in zip(edges, values.T, strict=True)], 1)


def mutual_information_matrix(first: ArrayLike, second: ArrayLike, corrected: bool = False) -> np.ndarray:
    """Mutual information (A, B) in nats of every column of one table of integers with every column of another.

    Args:
        first: (n, A) integers, as from `discretise`.
        second: (n, B) integers.
        corrected: Whether to use the Miller-Madow estimate: each of the three entropies gets (occupied cells - 1) / 2n
            added. It is 0 where that is negative.
    """
    rows = len(np.atleast_1d(first))
    left, right = _ranks(check_factors(first, rows)), _ranks(check_factors(second, rows))
    return np.array([[_information(a, b, corrected) for b in right.T] for a in left.T])


def entropies(table: ArrayLike, corrected: bool = False) -> np.ndarray:
    """Entropy (K,) in nats of each column of a table of integers (n, K); corrected with (values - 1) / 2n added."""
    whole = check_factors(table, len(np.atleast_1d(table)))
    counts = [np.unique(column, return_counts=True)[1] for column in whole.T]
    extra = [(len(count) - 1) / (2 * len(whole)) if corrected else 0.0 for count in counts]
    return np.array([_entropy(count, len(whole)) + more for count, more in zip(counts, extra, strict=True)])


def gaps(matrix: ArrayLike) -> np.ndarray:
    """Largest minus second largest value (K,) of each column of (L, K); for a single row the second largest is 0."""
    values = np.asarray(matrix, dtype=np.float64)
    ordered = np.sort(np.vstack([np.zeros_like(values[:1]), values]), axis=0)
    return ordered[-1] - ordered[-2]


def mig_of_matrix(information: ArrayLike, entropy: ArrayLike) -> float:
    """Mutual information gap (Chen et al. 2018): mean over factors of (largest - second largest) / entropy.

    For a single latent the second largest is 0. A factor with entropy 0 is left out of the mean.

    Args:
        information: (L, K), in nats.
        entropy: (K,) of the factors, in nats.
    """
    height = np.asarray(entropy, dtype=np.float64)
    if not (height > 0).any():
        raise ValueError(f"expected a factor with more than one value, got entropies {height.tolist()}")
    return float((gaps(information)[height > 0] / height[height > 0]).mean())


def mig(codes: ArrayLike, factors: ArrayLike, bins: int = BINS, corrected: bool = False) -> float:
    """Mutual information gap of codes, in [0, 1], see `mig_of_matrix`.

    The official metric has 20 bins and plug-in estimates. With ``bins=enough_bins(factors), corrected=True`` a perfect
    code of evenly spaced values reaches 1 within the error of the sample, and noise 0.

    Args:
        codes: (n, L).
        factors: (n, K).
        bins: Number of bins of each latent.
        corrected: Whether to use Miller-Madow estimates.
    """
    matrix, labels = _binned_information(codes, factors, bins, corrected)
    return mig_of_matrix(matrix, entropies(labels, corrected))


def modularity_of_matrix(information: ArrayLike, weighted: bool = False) -> float:
    """Modularity (Ridgeway and Mozer 2018): whether each latent shares information with one factor only.

    A latent scores 1 - (sum of squares - m²) / (m² (K - 1)), with m its largest information; 0 if m is 0; 1 if there is
    one factor only.

    Args:
        information: (L, K).
        weighted: The official score is the plain mean over latents: five perfect and five dead ones have 0.5, and noise
            has 0.67, because plug-in estimates are largest for the factor with most values. The corrected one is the
            mean weighted by m: dead and noisy latents count for little beside informative ones. For noise alone it
            tells no more than the official one.
    """
    matrix = np.asarray(information, dtype=np.float64)
    largest, others = matrix.max(1), max(matrix.shape[1] - 1, 1)
    # the largest is 1 then, and its square is taken away without a trace
    shares = matrix / np.where(largest > 0, largest, 1)[:, None]
    scores = np.where(largest > 0, 1 - ((shares**2).sum(1) - 1) / others, 0)
    if weighted:
        return float((scores * largest).sum() / largest.sum()) if largest.any() else 0.0
    return float(scores.mean())


def modularity(codes: ArrayLike, factors: ArrayLike, bins: int = BINS, corrected: bool = False) -> float:
    """Modularity of codes, in [0, 1], see `modularity_of_matrix`.

    Args:
        codes: (n, L).
        factors: (n, K).
        bins: Number of bins of each latent.
        corrected: Miller-Madow estimates and the mean weighted by information.
    """
    matrix, _ = _binned_information(codes, factors, bins, corrected)
    return modularity_of_matrix(matrix, weighted=corrected)


def code_mutual_information(codes: ArrayLike, bins: int = BINS, corrected: bool = False) -> float:
    """Mutual information of two latents in nats, averaged over all pairs; 0 for a single latent.

    Independent normal latents have about 0.015 for n = 10,000 by the official estimate, and 0.004 by the corrected one,
    which expects all cells to be reached: those in the tails are not.

    Args:
        codes: (n, L).
        bins: Number of bins of each latent.
        corrected: Whether to use Miller-Madow estimates.
    """
    binned = discretise(codes, bins)
    matrix = mutual_information_matrix(binned, binned, corrected)
    pairs = matrix[~np.eye(len(matrix), dtype=bool)]
    return float(pairs.mean()) if len(pairs) else 0.0


def _binned_information(
    codes: ArrayLike, factors: ArrayLike, bins: int, corrected: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mutual information (L, K') of binned codes and the factors that vary, and these factors (n, K')."""
    values, labels = check_sample(codes, factors)
    return mutual_information_matrix(discretise(values, bins), labels, corrected), labels


def _ranks(table: np.ndarray) -> np.ndarray:
    """Replace each column's values by their ranks, so that any integers can be counted."""
    return np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in table.T], 1)


def _entropy(counts: np.ndarray, rows: int) -> float:
    shares = counts[counts > 0] / rows
    return float(-(shares * np.log(shares)).sum())


def _information(first: np.ndarray, second: np.ndarray, corrected: bool) -> float:
    """Mutual information of two columns of ranks (n,): the sum of p log(p / (p of rank 1 × p of rank 2)) over pairs."""
    rows, width = len(first), int(second.max()) + 1
    # sorted, and not counted into a table: two columns of 10,000 values each would need one of 800 MB
    cells, joint = np.unique(first * width + second, return_counts=True)
    left, right = np.bincount(first), np.bincount(second)
    ratio = joint / left[cells // width] * (rows / right[cells % width])
    information = float((joint / rows * np.log(ratio)).sum())
    if corrected:
        information += (len(left) + len(right) - len(cells) - 1) / (2 * rows)
    # rounding must not make a dead latent look informative: modularity divides by the largest information
    return information if information > 1e-12 else 0.0
