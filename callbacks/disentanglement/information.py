"""Mutual information of codes and factors, and the metrics made of it: MIG and modularity. All in nats.

Official are 20 bins of equal width over the range of a code and plug-in estimates (Locatello et al. 2019). Two things
are wrong with that: a factor of 40 values cannot be told from a code in 20 bins, so that a perfect code scores 0.90 on
dSprites; and the plug-in estimate of independent variables with a and b values is about (a - 1)(b - 1) / 2n instead of
0. Corrected are as many bins as the largest factor has values (`enough_bins`), and the Miller-Madow estimate
(`corrected=True`).
"""

import numpy as np
from numpy.typing import ArrayLike

from .checks import check_codes, check_factors, varying

BINS = 20


def enough_bins(factors: ArrayLike, fewest: int = BINS) -> int:
    """Number of bins that does not merge values of a factor in an evenly spaced code: the most values, or 20.

    Args:
        factors: (n, K).
        fewest: Smallest result.
    """
    whole = check_factors(factors, len(np.asarray(factors)))
    return max(fewest, *(len(np.unique(column)) for column in whole.T))


def discretise(codes: ArrayLike, bins: int = BINS) -> np.ndarray:
    """Bin each latent into intervals of equal width over its range in the sample.

    The largest value is in the last bin; a constant latent is in one bin. One outlier makes all bins wide.

    Args:
        codes: (n, L).
        bins: Of each latent, at least 2.

    Returns:
        (n, L) int64 in [0, bins).

    Raises:
        ValueError: Fewer samples than bins, or codes that are not finite.
    """
    if bins < 2:
        raise ValueError(f"expected at least 2 bins, got {bins}")
    values = check_codes(codes)
    if len(values) < bins:
        raise ValueError(f"expected at least as many samples as bins ({bins}), got {len(values)}")
    edges = [np.histogram_bin_edges(column, bins)[1:-1] for column in values.T]
    return np.stack([np.searchsorted(e, column, side="right") for e, column in zip(edges, values.T, strict=True)], 1)


def mutual_information_matrix(first: ArrayLike, second: ArrayLike, corrected: bool = False) -> np.ndarray:
    """Mutual information of every column of one table of integers with every column of another.

    Args:
        first: (n, A) integers, as from `discretise`.
        second: (n, B) integers.
        corrected: The Miller-Madow estimate: each of the three entropies gets (occupied cells - 1) / 2n added. Zero
            where that is negative.

    Returns:
        (A, B) float64, in nats, at least 0.

    Raises:
        ValueError: A table that is not one of integers, or of another length.
    """
    rows = len(np.asarray(first))
    left, right = _ranks(check_factors(first, rows)), _ranks(check_factors(second, rows))
    height, width = (int(table.max()) + 1 for table in (left, right))
    # all columns of the first at once: cell (column, value of the first, value of the second)
    cells = (left + height * np.arange(left.shape[1])) * width
    found = np.empty((left.shape[1], right.shape[1]))
    shape = (left.shape[1], height, width)
    for index, column in enumerate(right.T):
        joint = np.bincount((cells + column[:, None]).ravel(), minlength=int(np.prod(shape))).reshape(shape)
        found[:, index] = _information(joint, rows, corrected)
    return found


def entropies(table: ArrayLike, corrected: bool = False) -> np.ndarray:
    """Entropy of each column of a table of integers.

    Args:
        table: (n, K) integers.
        corrected: The Miller-Madow estimate: (values that occur - 1) / 2n are added.

    Returns:
        (K,) float64, in nats.
    """
    whole = check_factors(table, len(np.asarray(table)))
    counts = [np.unique(column, return_counts=True)[1] for column in whole.T]
    extra = [(len(count) - 1) / (2 * len(whole)) if corrected else 0.0 for count in counts]
    return np.array([_entropy(count, len(whole)) + more for count, more in zip(counts, extra, strict=True)])


def mig_of_matrix(information: ArrayLike, entropy: ArrayLike) -> float:
    """Mutual information gap (Chen et al. 2018): mean over factors of (largest - second largest) / entropy.

    Of a single latent the second largest is 0. A factor with entropy 0 is left out of the mean.

    Args:
        information: (L, K), in nats.
        entropy: (K,) of the factors, in nats.

    Raises:
        ValueError: No factor has a positive entropy.
    """
    matrix, height = np.asarray(information, dtype=np.float64), np.asarray(entropy, dtype=np.float64)
    if not (height > 0).any():
        raise ValueError(f"expected a factor with more than one value, got entropies {height.tolist()}")
    ordered = np.sort(np.vstack([np.zeros_like(matrix[:1]), matrix]), axis=0)[::-1]
    gaps = (ordered[0] - ordered[1])[height > 0]
    return float((gaps / height[height > 0]).mean())


def mig(codes: ArrayLike, factors: ArrayLike, bins: int = BINS, corrected: bool = False) -> float:
    """Mutual information gap of codes, see `mig_of_matrix`.

    Official: 20 bins and plug-in estimates. Corrected: ``bins=enough_bins(factors), corrected=True``, with which a
    perfect code of evenly spaced values reaches 1 within the error of the sample, and noise 0.

    Args:
        codes: (n, L).
        factors: (n, K).
        bins: Of each latent.
        corrected: Whether estimates are Miller-Madow's.

    Returns:
        In [0, 1].

    Raises:
        ValueError: Codes that are not finite, fewer samples than bins, or no factor that varies.
    """
    binned = discretise(codes, bins)
    labels = check_factors(factors, len(binned))
    labels = labels[:, varying(labels)]
    return mig_of_matrix(mutual_information_matrix(binned, labels, corrected), entropies(labels, corrected))


def modularity_of_matrix(information: ArrayLike, weighted: bool = False) -> float:
    """Modularity (Ridgeway and Mozer 2018): whether each latent shares information with one factor only.

    A latent scores 1 - (sum of squares - m²) / (m² (K - 1)), with m its largest information; 0 if m is 0; 1 if there is
    one factor only.

    Args:
        information: (L, K).
        weighted: Official is the plain mean over all latents: five perfect and five dead ones have 0.5, and noise has
            0.67 because plug-in estimates are largest for the factor with most values. Corrected is the mean weighted
            by m: dead and noisy latents count for little beside informative ones. Of noise alone it says no more
            than the official one.

    Returns:
        In [0, 1].
    """
    matrix = np.asarray(information, dtype=np.float64)
    largest, others = matrix.max(1), max(matrix.shape[1] - 1, 1)
    rest = (matrix**2).sum(1) - largest**2
    scores = np.where(largest > 0, 1 - rest / np.where(largest > 0, largest**2 * others, 1), 0)
    if weighted:
        return float((scores * largest).sum() / largest.sum()) if largest.any() else 0.0
    return float(scores.mean())


def modularity(codes: ArrayLike, factors: ArrayLike, bins: int = BINS, corrected: bool = False) -> float:
    """Modularity of codes, see `modularity_of_matrix`.

    Args:
        codes: (n, L).
        factors: (n, K).
        bins: Of each latent.
        corrected: Miller-Madow estimates and the mean weighted by information.

    Raises:
        ValueError: Codes that are not finite, fewer samples than bins, or no factor that varies.
    """
    binned = discretise(codes, bins)
    labels = check_factors(factors, len(binned))
    matrix = mutual_information_matrix(binned, labels[:, varying(labels)], corrected)
    return modularity_of_matrix(matrix, weighted=corrected)


def code_mutual_information(codes: ArrayLike, bins: int = BINS, corrected: bool = False) -> float:
    """Mutual information of two latents, averaged over all pairs of distinct ones.

    Independent normal latents have about 0.015 for n = 10,000 by the official estimate, and 0.004 by the corrected one,
    which expects all cells to be reached: those in the tails are not.

    Args:
        codes: (n, L).
        bins: Of each latent.
        corrected: Whether estimates are Miller-Madow's.

    Returns:
        In nats; 0 for a single latent.

    Raises:
        ValueError: Codes that are not finite, or fewer samples than bins.
    """
    binned = discretise(codes, bins)
    matrix = mutual_information_matrix(binned, binned, corrected)
    pairs = matrix[~np.eye(len(matrix), dtype=bool)]
    return float(pairs.mean()) if len(pairs) else 0.0


def _ranks(table: np.ndarray) -> np.ndarray:
    """Each column's values by their rank, so that any integers can be counted."""
    return np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in table.T], 1)


def _entropy(counts: np.ndarray, rows: int) -> float:
    shares = counts[counts > 0] / rows
    return float(-(shares * np.log(shares)).sum())


def _information(joint: np.ndarray, rows: int, corrected: bool) -> np.ndarray:
    """Of counts (A, a, b): the sum of p log (p / (p of the row × p of the column))."""
    left, right = joint.sum(2), joint.sum(1)
    expected = np.maximum(left[:, :, None] * (right[:, None, :] / rows), 1e-300)
    terms = joint / rows * np.log(np.where(joint > 0, joint / expected, 1))
    found = terms.sum((1, 2))
    if corrected:
        occupied = [(counts > 0).reshape(len(joint), -1).sum(1) for counts in (left, right, joint)]
        found = found + (occupied[0] + occupied[1] - occupied[2] - 1) / (2 * rows)
    # rounding must not make a dead latent look informative: modularity divides by the largest information
    return np.where(found > 1e-12, found, 0)
