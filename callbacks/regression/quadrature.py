"""Quantiles and integrals of distribution functions that are known by their values only.

All are of B functions at once, from points (B, m) to values (B, m), in float64.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# quantiles between which a distribution function is integrated; what lies outside adds less than 1e-9 of a scale
GRID = torch.sigmoid(torch.linspace(-20.7, 20.7, 49, dtype=torch.float64))
POINTS, WEIGHTS = (torch.from_numpy(part) / 2 for part in np.polynomial.legendre.leggauss(4))
POINTS = POINTS + 0.5
SEARCH_STEPS = 100
REFINEMENTS, REFINED = 12, 12


def search(cdf: Callable[[Tensor], Tensor], levels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Quantiles (B, m) between low and high (B, m), by bisection to the last digits."""
    tolerance = 1e-15 * (high - low)
    for _ in range(SEARCH_STEPS):
        middle = low + (high - low) / 2
        if bool((high - low <= tolerance + 1e-15 * middle.abs()).all()):
            break
        below = cdf(middle) < levels
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low + (high - low) / 2


def refined(cdf: Callable[[Tensor], Tensor], nodes: Tensor) -> Tensor:
    """Add nodes (B, m) in the middle of where the function is far from linear: between modes that are far apart."""
    for _ in range(REFINEMENTS):
        nodes = nodes.sort(1).values
        values, width = cdf(nodes), nodes.diff(dim=1)
        middle = nodes[:, :-1] + width / 2
        bend = width * (cdf(middle) - (values[:, :-1] + values[:, 1:]) / 2).abs()
        worst = bend.topk(min(REFINED, bend.shape[1]), dim=1).indices
        nodes = torch.cat([nodes, middle.gather(1, worst)], 1)
    return nodes


def integrate(cdf: Callable[[Tensor], Tensor], nodes: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """CRPS (0 without labels), mean and deviation of a distribution function, each (B,).

    Four Gauss points between two nodes are exact where the function is a polynomial of degree 3 there. It is almost 0
    at the smallest of the nodes (B, m) and almost 1 at the largest. Labels (B,) are further nodes, because the
    integrand jumps there.
    """
    middle = nodes.median(1, keepdim=True).values
    if labels is not None:
        nodes = torch.cat([nodes, labels[:, None]], 1)
    nodes = nodes.sort(1).values
    width = nodes.diff(dim=1)[:, :, None]
    points = (nodes[:, :-1, None] + width * POINTS).flatten(1)
    weights = (width * WEIGHTS).flatten(1)
    values = cdf(points)
    crps = torch.zeros_like(middle[:, 0])
    if labels is not None:
        crps = (weights * (values - (points > labels[:, None]).double()) ** 2).sum(1)
    # from the middle, a node: E[u] and E[u²] as sums of positive parts
    away = points - middle
    tail = torch.where(away > 0, 1 - values, -values) * weights
    first = tail.sum(1)
    second = (2 * away * tail).sum(1)
    return crps, middle[:, 0] + first, (second - first**2).clamp(min=0).sqrt()
