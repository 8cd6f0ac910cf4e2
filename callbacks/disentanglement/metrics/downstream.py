"""Downstream tasks: how well simple classifiers learn the factors from few and from many codes (Locatello et al.)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from .boosting import FitTrees, fit_boosted, fit_exact
from .checks import check_split
from .logistic import fit_logistic

SIZES = (10, 100, 1000, 10000)
FOLDS = 5
PENALTIES = np.logspace(-4, 4, 10)  # values of C, the inverse of the penalty


class Accuracy(NamedTuple):
    """Accuracy of one classifier for each factor; a factor that is constant in training is predicted by its one value.

    Attributes:
        train: (K,) on the training sample.
        test: (K,) on the test sample.
    """

    train: np.ndarray
    test: np.ndarray


def logistic_regression(
    codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike
) -> Accuracy:
    """Multinomial logistic regression, its penalty chosen from ten by five unshuffled folds.

    It is what scikit-learn's ``LogisticRegressionCV(Cs=10, cv=KFold(5))`` does. That class itself fails in some of its
    versions where a class is missing in a fold, as happens with ten samples.

    Args:
        codes: (n, L), n at least 5.
        factors: (n, K), taken as classes.
        test_codes: (m, L).
        test_factors: (m, K).
    """
    if (rows := len(np.asarray(codes))) < FOLDS:
        raise ValueError(f"expected at least {FOLDS} samples, one for each fold, got {rows}")

    def fit(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
        return fit_logistic(x, y, _best_penalty(x, y))

    return _each_factor(fit, codes, factors, test_codes, test_factors)


def boosted_trees(
    codes: ArrayLike,
    factors: ArrayLike,
    test_codes: ArrayLike,
    test_factors: ArrayLike,
    seed: int = 0,
    fit: FitTrees = fit_boosted,
) -> Accuracy:
    """Gradient-boosted trees, see `boosting`.

    Args:
        codes: (n, L).
        factors: (n, K), taken as classes.
        test_codes: (m, L).
        test_factors: (m, K).
        seed: Seed of the random choice between equal splits.
        fit: How the trees are fitted.
    """
    return _each_factor(lambda x, y: fit(x, y, seed), codes, factors, test_codes, test_factors)


def boosted_trees_exact(
    codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike, seed: int = 0
) -> Accuracy:
    """`boosted_trees` with ``GradientBoostingClassifier`` itself, as the official code calls it, but seeded."""
    return boosted_trees(codes, factors, test_codes, test_factors, seed, fit_exact)


def efficiency(accuracies: Mapping[int, Accuracy], few: int = 100, many: int = 10000) -> float:
    """Sample efficiency: mean test accuracy with few training samples divided by that with many.

    Args:
        accuracies: By the number of training samples.
        few: The smaller of two such numbers.
        many: The larger one.

    Returns:
        At least 0; infinite where only the few predict anything, NaN where neither does.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(accuracies[few].test.mean(), accuracies[many].test.mean()))


def _best_penalty(x: np.ndarray, y: np.ndarray) -> float:
    """The C with the best mean accuracy over folds; of equal ones the smallest."""
    accuracy = np.zeros((FOLDS, len(PENALTIES)))
    for fold, (train, held_out) in enumerate(KFold(FOLDS).split(x)):
        regression = LogisticRegression(warm_start=True)
        for index, penalty in enumerate(PENALTIES):
            predicted = y[train][:1]
            if (y[train] != predicted).any():
                regression = fit_logistic(x[train], y[train], penalty, regression)
                predicted = regression.predict(x[held_out])
            accuracy[fold, index] = (predicted == y[held_out]).mean()
    return float(PENALTIES[accuracy.mean(0).argmax()])


def _each_factor(fit: Callable[[np.ndarray, np.ndarray], Any], *split: ArrayLike) -> Accuracy:
    """Accuracy of a classifier that is fitted for each factor in turn."""
    train, labels, test, test_labels = check_split(*split)
    accuracy = np.empty((2, labels.shape[1]))
    for index, (column, test_column) in enumerate(zip(labels.T, test_labels.T, strict=True)):
        predicted, test_predicted = column[:1], column[:1]
        if (column != column[0]).any():
            classifier = fit(train, column)
            predicted, test_predicted = classifier.predict(train), classifier.predict(test)
        accuracy[:, index] = (predicted == column).mean(), (test_predicted == test_column).mean()
    return Accuracy(*accuracy)
