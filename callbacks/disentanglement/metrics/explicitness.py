"""Explicitness (Ridgeway and Mozer 2018): how well a logistic regression on all latents ranks each factor's values."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from .checks import check_varying_split, spread
from .logistic import fit_logistic


class Explicitness(NamedTuple):
    """Mean over factors of the AUROC, in [0, 1] with 0.5 for chance, on training and on test samples.

    NaN on samples of which no factor has two values.
    """

    train: float
    test: float


def explicitness(codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike) -> Explicitness:
    """Macro average over a factor's values of the one-vs-rest AUROC, and its mean over factors.

    Codes are standardised with the mean and the standard deviation of the training sample. A constant latent becomes
    0, where the official code has NaN. A value that no sample has, or all have, is left out of the average.

    Args:
        codes: (n, L).
        factors: (n, K), taken as classes.
        test_codes: (m, L).
        test_factors: (m, K).
    """
    train, labels, test, test_labels = check_varying_split(codes, factors, test_codes, test_factors)
    deviation = spread(train)
    scale = np.where(deviation > 0, deviation, 1)
    tables = [(x - train.mean(0)) / scale * (deviation > 0) for x in (train, test)]
    areas = []
    for columns in zip(labels.T, test_labels.T, strict=True):
        regression = fit_logistic(tables[0], columns[0])
        scores = [regression.predict_proba(table) for table in tables]
        areas.append([_area(y, s, regression.classes_) for y, s in zip(columns, scores, strict=True)])
    each = [area[~np.isnan(area)] for area in np.array(areas).T]
    return Explicitness(*(float(area.mean()) if len(area) else np.nan for area in each))


def _area(labels: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> float:
    """Mean one-vs-rest AUROC over the classes that some but not all of the labels (n,) have, by scores (n, classes)."""
    one_hot = labels[:, None] == classes
    mixed = one_hot.any(0) & ~one_hot.all(0)
    return float(roc_auc_score(one_hot[:, mixed], scores[:, mixed], average="macro")) if mixed.any() else np.nan
