"""Mutual information, modularity, IRS, unsupervised scores and UDR; values of the sheet unless they say otherwise."""

import math

import numpy as np
import pytest
from disentanglement_toys import SPRITES, draw, noise, perfect, rotated
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import norm, spearmanr
from sklearn.linear_model import Lasso
from sklearn.metrics import mutual_info_score

from callbacks.disentanglement import (
    code_mutual_information,
    correlation_of_covariance,
    discretise,
    enough_bins,
    entropies,
    gaussian_correlation,
    irs,
    kl_per_latent,
    lasso_similarity,
    mig,
    mig_of_matrix,
    modularity,
    modularity_of_matrix,
    mutual_information_matrix,
    similarity_score,
    spearman_similarity,
    udr,
)

FACTORS = draw(10_000, 0)
MATRIX = np.array([[1, 0.2], [0.5, 0.9], [0.1, 0.1]])


def column(values):
    return np.array(values)[:, None]


def test_bins_have_equal_width_and_the_largest_value_is_in_the_last():
    assert discretise(column([1, 1, 2, 2, 3, 3]), 3)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert discretise(column([0, 1, 2, 3, 4]), 4)[:, 0].tolist() == [0, 1, 2, 3, 3], "an edge is in the bin above it"
    assert discretise(column(np.arange(40)))[:, 0].tolist() == [i // 2 for i in range(40)]
    counts = [2, 2, 1, 2, 1, 2, 1, 2, 1, 2, 2, 1, 2, 1, 2, 1, 2, 1, 2, 2]
    assert np.bincount(discretise(column(np.arange(32)))[:, 0]).tolist() == counts


def test_a_constant_latent_is_in_one_bin():
    assert len(set(discretise(column([0.3] * 25))[:, 0].tolist())) == 1


def test_bins_are_those_of_the_official_histogram():
    codes = noise(500, 3) * [1, 1e-6, 1e4]
    for latent, found in zip(codes.T, discretise(codes).T, strict=True):
        expected = np.digitize(latent, np.histogram(latent, 20)[1][:-1]) - 1
        np.testing.assert_array_equal(found, expected)


def test_information_by_hand():
    a, b = column([0, 0, 1, 1]), column([0, 1, 0, 1])
    np.testing.assert_allclose(mutual_information_matrix(a, np.hstack([a, b])), [[math.log(2), 0]], atol=1e-15)
    np.testing.assert_allclose(entropies(column([1, 1, 2, 2, 3, 3])), [math.log(3)])


def test_information_agrees_with_scikit_learn():
    codes = discretise(np.hstack([rotated(FACTORS[:2000]), noise(2000, 2), np.zeros((2000, 1))]))
    found = mutual_information_matrix(codes, FACTORS[:2000])
    expected = [[mutual_info_score(x, y) for y in FACTORS[:2000].T] for x in codes.T]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(entropies(FACTORS), [mutual_info_score(y, y) for y in FACTORS.T], atol=1e-12)


@given(st.integers(0, 2**31), st.integers(2, 60), st.booleans())
def test_information_is_symmetric_and_does_not_depend_on_the_names_of_values(seed, rows, corrected):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-3, 4, (rows, 2)), rng.integers(0, 9, (rows, 3))
    found = mutual_information_matrix(a, b, corrected)
    np.testing.assert_allclose(mutual_information_matrix(b, a, corrected).T, found, atol=1e-12)
    np.testing.assert_allclose(mutual_information_matrix(7 - 1000 * a, b, corrected), found, atol=1e-12)
    assert (found >= 0).all()


def test_corrected_information_has_no_bias_for_independent_variables_and_is_the_entropy_of_itself():
    # plug-in: (a - 1)(b - 1) / 2n, 0.037 nats for 20 bins and 40 values
    codes, factors = np.random.default_rng(0).integers(20, size=(10_000, 20)), FACTORS[:, [2]]
    plain = mutual_information_matrix(codes, factors)
    assert plain.mean() == pytest.approx(19 * 39 / 20_000, rel=0.05)
    spread = plain.std()
    difference = plain - 19 * 39 / 20_000
    np.testing.assert_allclose(mutual_information_matrix(codes, factors, True), np.maximum(difference, 0), atol=1e-12)
    assert mutual_information_matrix(codes, factors, True).mean() < spread
    itself = mutual_information_matrix(factors, factors, corrected=True)
    np.testing.assert_allclose(itself[0], entropies(factors, corrected=True), atol=1e-12)


def test_mig_by_hand():
    assert mig_of_matrix(MATRIX, np.log([3, 6])) == pytest.approx(0.422899, abs=1e-6)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (perfect(FACTORS), 0.8955),
        (np.hstack([perfect(FACTORS), 0.01 * noise(10_000, 5)]), 0.8954),
        (np.hstack([perfect(FACTORS), np.zeros((10_000, 5))]), 0.8955),
        (np.hstack([perfect(FACTORS)] * 2), 0.0),
        (noise(10_000, 10), 0.0002),
        (np.ones((10_000, 10)), 0.0),
    ],
    ids=["perfect", "noisy", "dead", "duplicated", "noise", "constant"],
)
def test_mig_of_known_codes(codes, expected):
    assert mig(codes, FACTORS) == pytest.approx(expected, abs=0.0015)


def test_mig_falls_where_an_orientation_is_two_latents_or_the_code_is_rotated():
    angle = 2 * np.pi * FACTORS[:, 2] / 39
    codes = perfect(FACTORS)
    parts = [codes[:, :2], np.cos(angle)[:, None], np.sin(angle)[:, None], codes[:, 3:]]
    assert mig(np.hstack(parts), FACTORS) == pytest.approx(0.743, abs=0.003)
    assert mig(rotated(FACTORS), FACTORS) < 0.35


def test_corrected_mig_reaches_one_for_a_perfect_code_and_zero_for_noise():
    bins = enough_bins(FACTORS)
    assert bins == 40
    assert mig(perfect(FACTORS), FACTORS, bins, corrected=True) == pytest.approx(1, abs=0.001)
    assert mig(np.hstack([perfect(FACTORS)] * 2), FACTORS, bins, corrected=True) == pytest.approx(0, abs=1e-12)
    assert mig(noise(10_000, 10), FACTORS, bins, corrected=True) < 0.002
    assert enough_bins(FACTORS[:, :2]) == 20


def test_an_entangled_code_with_the_same_marginals_loses_its_mig_while_total_correlation_sees_nothing():
    z = np.random.default_rng(0).uniform(size=(10_000, 2))
    factors = (z * 10).astype(int)
    turned = norm.cdf(norm.ppf(z) @ np.array([[1, 1], [1, -1]]) / math.sqrt(2))
    assert mig(z, factors) == pytest.approx(0.995, abs=0.003)
    assert mig(turned, factors) < 0.02  # an error of sampling of 0.006 around 0
    assert modularity(z, factors) > 0.999
    assert modularity(turned, factors) < 0.1
    assert gaussian_correlation(turned).total_correlation < 0.001


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.diag([1, 2, 3]), 1),
        (np.vstack([np.eye(2), np.zeros((1, 2))]), 2 / 3),
        (np.zeros((3, 4)), 0),
        (np.hstack([np.eye(5)] * 2), 8 / 9),
        (MATRIX, 0.550453),
    ],
)
def test_modularity_by_hand(matrix, expected):
    assert modularity_of_matrix(matrix) == pytest.approx(expected, abs=1e-6)


def test_modularity_of_known_codes_official_and_corrected():
    codes, bins = perfect(FACTORS), enough_bins(FACTORS)
    dead, noisy = np.zeros((10_000, 5)), 0.01 * noise(10_000, 5)
    assert modularity(codes, FACTORS) == pytest.approx(1, abs=1e-3)
    assert modularity(np.hstack([codes, dead]), FACTORS) == pytest.approx(0.5, abs=1e-3)
    assert modularity(np.hstack([codes, noisy]), FACTORS) == pytest.approx(0.82, abs=0.03)
    assert modularity(noise(10_000, 10), FACTORS) == pytest.approx(0.67, abs=0.03)
    for more in (dead, noisy):
        assert modularity(np.hstack([codes, more]), FACTORS, bins, corrected=True) > 0.998
    assert modularity(0 * codes, FACTORS, bins, corrected=True) == 0


def test_mutual_information_of_independent_codes_is_small_and_smaller_when_corrected():
    assert code_mutual_information(noise(10_000, 10)) == pytest.approx(0.015, abs=0.002)
    assert code_mutual_information(noise(10_000, 10), corrected=True) < 0.005
    assert code_mutual_information(noise(100, 1)) == 0


def test_irs_by_hand():
    codes = np.array([[0, 1], [0, 3], [2, 1], [2, 3]])
    found = irs(codes, column([0, 0, 1, 1]), quantile=1)
    np.testing.assert_allclose(found.per_latent, [1, 0])
    assert found.score == 0.5
    assert found.num_active == 2


def test_irs_of_known_codes():
    codes = perfect(FACTORS)
    assert irs(codes, FACTORS).score == pytest.approx(0.9856, abs=0.001)
    assert irs(codes, FACTORS, bins=None).score == pytest.approx(1, abs=1e-12)
    assert irs(noise(10_000, 10), FACTORS).score == pytest.approx(0.357, abs=0.02)
    found = irs(np.hstack([codes, np.ones((10_000, 2))]), FACTORS, bins=None)
    assert (found.score, found.num_active) == (pytest.approx(1), 5)
    assert found.per_latent[5:].tolist() == [0, 0]
    assert irs(np.ones((30, 2)), FACTORS[:30])[0] == 0


@pytest.mark.parametrize(
    ("covariance", "expected"),
    [
        (np.eye(3), (0, 0, 0)),
        ([[1, 0.9], [0.9, 1]], (0.830366, 0.610735, 0.305367)),
        ([[4, 1], [1, 1]], (0.143841, 0.216707, 0.043341)),
        ([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]], (0.346574, 0.304482, 0.101494)),
        ([[1, 1], [1, 1]], (math.inf, 4 - 2 * math.sqrt(2), 2 - math.sqrt(2))),
        (np.zeros((2, 2)), (0, 0, 0)),
    ],
)
def test_correlation_of_a_covariance_by_hand(covariance, expected):
    assert tuple(correlation_of_covariance(covariance)) == pytest.approx(expected, abs=1e-6)


def test_correlation_agrees_with_a_matrix_root_and_leaves_dead_latents_out():
    codes = noise(400, 4) @ noise(4, 4, seed=1)
    covariance = np.cov(codes, rowvar=False)
    root = np.real(sqrtm(np.diag(np.diag(covariance)) @ covariance))
    found = gaussian_correlation(codes)
    assert found.wasserstein == pytest.approx(2 * np.trace(covariance) - 2 * np.trace(root), abs=1e-8)
    expected = 0.5 * (np.log(np.diag(covariance)).sum() - np.linalg.slogdet(covariance)[1])
    assert found.total_correlation == pytest.approx(expected, abs=1e-10)
    assert gaussian_correlation(np.hstack([codes, np.full((400, 2), 3.0)])) == pytest.approx(found)
    assert gaussian_correlation(1e-20 * codes).total_correlation == pytest.approx(expected, abs=1e-8)
    assert gaussian_correlation(codes[:, [0, 1, 0]]).total_correlation == math.inf
    assert gaussian_correlation(noise(10_000, 10)).total_correlation == pytest.approx(0.0023, abs=0.002)
    assert tuple(gaussian_correlation(codes[:, :1])) == (0, 0, 0)


def test_kl_per_latent_by_hand():
    found = kl_per_latent(np.array([[1.0, -2]]), np.array([[1.0, 2]]))
    assert found.sum() == pytest.approx(3.306853, abs=1e-6)
    assert found[0] == 0.5


def test_similarity_score_by_hand():
    assert similarity_score(np.eye(4)[[2, 0, 1, 3]]) == 1
    assert similarity_score(np.ones((2, 2))) == 0.5
    assert similarity_score(np.array([[1.0, 0], [0, 0]])) == 0.5
    assert similarity_score(np.zeros((0, 3))) == 0


def test_similarities_agree_with_scipy_and_scikit_learn():
    first, second = noise(200, 3).round(1), noise(200, 2, seed=7).round(1) + noise(200, 2).round(1)
    expected = [[abs(spearmanr(x, y).statistic) for y in second.T] for x in first.T]
    np.testing.assert_allclose(spearman_similarity(first, second), expected, atol=1e-12)
    weights = [Lasso(alpha=0.1).fit(first, y).coef_ for y in second.T]
    np.testing.assert_allclose(lasso_similarity(first, second), np.abs(weights).T, atol=1e-8)
    assert (spearman_similarity(first * [1, 0, 1], second)[1] == 0).all()


@pytest.mark.parametrize("spearman", [False, True])
def test_udr_ranks_models_that_agree_up_to_order_and_sign_above_rotated_ones(spearman):
    factors = noise(1000, 4)
    turn, _ = np.linalg.qr(noise(4, 4, seed=2))
    dead = noise(1000, 1, seed=9)
    # the fifth latent is dead in all models: its KL says so
    models = [np.hstack([codes, dead]) for codes in (factors, -factors[:, ::-1], 3 * factors[:, [1, 0, 2, 3]])]
    models.append(np.hstack([factors @ turn, dead]))
    kl = [[1, 1, 1, 1, 0.001]] * 4
    found = udr(models, kl, spearman)
    assert (found.scores[:3] > 0.85).all()
    assert found.scores[3] < 0.65
    assert np.isnan(np.diag(found.pairwise)).all()
    assert udr(models[:2], [kl[0], [0] * 5], spearman).scores.tolist() == [0, 0]


def test_what_cannot_be_scored_is_refused_by_name():
    factors, codes = FACTORS[:100], noise(100, 3)
    broken = codes.copy()
    broken[3, 1] = np.nan
    broken[7] = np.inf
    for metric in (mig, modularity, irs):
        with pytest.raises(ValueError, match="NaN or infinite codes in 2 of 100 samples"):
            metric(broken, factors)
        with pytest.raises(ValueError, match="expected a factor with more than one value, got 5 constant factors"):
            metric(codes, 0 * factors)
        with pytest.raises(ValueError, match=r"expected factors of shape \(100, factors\), got \(99, 5\)"):
            metric(codes, factors[:99])
    with pytest.raises(ValueError, match="NaN or infinite codes"):
        gaussian_correlation(broken)
    with pytest.raises(ValueError, match=r"at least as many samples as bins \(20\), got 19"):
        mig(codes[:19], factors[:19])
    with pytest.raises(ValueError, match="factors that are integers"):
        mig(codes, factors + 0.5)
    with pytest.raises(ValueError, match=r"codes of shape \(n, latents\), got \(100,\)"):
        mig(codes[:, 0], factors)
    with pytest.raises(ValueError, match="at least 2 bins, got 1"):
        discretise(codes, 1)
    with pytest.raises(ValueError, match=r"quantile in \(0, 1\], got 99"):
        irs(codes, factors, quantile=99)
    with pytest.raises(ValueError, match="at least two models, got 1 and 1"):
        udr([codes], [[1, 1, 1]])
    with pytest.raises(ValueError, match=r"same images, got \[100, 50\] rows"):
        udr([codes, codes[:50]], [[1, 1, 1]] * 2)
    with pytest.raises(ValueError, match="one KL for each of 3 latents"):
        udr([codes, codes], [[1, 1]] * 2)


def test_one_latent_and_a_constant_factor_have_documented_results():
    factors, codes = FACTORS[:, :1], perfect(FACTORS)[:, :1]
    assert mig(codes, factors) == pytest.approx(1)
    assert modularity(codes, factors) == 1
    with_constant = np.hstack([FACTORS, np.full((10_000, 1), 4)])
    for metric in (mig, modularity, lambda *arguments: irs(*arguments).score):
        assert metric(perfect(FACTORS), with_constant) == metric(perfect(FACTORS), FACTORS)


def test_sizes_of_the_sheet():
    assert tuple(FACTORS.max(0) + 1) == SPRITES
