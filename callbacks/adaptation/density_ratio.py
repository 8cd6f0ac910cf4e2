"""How much denser the target is than the source at given features, from a classifier of the two domains."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]

DECAYS = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # of the squared weights, beside the mean cross-entropy
LARGEST = float(np.finfo(np.float32).max)  # squares of larger features overflow
LARGEST_LOG = 100.0  # so that squares of weights stay finite


class DomainClassifier:
    """Logistic regression of the domain (0 source, 1 target) on standardised features.

    Convex and without any random draw: one result for one input. Standardised by the mean and the standard deviation of
    the samples it is fitted on, both domains together; a constant feature counts for nothing.

    Args:
        source: (N_s, D).
        target: (N_t, D).
        decay: Of the squared weights, relative to the mean cross-entropy.
    """

    def __init__(self, source: Floats, target: Floats, decay: float) -> None:
        pooled = np.concatenate([source, target])
        domain = np.repeat([0, 1], [len(source), len(target)])
        self._scale = StandardScaler().fit(pooled)
        self._model = LogisticRegression(C=1 / (decay * len(pooled)), max_iter=1000)
        self._model.fit(self._scale.transform(pooled), domain)

    def log_odds(self, features: Floats) -> Floats:
        """Log p(target | f) - log p(source | f) of (N, D) features: (N,)."""
        return self._model.decision_function(self._scale.transform(features))


def density_ratio(source: ArrayLike, target: ArrayLike, at: ArrayLike, seed: int = 0) -> Floats:
    """Target density over source density: w = (N_s / N_t) p(target | f) / p(source | f), by a `DomainClassifier`.

    80 % of either domain train it; the cross-entropy on the other 20 % decides how strongly it is regularised, from
    strong to weak until it gets worse. (The cross-entropy and not the accuracy, because the ratio is made of
    probabilities; not on `at`.) A linear one is exact where log w is linear in the features, as for two Gaussians of
    one covariance; elsewhere it is coarser than a network, but it has one answer, in half a second for 2,000 + 2,000
    samples of 768 features. Domains that can be told apart have weights near 0 and a few huge ones; none exceeds e^100.

    Args:
        source: (N_s, D) features of source training data, N_s >= 2.
        target: (N_t, D) features of unlabelled target data, N_t >= 2.
        at: (M, D) features at which the ratio is wanted: source validation data.
        seed: Of the split. No global generator is used.

    Returns:
        (M,) in [0, e^100].

    Raises:
        ValueError: Fewer than two samples of a domain, other shapes, or features that are not finite or beyond float32.
    """
    found = checked(source, target, at)
    random = np.random.default_rng(seed)
    (train_s, test_s), (train_t, test_t) = (shuffled_split(rows, 0.8, random) for rows in found[:2])
    held_out = np.concatenate([test_s, test_t])
    domain = np.repeat([0, 1], [len(test_s), len(test_t)])
    best, chosen = np.inf, None
    for decay in DECAYS:
        classifier = DomainClassifier(train_s, train_t, decay)
        odds = classifier.log_odds(held_out)
        # log(1 + e^-|…|): finite where probabilities would round to 0 or 1
        loss = float(np.mean(np.logaddexp(0, np.where(domain == 1, -odds, odds))))
        if loss >= best:
            break
        best, chosen = loss, classifier
    assert chosen is not None  # the first loss is finite
    return np.exp(np.minimum(np.log(len(train_s) / len(train_t)) + chosen.log_odds(found[2]), LARGEST_LOG))


def shuffled_split(rows: Floats, share: float, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Two random parts of (N, D), N >= 2: a share of the rows, and the others; neither is empty."""
    order = random.permutation(len(rows))
    first = min(max(round(share * len(rows)), 1), len(rows) - 1)
    return rows[order[:first]], rows[order[first:]]


def checked(*tables: ArrayLike) -> list[Floats]:
    """Features (N, D) in float64.

    Raises:
        ValueError: Other shapes, one of the first two has fewer than two rows, or a value is not finite or larger than
            float32 holds.
    """
    found = [np.asarray(rows, np.float64) for rows in tables]
    shapes = [rows.shape for rows in found]
    if any(rows.ndim != 2 for rows in found) or len({rows.shape[1] for rows in found}) > 1 or not found[0].shape[1]:
        raise ValueError(f"expected features (N, D) of one width D >= 1, got shapes {shapes}")
    if min(len(rows) for rows in found[:2]) < 2:
        raise ValueError(f"expected at least two samples of the source and of the target, got shapes {shapes}")
    if not all(np.isfinite(rows).all() for rows in found):
        raise ValueError("expected finite features, got NaN or infinite ones")
    if any(np.abs(rows).max(initial=0) > LARGEST for rows in found):
        raise ValueError(f"expected features of at most {LARGEST:.3g}, got larger ones")
    return found
