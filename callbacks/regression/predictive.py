"""Predictive distributions of a batch in one form, in float64 on the CPU, whatever ``predictive(x)`` returned.

Known by their parameters, so that every metric is exact: Normal, Laplace, mixtures of Normals and histograms, which are
distributions with the attributes ``edges`` (k + 1,) or (B, k + 1) and ``probs`` (B, k); their ``logits`` (B, k), where
they have them, keep probabilities that float32 rounds to zero. Any other distribution needs a ``cdf``. Its quantiles
are searched, and its CRPS (and its mean and deviation where it has none) are integrated numerically: a relative error
of 1e-6 where the distribution computes in float64, 1e-4 in float32.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Laplace, MixtureSameFamily, Normal
from torch.distributions.constraints import Constraint
from torch.special import ndtr, ndtri

from . import metrics
from .metrics import Recalibration
from .quadrature import GRID, SEARCH_STEPS, integrate, refined, search


@dataclass(frozen=True)
class PredictiveDistribution:
    """Predictive distributions of B inputs.

    Attributes:
        name: Of the family.
        mean: (B,).
        deviation: (B,), the standard deviation.
        cdf: From points (B, m) to F (B, m).
        icdf: From levels (m,) in (0, 1), the same for all, to quantiles (B, m).
        log_prob: From labels (B,) to log densities (B,) in nats.
        crps: From labels (B,) to CRPS (B,).
        nodes: From levels (m,) to points (B, m') in any order: quantiles of these levels, and others, so that the
            distribution function is smooth between them.
    """

    name: str
    mean: Tensor
    deviation: Tensor
    cdf: Callable[[Tensor], Tensor]
    icdf: Callable[[Tensor], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    crps: Callable[[Tensor], Tensor]
    nodes: Callable[[Tensor], Tensor]


def predictive_distribution(
    distribution: Distribution, samples: int, module: str = "the module"
) -> PredictiveDistribution:
    """What ``predictive(x)`` of a module returned for so many samples, in one form.

    Raises:
        ValueError: It is no distribution, of another shape, without a cdf, or a histogram with impossible edges or
            probabilities.
    """
    if not isinstance(distribution, Distribution):
        raise ValueError(
            f"expected a torch.distributions.Distribution from predictive(x) of {module}, "
            f"got {type(distribution).__name__}"
        )
    shape = tuple(distribution.batch_shape) + tuple(distribution.event_shape)
    if shape != (samples,):
        raise ValueError(
            f"expected a distribution of batch shape ({samples},) and no event shape from predictive(x) of {module}, "
            f"got batch shape {tuple(distribution.batch_shape)} and event shape {tuple(distribution.event_shape)}"
        )
    if type(distribution) is Normal:
        return _normal(_double(distribution.loc), _double(distribution.scale))
    if type(distribution) is Laplace:
        return _laplace(_double(distribution.loc), _double(distribution.scale))
    if type(distribution) is MixtureSameFamily and type(distribution.component_distribution) is Normal:
        parts = distribution.component_distribution
        weights = _double(distribution.mixture_distribution.logits).softmax(1)
        return _normal_mixture(weights, _double(parts.loc), _double(parts.scale))
    if hasattr(distribution, "edges") and hasattr(distribution, "probs"):
        probabilities, logits = _double(distribution.probs), getattr(distribution, "logits", None)
        if isinstance(logits, Tensor) and logits.shape == probabilities.shape:
            probabilities = _double(logits).softmax(-1)
        return _histogram(type(distribution).__name__, _double(distribution.edges), probabilities, module)
    return _other(distribution, module)


def recalibrated(predicted: PredictiveDistribution, recalibration: Recalibration) -> PredictiveDistribution:
    """The distribution whose distribution function is R(F(t)).

    Mean, deviation and CRPS are integrated between the knots of R, quantiles of the given distribution and edges of
    bins: exact for a histogram, to a relative error of 1e-6 for others (1e-4 for the deviation of heavy tails).
    """

    def cdf(points: Tensor) -> Tensor:
        return recalibration(predicted.cdf(points))

    def log_prob(labels: Tensor) -> Tensor:
        pit = predicted.cdf(labels[:, None])[:, 0]
        return predicted.log_prob(labels) + recalibration.slope(pit).log()

    levels = torch.cat([recalibration.inverse(GRID), recalibration.pit[1:-1]]).unique()
    nodes = predicted.nodes(levels)
    _, mean, deviation = integrate(cdf, nodes, None)
    return PredictiveDistribution(
        name=predicted.name,
        mean=mean,
        deviation=deviation,
        cdf=cdf,
        icdf=lambda levels: predicted.icdf(recalibration.inverse(levels)),
        log_prob=log_prob,
        crps=lambda labels: integrate(cdf, nodes, labels)[0],
        nodes=lambda levels: torch.cat([nodes, predicted.nodes(recalibration.inverse(levels))], 1),
    )


def _double(value: Tensor) -> Tensor:
    return value.detach().cpu().double()


def _normal(mean: Tensor, deviation: Tensor) -> PredictiveDistribution:
    def log_prob(labels: Tensor) -> Tensor:
        return Normal(mean, deviation, validate_args=False).log_prob(labels)

    def icdf(levels: Tensor) -> Tensor:
        return mean[:, None] + deviation[:, None] * ndtri(levels)

    return PredictiveDistribution(
        name="Normal",
        mean=mean,
        deviation=deviation,
        cdf=lambda points: ndtr((points - mean[:, None]) / deviation[:, None]),  # exact in the tails, unlike erf
        icdf=icdf,
        log_prob=log_prob,
        crps=lambda labels: metrics.crps_normal(mean, deviation, labels),
        nodes=icdf,
    )


def _laplace(mean: Tensor, scale: Tensor) -> PredictiveDistribution:
    def cdf(points: Tensor) -> Tensor:
        z = (points - mean[:, None]) / scale[:, None]
        tail = 0.5 * torch.exp(-z.abs())
        return torch.where(z < 0, tail, 1 - tail)

    def icdf(levels: Tensor) -> Tensor:
        z = torch.where(levels < 0.5, (2 * levels).log(), -(2 * (1 - levels)).log())
        return mean[:, None] + scale[:, None] * z

    return PredictiveDistribution(
        name="Laplace",
        mean=mean,
        deviation=scale * 2**0.5,
        cdf=cdf,
        icdf=icdf,
        log_prob=lambda labels: -(2 * scale).log() - (labels - mean).abs() / scale,
        crps=lambda labels: metrics.crps_laplace(mean, scale, labels),
        nodes=lambda levels: torch.cat([icdf(levels), mean[:, None]], 1),
    )


def _normal_mixture(weights: Tensor, means: Tensor, deviations: Tensor) -> PredictiveDistribution:
    mean = (weights * means).sum(1)
    variance = (weights * (deviations**2 + (means - mean[:, None]) ** 2)).sum(1)

    def cdf(points: Tensor) -> Tensor:
        # one component after the other: nothing of shape (B, m, K)
        total = torch.zeros_like(points)
        for part in range(weights.shape[1]):
            z = (points - means[:, part, None]) / deviations[:, part, None]
            total += weights[:, part, None] * ndtr(z)
        return total.clamp(max=1.0)

    def log_prob(labels: Tensor) -> Tensor:
        parts = Normal(means, deviations, validate_args=False).log_prob(labels[:, None])
        return torch.logsumexp(weights.log() + parts, 1)

    def icdf(levels: Tensor) -> Tensor:
        quantiles = means[:, :, None] + deviations[:, :, None] * ndtri(levels)
        return search(cdf, levels, quantiles.amin(1), quantiles.amax(1))

    return PredictiveDistribution(
        name="mixture of Normals",
        mean=mean,
        deviation=variance.sqrt(),
        cdf=cdf,
        icdf=icdf,
        log_prob=log_prob,
        crps=lambda labels: metrics.crps_normal_mixture(weights, means, deviations, labels),
        nodes=lambda levels: refined(cdf, icdf(levels)),
    )


def _histogram(name: str, edges: Tensor, probabilities: Tensor, module: str) -> PredictiveDistribution:
    wanted = () if probabilities.ndim != 2 else (probabilities.shape[1] + 1,)
    if probabilities.ndim != 2 or edges.shape not in (wanted, (1, *wanted), (len(probabilities), *wanted)):
        raise ValueError(
            f"expected edges (k + 1,) or (B, k + 1) and probs (B, k) of the histogram from {module}, "
            f"got {tuple(edges.shape)} and {tuple(probabilities.shape)}"
        )
    edges = edges.expand(len(probabilities), -1).contiguous()
    width, total = edges.diff(dim=1), probabilities.sum(1, keepdim=True)
    if not bool((width > 0).all()):
        raise ValueError(f"the edges of the histogram from {module} do not ascend strictly, or are NaN")
    if bool((probabilities < 0).any()) or bool(((total - 1).abs() > 1e-2).any()):
        raise ValueError(f"the probs of the histogram from {module} are negative or do not sum to 1")
    probabilities = probabilities / total  # they were summed in a lower precision
    upper = probabilities.cumsum(1).clamp(max=1.0)
    upper[:, -1] = 1.0
    lower = torch.cat([torch.zeros_like(upper[:, :1]), upper[:, :-1]], 1)
    last = probabilities.shape[1] - 1

    def cdf(points: Tensor) -> Tensor:
        index = (torch.searchsorted(edges, points.contiguous(), right=True) - 1).clamp(0, last)
        share = ((points - edges.gather(1, index)) / width.gather(1, index)).clamp(0, 1)
        return lower.gather(1, index) + share * (upper - lower).gather(1, index)

    def icdf(levels: Tensor) -> Tensor:
        wanted = levels.expand(len(edges), -1).contiguous()
        index = torch.searchsorted(upper, wanted).clamp(0, last)  # the first bin that reaches it: never an empty one
        inside = (wanted - lower.gather(1, index)) / (upper - lower).gather(1, index)
        return edges.gather(1, index) + inside.nan_to_num(0.0).clamp(0, 1) * width.gather(1, index)

    def log_prob(labels: Tensor) -> Tensor:
        y = labels[:, None]
        index = (torch.searchsorted(edges, y, right=True) - 1).clamp(0, last)
        density = (probabilities.gather(1, index) / width.gather(1, index))[:, 0]
        outside = (labels < edges[:, 0]) | (labels > edges[:, -1])
        return torch.where(outside, 0.0, density).log()

    centres = (edges[:, :-1] + edges[:, 1:]) / 2
    mean = (probabilities * centres).sum(1)
    variance = (probabilities * (width**2 / 12 + (centres - mean[:, None]) ** 2)).sum(1)
    return PredictiveDistribution(
        name=name,
        mean=mean,
        deviation=variance.sqrt(),
        cdf=cdf,
        icdf=icdf,
        log_prob=log_prob,
        crps=lambda labels: metrics.crps_histogram(edges, probabilities, labels),
        nodes=lambda levels: torch.cat([icdf(levels), edges], 1),
    )


def _other(distribution: Distribution, module: str) -> PredictiveDistribution:
    """By cdf and log_prob, called with values (m, B) in the distribution's own precision and on its device."""
    name, distribution = type(distribution).__name__, _unchecked(distribution)
    mean, deviation = (
        None if (moment := _attribute(distribution, of)) is None else _double(moment) for of in ("mean", "stddev")
    )
    like = _parameter(distribution)
    middle = torch.zeros(distribution.batch_shape, dtype=torch.float64) if mean is None else mean
    support: Constraint | None = _attribute(distribution, "support")

    def call(of: Callable[[Tensor], Tensor], points: Tensor, outside: Tensor) -> Tensor:
        """`of` at points (B, m), and `outside` (B, m) where they are not in the support."""
        values = points.T.to(like)
        valid = torch.ones_like(values, dtype=torch.bool) if support is None else support.check(values)
        if not bool(valid.all()):
            values = torch.where(valid, values, middle.to(like))
        return torch.where(valid.cpu().T, _double(of(values)).T, outside)

    def cdf(points: Tensor) -> Tensor:
        return call(distribution.cdf, points, (points > middle[:, None]).double()).clamp(0, 1)

    def log_prob(labels: Tensor) -> Tensor:
        y = labels[:, None]
        return call(distribution.log_prob, y, torch.full_like(y, -torch.inf))[:, 0]

    def icdf(levels: Tensor) -> Tensor:
        scale = torch.ones_like(middle) if deviation is None else deviation
        step = scale.nan_to_num(nan=1.0, posinf=1.0).clamp(min=1e-12)[:, None].expand(-1, len(levels))
        low = middle.nan_to_num(0.0)[:, None] - step
        high = low + 2 * step
        for _ in range(SEARCH_STEPS):
            short, long = cdf(low) > levels, cdf(high) < levels
            if not bool((short | long).any()):
                break
            step = step * 2
            low, high = torch.where(short, low - step, low), torch.where(long, high + step, high)
        return search(cdf, levels, low, high)

    try:
        nodes = refined(cdf, icdf(GRID))
    except NotImplementedError:
        message = f"expected a distribution with a cdf from predictive(x) of {module}: {name} has none"
        raise ValueError(message) from None
    if mean is None or deviation is None:
        _, mean, deviation = integrate(cdf, nodes, None)
    return PredictiveDistribution(
        name=name,
        mean=mean,
        deviation=deviation,
        cdf=cdf,
        icdf=icdf,
        log_prob=log_prob,
        crps=lambda labels: integrate(cdf, nodes, labels)[0],
        nodes=lambda levels: refined(cdf, icdf(levels)),
    )


def _unchecked(distribution: Distribution) -> Distribution:
    """A copy that takes any value: a float32 value far out in a tail may leave the support of an inner distribution."""
    distribution = copy.copy(distribution)
    distribution._validate_args = False
    if isinstance(inner := getattr(distribution, "base_dist", None), Distribution):
        vars(distribution)["base_dist"] = _unchecked(inner)
    return distribution


def _attribute(distribution: Distribution, name: str) -> Any:
    """None where the distribution does not have it."""
    try:
        return getattr(distribution, name)
    except (NotImplementedError, AttributeError):
        return None


def _parameter(distribution: Distribution) -> Tensor:
    """A tensor of the distribution's precision and device."""
    for value in vars(distribution).values():
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    inner = [value for value in vars(distribution).values() if isinstance(value, Distribution)]
    return _parameter(inner[0]) if inner else torch.empty(0)
