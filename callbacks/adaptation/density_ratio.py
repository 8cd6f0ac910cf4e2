"""Density ratio of target and source at given features, from a classifier of the two domains."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]

DECAYS = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # penalties on the squared weights, strong to weak
LARGEST = float(np.finfo(np.float32).max)  # squares of larger features overflow
LARGEST_LOG = 100.0  # keeps squares of density ratios finite


def fit_domain_classifier(source: Floats, target: Floats, decay: float) -> Pipeline:
    """Fit a logistic regression of the domain on standardised features, (N_s, D) of the source, (N_t, D) of the target.

    The problem is convex and nothing is random, so equal inputs give equal results. Features are standardised with the
    mean and the standard deviation of both domains together; a constant feature has no effect. ``decay`` is the penalty
    on the squared weights, relative to the mean cross-entropy. The pipeline's ``decision_function`` gives
    log p(target | f) - log p(source | f).
    """
    pooled = np.concatenate([source, target])
    domain = np.repeat([0, 1], [len(source), len(target)])
    regression = LogisticRegression(C=1 / (decay * len(pooled)), max_iter=1000)
    return make_pipeline(StandardScaler(), regression).fit(pooled, domain)


def density_ratio(source: ArrayLike, target: ArrayLike, at: ArrayLike, seed: int = 0) -> Floats:
    """Target density over source density: w = (N_s / N_t) p(target | f) / p(source | f), by a classifier of domains.

    80 % of either domain train the classifier. The cross-entropy on the other 20 % decides how strongly it is
    regularised, from strong to weak until it gets worse. (The cross-entropy and not the accuracy, because the ratio is
    made of probabilities.) A linear classifier is exact where log w is linear in the features, as for two Gaussians of
    one covariance; elsewhere it is coarser than a network, but its result is deterministic and takes half a second for
    2,000 + 2,000 samples of 768 features. Domains that can be told apart have weights near 0 and a few huge ones; none
    exceeds e^100.

    Args:
        source: (N_s, D) features of source training data, N_s >= 2.
        target: (N_t, D) features of unlabelled target data, N_t >= 2.
        at: (M, D) features at which the ratios (M,) are evaluated: source validation data.
        seed: Seed of the split. No global generator is used.

    Raises:
        ValueError: Fewer than two samples of a domain, other shapes, or features that are not finite or beyond float32.
    """
    *both, validation = check_features(source, target, at)
    random = np.random.default_rng(seed)
    (train_s, test_s), (train_t, test_t) = (shuffled_split(rows, 0.8, random) for rows in both)
    held_out = np.concatenate([test_s, test_t])
    domain = np.repeat([0, 1], [len(test_s), len(test_t)])
    best, chosen = np.inf, None
    for decay in DECAYS:
        classifier = fit_domain_classifier(train_s, train_t, decay)
        odds = classifier.decision_function(held_out)
        # log(1 + e^-|…|): finite where probabilities would round to 0 or 1
        loss = float(np.mean(np.logaddexp(0, np.where(domain == 1, -odds, odds))))
        if loss >= best:
            break
        best, chosen = loss, classifier
    assert chosen is not None  # the first loss is finite
    log_ratio = np.log(len(train_s) / len(train_t)) + chosen.decision_function(validation)
    return np.exp(np.minimum(log_ratio, LARGEST_LOG))


def shuffled_split(rows: Floats, share: float, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Split rows (N, D), N >= 2, at random into a share of them and the others; neither part is empty."""
    order = random.permutation(len(rows))
    first = min(max(round(share * len(rows)), 1), len(rows) - 1)
    return rows[order[:first]], rows[order[first:]]


def check_features(*tables: ArrayLike) -> list[Floats]:
    """Return tables of features (N, D) as float64; the first two are those of the source and the target.

    Raises:
        ValueError: Other shapes, fewer than two samples of a domain, or values that are not finite or beyond float32.
    """
    features = [np.asarray(rows, np.float64) for rows in tables]
    shapes = [rows.shape for rows in features]
    if any(len(shape) != 2 for shape in shapes) or len({shape[1] for shape in shapes}) > 1 or not shapes[0][1]:
        raise ValueError(f"expected features (N, D) of one width D >= 1, got shapes {shapes}")
    if min(map(len, features[:2])) < 2:
        raise ValueError(f"expected at least two samples of the source and of the target, got shapes {shapes}")
    if not all(np.isfinite(rows).all() for rows in features):
        raise ValueError("expected finite features, got NaN or infinite ones")
    if any(np.abs(rows).max(initial=0) > LARGEST for rows in features):
        raise ValueError(f"expected features of at most {LARGEST:.3g}, got larger ones")
    return features
