import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from regression_toys import Histogram, gumbel, histogram, laplace, mixture, normal
from scipy import integrate, stats
from sklearn.isotonic import IsotonicRegression
from torch.distributions import (
    AffineTransform,
    Gamma,
    LogNormal,
    MixtureSameFamily,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.categorical import Categorical

from callbacks.regression import metrics
from callbacks.regression.predictive import PredictiveDistribution, predictive_distribution, recalibrated

LEVELS = torch.tensor([0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975], dtype=torch.float64)
FAMILIES = {"normal": normal, "laplace": laplace, "mixture": mixture, "histogram": histogram, "gumbel": gumbel}
X = torch.tensor([[0.5, -1.0, 0.25], [1.0, 1.0, 0.5], [-1.0, 0.0, -0.5], [0.0, 0.75, -0.75]])
Y = torch.tensor([0.3, 9.0, -7.5, 0.0], dtype=torch.float64)
# of families whose distribution function is slow to integrate fewer rows: a label inside, and one far out
ROWS = dict.fromkeys(FAMILIES, 4) | {"mixture": 2, "gumbel": 2}
WARPED = metrics.Recalibration(
    torch.tensor([0.0, 0.05, 0.3, 0.6, 0.97, 1.0], dtype=torch.float64),
    torch.tensor([0.0, 0.12, 0.35, 0.5, 0.88, 1.0], dtype=torch.float64),
    100,
)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def crps_by_quadrature(cdf, label, low, high, breaks=()):
    """The definition: integral of (F(t) - 1{t >= y})², between every two breaks for itself."""
    points = sorted({low, high, label, *(float(point) for point in breaks if low < point < high)})
    parts = itertools.pairwise(points)
    return sum(integrate.quad(lambda t: (cdf(t) - (t >= label)) ** 2, a, b, epsabs=1e-9)[0] for a, b in parts)


def row_cdf(predicted, row):
    rows = len(predicted.mean)
    return lambda t: float(predicted.cdf(torch.full((rows, 1), t, dtype=torch.float64))[row, 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_crps_is_the_integral_of_its_definition(family):
    predicted = predictive_distribution(FAMILIES[family](X), len(X))
    found, edges = predicted.crps(Y), predicted.nodes(LEVELS)
    for row in range(ROWS[family]):
        expected = crps_by_quadrature(row_cdf(predicted, row), float(Y[row]), -60.0, 60.0, edges[row])
        assert found[row].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_crps_after_recalibration_is_that_of_the_mapped_distribution(family):
    predicted = predictive_distribution(FAMILIES[family](X), len(X))
    after = recalibrated(predicted, WARPED)
    found, kinks = after.crps(Y), torch.cat([predicted.nodes(LEVELS), predicted.icdf(WARPED.pit[1:-1])], 1)
    for row in range(ROWS[family]):
        plain, mapped = row_cdf(predicted, row), row_cdf(after, row)
        assert mapped(0.7) == pytest.approx(np.interp(plain(0.7), WARPED.pit, WARPED.level), abs=1e-12)
        expected = crps_by_quadrature(mapped, float(Y[row]), -60.0, 60.0, kinks[row])
        assert found[row].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_after_recalibration_are_those_of_draws_by_quantiles(family):
    after = recalibrated(predictive_distribution(FAMILIES[family](X), len(X)), WARPED)
    levels = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    draws = after.icdf(levels)
    assert after.mean == pytest.approx(draws.mean(1).numpy(), abs=1e-3)
    assert after.deviation == pytest.approx(draws.std(1).numpy(), rel=4e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_changes_under_the_identity(family):
    predicted = predictive_distribution(FAMILIES[family](X), len(X))
    same = recalibrated(predicted, metrics.Recalibration(double([0.0, 1.0]), double([0.0, 1.0]), 1))
    assert same.mean == pytest.approx(predicted.mean.numpy(), abs=1e-6)
    assert same.deviation == pytest.approx(predicted.deviation.numpy(), rel=1e-6)
    assert same.crps(Y) == pytest.approx(predicted.crps(Y).numpy(), rel=1e-6)
    assert same.log_prob(Y) == pytest.approx(predicted.log_prob(Y).numpy())
    assert same.icdf(LEVELS) == pytest.approx(predicted.icdf(LEVELS).numpy())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("map_", [None, WARPED])
def test_quantiles_invert_the_distribution_function_and_the_density_is_its_slope(family, map_):
    predicted = predictive_distribution(FAMILIES[family](X), len(X))
    predicted = predicted if map_ is None else recalibrated(predicted, map_)
    assert predicted.cdf(predicted.icdf(LEVELS)) == pytest.approx(LEVELS.expand(len(X), -1).numpy(), abs=1e-9)
    y, step = predicted.icdf(double([0.41]))[:, 0], 1e-6
    slope = (predicted.cdf((y + step)[:, None]) - predicted.cdf((y - step)[:, None]))[:, 0] / (2 * step)
    assert predicted.log_prob(y).exp() == pytest.approx(slope.numpy(), rel=1e-5)


def test_closed_forms_give_published_values():
    assert metrics.crps_normal(double([0.0]), double([1.0]), double([0.0])).item() == pytest.approx(
        (math.sqrt(2) - 1) / math.sqrt(math.pi), rel=1e-14
    )
    assert metrics.crps_laplace(double([1.0]), double([2.0]), double([1.0])).item() == 0.5  # b / 4
    # uniform on [0, 1]: y² - y + 1/3 inside, the distance added outside
    uniform = [metrics.crps_histogram(double([[0.0, 1.0]]), double([[1.0]]), double([y])).item() for y in (0.3, -2, 4)]
    assert uniform == pytest.approx([0.09 - 0.3 + 1 / 3, 2 + 1 / 3, 3 + 1 / 3], rel=1e-14)


def test_crps_of_a_mixture_of_equal_parts_is_that_of_the_part():
    mean, deviation, y = double([[1.0] * 3]), double([[2.0] * 3]), double([0.3])
    weights = double([[0.2, 0.5, 0.3]])
    expected = metrics.crps_normal(mean[:, 0], deviation[:, 0], y)
    assert metrics.crps_normal_mixture(weights, mean, deviation, y).item() == pytest.approx(expected.item(), rel=1e-14)


def test_crps_of_a_narrow_distribution_is_the_absolute_error():
    y, narrow = double([3.0]), double([1e-9])
    assert metrics.crps_normal(double([1.0]), narrow, y).item() == pytest.approx(2.0, rel=1e-8)
    assert metrics.crps_laplace(double([1.0]), narrow, y).item() == pytest.approx(2.0, rel=1e-8)


widths = st.lists(st.floats(0.01, 5), min_size=1, max_size=8)


@given(widths=widths, shift=st.floats(-10, 10), scale=st.floats(0.1, 10), seed=st.integers(0, 999))
def test_the_crps_of_a_histogram_moves_and_scales_with_its_units(widths, shift, scale, seed):
    edges = torch.cat([double([0.0]), double(widths).cumsum(0)])[None]
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(1, len(widths), generator=generator, dtype=torch.float64).softmax(1)
    y = 12 * torch.rand(1, generator=generator, dtype=torch.float64) - 4
    plain = metrics.crps_histogram(edges, probabilities, y)
    moved = metrics.crps_histogram(scale * edges + shift, probabilities, scale * y + shift)
    assert moved.item() == pytest.approx(scale * plain.item(), rel=1e-9)
    # a bin cut in two, with its mass, is the same distribution
    middle = (edges[:, :1] + edges[:, 1:2]) / 2
    cut = torch.cat([edges[:, :1], middle, edges[:, 1:]], 1)
    halves = torch.cat([probabilities[:, :1] / 2, probabilities[:, :1] / 2, probabilities[:, 1:]], 1)
    assert metrics.crps_histogram(cut, halves, y).item() == pytest.approx(plain.item(), rel=1e-9)


def test_a_histogram_with_empty_bins_shared_or_own_edges_and_labels_on_edges():
    edges, probs = torch.tensor([0.0, 1.0, 3.0, 4.0]), torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    shared = predictive_distribution(Histogram(edges, probs), 2)
    own = predictive_distribution(Histogram(edges.expand(2, -1), probs), 2)
    y = double([0.0, 4.0])
    assert shared.log_prob(y).tolist() == own.log_prob(y).tolist() == [math.log(0.5), -math.inf]
    assert shared.log_prob(double([-0.1, 4.1])).tolist() == [-math.inf, -math.inf]
    assert shared.log_prob(double([4.0, 1.0])).exp().tolist() == [0.5, 0.5]  # closed above, half-open between
    assert shared.cdf(double([[2.0], [2.0]])).tolist() == [[0.5], [0.5]]
    quantiles = shared.icdf(double([0.25, 0.5, 0.75]))
    assert quantiles.tolist() == [[0.5, 1.0, 3.5], [1.5, 2.0, 2.5]]
    assert shared.mean.tolist() == [2.0, 2.0]
    assert shared.deviation.square().tolist() == pytest.approx([1 / 12 + 1.5**2, 4 / 12])


def test_the_probabilities_of_a_histogram_may_be_rounded():
    probs = torch.tensor([[0.3, 0.7004]])
    predicted = predictive_distribution(Histogram(torch.tensor([0.0, 1.0, 2.0]), probs), 1)
    assert predicted.cdf(double([[2.0]])).item() == 1.0
    assert predicted.cdf(double([[1.0]])).item() == pytest.approx(0.3 / 1.0004)


def test_the_logits_of_a_histogram_keep_what_float32_rounds_to_zero():
    logits = torch.tensor([[0.0, -200.0]])
    distribution = Histogram(torch.tensor([0.0, 1.0, 3.0]), logits.softmax(1))
    assert predictive_distribution(distribution, 1).log_prob(double([2.0])).item() == -math.inf
    distribution.logits = logits
    assert predictive_distribution(distribution, 1).log_prob(double([2.0])).item() == pytest.approx(-200 - math.log(2))


def test_other_distributions_are_judged_by_their_distribution_function():
    shape, y = torch.tensor([2.0, 5.0]).double(), double([1.5, -3.0])
    cases = {
        stats.gamma(2.0): Gamma(shape, torch.ones(2).double()),
        stats.lognorm(0.5): LogNormal(torch.zeros(2).double(), torch.full((2,), 0.5).double()),
        stats.uniform(-1, 3): Uniform(torch.full((2,), -1.0).double(), torch.full((2,), 2.0).double()),
    }
    for reference, distribution in cases.items():
        predicted = predictive_distribution(distribution, 2)
        assert predicted.icdf(LEVELS)[0] == pytest.approx(reference.ppf(LEVELS.numpy()), rel=1e-8)
        expected = crps_by_quadrature(reference.cdf, 1.5, -2.0, 60.0, [-1.0, 0.0, 2.0, 5.0])
        assert predicted.crps(y)[0].item() == pytest.approx(expected, rel=1e-6)
        assert predicted.log_prob(y)[1].item() == -math.inf  # outside the support
        assert predicted.cdf(double([[-3.0], [-3.0]])).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_a_distribution_without_moments_has_them_integrated(dtype, digits):
    mean, deviation = torch.tensor([1.0, -2.0], dtype=dtype), torch.tensor([0.5, 3.0], dtype=dtype)
    transformed = TransformedDistribution(Normal(mean, deviation), [AffineTransform(10.0, 2.0)])
    predicted, exact = (
        predictive_distribution(transformed, 2),
        predictive_distribution(Normal(10 + 2 * mean, 2 * deviation), 2),
    )
    assert predicted.mean == pytest.approx(exact.mean.numpy(), rel=digits)
    assert predicted.deviation == pytest.approx(exact.deviation.numpy(), rel=digits)
    y = double([14.0, -20.0])
    assert predicted.crps(y) == pytest.approx(exact.crps(y).numpy(), rel=digits)
    assert predicted.log_prob(y) == pytest.approx(exact.log_prob(y).numpy(), rel=digits)


def test_modes_far_apart_are_not_overlooked_by_the_integration():
    weights, means = torch.tensor([[0.3, 0.7]]), torch.tensor([[-50.0, 400.0]])
    parts = Normal(means, torch.tensor([[0.01, 0.02]]))
    predicted = predictive_distribution(MixtureSameFamily(Categorical(probs=weights), parts), 1)
    same = recalibrated(predicted, metrics.Recalibration(double([0.0, 1.0]), double([0.0, 1.0]), 1))
    for y in (-50.0, 100.0, 400.01, 900.0):
        assert same.crps(double([y])).item() == pytest.approx(predicted.crps(double([y])).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(4), r"expected a torch.distributions.Distribution from predictive\(x\) of Toy, got Tensor"),
        (Normal(torch.zeros(4, 1), 1.0), r"expected a distribution of batch shape \(4,\).* got batch shape \(4, 1\)"),
        (Normal(0.0, 1.0), r"got batch shape \(\) and event shape \(\)"),
        (StudentT(torch.full((4,), 5.0)), "a cdf from .*Toy: StudentT has none"),
        (Histogram(torch.tensor([0.0, 1.0]), torch.ones(4, 2)), r"got \(2,\) and \(4, 2\)"),
        (Histogram(torch.tensor([0.0, 2.0, 1.0]), torch.full((4, 2), 0.5)), "do not ascend strictly"),
        (Histogram(torch.tensor([0.0, math.nan, 1.0]), torch.full((4, 2), 0.5)), "do not ascend strictly, or are NaN"),
        (Histogram(torch.tensor([0.0, 1.0, 2.0]), torch.randn(4, 2)), "negative or do not sum to 1"),
    ],
)
def test_what_is_no_predictive_distribution_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        predictive_distribution(given, 4, "Toy")


def test_interval_score_of_labels_inside_and_outside():
    low, high = double([0.0, 0.0, 0.0]), double([2.0, 2.0, 2.0])
    score = metrics.interval_score(low, high, double([1.0, -0.5, 3.0]), 0.9)
    assert score.tolist() == pytest.approx([2.0, 2.0 + 20 * 0.5, 2.0 + 20 * 1.0])


def test_quantile_calibration_error_of_small_cases():
    coverage = metrics.quantile_coverage(double([0.1, 0.5, 0.5, 0.9]), double([0.1, 0.4, 0.5, 0.95]))
    assert coverage.tolist() == [0.25, 0.25, 0.75, 1.0]
    mean, squared = metrics.quantile_calibration_error(coverage, double([0.1, 0.4, 0.5, 0.95]))
    assert mean == pytest.approx((0.15 + 0.15 + 0.25 + 0.05) / 4)
    assert squared == pytest.approx((2 * 0.15**2 + 0.25**2 + 0.05**2) / 4)
    # all labels at the median: |1{p >= 1/2} - p| has the mean 1/4 over levels in (0, 1)
    assert metrics.quantile_calibration_error(metrics.quantile_coverage(torch.full((50,), 0.5).double()))[
        0
    ] == pytest.approx(0.25, abs=0.003)


def test_the_error_by_chance_is_what_perfect_forecasters_show():
    draws = torch.rand(400, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = [metrics.quantile_calibration_error(metrics.quantile_coverage(pit))[0] for pit in draws]
    assert metrics.expected_calibration_error_by_chance(150) == pytest.approx(np.mean(errors), rel=0.05)
    maps = [metrics.fit_recalibration(pit[:60]) for pit in draws.flip(0)]
    pairs = zip(maps, draws, strict=True)
    errors = [metrics.quantile_calibration_error(metrics.quantile_coverage(fit(pit)))[0] for fit, pit in pairs]
    assert metrics.expected_calibration_error_by_chance(150, 60) == pytest.approx(np.mean(errors), rel=0.1)


def test_pit_histogram_counts_every_label_the_last_bin_closed():
    assert metrics.pit_histogram(double([0.0, 0.24, 0.25, 0.5, 1.0]), 4) == [2, 1, 1, 1]


def uniform(number, seed=0):
    return torch.rand(number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_recalibration_is_the_isotonic_regression_at_its_knots():
    pit = uniform(60) ** 2
    fit = metrics.fit_recalibration(pit)
    x = pit.sort().values.numpy()
    reference = IsotonicRegression().fit(x, np.arange(1, 61) / 61)
    inner = fit.pit[1:-1]
    assert fit.level[1:-1] == pytest.approx(reference.predict(inner.numpy()), abs=1e-12)
    assert (fit.pit[0], fit.level[0], fit.pit[-1], fit.level[-1]) == (0, 0, 1, 1)
    assert {x[0], x[-1]} <= set(inner.tolist())
    assert len(inner) == 2 + math.isqrt(60) + 1  # none of them is in the middle: both beside it are kept
    assert fit.samples == 60


@pytest.mark.parametrize("number", [1, 2, 3, 40, 5000])
@pytest.mark.parametrize("power", [0.3, 1.0, 4.0])
def test_the_map_ascends_strictly_and_its_inverse_inverts_it(number, power):
    fit = metrics.fit_recalibration(uniform(number) ** power)
    assert bool((fit.pit.diff() > 0).all())
    assert bool((fit.level.diff() > 0).all())
    assert len(fit.pit) <= 2 + metrics.MOST_KNOTS
    u = (torch.arange(1, 200) / 200).double()
    assert fit.inverse(fit(u)) == pytest.approx(u.numpy(), abs=1e-9)
    assert fit.slope(u).min() > 0


def test_recalibration_learns_the_distribution_of_the_pit():
    levels = (torch.arange(1, 20) / 20).double()
    fit = metrics.fit_recalibration(uniform(20_000) ** 2)
    assert fit(levels) == pytest.approx(levels.sqrt().numpy(), abs=0.02)
    assert metrics.fit_recalibration(uniform(20_000))(levels) == pytest.approx(levels.numpy(), abs=0.02)


def test_the_density_of_a_perfect_forecaster_loses_little():
    fit, new = metrics.fit_recalibration(uniform(2000)), uniform(2000, seed=1)
    assert 0 < -fit.slope(new).log().mean().item() < 0.05


def test_labels_outside_the_support_keep_their_share_at_its_ends():
    pit = torch.cat([torch.zeros(20), uniform(70).float(), torch.ones(10)])
    fit = metrics.fit_recalibration(pit)
    assert fit(double([1e-9])).item() == pytest.approx(0.2, abs=0.01)
    assert fit(double([1 - 1e-9])).item() == pytest.approx(0.9, abs=0.011)
    assert fit(double([0.0, 1.0])).tolist() == [0.0, 1.0]
    predicted = recalibrated(predictive_distribution(Normal(torch.zeros(1), torch.ones(1)), 1), fit)
    assert all(
        value.isfinite().all()
        for value in (predicted.mean, predicted.deviation, predicted.icdf(LEVELS), predicted.crps(double([9.0])))
    )


def test_a_histogram_whose_labels_lie_outside_puts_their_share_on_the_edge():
    fit = metrics.fit_recalibration(torch.cat([torch.zeros(30), uniform(70).float()]))
    predicted = recalibrated(
        predictive_distribution(Histogram(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([[0.5, 0.5]])), 1), fit
    )
    assert predicted.cdf(double([[-1e-6, 1e-6]])).tolist()[0] == pytest.approx([0.0, 0.3], abs=0.01)
    assert predicted.mean.item() == pytest.approx(0.7, abs=0.05)


def test_no_label_is_refused():
    with pytest.raises(ValueError, match="at least one label"):
        metrics.fit_recalibration(torch.empty(0))


def test_a_law_is_all_float64_whatever_comes_in():
    predicted = predictive_distribution(Normal(torch.zeros(2), torch.ones(2)), 2)
    assert isinstance(predicted, PredictiveDistribution)
    assert {predicted.mean.dtype, predicted.icdf(LEVELS).dtype, predicted.crps(double([0.0, 1.0])).dtype} == {
        torch.float64
    }


def test_the_tails_of_a_normal_are_not_rounded_away():
    predicted = predictive_distribution(Normal(torch.zeros(1), torch.ones(1)), 1)
    assert predicted.cdf(double([[-20.0]])).item() == pytest.approx(stats.norm.cdf(-20.0), rel=1e-10)
