"""Separated attribute predictability (Kumar et al. 2018), with linear support vector machines on one latent each."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.svm import LinearSVC

from .checks import check_sample, check_varying_split
from .information import gaps

PENALTY = 0.01  # C of the official code


class Separation(NamedTuple):
    """The score and the matrix that it is the mean gap of.

    Attributes:
        score: In [0, 1].
        matrix: (L, K') how well each latent predicts each factor that varies, in [0, 1].
    """

    score: float
    matrix: np.ndarray


def sap_of_matrix(matrix: ArrayLike) -> float:
    """Mean over factors of the best latent's score minus the second best's, by scores (L, K); see `gaps`."""
    return float(gaps(matrix).mean())


def sap(
    codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike, seed: int = 0
) -> Separation:
    """SAP as in the study: the test accuracy of ``LinearSVC(C=0.01, class_weight="balanced")`` on each single latent.

    One linear machine for each class cannot single out a value between others: on dSprites a perfect code has 0.245.
    C is small, so codes of small scale are underfitted. `sap_continuous` corrects both for ordered factors.

    Args:
        codes: (n, L).
        factors: (n, K), taken as classes.
        test_codes: (m, L).
        test_factors: (m, K).
        seed: Seed of the solver, which the official code leaves to the global generator.
    """
    train, labels, test, test_labels = check_varying_split(codes, factors, test_codes, test_factors)
    matrix = np.empty((train.shape[1], labels.shape[1]))
    for latent in range(train.shape[1]):
        for factor in range(labels.shape[1]):
            machine = LinearSVC(C=PENALTY, class_weight="balanced", random_state=seed)
            machine.fit(train[:, [latent]], labels[:, factor])
            matrix[latent, factor] = machine.score(test[:, [latent]], test_labels[:, factor])
    return Separation(sap_of_matrix(matrix), matrix)


def sap_continuous(codes: ArrayLike, factors: ArrayLike) -> Separation:
    """SAP for ordered factors: squared correlation in place of accuracy, 0 for a latent with a variance below 1e-12.

    The official code has this form too. A code that is linear in each factor reaches 1.

    Args:
        codes: (n, L).
        factors: (n, K), taken as numbers.
    """
    values, labels = (table - table.mean(0) for table in check_sample(codes, factors))
    variance = (values**2).mean(0) * len(values) / (len(values) - 1)
    square = (values.T @ labels) ** 2 / np.maximum((values**2).sum(0)[:, None] * (labels**2).sum(0), 1e-300)
    matrix = np.where(variance[:, None] > 1e-12, square, 0)
    return Separation(sap_of_matrix(matrix), matrix)
