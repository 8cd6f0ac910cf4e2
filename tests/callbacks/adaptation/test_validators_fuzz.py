"""Scores without target labels and domain classifiers: loops in float64, invariants, extremes."""

import math

import numpy as np
import pytest
import torch
from examples import examples, tables
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from callbacks.adaptation.density_ratio import LARGEST_LOG, density_ratio
from callbacks.adaptation.proxy_distance import proxy_a_distance
from callbacks.adaptation.validators import (
    deep_embedded_validation,
    diversity_score,
    entropy_score,
    information_maximisation,
    soft_neighbourhood_density,
    source_accuracy,
)

EXTREME = st.sampled_from([0.0, -0.0, 1e-45, 1e4, -1e4, 1e30, -1e30])
LOGIT = st.one_of(st.floats(-40, 40, width=16), EXTREME)
HALVES = (torch.float16, torch.bfloat16, torch.float32)


@given(tables(LOGIT), st.randoms(use_true_random=False))
def test_entropies_of_any_logits_are_those_of_scipy_and_know_neither_order_nor_names(logits, random):
    p = softmax(logits.numpy(), axis=1)
    assert entropy_score(logits) == pytest.approx(-entropy(p, axis=1).mean(), abs=1e-12)
    assert diversity_score(logits) == pytest.approx(entropy(p.mean(0)), abs=1e-12)
    mean = p.mean(0)
    mutual = np.mean([np.sum(row[row > 0] * np.log(row[row > 0] / mean[row > 0])) for row in p])
    assert information_maximisation(logits) == pytest.approx(mutual, abs=1e-11)
    rows, classes = list(range(len(logits))), list(range(logits.shape[1]))
    random.shuffle(rows)
    random.shuffle(classes)
    for score in (entropy_score, diversity_score, information_maximisation):
        found = score(logits)
        assert math.isfinite(found)
        assert score(logits[rows][:, classes]) == pytest.approx(found, abs=1e-12)
        assert score(logits.repeat(3, 1)) == pytest.approx(found, abs=1e-12)


@given(tables(st.one_of(st.floats(-8, 8, width=16), st.sampled_from([0.0, 1e-45, 1e-30, 1e30])), fewest=2))
def test_neighbourhood_density_is_that_of_a_loop_for_features_of_any_size(features):
    lengths = [math.hypot(*row) for row in features.tolist()]
    unit = [[value / (length or 1) for value in row] for row, length in zip(features.tolist(), lengths, strict=True)]
    expected = []
    for i, row in enumerate(unit):
        z = np.array(
            [sum(a * b for a, b in zip(row, other, strict=True)) / 0.05 for j, other in enumerate(unit) if j != i]
        )
        expected.append(entropy(softmax(z)))
    found = soft_neighbourhood_density(features)
    assert found == pytest.approx(np.mean(expected), abs=1e-9)
    assert -1e-12 <= found <= math.log(len(features) - 1) + 1e-12
    factors = torch.tensor([3.0**row for row in range(len(features))], dtype=torch.float64)[:, None]
    assert soft_neighbourhood_density(features * factors) == pytest.approx(found, abs=1e-9)
    assert soft_neighbourhood_density(features, block=2) == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("dtype", HALVES)
@given(table=tables(st.floats(-60_000, 60_000, width=16), fewest=2), seed=st.integers(0, 99))
def test_half_precision_is_judged_in_float64(dtype, table, seed):
    half = table.to(dtype)
    for score in (entropy_score, diversity_score, information_maximisation, soft_neighbourhood_density):
        assert score(half) == score(half.double())
    labels = torch.randint(0, half.shape[1], (len(half),), generator=torch.Generator().manual_seed(seed))
    for kind in (torch.uint8, torch.int8, torch.int32, torch.int64):
        assert source_accuracy(half, labels.to(kind)) == np.mean(
            [row.argmax() == y for row, y in zip(half, labels, strict=True)]
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_of_what_is_not_finite_is_nan_and_no_number(value):
    logits = torch.tensor([[0.0, 1.0], [value, 0.0]])
    for score in (entropy_score, diversity_score, information_maximisation, soft_neighbourhood_density):
        assert math.isnan(score(logits)), score
    assert math.isnan(source_accuracy(torch.full((2, 2), math.nan), torch.tensor([0, 0])))
    for score in (entropy_score, diversity_score, information_maximisation):
        assert math.isnan(score(torch.zeros(0, 3)))


def test_a_class_that_is_masked_by_minus_infinity_adds_no_entropy():
    masked, without = torch.tensor([[2.0, 1.0, -math.inf]]), torch.tensor([[2.0, 1.0]])
    assert entropy_score(masked) == pytest.approx(entropy_score(without), rel=1e-12)
    assert diversity_score(masked) == pytest.approx(diversity_score(without), rel=1e-12)


WEIGHTED = st.lists(
    st.tuples(st.floats(0, 50, width=32), st.one_of(st.floats(0, 9, width=32), st.sampled_from([0.0, 0.1, 1e20]))),
    min_size=1,
    max_size=20,
)


@given(WEIGHTED, st.randoms(use_true_random=False))
def test_embedded_validation_is_numpys_with_its_covariance_in_any_order(pairs, random):
    losses, weights = np.array(pairs).T
    found = deep_embedded_validation(losses, weights)
    eta = 0.0
    if weights.std() > 1e-12 * weights.mean():
        eta = -np.cov(weights * losses, weights, ddof=0)[0, 1] / weights.var()
    size = abs(losses).max() * max(weights.max(), 1)
    assert found == pytest.approx(-((weights * losses).mean() + eta * weights.mean() - eta), abs=1e-9 * size)
    random.shuffle(pairs)
    assert deep_embedded_validation(*np.array(pairs).T) == pytest.approx(found, abs=1e-9 * size)
    assert deep_embedded_validation(np.tile(losses, 3), np.tile(weights, 3)) == pytest.approx(found, abs=1e-9 * size)
    moved = deep_embedded_validation(losses + 2, weights)  # the control variate makes it follow a constant exactly
    if weights.std() > 1e-6 * weights.mean():
        assert moved == pytest.approx(found - 2, abs=1e-8 * max(size, 1))


@given(st.lists(st.floats(0, 50), min_size=1, max_size=200), st.floats(1e-3, 1e3))
def test_weights_that_are_all_equal_have_no_control_variate_however_their_mean_is_rounded(losses, weight):
    found = deep_embedded_validation(np.array(losses), np.full(len(losses), weight))
    assert found == pytest.approx(-weight * np.mean(losses), rel=1e-9)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"weights of at least 0, got -0\.5"):
        deep_embedded_validation(np.ones(2), np.array([1, -0.5]))


# ---------------------------------------------------------------- classifiers of domains

FEATURE = st.one_of(st.floats(-8, 8, width=16), st.sampled_from([0.0, 1e-30, 1e4, 3e38]))


@st.composite
def domains(draw, fewest=4):
    """Source, target and further features of one width."""
    width = draw(st.integers(1, 3))
    row = st.lists(FEATURE, min_size=width, max_size=width)
    return [np.array(draw(st.lists(row, min_size=fewest, max_size=9))) for _ in range(3)]


@examples(10)
@given(domains(2), st.integers(0, 3))
def test_density_ratios_of_any_features_are_finite_and_one_answer(rows, seed):
    found = density_ratio(*rows, seed)
    assert found.shape == (len(rows[2]),)
    assert (found >= 0).all()
    assert (found <= math.exp(LARGEST_LOG) * (1 + 1e-9)).all()
    assert (density_ratio(*rows, seed) == found).all()
    assert (density_ratio(*(table.astype(np.float32) for table in rows), seed).shape) == found.shape
    one_by_one = [density_ratio(rows[0], rows[1], row[None], seed)[0] for row in rows[2][:2]]
    assert one_by_one == pytest.approx(found[:2], rel=1e-9)


@examples(4)
@given(domains(), st.integers(0, 3))
def test_proxy_distances_of_any_features_are_in_their_range(rows, seed):
    found = proxy_a_distance(*rows[:2], seed)
    assert 0 <= found.error <= 0.5
    assert 0 <= found.value <= found.optimistic <= 2
    assert found.value == 2 * (1 - 2 * found.error)
    assert proxy_a_distance(*rows[:2], seed) == found


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((5, 0)), "one width D >= 1"),
        (np.full((5, 2), 1e39), r"features of at most 3\.4e\+38, got larger ones"),
        (np.full((5, 2), np.inf), "finite features"),
    ],
)
def test_features_that_have_no_ratio_are_refused(table, message):
    for estimate in (lambda rows: density_ratio(rows, rows, rows), lambda rows: proxy_a_distance(rows, rows)):
        with pytest.raises(ValueError, match=message):
            estimate(table)
