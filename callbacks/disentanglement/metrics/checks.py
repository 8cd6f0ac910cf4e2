"""Validation of codes and factors, the same for every metric, with messages that name the offending value."""

import numpy as np
from numpy.typing import ArrayLike

LARGEST = float(np.finfo(np.float32).max)  # squares of larger codes overflow float64; no network's codes are larger


def check_codes(codes: ArrayLike, fewest: int = 2, largest: float = LARGEST) -> np.ndarray:
    """Return codes as float64.

    Args:
        codes: (n, L).
        fewest: Smallest number of samples that the metric can be computed from.
        largest: Largest absolute value that is accepted.

    Raises:
        ValueError: Codes of another shape, no latent, too few samples, NaN, infinite or too large values.
    """
    values = np.asarray(codes, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 1:
        raise ValueError(f"expected codes of shape (n, latents), got {values.shape}")
    if len(values) < fewest:
        raise ValueError(f"expected at least {fewest} samples, got {len(values)}")
    if broken := int((~np.isfinite(values)).any(1).sum()):
        raise ValueError(f"NaN or infinite codes in {broken} of {len(values)} samples")
    if huge := int((np.abs(values) > largest).any(1).sum()):
        raise ValueError(f"expected codes of at most {largest:.3g}, got larger ones in {huge} of {len(values)} samples")
    return values


def check_factors(factors: ArrayLike, samples: int) -> np.ndarray:
    """Return factors (n, K) of so many samples as int64; any integers are accepted.

    Raises:
        ValueError: Factors of another shape or number of samples, no sample, or values that are not whole.
    """
    values = np.asarray(factors)
    if values.ndim != 2 or len(values) != samples or values.shape[1] < 1:
        raise ValueError(f"expected factors of shape ({samples}, factors), got {values.shape}")
    if not samples:
        raise ValueError("expected at least one sample, got none")
    with np.errstate(invalid="ignore"):  # a value that int64 cannot hold becomes another one, which is refused below
        whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise ValueError(f"expected factors that are integers, got {values.dtype} with other values")
    return whole


def varying(factors: np.ndarray) -> np.ndarray:
    """Positions (K',) of the factors (n, K) with more than one value; a constant factor says nothing about a code.

    Raises:
        ValueError: Every factor is constant.
    """
    columns = np.flatnonzero((factors != factors[:1]).any(0))
    if not len(columns):
        raise ValueError(f"expected a factor with more than one value, got {factors.shape[1]} constant factors")
    return columns


def check_sample(codes: ArrayLike, factors: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return codes (n, L) as float64 and the factors that vary, (n, K'), as int64."""
    values = check_codes(codes)
    labels = check_factors(factors, len(values))
    return values, labels[:, varying(labels)]


def check_split(
    codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a training and a test sample, codes as float64 and factors as int64.

    Args:
        codes: (n, L).
        factors: (n, K).
        test_codes: (m, L).
        test_factors: (m, K).

    Raises:
        ValueError: Codes or factors are not as expected, or the two samples have not as many columns.
    """
    train, test = check_codes(codes), check_codes(test_codes, 1)
    labels, test_labels = check_factors(factors, len(train)), check_factors(test_factors, len(test))
    if train.shape[1] != test.shape[1] or labels.shape[1] != test_labels.shape[1]:
        raise ValueError(
            f"expected test codes and factors with {train.shape[1]} and {labels.shape[1]} columns, "
            f"got {test.shape[1]} and {test_labels.shape[1]}"
        )
    return train, labels, test, test_labels


def check_varying_split(
    codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`check_split`, but only with the factors that vary in the training sample."""
    train, labels, test, test_labels = check_split(codes, factors, test_codes, test_factors)
    columns = varying(labels)
    return train, labels[:, columns], test, test_labels[:, columns]


def spread(codes: np.ndarray) -> np.ndarray:
    """Standard deviation (L,) of each latent: exactly 0 where it is constant, of which rounding would leave a trace."""
    return np.where(np.ptp(codes, axis=0) > 0, codes.std(0), 0.0)
