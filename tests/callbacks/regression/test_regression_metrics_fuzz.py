"""Figures of regression for whatever comes in: scipy and quadrature in float64, invariants, ties, extremes."""

import math

import numpy as np
import pytest
import torch
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st
from regression_toys import Histogram
from scipy import stats
from torch.distributions import (
    Categorical,
    Exponential,
    Gamma,
    Gumbel,
    HalfNormal,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    Normal,
    Pareto,
    Uniform,
    Weibull,
)

from callbacks.regression import metrics
from callbacks.regression.predictive import predictive_distribution, recalibrated
from callbacks.regression.quadrature import GRID

NUMBER = st.one_of(st.floats(-20, 20, width=32), st.sampled_from([0.0, 1e-30, 1e4, -1e4, 1e30, -1e30]))
SCALE = st.one_of(st.floats(0.125, 20, width=32), st.sampled_from([1e-45, 1e-30, 1e-4, 1e4, 1e30]))
LABEL = st.floats(-20, 20, width=32)
LEVELS = torch.tensor([0.01, 0.25, 0.5, 0.9, 0.99], dtype=torch.float64)
TWENTIETHS = st.integers(0, 20).map(lambda value: value / 20)  # many ties, and on the edges of bins
PIT = st.lists(st.one_of(TWENTIETHS, st.floats(0, 1), st.sampled_from([1e-300, 1 - 2**-53])), min_size=1, max_size=30)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def crps_by_quadrature(cdf, label, breaks):
    """∫ (F - 1{t >= y})² dt by 20 Gauss points in each eighth between two breaks, of which the label is one."""
    edges = np.unique([label, *breaks])
    edges = np.interp(np.arange(8 * len(edges) - 7) / 8, np.arange(len(edges)), edges)
    points, weights = np.polynomial.legendre.leggauss(20)
    width = np.diff(edges)[:, None] / 2
    places = edges[:-1, None] + width * (1 + points)
    return float((width * weights * (cdf(places) - (edges[:-1, None] >= label)) ** 2).sum())


@given(NUMBER, SCALE, NUMBER)
def test_the_crps_of_one_normal_or_laplace_of_any_size_is_between_its_bounds(mean, scale, label):
    distance = abs(label - mean)
    normal = metrics.crps_normal(double(mean), double(scale), double(label)).item()
    laplace = metrics.crps_laplace(double(mean), double(scale), double(label)).item()
    mixture = metrics.crps_normal_mixture(double([1.0]), double([mean]), double([scale]), double(label)).item()
    assert mixture == pytest.approx(normal, rel=1e-12)
    # E|X - y| - E|X - X'| / 2, between |y - mean| less half of the mean distance of two draws and plus that of one
    assert distance - scale / math.sqrt(math.pi) - 1e-12 * distance <= normal <= distance + 0.24 * scale
    assert distance - 0.75 * scale - 1e-12 * distance <= laplace <= distance + 0.25 * scale
    assert normal >= 0.2336 * scale
    assert laplace >= 0.2499 * scale


@given(st.floats(-4, 4), st.floats(0.2, 4), st.floats(-6, 6))
def test_closed_forms_are_the_integral_of_the_squared_difference_of_distribution_functions(mean, scale, label):
    y = double(label)
    for found, reference in (
        (metrics.crps_normal(double(mean), double(scale), y), stats.norm(mean, scale)),
        (metrics.crps_laplace(double(mean), double(scale), y), stats.laplace(mean, scale)),
    ):
        expected = crps_by_quadrature(reference.cdf, label, [mean + scale * away for away in (-40, -8, 0, 8, 40)])
        assert found.item() == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.tuples(st.floats(0.01, 1), NUMBER, SCALE), min_size=1, max_size=4), NUMBER)
def test_the_crps_of_a_mixture_knows_no_order_and_no_repetition_of_its_parts(parts, label):
    weights, means, deviations = double(*parts).T[:, None]
    weights = weights / weights.sum()
    found = metrics.crps_normal_mixture(weights, means, deviations, double(label)).item()
    size = 1e-12 * (means - label).abs().max().item()
    assert math.isfinite(found)
    assert found >= -size
    turned = [part.flip(1) for part in (weights, means, deviations)]
    assert metrics.crps_normal_mixture(*turned, double(label)).item() == pytest.approx(found, rel=1e-9, abs=size)
    twice = [part.repeat(1, 2) for part in (weights / 2, means, deviations)]
    assert metrics.crps_normal_mixture(*twice, double(label)).item() == pytest.approx(found, rel=1e-9, abs=size)


def test_a_distribution_without_a_width_has_the_absolute_error_for_its_crps():
    for deviation in (0.0, 5e-324, 1e-310, 1e-200):
        mean, scale, y = double(2.0, 2.0), double(deviation, deviation), double(2.0, -1.0)
        assert metrics.crps_normal(mean, scale, y).tolist() == pytest.approx([0, 3], abs=1e-199)
        mixture = metrics.crps_normal_mixture(torch.ones(2, 1).double(), mean[:, None], scale[:, None], y)
        assert mixture.tolist() == pytest.approx([0.233695 * deviation, 3], rel=1e-5, abs=1e-318)


def a_normal(location, scale):
    return Normal(location, scale), stats.norm(location.item(), scale.item())


def a_laplace(location, scale):
    return Laplace(location, scale), stats.laplace(location.item(), scale.item())


def a_gumbel(location, scale):
    return Gumbel(location, scale), stats.gumbel_r(location.item(), scale.item())


def a_log_normal(location, scale):
    location, scale = location / 10, scale / 4
    return LogNormal(location, scale), stats.lognorm(scale.item(), scale=math.exp(location.item()))


def a_gamma(location, scale):
    return Gamma(scale + 0.5, scale), stats.gamma(scale.item() + 0.5, scale=1 / scale.item())


def a_weibull(location, scale):
    return Weibull(scale, scale + 0.5), stats.weibull_min(scale.item() + 0.5, scale=scale.item())


def an_exponential(location, scale):
    return Exponential(scale), stats.expon(scale=1 / scale.item())


def a_half_normal(location, scale):
    return HalfNormal(scale), stats.halfnorm(scale=scale.item())


def a_pareto(location, scale):
    return Pareto(scale, scale + 2.5), stats.pareto(scale.item() + 2.5, scale=scale.item())


def a_uniform(location, scale):
    return Uniform(location, location + scale), stats.uniform(location.item(), scale.item())


@pytest.mark.parametrize("family", [a_normal, a_laplace])
@given(location=st.floats(-20, 20), scale=st.floats(0.01, 8), label=LABEL)
def test_families_known_by_their_parameters_are_those_of_scipy(family, location, scale, label):
    distribution, reference = family(double(location), double(scale))
    check(distribution, reference, label, 1e-9)


OTHERS = [
    a_gumbel, a_log_normal, a_gamma, a_weibull, an_exponential, a_half_normal, a_pareto, a_uniform
]  # fmt: skip


@examples(4)
@pytest.mark.parametrize("family", OTHERS)
@given(location=st.floats(-20, 20), scale=st.floats(0.25, 8), label=LABEL)
def test_families_known_by_their_distribution_function_are_those_of_scipy(family, location, scale, label):
    distribution, reference = family(double(location), double(scale))
    check(distribution, reference, label, 1e-6)


def check(distribution, reference, label, digits):
    """One distribution against scipy's: moments, distribution function, quantiles, density, CRPS."""
    predicted, y = predictive_distribution(distribution, 1), double(label)
    scale = reference.std()
    assert predicted.mean.item() == pytest.approx(reference.mean(), rel=digits, abs=digits * scale)
    assert predicted.deviation.item() == pytest.approx(scale, rel=digits)
    assert predicted.cdf(y[:, None]).item() == pytest.approx(reference.cdf(label), rel=1e-9, abs=1e-13)
    if (density := reference.logpdf(label)) > -700 and label not in reference.support():
        assert predicted.log_prob(y).item() == pytest.approx(density, rel=1e-9, abs=1e-9)
    quantiles = reference.ppf(LEVELS.numpy())
    assert predicted.icdf(LEVELS)[0] == pytest.approx(quantiles, rel=1e-8, abs=1e-8 * scale)
    tails = 10.0 ** -np.arange(1, 14)
    expected = crps_by_quadrature(reference.cdf, label, [*reference.ppf(tails), *reference.isf(tails)])
    assert predicted.crps(y).item() == pytest.approx(expected, rel=1e-5)


@st.composite
def histograms(draw):
    """Edges (1, k + 1), probabilities (1, k) and labels (1,), of which some are on an edge."""
    widths = draw(st.lists(st.one_of(st.floats(0.01, 5), st.sampled_from([1e-12, 1e12])), min_size=1, max_size=7))
    weights = draw(st.lists(st.sampled_from([0.0, 1e-30, 0.5, 1.0]), min_size=len(widths), max_size=len(widths)))
    edges = double(0.0, *np.cumsum(widths)) + draw(st.floats(-10, 10))
    probabilities = double(*weights) if sum(weights) else torch.ones(len(widths)).double()
    label = draw(st.one_of(st.sampled_from(edges.tolist()), st.floats(-30, 30)))
    return edges[None], (probabilities / probabilities.sum())[None], double(label)


@given(histograms())
def test_a_histogram_with_empty_and_tiny_bins_is_that_of_numpy(case):
    edges, probabilities, label = case
    if not bool((edges.diff(dim=1) > 0).all()):  # a tiny bin beside a huge edge is lost in its rounding
        return
    predicted, heights = predictive_distribution(Histogram(edges[0], probabilities), 1), probabilities[0].numpy()
    cumulated = np.r_[0, np.cumsum(heights)]
    y, places = label.item(), edges[0].numpy()
    assert predicted.cdf(label[:, None]).item() == pytest.approx(np.interp(y, places, cumulated), abs=1e-12)
    centres = (places[1:] + places[:-1]) / 2
    size = np.abs(places).max()
    assert predicted.mean.item() == pytest.approx(heights @ centres, rel=1e-12, abs=1e-14 * size)
    inside = np.searchsorted(places, y, side="right") - 1
    inside = len(heights) - 1 if y == places[-1] else inside
    density = heights[inside] / np.diff(places)[inside] if 0 <= inside < len(heights) else 0.0
    assert predicted.log_prob(label).exp().item() == pytest.approx(density, rel=1e-9)
    values = predicted.cdf(predicted.icdf(LEVELS))[0]
    assert values == pytest.approx(LEVELS.numpy(), abs=1e-9 + 1e-14 * size / np.diff(places).min())
    # of each bin the integral of a parabola, by its values at three points
    lows, highs = np.r_[min(y, places[0]), places], np.r_[places, max(y, places[-1])]
    expected = 0.0
    for low, high in zip(lows, highs, strict=True):
        for a, b in ((low, min(high, y)), (max(low, y), high)):
            points = np.array([a, (a + b) / 2, b])
            square = (np.interp(points, places, cumulated) - (a >= y)) ** 2
            expected += max(b - a, 0) * (square @ [1, 4, 1]) / 6
    assert predicted.crps(label).item() == pytest.approx(expected, rel=1e-9, abs=1e-13 * size)


@examples(10)
@given(st.lists(st.tuples(st.floats(0.05, 1), LABEL, st.floats(0.05, 9)), min_size=1, max_size=3), LABEL, PIT)
def test_a_recalibrated_mixture_is_the_mapped_distribution_function_everywhere(parts, label, pit):
    weights, means, deviations = double(*parts).T[:, None]
    mixture = MixtureSameFamily(Categorical(weights), Normal(means, deviations))
    predicted, fit = predictive_distribution(mixture, 1), metrics.fit_recalibration(double(*pit))
    after, y = recalibrated(predicted, fit), double(label)
    assert torch.equal(after.cdf(y[:, None]), fit(predicted.cdf(y[:, None])))
    found = after.cdf(after.icdf(LEVELS))[0]
    steep = fit.slope(fit.inverse(LEVELS)).max().item()
    assert found == pytest.approx(LEVELS.numpy(), abs=1e-9 + 1e-12 * steep)
    assert (after.icdf(LEVELS).diff() >= 0).all()
    deep = double(*(2.0**-power for power in range(1, 54)))  # as far as the map knows quantiles
    known = predicted.icdf(torch.cat([fit.pit[1:-1], deep, 1 - deep, GRID]))[0]
    beyond = double(*np.linspace(0.1, 3, 10)) * deviations.max()
    kinks = torch.cat([known, known.min() - beyond, known.max() + beyond]).tolist()

    def cdf(places):
        return after.cdf(torch.from_numpy(places).reshape(1, -1)).numpy().reshape(places.shape)

    assert after.crps(y).item() == pytest.approx(crps_by_quadrature(cdf, label, kinks), rel=1e-5, abs=1e-8)
    assert after.deviation.item() >= 0


@given(PIT, st.randoms(use_true_random=False))
def test_coverage_and_counts_are_those_of_a_loop_and_know_no_order(pit, random):
    levels = double(*(value / 20 for value in range(21)))
    found = metrics.quantile_coverage(double(*pit), levels)
    assert found.tolist() == [sum(value <= level for value in pit) / len(pit) for level in levels.tolist()]
    for bins in (1, 7, 20, 49):
        # k / bins as a float is the edge, and belongs to the bin above it
        expected = [sum(k / bins <= v < (k + 1) / bins or v == 1 == (k + 1) / bins for v in pit) for k in range(bins)]
        assert metrics.pit_histogram(double(*pit), bins) == expected
    shuffled = random.sample(pit, len(pit))
    assert torch.equal(metrics.quantile_coverage(double(*shuffled), levels), found)
    assert torch.equal(metrics.quantile_coverage(double(*pit, *pit), levels), found)
    mean, squared = metrics.quantile_calibration_error(found, levels)
    assert 0 <= mean**2 - 1e-15 <= squared + 1e-15 <= mean + 2e-15 <= 1 + 3e-15


@given(st.integers(1, 500))
def test_a_value_on_each_edge_is_in_the_bin_above_it_however_many_there_are(bins):
    assert metrics.pit_histogram(double(*(k / bins for k in range(bins))), bins) == [1] * bins


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@given(pit=PIT)
def test_pit_values_in_half_precision_are_the_numbers_that_they_are(dtype, pit):
    half = double(*pit).to(dtype)
    assert torch.equal(metrics.quantile_coverage(half), metrics.quantile_coverage(half.double()))
    assert metrics.pit_histogram(half, 20) == metrics.pit_histogram(half.double(), 20)
    assert torch.equal(metrics.fit_recalibration(half).level, metrics.fit_recalibration(half.double()).level)


@given(PIT)
@example([0.0, 0.0, 0.0, 0.0, 0.05, 0.1, 0.15, 0.25, 0.3])  # more values than knots, and none in the middle
def test_the_map_ascends_from_0_to_1_with_ties_too_and_that_of_mirrored_values_is_mirrored(pit):
    fit = metrics.fit_recalibration(double(*pit))
    assert (fit.pit[0], fit.level[0], fit.pit[-1], fit.level[-1]) == (0, 0, 1, 1)
    assert bool((fit.pit.diff() > 0).all())
    assert bool((fit.level.diff() > 0).all())
    points = double(*(value / 16 for value in range(17)))
    assert bool((fit(points).diff() > 0).all())
    assert bool(fit.slope(points).isfinite().all())
    if all(value == 0 or value == 1 or 1e-6 < value < 1 - 1e-6 for value in pit):
        mirrored = metrics.fit_recalibration(1 - double(*pit))
        assert mirrored(1 - points) == pytest.approx((1 - fit(points)).numpy(), abs=1e-9)


@given(st.floats(0.01, 0.99), st.integers(1, 200))
def test_labels_that_all_have_one_pit_value_are_put_in_the_middle_and_not_to_one_side(value, number):
    fit = metrics.fit_recalibration(double(*[value] * number))
    assert fit(double(value)).item() == pytest.approx(0.5, abs=1e-12)


@given(st.lists(st.tuples(LABEL, st.floats(0, 9), LABEL), min_size=1, max_size=9), st.floats(0.01, 0.99))
def test_the_interval_score_is_that_of_a_loop_and_moves_with_the_labels(rows, level):
    low, width, y = double(*rows).T
    high = low + width
    expected = [
        h - a + 2 / (1 - level) * max(a - v, v - h, 0)
        for a, h, v in zip(low.tolist(), high.tolist(), y.tolist(), strict=True)
    ]
    assert metrics.interval_score(low, high, y, level).tolist() == pytest.approx(expected, rel=1e-12)
    mirrored = metrics.interval_score(-high, -low, -y, level)
    assert mirrored.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_what_is_no_pit_value_is_refused(value):
    pit = double(0.5, value)
    for figure in (metrics.quantile_coverage, metrics.fit_recalibration, lambda pit: metrics.pit_histogram(pit, 4)):
        with pytest.raises(ValueError, match=r"PIT values in \[0, 1\], got 1 of 2 that are NaN or outside"):
            figure(pit)
        with pytest.raises(ValueError, match="expected at least one label, got none"):
            figure(pit[:0])


def test_a_level_that_no_interval_can_have_is_refused():
    one = torch.ones(1)
    for level in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"a level in \(0, 1\), got"):
            metrics.interval_score(-one, one, one, level)


@pytest.mark.parametrize("shape", [(3, 3), (4, 4), (2,), (1, 2), (4, 3, 1)])
def test_edges_of_a_histogram_that_fit_neither_one_row_nor_each_are_refused(shape):
    edges = torch.arange(math.prod(shape)).reshape(shape).double()
    with pytest.raises(ValueError, match=r"expected edges \(k \+ 1,\) or \(B, k \+ 1\) and probs \(B, k\)"):
        predictive_distribution(Histogram(edges, torch.full((4, 2), 0.5)), 4)
