"""A histogram as a distribution."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .loss import bin_centres, histogram_mean, histogram_median, histogram_mode


class PiecewiseUniform(Distribution):
    """A histogram as a probability distribution: uniform within each of k bins, zero outside.

    All quantities are exact, in the units of the edges; NaN gives NaN. Attributes: ``edges``, ``(k + 1,)``; the masses
    ``probs`` and their logarithms ``logits``, ``(*batch, k)``.

    Args:
        edges: ``(k + 1,)``, rising, shared by the batch; the widths may differ.
        logits: ``(*batch, k)``; the bins' masses are their softmax.

    Raises:
        ValueError: For NaN logits, fewer than one bin, or edges that do not rise, are infinite or do not fit the
            logits. Values are checked unless ``validate_args`` is False; None is torch's default, which
            ``torch.compile`` sets to False for the rest of the process.
    """

    # Not real_vector, which fails on an empty batch.
    arg_constraints = {"logits": constraints.real}  # noqa: RUF012  torch's own declaration has no ClassVar
    support = constraints.real  # the density is defined everywhere, and 0 outside the edges
    has_rsample = False

    def __init__(self, edges: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        if edges.dim() != 1 or len(edges) < 2 or logits.shape[-1:] != (len(edges) - 1,):
            raise ValueError(f"edges {tuple(edges.shape)} with logits {tuple(logits.shape)}: expected k + 1 and k")
        dtype = torch.promote_types(torch.promote_types(edges.dtype, logits.dtype), torch.float32)
        self.edges = edges.to(dtype)
        self.logits = logits.to(dtype).log_softmax(-1)
        self.probs = self.logits.exp()
        super().__init__(logits.shape[:-1], validate_args=validate_args)
        if self._validate_args and not bool((self.edges.diff() > 0).all() & self.edges.isfinite().all()):
            raise ValueError("the edges of a histogram must rise and be finite")

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PiecewiseUniform":
        """The same distribution, repeated over a larger batch shape."""
        return PiecewiseUniform(self.edges, self.logits.expand(*batch_shape, -1), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """``(*batch,)``."""
        return histogram_mean(self.probs, self.edges)

    @property
    def median(self) -> Tensor:
        """``(*batch,)``."""
        return histogram_median(self.probs, self.edges)

    @property
    def mode(self) -> Tensor:
        """Centre of the bin of the highest density, ``(*batch,)``."""
        return histogram_mode(self.probs, self.edges)

    @property
    def variance(self) -> Tensor:
        """Variance between the bins plus that within them, ``(*batch,)``."""
        deviations = bin_centres(self.edges) - self.mean[..., None]
        return (self.probs * (deviations.square() + self.edges.diff().square() / 12)).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, ``(*batch,)``."""
        return (torch.special.entr(self.probs) + self.probs * self.edges.diff().log()).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density ``(..., *batch)``; minus infinity outside the support."""
        value = value.to(self.edges.dtype)
        inside = (value >= self.edges[0]) & (value <= self.edges[-1])
        densities = self.logits - self.edges.diff().log()
        outside = torch.where(value.isnan(), value, -torch.inf)
        return torch.where(inside, self._take(densities, self._index(value)), outside)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of values up to this one, ``(..., *batch)``; 0 below the support and 1 above it."""
        value = value.to(self.edges.dtype)
        index = self._index(value)
        share = ((value - self.edges[index]) / self.edges.diff()[index]).clamp(0, 1)
        below = self._take(self._cumulative(), index) + share * self._take(self.probs, index)
        return torch.where(value >= self.edges[-1], torch.ones_like(below), below.clamp(max=1))

    def icdf(self, value: Tensor) -> Tensor:
        """Smallest number whose cdf is the value in [0, 1], ``(..., *batch)``; NaN for a value out of range."""
        value = value.to(self.edges.dtype)
        ends = self._cumulative()[..., 1:]
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        wanted, ends = value.expand(shape)[..., None], ends.expand(*shape, -1)
        index = torch.searchsorted(ends.contiguous(), wanted.contiguous()).squeeze(-1).clamp_(max=len(self.edges) - 2)
        mass = self._take(self.probs, index)
        share = ((value - self._take(self._cumulative(), index)) / mass).clamp(0, 1)
        share = torch.where(mass > 0, share, torch.zeros_like(share))
        quantile = self.edges[index] + share * self.edges.diff()[index]
        return torch.where((value >= 0) & (value <= 1), quantile, torch.nan)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """``(*sample_shape, *batch)``, without gradient."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            return self.icdf(torch.rand(shape, dtype=self.edges.dtype, device=self.edges.device))

    def _cumulative(self) -> Tensor:
        """Masses below each edge, ``(*batch, k + 1)``, from 0 to 1."""
        sums = self.probs.cumsum(-1)
        sums = (sums / sums[..., -1:]).clamp(max=1)
        return torch.cat([torch.zeros_like(sums[..., :1]), sums], -1)

    def _index(self, value: Tensor) -> Tensor:
        return (torch.bucketize(value, self.edges, right=True) - 1).clamp_(0, len(self.edges) - 2)

    def _take(self, table: Tensor, index: Tensor) -> Tensor:
        """The entries of ``(*batch, m)`` at the indices ``(..., *batch)``."""
        shape = torch.broadcast_shapes(index.shape, self.batch_shape)
        return table.expand(*shape, -1).gather(-1, index.expand(shape)[..., None]).squeeze(-1)
