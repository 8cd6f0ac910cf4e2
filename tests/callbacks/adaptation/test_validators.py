"""Scores for choosing without target labels, against values known by hand and loops in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from callbacks.adaptation.density_ratio import density_ratio
from callbacks.adaptation.proxy_distance import proxy_a_distance
from callbacks.adaptation.validators import (
    deep_embedded_validation,
    diversity_score,
    entropy_score,
    information_maximisation,
    soft_neighbourhood_density,
    source_accuracy,
)

LOG3 = math.log(3)
UNIFORM, ONE_HOT = torch.zeros(6, 3), 100 * torch.eye(3)[[0, 1, 2, 0, 1, 2]]
COLLAPSED = torch.tensor([100.0, 0, 0]).repeat(6, 1)
LOGITS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
LABEL_FREE = (entropy_score, diversity_score, information_maximisation, soft_neighbourhood_density)


@pytest.mark.parametrize(
    ("logits", "entropy", "diversity", "information"),
    [(UNIFORM, -LOG3, LOG3, 0.0), (ONE_HOT, 0.0, LOG3, LOG3), (COLLAPSED, 0.0, 0.0, 0.0)],
    ids=["uniform", "one-hot", "collapsed"],
)
def test_values_known_by_hand(logits, entropy, diversity, information):
    assert entropy_score(logits) == pytest.approx(entropy, abs=1e-12)
    assert diversity_score(logits) == pytest.approx(diversity, abs=1e-12)
    assert information_maximisation(logits) == pytest.approx(information, abs=1e-12)


def test_entropies_are_those_of_a_loop_in_float64():
    rows = [[math.exp(value) for value in row] for row in LOGITS.tolist()]
    rows = [[value / sum(row) for value in row] for row in rows]

    def entropy(p):
        return -sum(value * math.log(value) for value in p)

    mean = [sum(row[k] for row in rows) / len(rows) for k in range(4)]
    assert entropy_score(LOGITS) == pytest.approx(-sum(map(entropy, rows)) / len(rows), rel=1e-12)
    assert diversity_score(LOGITS) == pytest.approx(entropy(mean), rel=1e-12)
    assert information_maximisation(LOGITS) == pytest.approx(entropy(mean) - sum(map(entropy, rows)) / len(rows))


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("score", LABEL_FREE)
def test_scores_are_finite_for_large_logits_and_the_order_of_samples_plays_no_role(score, scale):
    found = score(scale * LOGITS)
    assert math.isfinite(found)
    assert score(scale * LOGITS[torch.randperm(50, generator=torch.Generator().manual_seed(1))]) == pytest.approx(found)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=8))
def test_scores_stay_in_their_ranges(rows):
    logits = torch.tensor(rows)
    assert -LOG3 - 1e-9 <= entropy_score(logits) <= 1e-9
    assert -1e-9 <= diversity_score(logits) <= LOG3 + 1e-9
    assert -1e-9 <= information_maximisation(logits) <= LOG3 + 1e-9


def test_source_accuracy_counts_the_right_ones():
    assert source_accuracy(ONE_HOT, torch.tensor([0, 1, 2, 1, 1, 1])) == pytest.approx(4 / 6)


def naive_density(features, temperature):
    unit = features.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    entropies = []
    for i in range(len(unit)):
        similar = [math.exp(float(unit[i] @ unit[j]) / temperature) for j in range(len(unit)) if j != i]
        p = [value / sum(similar) for value in similar]
        entropies.append(-sum(value * math.log(value) for value in p))
    return sum(entropies) / len(entropies)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_neighbourhood_density_is_that_of_a_loop_in_float64(temperature):
    assert soft_neighbourhood_density(LOGITS, temperature) == pytest.approx(naive_density(LOGITS, temperature))


@pytest.mark.parametrize("block", [1, 7, 49, 50, 1024])
def test_neighbourhood_density_does_not_depend_on_the_block(block):
    assert soft_neighbourhood_density(LOGITS, block=block) == pytest.approx(
        soft_neighbourhood_density(LOGITS, block=50), rel=1e-14
    )


def test_neighbourhood_density_is_largest_for_collapsed_features_as_its_docstring_warns():
    assert soft_neighbourhood_density(torch.ones(20, 5)) == pytest.approx(math.log(19))
    assert soft_neighbourhood_density(torch.zeros(20, 5)) == pytest.approx(math.log(19))
    assert soft_neighbourhood_density(LOGITS) < math.log(49)


def test_neighbourhood_density_prefers_dense_clusters_to_scattered_points():
    random = torch.Generator().manual_seed(0)
    clusters = torch.eye(5).repeat(20, 1) + 0.01 * torch.randn(100, 5, generator=random)
    assert soft_neighbourhood_density(clusters) > soft_neighbourhood_density(torch.randn(100, 5, generator=random))


def test_neighbourhood_density_of_one_sample_is_refused():
    with pytest.raises(ValueError, match=r"at least two samples, got shape \(1, 3\)"):
        soft_neighbourhood_density(torch.ones(1, 3))


def test_embedded_validation_is_that_of_a_loop_in_float64():
    random = np.random.default_rng(0)
    loss, weight = random.exponential(size=30), random.exponential(size=30)
    weighted = [w * x for w, x in zip(weight, loss, strict=True)]
    mean_w, mean_wl = sum(weight) / 30, sum(weighted) / 30
    covariance = sum((a - mean_wl) * (b - mean_w) for a, b in zip(weighted, weight, strict=True)) / 29
    eta = -covariance / (sum((w - mean_w) ** 2 for w in weight) / 29)
    expected = -(mean_wl + eta * mean_w - eta)
    assert deep_embedded_validation(loss, weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 7.0])
def test_embedded_validation_with_equal_weights_is_the_risk_times_the_weight(weight):
    loss = np.array([1.0, 2, 6])
    assert deep_embedded_validation(loss, np.full(3, weight)) == pytest.approx(-3 * weight)


def test_the_control_variate_takes_the_variance_of_a_constant_loss_away():
    weight = np.random.default_rng(0).exponential(size=40)
    assert deep_embedded_validation(np.full(40, 2.5), weight) == pytest.approx(-2.5)


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3,), (2,)), ((2, 2), (2, 2))])
def test_embedded_validation_refuses_other_shapes(shapes):
    with pytest.raises(ValueError, match=r"expected losses \(N,\) and weights \(N,\)"):
        deep_embedded_validation(np.ones(shapes[0]), np.ones(shapes[1]))


def gaussians(shift, samples=4000, width=2, seed=0):
    """Source training, target and source validation features; log w = shift x_0 - shift^2 / 2."""
    random = np.random.default_rng(seed)
    train, target, validation = (random.normal(size=(samples, width)) for _ in range(3))
    target[:, 0] += shift
    return train, target, validation


def test_the_density_ratio_of_two_gaussians_is_found():
    train, target, validation = gaussians(1.0)
    found = np.log(density_ratio(train, target, validation))
    exact = validation[:, 0] - 0.5
    assert np.abs(found - exact).mean() < 0.1


def test_embedded_validation_estimates_the_target_risk_of_gaussians():
    train, target, validation = gaussians(1.0)
    loss = validation[:, 0] ** 2  # source risk 1, target risk 1 + shift^2 = 2
    assert deep_embedded_validation(loss, density_ratio(train, target, validation)) == pytest.approx(-2, abs=0.2)
    exact = np.exp(validation[:, 0] - 0.5)
    assert deep_embedded_validation(loss, exact) == pytest.approx(-2, abs=0.2)


def test_the_density_ratio_of_equal_domains_is_one_whatever_their_sizes():
    train, target, validation = gaussians(0.0)
    for source in (train, train[:400]):
        assert np.abs(density_ratio(source, target, validation) - 1).mean() < 0.1


def test_the_density_ratio_of_domains_far_apart_is_finite():
    train, target, validation = gaussians(1e6)
    validation[0, 0] = 1e9
    found = density_ratio(train, target, validation)
    assert np.isfinite(found**2).all()
    assert np.median(found) < 1e-3
    assert found[0] > 1e3


def test_a_constant_feature_and_the_scale_of_features_play_no_role():
    train, target, validation = gaussians(0.5, samples=300)
    expected = density_ratio(train, target, validation)
    scaled = [
        np.c_[1e5 * rows[:, :1] + 3, rows[:, 1:], np.full(len(rows), 7.0)] for rows in (train, target, validation)
    ]
    np.testing.assert_allclose(density_ratio(*scaled), expected, rtol=1e-3)


@pytest.mark.parametrize("estimate", [lambda *rows: density_ratio(*rows).sum(), lambda s, t, _: proxy_a_distance(s, t)])
def test_classifiers_of_domains_have_one_answer_and_leave_the_random_state_alone(estimate):
    rows = gaussians(0.5, samples=100)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  # the global generator is what must not move
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # the same
    assert estimate(*rows) == estimate(*rows)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002  # the same


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ((np.ones((5, 2)), np.ones((5, 3)), np.ones((5, 2))), "of one width D"),
        ((np.ones((1, 2)), np.ones((5, 2)), np.ones((5, 2))), "at least two samples"),
        ((np.ones(5), np.ones(5), np.ones(5)), r"expected features \(N, D\)"),
        ((np.ones((5, 2)), np.full((5, 2), np.nan), np.ones((5, 2))), "finite features"),
    ],
)
def test_features_of_another_kind_are_refused(tables, message):
    with pytest.raises(ValueError, match=message):
        density_ratio(*tables)


def test_the_proxy_distance_is_zero_for_equal_domains_and_two_for_separate_ones():
    random = np.random.default_rng(0)
    source, target = random.normal(size=(1000, 3)), random.normal(size=(1000, 3))
    assert 0 <= proxy_a_distance(source, target).value < 0.15
    apart = proxy_a_distance(source, target + 20)
    assert apart.value == apart.optimistic == 2
    assert apart.error == 0


def test_the_proxy_distance_of_gaussians_is_that_of_the_best_classifier():
    source, target, _ = gaussians(1.0)
    error = 0.5 * math.erfc(0.5 / math.sqrt(2))  # each half of the shift away from the border
    found = proxy_a_distance(source, target)
    assert found.value == pytest.approx(2 * (1 - 2 * error), abs=0.1)
    assert found.optimistic >= found.value == pytest.approx(2 * (1 - 2 * found.error))


def test_an_error_above_one_half_is_mirrored():
    source, target, _ = gaussians(0.0, samples=40)
    found = [proxy_a_distance(source, target, seed) for seed in range(8)]
    assert all(0 <= result.value <= result.optimistic <= 2 for result in found)


def test_the_regularisation_is_the_one_that_held_out_training_data_choose():
    random = np.random.default_rng(0)
    source, target = np.repeat(random.normal(size=(2, 1000, 1)), 2, axis=2)
    target[:, 1] += 0.01  # the domains differ in the difference of two features, which a strong penalty cannot see
    assert proxy_a_distance(source, target).value == 2


def test_a_larger_domain_does_not_seem_further_away():
    random = np.random.default_rng(0)
    source, target = random.normal(size=(2000, 3)), random.normal(size=(200, 3))
    assert proxy_a_distance(source, target).value < 0.4, "naming the larger domain would give 1.6"


def test_the_distance_grows_with_the_shift_and_needs_four_samples():
    found = [proxy_a_distance(*gaussians(shift, samples=500)[:2]).value for shift in (0.2, 1.0, 3.0)]
    assert found == sorted(found)
    with pytest.raises(ValueError, match="at least four samples of each domain, got 3 and 9"):
        proxy_a_distance(np.ones((3, 2)), np.ones((9, 2)))


def test_the_weights_are_those_of_a_regression_written_out():
    train, target, validation = gaussians(0.7, samples=200)
    random = np.random.default_rng(0)
    parts = [rows[random.permutation(200)] for rows in (train, target)]
    fit, held = np.concatenate([part[:160] for part in parts]), np.concatenate([part[160:] for part in parts])
    mean, deviation = fit.mean(0), fit.std(0)
    best = None
    for decay in (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5):
        model = LogisticRegression(C=1 / (decay * 320), max_iter=1000).fit(
            (fit - mean) / deviation, np.arange(320) >= 160
        )
        p = model.predict_proba((held - mean) / deviation)
        loss = -np.log(p[np.arange(80), (np.arange(80) >= 40).astype(int)]).mean()
        if best is not None and loss >= best[0]:
            break
        best = loss, model
    p = best[1].predict_proba((validation - mean) / deviation)
    np.testing.assert_allclose(density_ratio(train, target, validation), p[:, 1] / p[:, 0], rtol=1e-9)
