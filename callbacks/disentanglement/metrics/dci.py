"""Disentanglement, completeness and informativeness (Eastwood and Williams 2018), by importances of boosted trees."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .boosting import FitTrees, fit_boosted, fit_exact
from .checks import check_varying_split

SMALL = 1e-11  # added to importances before their shares are taken, as in the official code


class DCI(NamedTuple):
    """The three scores, all larger for a better code.

    Attributes:
        disentanglement: In [0, 1]: whether each latent matters for one factor only.
        completeness: In [0, 1]: whether each factor needs one latent only.
        informativeness_train: Mean accuracy over factors on the training sample. Eastwood and Williams define an
            error; the official code and this one report the accuracy.
        informativeness: The same on the test sample.
        importance: (L, K'), columns sum to 1 (or 0) for each factor that varies.
    """

    disentanglement: float
    completeness: float
    informativeness_train: float
    informativeness: float
    importance: np.ndarray


def disentanglement_of_importance(importance: ArrayLike) -> float:
    """Mean over latents, weighted by importance (L, K), of 1 - entropy of the latent's shares over factors (base K).

    It is 1 for a single factor and 0 for no importance at all.
    """
    matrix = np.asarray(importance, dtype=np.float64)
    total = matrix.sum()
    if total <= 0:
        return 0.0
    if matrix.shape[1] == 1:
        return 1.0
    shares = (matrix + SMALL) / (matrix + SMALL).sum(1, keepdims=True)
    scores = 1 + (shares * np.log(shares)).sum(1) / np.log(matrix.shape[1])
    return float((matrix.sum(1) / total * scores).sum())


def completeness_of_importance(importance: ArrayLike) -> float:
    """Mean over factors, weighted by importance (L, K), of 1 - entropy of the factor's shares over latents (base L).

    It is 1 for a single latent and 0 for no importance at all.
    """
    return disentanglement_of_importance(np.asarray(importance, dtype=np.float64).T)


def dci(
    codes: ArrayLike,
    factors: ArrayLike,
    test_codes: ArrayLike,
    test_factors: ArrayLike,
    seed: int = 0,
    fit: FitTrees = fit_boosted,
) -> DCI:
    """DCI of codes, by one classifier of boosted trees for each factor.

    On 1,000 noisy codes of dSprites' factors in ten latents the scores differ from those of `dci_exact` by 0.002 or
    0.003, those of two seeds by 0.001. 10,000 codes take 46 seconds of one core. The factor with 40 values takes a
    seventh of the time of scikit-learn's trees.

    Args:
        codes: (n, L).
        factors: (n, K), taken as classes.
        test_codes: (m, L).
        test_factors: (m, K).
        seed: Seed of the random choice between equal splits.
        fit: How the trees are fitted.
    """
    train, labels, test, test_labels = check_varying_split(codes, factors, test_codes, test_factors)
    importance = np.empty((train.shape[1], labels.shape[1]))
    accuracy = np.empty((2, labels.shape[1]))
    for index, (column, test_column) in enumerate(zip(labels.T, test_labels.T, strict=True)):
        trees = fit(train, column, seed)
        importance[:, index] = np.abs(trees.feature_importances_)
        accuracy[:, index] = (trees.predict(train) == column).mean(), (trees.predict(test) == test_column).mean()
    return DCI(
        disentanglement_of_importance(importance),
        completeness_of_importance(importance),
        float(accuracy[0].mean()),
        float(accuracy[1].mean()),
        importance,
    )


def dci_exact(
    codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike, seed: int = 0
) -> DCI:
    """`dci` with scikit-learn's ``GradientBoostingClassifier`` itself, as the official code calls it, but seeded.

    It takes minutes for 10,000 samples: 113 classes on dSprites are 11,300 trees.
    """
    return dci(codes, factors, test_codes, test_factors, seed, fit_exact)
