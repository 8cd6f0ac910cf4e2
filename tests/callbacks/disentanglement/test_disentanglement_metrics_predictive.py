"""DCI, SAP, BetaVAE and FactorVAE score, explicitness, downstream tasks; values of the sheet where there are."""

import math
import warnings

import numpy as np
import pytest
import torch
from disentanglement_toys import SPRITES, draw, few_stages, noise, perfect, rotated, sample_of
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold

from callbacks.disentanglement import (
    Points,
    beta_vae_score,
    boosted_trees,
    boosted_trees_exact,
    completeness_of_importance,
    dci,
    dci_exact,
    disentanglement_of_importance,
    efficiency,
    explicitness,
    factor_vae_score,
    logistic_regression,
    pair_differences,
    sap,
    sap_continuous,
    sap_of_matrix,
    vote_variances,
)
from callbacks.disentanglement.metrics.boosting import fit_boosted

SMALL = (2, 3, 5)
TRAIN, TEST = draw(250, 0, SMALL), draw(300, 1, SMALL)
UNIFORM = 1 - math.log(2) / math.log(10)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def beside(codes, other):
    return np.hstack([codes, other])


# ---------------------------------------------------------------- boosted trees and DCI


@pytest.mark.parametrize("values", [2, 3])
def test_boosted_trees_are_those_of_scikit_learn_where_no_two_columns_split_equally_well(values):
    rng = np.random.default_rng(values)
    # of one column nothing is drawn
    x = rng.normal(size=(200, 1)).round(2)
    y = 5 + rng.integers(0, 3, 200) + (x[:, 0] > 0)
    y = np.minimum(y, 4 + values)
    own, reference = fit_boosted(x, y), GradientBoostingClassifier(random_state=0).fit(x, y)
    fresh = rng.normal(size=(500, 1)).astype(np.float32).astype(float)
    np.testing.assert_array_equal(own.predict(fresh), reference.predict(fresh))
    np.testing.assert_array_equal(own.predict(x), reference.predict(x))
    assert own.feature_importances_.tolist() == [1]


def test_importances_are_those_of_scikit_learn_but_for_its_draws_in_small_nodes():
    rng = np.random.default_rng(0)
    x = np.stack([rng.permutation(256) + 0.0, rng.permutation(256) + 0.5], 1)
    # labels that follow the columns by thresholds, but for some noise
    y = (x[:, 0] + 0.5 * x[:, 1] + rng.normal(size=256) * 20 > 190).astype(int)
    own, reference = fit_boosted(x, y), GradientBoostingClassifier(random_state=0).fit(x, y)
    np.testing.assert_allclose(own.feature_importances_, reference.feature_importances_, atol=2e-3)


def test_importances_of_many_distinct_values_are_those_of_scikit_learn():
    x = noise(1500, 3)
    y = (x @ [2, 1, 0] + noise(1500, 1, 1)[:, 0] > 0).astype(int)
    own, reference = fit_boosted(x, y), GradientBoostingClassifier(random_state=0).fit(x, y)
    np.testing.assert_allclose(own.feature_importances_, reference.feature_importances_, atol=1e-3)
    assert (own.predict(x) == reference.predict(x)).mean() > 0.99


def test_equal_columns_share_their_importance():
    x = noise(300, 1)
    y = (x[:, 0] * 2).round().clip(-1, 1)
    share = fit_boosted(beside(x, x), y).feature_importances_
    np.testing.assert_allclose(share, [0.5, 0.5], atol=0.08)
    assert fit_boosted(np.zeros((20, 2)), np.arange(20) % 2).feature_importances_.tolist() == [0, 0]


def test_dci_agrees_with_that_of_scikit_learns_trees_up_to_draws_between_equal_splits():
    codes, test = (rotated(f, SMALL) + 0.2 * noise(len(f), 3, len(f)) for f in (TRAIN, TEST))
    own, reference = (score(codes, TRAIN[:, :2], test, TEST[:, :2]) for score in (dci, dci_exact))
    np.testing.assert_allclose(own.importance, reference.importance, atol=0.03)
    assert own.disentanglement == pytest.approx(reference.disentanglement, abs=0.01)
    assert own.completeness == pytest.approx(reference.completeness, abs=0.01)
    assert own.informativeness == pytest.approx(reference.informativeness, abs=0.05)
    assert own.informativeness_train == pytest.approx(reference.informativeness_train, abs=0.02)


@pytest.mark.parametrize(
    ("matrix", "disentanglement", "completeness"),
    [
        (np.eye(5), 1, 1),
        (np.vstack([np.eye(5)] * 2), 1, UNIFORM),
        (np.hstack([np.eye(5)] * 2), UNIFORM, 1),
        (np.eye(5)[:2], 1, 1),
        (np.zeros((4, 3)), 0, 0),
        ([[0.5, 0.5], [0.5, 0.5]], 0, 0),
        ([[1, 0], [0, 1], [0, 0]], 1, 1),
        ([[1, 1], [0, 0]], 0, 1),
        ([[0.8, 0.1], [0.1, 0.9], [0.1, 0]], 0.539036, 0.561212),
    ],
)
def test_dci_by_hand(matrix, disentanglement, completeness):
    assert disentanglement_of_importance(matrix) == pytest.approx(disentanglement, abs=1e-6)
    assert completeness_of_importance(matrix) == pytest.approx(completeness, abs=1e-6)


def test_dci_of_one_factor_or_one_latent_divides_by_no_logarithm_of_one():
    assert disentanglement_of_importance([[0.3], [0.7]]) == 1
    assert completeness_of_importance([[0.3, 0.7]]) == 1
    assert disentanglement_of_importance([[0.0], [0.0]]) == 0


def test_dci_of_known_codes():
    codes, test = perfect(TRAIN, SMALL), perfect(TEST, SMALL)
    with few_stages():
        found = dci(codes, TRAIN, test, TEST)
        dead = dci(beside(codes, np.zeros((250, 2))), TRAIN, beside(test, np.zeros((300, 2))), TEST)
        turned = dci(rotated(TRAIN, SMALL), TRAIN, rotated(TEST, SMALL), TEST)
        constant = dci(0 * codes, TRAIN, 0 * test, TEST)
    assert tuple(found[:4]) == pytest.approx((1, 1, 1, 1), abs=1e-6)
    assert tuple(dead[:2]) == pytest.approx((1, 1), abs=1e-6)
    assert dead.importance.shape == (5, 3)
    assert max(turned[:2]) < 0.5
    assert constant[:2] == (0, 0)
    found = dci(beside(codes, codes), TRAIN, beside(test, test), TEST)
    assert found.disentanglement == pytest.approx(1, abs=1e-6)
    # the importance of a pair is shared: 1 - ln 2 / ln 6 if evenly
    assert found.completeness == pytest.approx(1 - math.log(2) / math.log(6), abs=0.01)


def test_a_constant_factor_changes_neither_dci_nor_sap_nor_explicitness():
    codes, test = rotated(TRAIN, SMALL), rotated(TEST, SMALL)
    with_constant = [beside(factors, np.ones((len(factors), 1))) for factors in (TRAIN, TEST)]
    for metric in (sap, explicitness, dci):
        with few_stages():
            expected = metric(codes, TRAIN, test, TEST)
            found = metric(codes, with_constant[0], test, with_constant[1])
        assert found[:2] == pytest.approx(expected[:2]) if metric is not sap else found[0] == expected[0]


# ---------------------------------------------------------------- SAP


def test_sap_by_hand():
    assert sap_of_matrix([[0.9, 0.3], [0.4, 0.8], [0.35, 0.3]]) == pytest.approx(0.5)
    assert sap_of_matrix([[0.9, 0.3]]) == pytest.approx(0.6)


def test_sap_of_known_codes():
    factors, test_factors = draw(5_000, 3), draw(5_000, 4)
    codes, test = perfect(factors), perfect(test_factors)
    found = sap(codes, factors, test, test_factors)
    np.testing.assert_allclose(np.diag(found.matrix), [1, 0.656, 0.053, 0.063, 0.059], atol=0.025)
    assert found.score == pytest.approx(0.245, abs=0.006)
    few, codes = factors[:2000], codes[:2000]
    assert sap(codes[:, [1, 1]], few, test[:, [1, 1]], test_factors).score == 0
    assert sap(noise(2000, 3), few, noise(5000, 3, 8), test_factors).score < 0.015
    assert sap(0 * codes[:300], factors[:300], 0 * test, test_factors).score == 0


def test_continuous_sap_is_squared_correlation():
    factors = draw(2000, 3)
    codes = beside(rotated(factors), np.full((2000, 1), 0.3) + 1e-9 * noise(2000, 1))
    found = sap_continuous(codes, factors)
    np.testing.assert_allclose(found.matrix[:5], np.corrcoef(codes[:, :5].T, factors.T)[:5, 5:] ** 2, atol=1e-12)
    assert (found.matrix[5] == 0).all()
    assert sap_continuous(perfect(factors), factors).score == pytest.approx(1, abs=0.01)


# ---------------------------------------------------------------- BetaVAE and FactorVAE score


def measured(code, number=1500, test=700, sizes=SPRITES):
    """BetaVAE and FactorVAE score of a function of factors."""
    rng = np.random.default_rng(0)

    def codes_of(factors, generator):
        return code(factors, rng)

    arguments = (sample_of(sizes), codes_of, sizes)
    points = [pair_differences(*arguments, count, generator(seed)) for seed, count in enumerate((number, test))]
    votes = [vote_variances(*arguments, count, generator(seed)) for seed, count in enumerate((number, test))]
    variances = code(draw(5000, 0, sizes), rng).var(0, ddof=1)
    return beta_vae_score(*points), factor_vae_score(*votes, variances)


@pytest.mark.parametrize(
    ("code", "beta", "factor", "active"),
    [
        (lambda f, rng: perfect(f), 1, 1, 5),
        (lambda f, rng: beside(perfect(f), np.zeros((len(f), 5))), 1, 1, 5),
        (lambda f, rng: beside(perfect(f), 0.01 * rng.normal(size=(len(f), 5))), 1, 1, 5),
        (lambda f, rng: beside(perfect(f), perfect(f)), 1, 1, 10),
        (lambda f, rng: rng.normal(size=(len(f), 10)), 0.2, 0.2, 10),
        (lambda f, rng: np.ones((len(f), 10)), 0.2, 0, 0),
    ],
    ids=["perfect", "dead", "noisy", "duplicated", "noise", "constant"],
)
def test_beta_vae_and_factor_vae_score_of_known_codes(code, beta, factor, active):
    found, votes = measured(code)
    assert found == pytest.approx(beta, abs=0.05)
    assert votes.test == pytest.approx(factor, abs=0.05)
    assert votes.num_active == active


def test_beta_vae_and_factor_vae_score_do_not_see_a_rotation():
    found, votes = measured(lambda f, rng: rotated(f))
    assert found > 0.85
    assert votes.test > 0.8


def test_points_share_one_factor_and_no_other():
    seen = []

    def codes_of(factors, generator):
        seen.append(factors)
        return perfect(factors)

    points = pair_differences(sample_of(SPRITES), codes_of, SPRITES, 700, generator(), batch_size=50)
    rows = np.concatenate([part.reshape(2, -1, 50, 5) for part in seen], 1)
    assert rows.shape == (2, 700, 50, 5)
    shared = (rows[0] == rows[1]).all(1)
    np.testing.assert_array_equal(shared.argmax(1), points.labels)
    assert (shared.sum(1) == 1).all()
    np.testing.assert_allclose(points.features, np.abs(perfect(rows[0]) - perfect(rows[1])).mean(1))
    assert (points.features[np.arange(700), points.labels] == 0).all()
    assert len(seen) > 1, "no more rows at once than fit into memory"


def test_votes_hold_one_factor_and_vary_the_others():
    seen = []

    def codes_of(factors, generator):
        seen.append(factors)
        return perfect(factors)

    votes = vote_variances(sample_of(SPRITES), codes_of, SPRITES, 300, generator())
    rows = np.concatenate(seen).reshape(300, 64, 5)
    fixed = (rows == rows[:, :1]).all(1)
    np.testing.assert_array_equal(fixed.argmax(1), votes.labels)
    assert (fixed.sum(1) == 1).all()
    np.testing.assert_allclose(votes.features, perfect(rows).var(1, ddof=1))


def test_the_factor_vae_table_by_hand():
    # two active latents of three, by standard deviation; the factor 1 is never fixed in training
    train = Points(np.array([[1, 9, 1], [1, 9, 1], [9, 0, 1], [1, 9, 0.0]]), np.array([2, 2, 0, 0]))
    test = Points(np.array([[1, 9, 0], [9, 1, 0], [9, 1, 0.0]]), np.array([2, 0, 1]))
    found = factor_vae_score(train, test, [1, 1, 0.04**2])
    assert found == (0.75, pytest.approx(2 / 3), 2)
    assert factor_vae_score(train, test, [1, 0.06**2, 0.04**2]).num_active == 2, "a threshold on the deviation"
    # with the third latent, the smallest normalised variance is always its own
    assert factor_vae_score(train, test, [1, 1, 1e6], threshold=0).test == pytest.approx(1 / 3)


def test_of_equal_votes_the_first_factor_wins():
    points = Points(np.array([[0.0, 1], [0, 1], [1, 0]]), np.array([2, 1, 1]))
    assert factor_vae_score(points, points, [1, 1]).train == pytest.approx(2 / 3)


def test_a_factor_of_one_value_is_never_fixed():
    sizes = (3, 1, 4)
    votes = vote_variances(sample_of(sizes), lambda f, g: f, sizes, 100, generator(), batch_size=8)
    assert set(votes.labels) == {0, 2}
    with pytest.raises(ValueError, match=r"two factors with more than one value, got factor_sizes=\(3, 1\)"):
        vote_variances(sample_of((3, 1)), lambda f, g: f, (3, 1), 100, generator())


def test_the_same_seed_gives_the_same_points():
    arguments = (sample_of(SPRITES), lambda f, g: perfect(f), SPRITES, 20)
    first, again, other = (pair_differences(*arguments, generator(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.features, again.features)
    assert (first.features != other.features).any()


def test_columns_of_points_are_the_points_of_those_latents():
    arguments = (sample_of(SPRITES), lambda f, g: perfect(f), SPRITES, 20, generator())
    points = vote_variances(*arguments)
    np.testing.assert_array_equal(points.columns([1, 3]).features, points.features[:, [1, 3]])


# ---------------------------------------------------------------- explicitness and downstream tasks


def test_explicitness_is_the_auroc_of_a_logistic_regression_on_standardised_codes():
    codes, test = rotated(TRAIN, SMALL) * [1, 50, 1] + 3, rotated(TEST, SMALL) * [1, 50, 1] + 3
    expected = []
    for y, test_y in zip(TRAIN.T, TEST.T, strict=True):
        fit = LogisticRegression().fit((codes - codes.mean(0)) / codes.std(0), y)
        scores = fit.predict_proba((test - codes.mean(0)) / codes.std(0))
        expected.append(roc_auc_score(test_y, scores if len(set(y)) > 2 else scores[:, 1], multi_class="ovr"))
    assert explicitness(codes, TRAIN, test, TEST).test == pytest.approx(np.mean(expected), abs=1e-8)


def test_explicitness_bears_dead_latents_and_values_that_are_missing_in_a_sample():
    codes, test = perfect(TRAIN, SMALL), perfect(TEST, SMALL)
    expected = explicitness(codes, TRAIN, test, TEST)
    found = explicitness(beside(codes, np.ones((250, 1))), TRAIN, beside(test, np.ones((300, 1))), TEST)
    assert found == pytest.approx(expected, abs=1e-6)
    few = TEST[:, 2] != 4
    assert 0.9 < explicitness(codes, TRAIN, test[few], TEST[few]).test <= 1


def test_downstream_accuracy_of_a_perfect_code():
    train = draw(150, 5, SMALL)
    codes, test = perfect(train, SMALL), perfect(TEST, SMALL)
    with few_stages():
        trees = boosted_trees(codes, train, test, TEST)
    assert trees.train.tolist() == trees.test.tolist() == [1, 1, 1]
    assert boosted_trees_exact(codes, train[:, :2], test, TEST[:, :2]).test.tolist() == [1, 1]
    # interior values are hard for a linear classifier
    linear = logistic_regression(codes, train[:, :2], test, TEST[:, :2])
    assert linear.test[0] > 0.99
    assert linear.test.min() > 0.8


def test_the_penalty_is_chosen_as_by_scikit_learn():
    rng = np.random.default_rng(0)
    x, fresh = rng.normal(size=(90, 4)) * [1, 10, 0.1, 1], rng.normal(size=(200, 4)) * [1, 10, 0.1, 1]
    y = np.digitize(x[:, 0] + 3 * x[:, 2] + rng.normal(size=90), [-1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of coming defaults, and of what has not quite converged
        reference = LogisticRegressionCV(Cs=10, cv=KFold(5), scoring="accuracy").fit(x, y)
    found = logistic_regression(x, y[:, None], fresh, reference.predict(fresh)[:, None])
    assert found.test[0] == 1
    assert found.train[0] == reference.score(x, y)


def test_ten_samples_are_enough_for_downstream_tasks_whatever_classes_they_lack():
    codes, test = noise(10, 3), noise(50, 3, 1)
    factors = np.stack([[0] * 9 + [1], [4] * 10, np.arange(10), [0] * 8 + [1, 2], [0] * 6 + [1, 2, 3, 3]], 1)
    labels = np.stack([np.arange(50) % 2, np.full(50, 4), *[np.arange(50) % 12] * 3], 1)
    for task in (logistic_regression, boosted_trees):
        with few_stages():
            found = task(codes, factors, test, labels)
        assert found.test.shape == (5,)
        assert found.test[1] == found.train[1] == 1
    with pytest.raises(ValueError, match="at least 5 samples, one for each fold, got 4"):
        logistic_regression(codes[:4], factors[:4], test, labels)


def test_efficiency_is_the_accuracy_of_few_samples_by_that_of_many():
    class Fake:
        def __init__(self, *accuracy):
            self.test = np.array(accuracy)

    assert efficiency({10: Fake(0), 100: Fake(0.2, 0.4), 10_000: Fake(0.8, 0.4)}) == pytest.approx(0.5)


@pytest.mark.parametrize("metric", [dci, dci_exact, sap, explicitness, boosted_trees, logistic_regression])
def test_what_cannot_be_scored_is_refused_by_name(metric):
    codes, test = perfect(TRAIN, SMALL), perfect(TEST, SMALL)
    broken = codes.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite codes in 1 of 250 samples"):
        metric(broken, TRAIN, test, TEST)
    with pytest.raises(ValueError, match="expected test codes and factors with 3 and 3 columns, got 2 and 3"):
        metric(codes, TRAIN, test[:, :2], TEST)
    with pytest.raises(ValueError, match=r"factors of shape \(300, factors\), got \(299, 3\)"):
        metric(codes, TRAIN, test, TEST[:-1])
    if metric not in (boosted_trees, logistic_regression):
        with pytest.raises(ValueError, match="a factor with more than one value, got 3 constant factors"):
            metric(codes, 0 * TRAIN, test, TEST)
