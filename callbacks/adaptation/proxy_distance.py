"""How well a freshly trained classifier tells two domains apart by their features: the proxy A-distance."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .density_ratio import check_features, fit_domain_classifier, shuffled_split

DECAYS = tuple(10.0 ** np.arange(2, -7, -1))  # penalties on the squared weights, strong to weak
FEWEST = 4  # samples of a domain: each half needs two, one to train and one to choose by


class ProxyDistance(NamedTuple):
    """The result of `proxy_a_distance`.

    Attributes:
        value: 2 (1 - 2 error), in [0, 2], with the regularisation chosen on training data.
        optimistic: With the regularisation of the lowest test error, as in the paper; never below ``value``.
        error: Test error behind ``value``, mirrored into [0, 0.5].
    """

    value: float
    optimistic: float
    error: float


def proxy_a_distance(source: ArrayLike, target: ArrayLike, seed: int = 0) -> ProxyDistance:
    """2 (1 - 2 error) of a linear classifier of domains; Ganin et al. 2016, section 5.1 (Ben-David et al. 2007).

    Each domain is split into halves at random. One half trains logistic regressions on standardised features over a
    wide range of regularisations, the other tests them. The distance is 0 where the domains cannot be told apart
    linearly, and 2 where they are told apart perfectly. An error above one half is mirrored, so that chance gives a
    little more than 0.

    The paper reports the lowest test error over the range, which is optimistic: the test half chooses. ``value`` takes
    the regularisation by the error on a fifth of the training half instead, ``optimistic`` is as in the paper. (The
    paper's classifier is a linear SVM.) The distance grows with the width of the features: compare equal widths.
    2,000 + 2,000 samples of 768 features take up to a second.

    Args:
        source: (N_s, D) features, N_s >= 4.
        target: (N_t, D) features, N_t >= 4. Only as many samples of the larger domain are used as the smaller one has,
            for otherwise naming the larger domain would already be better than chance.
        seed: Seed of the splits. No global generator is used.

    Raises:
        ValueError: Fewer than four samples of a domain, other shapes, or features that are not finite.
    """
    domains = check_features(source, target)
    if (size := min(map(len, domains))) < FEWEST:
        raise ValueError(f"expected at least four samples of each domain, got {len(domains[0])} and {len(domains[1])}")
    random = np.random.default_rng(seed)
    halves = [shuffled_split(rows[random.permutation(len(rows))[:size]], 0.5, random) for rows in domains]
    parts = [shuffled_split(train, 0.8, random) for train, _ in halves]
    errors = []
    for decay in DECAYS:
        classifier = fit_domain_classifier(parts[0][0], parts[1][0], decay)
        both = []
        for held_out in ((parts[0][1], parts[1][1]), (halves[0][1], halves[1][1])):
            says_target = [classifier.decision_function(rows) > 0 for rows in held_out]
            wrong = np.concatenate([says_target[0], ~says_target[1]]).mean()
            both.append(float(min(wrong, 1 - wrong)))
        errors.append(both)
    error = min(errors, key=lambda both: both[0])[1]  # of equals the one that is regularised most
    lowest = min(test for _, test in errors)
    return ProxyDistance(2 * (1 - 2 * error), 2 * (1 - 2 * lowest), error)
