"""scikit-learn's logistic regression as the official metrics use it."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, penalty: float = 1.0, regression: LogisticRegression | None = None
) -> LogisticRegression:
    """Multinomial logistic regression with the library's defaults: L2 penalty, at most 100 iterations.

    These are too few for features of very different scales; that is part of the metric, so there is no warning.

    Args:
        features: (n, D).
        labels: (n,) of at least two values.
        penalty: C, the inverse of the penalty.
        regression: A regression to fit once more, from its weights if it has ``warm_start``; None for a new one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (regression or LogisticRegression()).set_params(C=penalty).fit(features, labels)
