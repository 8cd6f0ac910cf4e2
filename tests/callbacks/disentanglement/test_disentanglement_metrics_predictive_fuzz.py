"""Classifiers' metrics of disentanglement for whatever codes and factors come in: ranges, invariants, loops."""

import math
import warnings

import numpy as np
import pytest
import torch
from disentanglement_toys import few_stages
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingClassifier

from callbacks.disentanglement import (
    Accuracy,
    Points,
    beta_vae_score,
    boosted_trees,
    completeness_of_importance,
    dci,
    disentanglement_of_importance,
    efficiency,
    explicitness,
    factor_vae_score,
    logistic_regression,
    pair_differences,
    sap,
    sap_of_matrix,
    vote_variances,
)
from callbacks.disentanglement.metrics.boosting import fit_boosted

VALUE = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-9, 9, width=16), st.sampled_from([1e-45, 1e-8, 3e38, -3e38])
)
CALM = st.one_of(st.integers(-3, 3).map(float), st.floats(-9, 9, width=16))


def table(values, rows, columns):
    row = st.lists(values, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(np.array)


@st.composite
def splits(draw, values=VALUE, dead=True):
    """Codes and factors, of which the first varies, and others to test on: one at least, with values never seen."""
    train, test = draw(st.integers(6, 16)), draw(st.integers(1, 6))
    latents, factors = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    codes, test_codes = draw(table(values, train, latents)), draw(table(values, test, latents))
    if dead and draw(st.booleans()):
        codes[:, -1], test_codes[:, -1] = 0.3, draw(st.sampled_from([0.3, 0.4]))
    labels, test_labels = draw(table(st.integers(0, 2), train, factors)), draw(table(st.integers(0, 4), test, factors))
    labels[:2, 0] = [0, 1]
    kind = draw(st.sampled_from(["int8", "uint8", "uint16", "int64", "float32"]))
    return codes, labels.astype(kind), test_codes, test_labels.astype(kind)


@examples(6)
@given(splits())
def test_dci_of_any_codes_is_in_range_and_made_of_its_importances(case):
    with few_stages():
        found, again = dci(*case), dci(*case)
    assert found.importance.shape[0] == case[0].shape[1]
    assert (found.importance >= 0).all()
    total = found.importance.sum(0)
    assert (np.isclose(total, 1) | (total == 0)).all()
    assert (found.importance[(case[0] == case[0][:1]).all(0)] == 0).all()
    assert found.disentanglement == disentanglement_of_importance(found.importance)
    assert found.completeness == completeness_of_importance(found.importance)
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in found[:4])
    assert again.importance.tolist() == found.importance.tolist()


@examples(4)
@given(splits(CALM, dead=False))
def test_trees_know_neither_a_rising_transform_of_a_latent_nor_the_names_of_the_classes(case):
    codes, labels = case[0], case[1][:, 0].astype(int)
    with few_stages():
        plain = fit_boosted(codes, labels)
        # exact in single precision, and no two values fall together
        moved = fit_boosted(codes * 2.0 ** np.arange(codes.shape[1]) + 4, labels * 7 - 100)
    distinct = all(np.diff(np.unique(column)).min(initial=1) > 1e-2 for column in codes.T)
    if distinct:
        np.testing.assert_allclose(moved.feature_importances_, plain.feature_importances_, atol=1e-9)
        moved_codes = codes * 2.0 ** np.arange(codes.shape[1]) + 4
        assert (moved.predict(moved_codes) == plain.predict(codes) * 7 - 100).all()


@examples(3)
@given(
    st.lists(
        st.tuples(st.integers(-500, 500), st.integers(0, 2)), min_size=6, max_size=25, unique_by=lambda row: row[0]
    )
)
def test_trees_of_one_latent_are_those_of_scikit_learn(rows):
    codes, labels = np.array(rows)[:, :1].astype(float), np.array(rows)[:, 1]
    labels[:2] = [0, 1]
    own, reference = fit_boosted(codes, labels), GradientBoostingClassifier(random_state=0).fit(codes, labels)
    assert own.feature_importances_.tolist() == reference.feature_importances_.tolist()
    grid = np.linspace(-501, 501, 200)[:, None]
    probabilities = np.sort(reference.predict_proba(grid), axis=1)
    clear = probabilities[:, -1] - probabilities[:, -2] > 1e-6
    assert (own.predict(grid) == reference.predict(grid))[clear].all()


@examples(10)
@given(splits(), st.randoms(use_true_random=False))
def test_separation_of_any_codes_is_in_range_and_knows_no_order_of_latents_and_no_constant_factor(case, random):
    codes, labels, test_codes, test_labels = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of machines that do not converge on huge codes
        found = sap(*case)
        order = random.sample(range(codes.shape[1]), codes.shape[1])
        turned = sap(codes[:, order], labels, test_codes[:, order], test_labels)
        dull = [np.hstack([factors, np.ones((len(factors), 1), factors.dtype)]) for factors in (labels, test_labels)]
        with_dull = sap(codes, dull[0], test_codes, dull[1])
    assert ((found.matrix >= 0) & (found.matrix <= 1)).all()
    assert 0 <= found.score == sap_of_matrix(found.matrix) <= 1
    assert (turned.matrix == found.matrix[order]).all()
    assert with_dull.score == found.score


@examples(10)
@given(splits(CALM))
def test_explicitness_is_in_range_or_nan_and_knows_neither_unit_nor_dead_latents(case):
    codes, labels, test_codes, test_labels = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explicitness(*case)
    assert 0 <= found.train <= 1
    seen = [
        len(np.unique(test)) for test, train in zip(test_labels.T, labels.T, strict=True) if len(np.unique(train)) > 1
    ]
    assert 0 <= found.test <= 1 or max(seen) == 1 or not np.isin(test_labels, labels).all()
    beside = [np.hstack([table, np.full((len(table), 1), value)]) for table, value in ((codes, 0.3), (test_codes, 0.4))]
    dead = explicitness(beside[0], labels, beside[1], test_labels)
    assert dead == pytest.approx(found, nan_ok=True)
    scaled = explicitness(codes * 2.0**40, labels, test_codes * 2.0**40, test_labels)
    assert scaled == pytest.approx(found, nan_ok=True)


@pytest.mark.parametrize("task", [logistic_regression, boosted_trees])
@examples(2)
@given(case=splits())
def test_downstream_tasks_bear_any_codes_and_factors(task, case):
    labels, test_labels = case[1], case[3]
    with warnings.catch_warnings(), few_stages():
        warnings.simplefilter("ignore")  # of regressions that do not converge on huge codes
        found = task(*case)
    for accuracy in found:
        assert accuracy.shape == (labels.shape[1],)
        assert ((accuracy >= 0) & (accuracy <= 1)).all()
    for factor, column in enumerate(labels.T):
        if len(set(column.tolist())) == 1:
            assert found.train[factor] == 1
            assert found.test[factor] == (test_labels[:, factor] == column[0]).mean()
        unseen = ~np.isin(test_labels[:, factor], column)
        assert found.test[factor] <= 1 - unseen.mean() + 1e-12


@st.composite
def votes(draw):
    """Training and test votes and variances, with many ties."""
    latents = draw(st.integers(1, 4))
    parts = []
    for fewest in (2, 1):
        number = draw(st.integers(fewest, 8))
        features = draw(table(st.sampled_from([0.0, 0.5, 1.0, 1e30]), number, latents))
        labels = draw(st.lists(st.integers(0, 3), min_size=number, max_size=number))
        parts.append(Points(features, np.array(labels)))
    return *parts, draw(st.lists(st.sampled_from([0.0, 1e-4, 1.0, 2.0, 1e30]), min_size=latents, max_size=latents))


@given(votes())
def test_the_factor_vae_score_is_that_of_a_loop_with_ties(case):
    train, test, variances = case
    active = [latent for latent, value in enumerate(variances) if math.sqrt(value) >= 0.05]
    found = factor_vae_score(train, test, variances)
    assert found.num_active == len(active)
    if not active:
        assert found[:2] == (0, 0)
        return

    def winner(features):
        return min(active, key=lambda latent: features[latent] / variances[latent])  # the first of equals

    names = {}
    for latent in active:
        counts = [0] * 4
        for features, label in zip(*train, strict=True):
            counts[label] += winner(features) == latent
        names[latent] = counts.index(max(counts))
    for points, accuracy in ((train, found.train), (test, found.test)):
        hits = [names[winner(features)] == label for features, label in zip(*points, strict=True)]
        assert accuracy == pytest.approx(np.mean(hits))


@given(votes())
def test_the_beta_vae_score_of_any_points_is_an_accuracy_or_one_error(case):
    train, test, _ = case
    if len(set(train.labels.tolist())) == 1:
        with pytest.raises(ValueError, match=rf"points of two factors, got {len(train.labels)} of factor"):
            beta_vae_score(train, test)
        return
    unseen = ~np.isin(test.labels, train.labels)
    assert 0 <= beta_vae_score(train, test) <= 1 - unseen.mean() + 1e-12


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(1, 9), st.integers(2, 5), st.integers(0, 99))
def test_points_and_votes_are_as_many_as_wanted_of_factors_that_vary(sizes, number, batch, seed):
    def sample(rows, generator):
        return torch.stack([torch.randint(size, (rows,), generator=generator) for size in sizes], 1)

    for of in (pair_differences, vote_variances):
        arguments = (sample, lambda factors, generator: factors, sizes, number, torch.Generator().manual_seed(seed))
        if sum(size > 1 for size in sizes) < 2:
            with pytest.raises(ValueError, match="two factors with more than one value"):
                of(*arguments, batch_size=batch)
            continue
        found = of(*arguments, batch_size=batch)
        assert found.features.shape == (number, len(sizes))
        assert set(found.labels.tolist()) <= {factor for factor, size in enumerate(sizes) if size > 1}
        assert (found.features[np.arange(number), found.labels] == 0).all()
        assert (found.features >= 0).all()


def test_points_and_votes_that_are_none_are_refused():
    generator, sizes = torch.Generator(), (2, 2)

    def sample(rows, generator):
        return torch.randint(2, (rows, 2), generator=generator)

    for of in (pair_differences, vote_variances):
        with pytest.raises(ValueError, match="a number of points or votes of at least 1, got 0"):
            of(sample, lambda f, g: f, sizes, 0, generator)
    with pytest.raises(ValueError, match="batch_size of at least 2, got 1"):
        vote_variances(sample, lambda f, g: f, sizes, 3, generator, batch_size=1)
    points = Points(np.ones((3, 2)), np.array([0, 1, 0]))
    with pytest.raises(ValueError, match=r"variances of at least 0, got -1\.0"):
        factor_vae_score(points, points, [1, -1])
    with pytest.raises(ValueError, match="NaN or infinite codes in 1 of 1"):
        factor_vae_score(points, points, [1, np.nan])


def test_codes_that_single_precision_cannot_hold_are_refused_by_every_classifier():
    codes, labels = np.arange(12.0).reshape(6, 2), np.arange(6)[:, None] % 2
    for metric in (dci, sap, explicitness, logistic_regression, boosted_trees):
        with pytest.raises(ValueError, match=r"codes of at most 3\.4e\+38, got larger ones in 5 of 6 samples"):
            metric(codes * 1e39 * (codes > 1), labels, codes, labels)


def test_the_efficiency_of_what_predicts_nothing_is_no_error():
    def of(value):
        return Accuracy(np.zeros(2), np.full(2, value))

    assert efficiency({100: of(0.5), 10000: of(0.0)}) == math.inf
    assert math.isnan(efficiency({100: of(0.0), 10000: of(0.0)}))
    assert efficiency({100: of(0.0), 10000: of(0.5)}) == 0
