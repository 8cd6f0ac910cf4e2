"""Metrics of disentanglement for whatever codes and factors come in: brute force, invariants, ties, extremes, none."""

import math
from collections import Counter

import numpy as np
import pytest
from examples import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import entropy, spearmanr
from sklearn.metrics import mutual_info_score

from callbacks.disentanglement import (
    code_mutual_information,
    completeness_of_importance,
    correlation_of_covariance,
    discretise,
    disentanglement_of_importance,
    enough_bins,
    entropies,
    gaussian_correlation,
    irs,
    kl_per_latent,
    mig,
    mig_of_matrix,
    modularity,
    modularity_of_matrix,
    mutual_information_matrix,
    sap_continuous,
    sap_of_matrix,
    similarity_score,
    spearman_similarity,
    udr,
)

BINS = 5
KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool", "float16", "float32")
VALUE = st.one_of(st.integers(-3, 3).map(float), st.floats(-9, 9, width=16), st.sampled_from([1e-45, 1e-30, 1e30]))


def table(values, rows, columns):
    row = st.lists(values, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(np.array)


@st.composite
def codes_and_factors(draw, values=VALUE, fewest=BINS):
    """Codes (n, L), a constant latent among them at times, and factors (n, K) of any type, of which one varies."""
    rows, latents, factors = draw(st.integers(fewest, 20)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    codes = draw(table(values, rows, latents))
    if draw(st.booleans()):
        codes[:, -1] = draw(st.sampled_from([0.0, 0.1, 0.3, 1e17, -1e30]))
    labels = draw(table(st.integers(0, 3), rows, factors))
    labels[:2, 0] = [0, 1]
    return codes, labels.astype(draw(st.sampled_from(KINDS)))


@st.composite
def matrices(draw, values=st.one_of(st.just(0.0), st.floats(1e-3, 1))):  # noqa: B008  # a strategy is a constant
    return draw(table(values, draw(st.integers(1, 4)), draw(st.integers(1, 4))))


def plug_in(first, second):
    """Mutual information by the definition, from a count of all pairs."""
    rows = len(first)
    joint, left, right = Counter(zip(first, second, strict=True)), Counter(first), Counter(second)
    return math.fsum(n / rows * math.log(n * rows / (left[a] * right[b])) for (a, b), n in joint.items())


@given(codes_and_factors())
def test_information_and_entropy_are_those_of_a_count_and_of_scikit_learn(case):
    codes, factors = case
    binned, whole = discretise(codes, BINS), factors.astype(int)
    found = mutual_information_matrix(binned, factors)
    corrected = mutual_information_matrix(binned, factors, corrected=True)
    for a, first in enumerate(binned.T.tolist()):
        for b, second in enumerate(whole.T.tolist()):
            expected = plug_in(first, second)
            assert found[a, b] == pytest.approx(expected, abs=2e-12)
            assert found[a, b] == pytest.approx(mutual_info_score(first, second), abs=2e-12)
            cells = len(set(first)) + len(set(second)) - len(set(zip(first, second, strict=True))) - 1
            assert corrected[a, b] == pytest.approx(max(expected + cells / (2 * len(first)), 0), abs=2e-12)
    heights = [entropy(np.unique(column, return_counts=True)[1]) for column in whole.T]
    assert entropies(factors) == pytest.approx(np.array(heights), abs=1e-12)
    more = [(len(np.unique(column)) - 1) / (2 * len(whole)) for column in whole.T]
    assert entropies(factors, corrected=True) == pytest.approx(np.array(heights) + more, abs=1e-12)
    assert (found <= np.array(heights) + 1e-12).all()


def test_columns_of_ten_thousand_values_need_no_table_of_all_pairs():
    values = np.random.default_rng(0).permutation(10_000)[:, None]  # a table of counts would take 800 MB
    assert mutual_information_matrix(values, 3 * values - 7)[0, 0] == pytest.approx(math.log(10_000))


@given(table(st.integers(-(2**63), 2**63 - 1), 12, 2))
def test_whole_numbers_of_any_size_are_counted_by_their_value(values):
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in values.T], 1)
    assert (mutual_information_matrix(values, values) == mutual_information_matrix(ranks, ranks)).all()
    assert (entropies(values) == entropies(ranks)).all()
    assert enough_bins(values, 2) == max(2, ranks.max() + 1)


@given(codes_and_factors())
def test_bins_have_equal_widths_whatever_the_range_is(case):
    codes, _ = case
    found = discretise(codes, BINS)
    assert found.min() >= 0
    assert found.max() < BINS
    for column, places in zip(codes.T, found.T, strict=True):
        low, high = float(column.min()), float(column.max())
        if low == high:
            assert len(set(places)) == 1
            continue
        assert places[column.argmax()] == BINS - 1
        assert places[column.argmin()] == 0 or high - low < 1e-15 * max(abs(low), abs(high))
        assert (np.diff(places[np.argsort(column, kind="stable")]) >= 0).all()
        shares = (column - low) / (high - low) * BINS
        inside = np.abs(shares - shares.round()) > 1e-6  # away from the edges, on which rounding decides
        assert (places[inside] == np.floor(shares[inside])).all()


SCORES = {
    "mig": lambda codes, factors: mig(codes, factors, BINS),
    "corrected MIG": lambda codes, factors: mig(codes, factors, BINS, corrected=True),
    "modularity": lambda codes, factors: modularity(codes, factors, BINS),
    "corrected modularity": lambda codes, factors: modularity(codes, factors, BINS, corrected=True),
    "continuous SAP": lambda codes, factors: sap_continuous(codes, factors).score,
    "IRS": lambda codes, factors: irs(codes, factors, bins=None).score,
    "binned IRS": lambda codes, factors: irs(codes, factors, bins=BINS).score,
    "mutual information of the codes": lambda codes, factors: code_mutual_information(codes, BINS),
}


@pytest.mark.parametrize("name", SCORES)
@examples(20)
@given(case=codes_and_factors(), random=st.randoms(use_true_random=False))
def test_scores_of_any_codes_are_in_range_and_know_no_order_of_samples_latents_or_factors(name, case, random):
    score, (codes, factors) = SCORES[name], case
    found = score(codes, factors)
    assert math.isfinite(found)
    if "codes" not in name:
        assert found <= 1 + 1e-12
    if "IRS" not in name:
        assert found >= 0
    orders = [random.sample(range(size), size) for size in (len(codes), codes.shape[1], factors.shape[1])]
    again = score(codes[orders[0]][:, orders[1]], factors[orders[0]][:, orders[2]])
    assert again == pytest.approx(found, rel=1e-6, abs=1e-9)
    dull = np.full((len(factors), 1), 1, factors.dtype)
    assert score(codes, np.hstack([factors, dull])) == found
    if "IRS" not in name and "codes" not in name and "correct" not in name:
        assert score(np.tile(codes, (2, 1)), np.tile(factors, (2, 1))) == pytest.approx(found, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in SCORES if "SAP" not in name])
@examples(20)
@given(case=codes_and_factors(st.integers(-8, 8).map(float)), scale=st.sampled_from([2.0**-90, 2.0**-3, 2.0**90]))
def test_scores_do_not_depend_on_the_unit_of_the_codes(name, case, scale):
    codes, factors = case
    codes[:, -1] = np.where(np.abs(codes[:, -1]) > 100, 0, codes[:, -1])
    assert SCORES[name](codes * scale, factors) == pytest.approx(SCORES[name](codes, factors), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["mig", "corrected MIG", "modularity", "corrected modularity", "IRS"])
@examples(20)
@given(case=codes_and_factors(), names=st.permutations([-7, 0, 3, 120]))
def test_scores_of_classes_do_not_depend_on_the_names_of_the_values(name, case, names):
    codes, factors = case
    renamed = np.array(names)[factors.astype(int)]
    assert SCORES[name](codes, renamed) == pytest.approx(SCORES[name](codes, factors), rel=1e-9, abs=1e-12)


@given(codes_and_factors(), st.floats(0.01, 1))
def test_robustness_is_that_of_a_loop(case, quantile):
    codes, factors = case
    found = irs(codes, factors, quantile, bins=None)
    scores, weights = [], []
    for z in codes.T:
        largest = max(abs(value - z.mean()) for value in z)
        if z.max() == z.min():
            continue
        parts = []
        for column in factors.T:
            if len(set(column.tolist())) > 1:
                groups = [z[column == value] for value in set(column.tolist())]
                parts.append(1 - np.mean([np.quantile(abs(g - g.mean()), quantile) for g in groups]) / largest)
        scores.append(max(parts))
        weights.append(largest)
    assert found.num_active == len(scores)
    expected = sum(s * w for s, w in zip(scores, weights, strict=True)) / sum(weights) if scores else 0
    assert found.score == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_robustness_may_be_negative_as_its_docstring_says():
    codes = np.r_[np.ones(49), -1, -np.ones(49), 1][:, None]
    assert -0.05 < irs(codes, np.repeat([0, 1], 50)[:, None]).score < 0


@given(matrices(), st.randoms(use_true_random=False), st.sampled_from([1e-170, 1e-3, 1e3, 1e170]))
def test_scores_of_a_matrix_are_those_of_a_loop_and_know_no_order(matrix, random, scale):
    rows, columns = matrix.shape
    best = [sorted([0, *column], reverse=True) for column in matrix.T.tolist()]
    gaps = [first - second for first, second in (values[:2] for values in best)]
    assert sap_of_matrix(matrix) == pytest.approx(np.mean(gaps))
    heights = [random.choice([0.5, 2.0]) for _ in range(columns)]
    assert mig_of_matrix(matrix, heights) == pytest.approx(np.mean([g / h for g, h in zip(gaps, heights, strict=True)]))
    parts = []
    for row in matrix.tolist():
        most = max(row)
        rest = sum(value**2 for value in row) - most**2
        parts.append(1 - rest / (most**2 * max(columns - 1, 1)) if most else 0)
    assert modularity_of_matrix(matrix) == pytest.approx(np.mean(parts), abs=1e-12)
    order = [random.sample(range(size), size) for size in matrix.shape]
    shuffled = matrix[order[0]][:, order[1]]
    for score in (modularity_of_matrix, sap_of_matrix, disentanglement_of_importance, completeness_of_importance):
        assert score(shuffled) == pytest.approx(score(matrix), abs=1e-12)
        assert -1e-9 <= score(matrix) <= 1 + 1e-12
    assert modularity_of_matrix(matrix * scale) == pytest.approx(modularity_of_matrix(matrix), abs=1e-12)
    assert modularity_of_matrix(matrix * scale, weighted=True) == pytest.approx(
        modularity_of_matrix(matrix, weighted=True), abs=1e-12
    )
    assert similarity_score(shuffled) == pytest.approx(similarity_score(matrix))
    assert similarity_score(matrix.T) == pytest.approx(similarity_score(matrix))
    assert similarity_score(np.eye(rows)) == 1
    total = matrix.sum()
    if total and columns > 1:
        shares = [(1 - entropy(row) / math.log(columns)) * sum(row) / total for row in matrix if sum(row)]
        assert disentanglement_of_importance(matrix) == pytest.approx(sum(shares), abs=1e-6)


# ---------------------------------------------------------------- without factors


@given(table(st.integers(-8, 8).map(float), 12, 3), st.sampled_from([2.0**-90, 1.0, 2.0**60]), st.booleans())
def test_correlation_is_that_of_the_matrix_root_in_scipy_whatever_the_unit_and_dead_latents_are(codes, scale, dead):
    covariance = np.cov(codes, rowvar=False)
    assume(np.linalg.eigvalsh(covariance)[0] > 1e-3)
    beside = np.hstack([codes, np.full((12, 2), [0.1, 0.3])]) if dead else codes
    found = gaussian_correlation(beside * scale)
    variance = np.diag(covariance)
    expected = (np.log(variance).sum() - np.linalg.slogdet(covariance)[1]) / 2
    assert found.total_correlation == pytest.approx(expected, abs=1e-9)
    root = np.diag(np.sqrt(variance))
    distance = 2 * np.trace(covariance) - 2 * np.trace(sqrtm(root @ covariance @ root)).real
    assert found.wasserstein == pytest.approx(max(distance, 0) * scale**2, abs=1e-7 * scale**2)
    assert found.wasserstein_normalised == pytest.approx(max(distance, 0) / variance.sum(), abs=1e-9)
    again = gaussian_correlation(beside[::-1, ::-1] * scale)
    assert again == pytest.approx(found, rel=1e-9, abs=1e-9 * max(1, scale**2))


@given(codes_and_factors())
def test_correlation_of_any_codes_is_at_least_0_and_of_equal_latents_infinite(case):
    codes, _ = case
    found = gaussian_correlation(codes)
    assert found.total_correlation >= 0
    assert 0 <= found.wasserstein_normalised <= 2
    assert found.wasserstein >= 0
    if (np.ptp(codes, axis=0) > 0).any():
        assert gaussian_correlation(np.hstack([codes, codes])).total_correlation == math.inf


@given(table(st.floats(-9, 9), 4, 2), table(st.one_of(st.floats(1e-3, 9), st.sampled_from([1e-45, 1.0])), 4, 2))
def test_the_divergence_from_the_prior_is_the_formula_and_never_negative(mean, deviation):
    found = kl_per_latent(mean, deviation)
    expected = (mean**2 + deviation**2 - 2 * np.log(deviation) - 1) / 2
    assert found == pytest.approx(expected.mean(0), rel=1e-12, abs=1e-15)
    assert (found >= 0).all()


@given(st.floats(-1e-4, 1e-4))
def test_the_divergence_of_what_is_all_but_the_prior_is_not_lost_in_rounding(small):
    assume(abs(small) > 1e-10)
    exact = small**2 - small**3 / 3  # the series of ((1 + s)² - 2 ln (1 + s) - 1) / 2
    assert kl_per_latent([[0.0]], [[1 + small]])[0] == pytest.approx(exact, rel=1e-5, abs=abs(small) * 4e-16)


@given(table(VALUE, 9, 3), table(VALUE, 9, 2))
def test_rank_correlations_are_those_of_scipy_with_ties_and_constants(first, second):
    found = spearman_similarity(first, second)
    for a, x in enumerate(first.T):
        for b, y in enumerate(second.T):
            constant = len(set(x)) == 1 or len(set(y)) == 1
            expected = 0 if constant else abs(spearmanr(x, y).statistic)
            assert found[a, b] == pytest.approx(expected, abs=1e-12)


@given(
    st.lists(table(st.floats(-9, 9, width=16), 8, 3), min_size=2, max_size=3), st.permutations(range(3)), st.booleans()
)
def test_the_ranking_knows_no_order_of_models_and_latents_no_unit_and_no_dead_latent(codes, order, spearman):
    kl = [[1.0, 0.5, 2.0]] * len(codes)
    found = udr(codes, kl, spearman)
    assert ((found.scores >= 0) & (found.scores <= 1 + 1e-9)).all() or not spearman
    turned = [4 * table[:, order] + 1 for table in codes]
    again = udr(turned[::-1], kl, spearman)
    # the lasso stops within its tolerance
    assert again.scores[::-1] == pytest.approx(found.scores, abs=1e-9 if spearman else 1e-2)
    dead = [np.hstack([table, np.full((8, 1), 0.3)]) for table in codes]
    with_dead = udr(dead, [[*divergence, 0.0] for divergence in kl], spearman)
    assert with_dead.scores == pytest.approx(found.scores, abs=1e-12)


# ---------------------------------------------------------------- what has no score


@pytest.mark.parametrize("score", SCORES.values(), ids=list(SCORES))
def test_codes_and_factors_that_have_no_score_are_refused(score):
    codes, factors = np.arange(20.0).reshape(10, 2), np.arange(20).reshape(10, 2) % 3
    for value, message in (
        (np.nan, "NaN or infinite codes in 1 of 10"),
        (1e39, r"codes of at most 3\.4e\+38, got larger"),
    ):
        broken = codes.copy()
        broken[3, 1] = value
        with pytest.raises(ValueError, match=message):
            score(broken, factors)
    with pytest.raises(ValueError, match="at least 2 samples, got 0"):
        score(codes[:0], factors[:0])
    if score is SCORES["mutual information of the codes"]:
        return
    for wrong in (factors + 0.5, factors * np.nan, factors * 1e30, factors.astype(np.uint64) + 2**63):
        with pytest.raises(ValueError, match="expected factors that are integers, got "):
            score(codes, wrong)


def test_tables_without_a_row_and_covariances_that_are_none_are_refused():
    empty = np.zeros((0, 2), int)
    for of in (entropies, enough_bins, lambda values: mutual_information_matrix(values, values)):
        with pytest.raises(ValueError, match="expected at least one sample, got none"):
            of(empty)
        with pytest.raises(ValueError, match=r"expected factors of shape \(1, factors\), got \(\)"):
            of(5)
    for wrong in ([[np.nan, 0], [0, 1]], [[1.0, 0.5]], 1.0, [[1.0, np.inf], [np.inf, 1.0]]):
        with pytest.raises(ValueError, match=r"a covariance .* of finite numbers, got"):
            correlation_of_covariance(wrong)
    for wrong in ([[1.0, 0.5], [0.2, 1.0]], [[-1.0, 0.0], [0.0, 1.0]]):
        with pytest.raises(ValueError, match="a symmetric covariance with variances of at least 0"):
            correlation_of_covariance(wrong)
    for deviation in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="expected positive standard deviations"):
            kl_per_latent(np.zeros((2, 1)), np.full((2, 1), deviation))
    with pytest.raises(ValueError, match=r"a KL of each latent, got \[nan, 1\.0\]"):
        udr([np.eye(3)[:, :2]] * 2, [[np.nan, 1.0], [1.0, 1.0]])
