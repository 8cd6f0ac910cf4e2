"""Metrics of probabilistic regression: pure functions of float64 tensors.

A predictive distribution is judged in the units of the label: CRPS (Matheson and Winkler 1976), interval score (Winkler
1972, Gneiting and Raftery 2007), the probability integral transform (PIT, Dawid 1984) and what follows from it.
"""

import math
from dataclasses import dataclass

import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor
from torch.special import ndtr

QUANTILE_LEVELS = torch.arange(1, 100, dtype=torch.float64) / 100  # at which the quantile calibration error looks
SMALLEST_PIT = 1e-12  # what lies below counts as this much
MOST_KNOTS = 50


def crps_normal(mean: Tensor, deviation: Tensor, labels: Tensor) -> Tensor:
    """CRPS of Normal(mean, deviation²), all (B,), in the labels' units: Gneiting and Raftery 2007, equation 21."""
    difference = labels - mean
    # not z times the deviation: z is infinite where the deviation is tiny
    return _mean_distance(difference, deviation) - deviation / math.sqrt(math.pi)


def crps_laplace(mean: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """CRPS of Laplace(mean, scale), all (B,): |d| + b exp(-|d| / b) - 3 b / 4 with d = y - mean."""
    distance = (labels - mean).abs()
    return distance + scale * torch.exp(-distance / scale) - 0.75 * scale


def crps_normal_mixture(weights: Tensor, means: Tensor, deviations: Tensor, labels: Tensor) -> Tensor:
    """CRPS (B,) of mixtures of Normals: Grimit et al. 2006, equation 5.

    Weights, of which each row sums to 1, means and deviations are (B, K), labels (B,).
    """
    to_label = (weights * _mean_distance(labels[:, None] - means, deviations)).sum(1)
    # `hypot`, because the square of a tiny deviation is 0
    deviation = torch.hypot(deviations[:, :, None], deviations[:, None])
    apart = _mean_distance(means[:, :, None] - means[:, None], deviation)
    return to_label - 0.5 * (weights[:, :, None] * weights[:, None] * apart).sum((1, 2))


def crps_histogram(edges: Tensor, probabilities: Tensor, labels: Tensor) -> Tensor:
    """CRPS of piecewise-uniform densities, exact: (F - 1{t >= y})² is a parabola on either side of y in each bin.

    Args:
        edges: (B, k + 1), strictly ascending; bins may differ in width.
        probabilities: (B, k), each row sums to 1.
        labels: (B,), inside the support or outside.
    """
    low, width, y = edges[:, :-1], edges.diff(dim=1), labels[:, None]
    upper = probabilities.cumsum(1).clamp(max=1.0)
    lower = torch.cat([torch.zeros_like(upper[:, :1]), upper[:, :-1]], 1)
    share = ((y - low) / width).clamp(0, 1)  # of the bin that lies below the label
    at_label = lower + share * (upper - lower)

    def parabola(first: Tensor, last: Tensor) -> Tensor:
        """Mean of the square of what goes linearly from first to last."""
        return (first * first + first * last + last * last) / 3

    below = share * parabola(lower, at_label)
    above = (1 - share) * parabola(1 - at_label, 1 - upper)
    outside = (edges[:, 0] - labels).clamp(min=0) + (labels - edges[:, -1]).clamp(min=0)
    return (width * (below + above)).sum(1) + outside


def interval_score(low: Tensor, high: Tensor, labels: Tensor, level: float) -> Tensor:
    """Winkler score of central intervals, all (B,): width + 2 / (1 - level) times the distance of a label outside.

    Raises:
        ValueError: The level, which is the nominal coverage, is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level in (0, 1), got {level}")
    missed = (low - labels).clamp(min=0) + (labels - high).clamp(min=0)
    return high - low + 2 / (1 - level) * missed


def quantile_coverage(pit: Tensor, levels: Tensor = QUANTILE_LEVELS) -> Tensor:
    """Share of labels at or below their predicted quantile of each level: (N,) PIT values and (m,) levels to (m,).

    Raises:
        ValueError: No PIT value, or values that are NaN or outside [0, 1].
    """
    ordered = _checked_pit(pit).sort().values
    return torch.searchsorted(ordered, levels.double(), right=True).double() / len(ordered)


def quantile_calibration_error(coverage: Tensor, levels: Tensor = QUANTILE_LEVELS) -> tuple[float, float]:
    """Mean |coverage - level| and mean (coverage - level)² over levels.

    The first is the "average calibration error" of Chung et al. (Beyond Pinball Loss, 2021), the second the calibration
    error of Kuleshov et al. (Accurate Uncertainties for Deep Learning Using Calibrated Regression, 2018, equation 9)
    with equal weights that sum to 1.
    """
    gap = coverage - levels
    return gap.abs().mean().item(), gap.square().mean().item()


def expected_calibration_error_by_chance(
    samples: int, fitted_on: int | None = None, levels: Tensor = QUANTILE_LEVELS
) -> float:
    """Mean |coverage - level| that a perfect forecaster would show on so many labels (normal approximation).

    ``fitted_on`` is the number of labels on which it was recalibrated, which are a sample too; None: it was not.
    """
    variance = levels * (1 - levels) * (1 / samples + (0 if fitted_on is None else 1 / fitted_on))
    return (2 / math.pi * variance).sqrt().mean().item()


def pit_histogram(pit: Tensor, bins: int) -> list[int]:
    """Counts of (N,) PIT values in bins of equal width on [0, 1], the last one closed.

    Raises:
        ValueError: No PIT value, or values that are NaN or outside [0, 1].
    """
    inner = torch.arange(1, bins, dtype=torch.float64) / bins  # correctly rounded, unlike the product of PIT and bins
    index = torch.searchsorted(inner, _checked_pit(pit), right=True)
    return torch.bincount(index, minlength=bins).tolist()


@dataclass(frozen=True)
class Recalibration:
    """A continuous, strictly ascending map R of [0, 1] onto itself; R(F(t)) is the recalibrated distribution function.

    Attributes:
        pit: (k,) knots, from 0 to 1.
        level: (k,) R at the knots, from 0 to 1; between them R is linear.
        samples: How many labels it was fitted on.
    """

    pit: Tensor
    level: Tensor
    samples: int

    def __call__(self, pit: Tensor) -> Tensor:
        """R, of any shape."""
        return _interpolate(self.pit, self.level, pit)

    def inverse(self, level: Tensor) -> Tensor:
        """The inverse of R, kept apart from 0 and 1, where quantiles are infinite."""
        return _interpolate(self.level, self.pit, level).clamp(2.0**-53, 1 - 2.0**-53)

    def slope(self, pit: Tensor) -> Tensor:
        """The derivative of R, by which a density is multiplied."""
        return (self.level.diff() / self.pit.diff())[_segment(self.pit, pit)]


def fit_recalibration(pit: Tensor) -> Recalibration:
    """Isotonic regression of the share of PIT values (N,) up to p on p: Kuleshov et al. 2018, algorithm 1.

    Departures: shares are ranks / (N + 1), unbiased for a perfect forecaster, and of equal PIT values the middle one
    of theirs, so that mirrored PIT values have the mirrored map. Of the N points of the fit, which follow
    each label, √N are kept as knots, at most 50, evenly spread from both ends: the slope of R is a
    density, and between neighbours it would be noise (0.42 nats for a perfect forecaster, whatever N is). Labels
    outside the support, with a PIT of 0 or 1, stay there: R rises by their share next to that end.

    Raises:
        ValueError: There is none, or values are NaN or outside [0, 1].
    """
    x = _checked_pit(pit).clamp(SMALLEST_PIT, 1 - SMALLEST_PIT).sort().values
    up_to, from_here = torch.searchsorted(x, x, right=True), torch.searchsorted(x, x) + 1
    rank = (up_to + from_here).double() / 2  # without equal values they are the same
    rank = torch.where(x == x.new_tensor(SMALLEST_PIT), up_to, rank)
    rank = torch.where(x == 1 - SMALLEST_PIT, from_here, rank)
    fit = IsotonicRegression().fit(x.numpy(), (rank / (len(x) + 1)).numpy())
    knots, levels = torch.as_tensor(fit.X_thresholds_), torch.as_tensor(fit.y_thresholds_)
    number = min(len(knots), MOST_KNOTS, 2 + math.isqrt(len(x)))
    half = torch.linspace(0, len(knots) - 1, number, dtype=torch.float64)[: (number + 1) // 2].round().long()
    kept = torch.cat([half, len(knots) - 1 - half]).unique()  # mirrored, as the values may be
    first, last = knots.new_zeros(1), knots.new_ones(1)
    return Recalibration(torch.cat([first, knots[kept], last]), torch.cat([first, levels[kept], last]), len(x))


def _checked_pit(pit: Tensor) -> Tensor:
    """PIT values (N,) in float64; what rounding put outside [0, 1] is brought back."""
    if len(pit) == 0:
        raise ValueError("expected at least one label, got none")
    pit = pit.double()
    if broken := int((~((pit >= -1e-9) & (pit <= 1 + 1e-9))).sum()):
        raise ValueError(f"expected PIT values in [0, 1], got {broken} of {len(pit)} that are NaN or outside")
    return pit.clamp(0, 1)


def _mean_distance(difference: Tensor, deviation: Tensor) -> Tensor:
    """E|X| of X ~ Normal(difference, deviation²); without a deviation |difference|."""
    # nobody asks for z where both are 0
    z = torch.where(deviation > 0, difference / deviation, difference.sign() * math.inf).nan_to_num(nan=0.0)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return 2 * deviation * density + difference * (2 * ndtr(z) - 1)


def _segment(knots: Tensor, x: Tensor) -> Tensor:
    return (torch.searchsorted(knots, x.contiguous(), right=True) - 1).clamp(0, len(knots) - 2)


def _interpolate(knots: Tensor, values: Tensor, x: Tensor) -> Tensor:
    index = _segment(knots, x)
    share = ((x - knots[index]) / knots.diff()[index]).clamp(0, 1)
    return values[index] + share * values.diff()[index]
