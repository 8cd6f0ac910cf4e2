"""What every metric refuses, with one message that names the value."""

import numpy as np
from numpy.typing import ArrayLike

LARGEST = float(np.finfo(np.float32).max)  # no network's code is larger, and squares of larger ones overflow


def check_codes(codes: ArrayLike, fewest: int = 2, largest: float = LARGEST) -> np.ndarray:
    """Codes as float64, after a look at them.

    Args:
        codes: (n, L).
        fewest: Samples that the metric needs.
        largest: Absolute value that it bears.

    Returns:
        (n, L) float64.

    Raises:
        ValueError: Another shape, no latent, fewer samples, NaN, infinite or larger values.
    """
    found = np.asarray(codes, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] < 1:
        raise ValueError(f"expected codes of shape (n, latents), got {found.shape}")
    if len(found) < fewest:
        raise ValueError(f"expected at least {fewest} samples, got {len(found)}")
    if broken := int((~np.isfinite(found)).any(1).sum()):
        raise ValueError(f"NaN or infinite codes in {broken} of {len(found)} samples")
    if huge := int((np.abs(found) > largest).any(1).sum()):
        raise ValueError(f"expected codes of at most {largest:.3g}, got larger ones in {huge} of {len(found)} samples")
    return found


def spread(codes: np.ndarray) -> np.ndarray:
    """Standard deviation of each latent: exactly 0 for a constant one, of which rounding would leave a trace.

    Args:
        codes: (n, L).

    Returns:
        (L,).
    """
    return np.where(np.ptp(codes, axis=0) > 0, codes.std(0), 0.0)


def check_factors(factors: ArrayLike, samples: int) -> np.ndarray:
    """Factors as int64, after a look at them.

    Args:
        factors: (n, K) integers, any values.
        samples: n of the codes beside them.

    Returns:
        (n, K) int64.

    Raises:
        ValueError: Another shape or number of samples, no sample, or values that are not whole.
    """
    found = np.asarray(factors)
    if found.ndim != 2 or len(found) != samples or found.shape[1] < 1:
        raise ValueError(f"expected factors of shape ({samples}, factors), got {found.shape}")
    if not samples:
        raise ValueError("expected at least one sample, got none")
    with np.errstate(invalid="ignore"):  # what does not fit is not equal then
        whole = found.astype(np.int64)
    if not np.array_equal(whole, found):
        raise ValueError(f"expected factors that are integers, got {found.dtype} with other values")
    return whole


def varying(factors: np.ndarray) -> np.ndarray:
    """The columns of factors that take more than one value: one value says nothing about a code.

    Args:
        factors: (n, K).

    Returns:
        (K',) positions.

    Raises:
        ValueError: Every factor has one value only.
    """
    columns = np.flatnonzero((factors != factors[:1]).any(0))
    if not len(columns):
        raise ValueError(f"expected a factor with more than one value, got {factors.shape[1]} constant factors")
    return columns


def check_split(
    codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Check a training and a test sample.

    Args:
        codes: (n, L).
        factors: (n, K).
        test_codes: (m, L).
        test_factors: (m, K).

    Returns:
        The four, codes as float64 and factors as int64.

    Raises:
        ValueError: One of them is not as expected, or the two samples do not fit.
    """
    train, test = check_codes(codes), check_codes(test_codes, 1)
    labels, test_labels = check_factors(factors, len(train)), check_factors(test_factors, len(test))
    if train.shape[1] != test.shape[1] or labels.shape[1] != test_labels.shape[1]:
        raise ValueError(
            f"expected test codes and factors with {train.shape[1]} and {labels.shape[1]} columns, "
            f"got {test.shape[1]} and {test_labels.shape[1]}"
        )
    return train, labels, test, test_labels


def keep_varying(labels: np.ndarray, test_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors that vary in training.

    Args:
        labels: (n, K).
        test_labels: (m, K).

    Returns:
        (n, K') and (m, K').

    Raises:
        ValueError: Every factor has one value only.
    """
    columns = varying(labels)
    return labels[:, columns], test_labels[:, columns]
