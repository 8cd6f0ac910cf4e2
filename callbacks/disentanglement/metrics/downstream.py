"""Downstream tasks: how well simple classifiers learn the factors from few and from many codes (Locatello et al.)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from .boosting import fit_boosted
from .checks import check_split
from .logistic import fit_logistic

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``fit(codes, labels, test codes)`` to the predictions for both."""
SIZES = (10, 100, 1000, 10000)
FOLDS = 5
PENALTIES = np.logspace(-4, 4, 10)  # values of C, the inverse of the penalty


class Accuracy(NamedTuple):
    """Of one classifier for each factor; of a factor that is constant in the training sample, of its one value.

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

    As scikit-learn's ``LogisticRegressionCV(Cs=10, cv=KFold(5))``, by hand, because that class fails in some of its
    versions where a class is missing in a fold, as happens with ten samples.

    Args:
        codes: (n, L), n at least 5.
        factors: (n, K), taken as classes.
        test_codes: (m, L).
        test_factors: (m, K).

    Raises:
        ValueError: Codes that are not finite, shapes that do not fit, fewer samples than folds.
    """
    if (rows := len(np.asarray(codes))) < FOLDS:
        raise ValueError(f"expected at least {FOLDS} samples, one for each fold, got {rows}")

    def fit(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        regression = fit_logistic(x, y, _best_penalty(x, y))
        return regression.predict(x), regression.predict(test)

    return _each_factor(fit, *check_split(codes, factors, test_codes, test_factors))


def boosted_trees(
    codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike, seed: int = 0
) -> Accuracy:
    """Gradient-boosted trees, see `boosting`.

    Args:
        codes: (n, L).
        factors: (n, K), taken as classes.
        test_codes: (m, L).
        test_factors: (m, K).
        seed: For draws between equal splits.

    Raises:
        ValueError: Codes that are not finite, shapes that do not fit, or too few samples.
    """

    def fit(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        trees = fit_boosted(x, y, seed)
        return trees.predict(x), trees.predict(test)

    return _each_factor(fit, *check_split(codes, factors, test_codes, test_factors))


def boosted_trees_exact(
    codes: ArrayLike, factors: ArrayLike, test_codes: ArrayLike, test_factors: ArrayLike, seed: int = 0
) -> Accuracy:
    """``GradientBoostingClassifier`` itself, as the official code calls it, but seeded.

    Args:
        codes: (n, L).
        factors: (n, K), taken as classes.
        test_codes: (m, L).
        test_factors: (m, K).
        seed: For draws between equal splits.

    Raises:
        ValueError: As in `boosted_trees`.
    """

    def fit(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        trees = GradientBoostingClassifier(random_state=seed).fit(x, y)
        return trees.predict(x), trees.predict(test)

    return _each_factor(fit, *check_split(codes, factors, test_codes, test_factors))


def efficiency(accuracies: Mapping[int, Accuracy], few: int = 100, many: int = 10000) -> float:
    """Sample efficiency: mean test accuracy of few samples divided by that of many.

    Args:
        accuracies: By the number of training samples.
        few: Of them.
        many: Of them.

    Returns:
        At least 0; infinite where only the few predict anything, NaN where neither does.

    Raises:
        KeyError: There is no accuracy for one of the two.
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


def _each_factor(
    fit: Fit, train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> Accuracy:
    found = []
    for column, test_column in zip(labels.T, test_labels.T, strict=True):
        constant = (column == column[0]).all()
        predicted, test_predicted = column[:1], column[:1]
        if not constant:
            predicted, test_predicted = fit(train, column, test)
        found.append([(predicted == column).mean(), (test_predicted == test_column).mean()])
    accuracy = np.array(found)
    return Accuracy(accuracy[:, 0], accuracy[:, 1])
