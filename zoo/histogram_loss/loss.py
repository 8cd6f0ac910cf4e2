"""The histogram loss, its targets, and the losses that it is compared with.

k + 1 rising edges cut the support into k bins of any widths; they are half-open, ``[e_{i-1}, e_i)``, the last one is
closed. A target is a row of probability masses c, one for each bin, which sum to 1: ``(..., k)`` for labels
``(...,)``. A prediction is the softmax h of k logits. Labels outside the support count as its nearer end; the target of
a NaN label contains NaN. Everything is computed in float32 at least, under autocast too. The means of empty batches are
NaN. All functions raise ``ValueError`` for shapes that do not fit, instead of broadcasting them.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..shared.arguments import check_at_least
from ..shared.losses import at_least_float32, check_rows, check_same_shape


def bin_edges(
    low: float, high: float, bins: int, padding_sigmas: float = 0, sigma_ratio: float = 1, padding_share: float = 0
) -> Tensor:
    """Edges of equal bins over the labels' range and a padding on each side of it.

    The Gaussian target of a label at the very end of the support has a mean 0.8 sigma inside. Padding moves the end
    away from the labels: the bias is 0.06 sigma for a padding of 2 sigma, 0.0044 sigma for 3, 0.00013 sigma for 4.
    The follow-up (Imani et al. 2024) has two conventions, of which at most one is used.

    Args:
        low: Smallest label.
        high: Largest label, above ``low``.
        bins: Number of bins k, at least 2, with those of the padding.
        padding_sigmas: In sigma, at least 0; bins are ``(high - low) / (k - 2 padding_sigmas sigma_ratio)`` wide.
        sigma_ratio: Sigma in bins, at least 0; only for ``padding_sigmas``.
        padding_share: The same as a share of ``high - low``, at least 0.

    Returns:
        ``(k + 1,)``, float64; sigma is ``sigma_ratio`` times the difference of two neighbours.

    Raises:
        ValueError: For a value out of its range, both paddings, paddings that leave no bin for the labels, or a support
            that float64 cannot cut into as many bins.
    """
    check_at_least(2, bins=bins)
    check_at_least(0, padding_sigmas=padding_sigmas, sigma_ratio=sigma_ratio, padding_share=padding_share)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the support is [low, high] = [{low}, {high}]; expected finite numbers with low < high")
    if padding_sigmas and padding_share:
        raise ValueError(f"padding_sigmas={padding_sigmas} and padding_share={padding_share}: expected at most one")
    left = bins - 2 * padding_sigmas * sigma_ratio  # bins between the smallest and the largest label
    if padding_sigmas and left < 1:
        raise ValueError(
            f"padding_sigmas={padding_sigmas} with sigma_ratio={sigma_ratio} takes "
            f"{2 * padding_sigmas * sigma_ratio:g} of {bins} bins: expected more bins or less padding"
        )
    padding = padding_sigmas * sigma_ratio * (high - low) / left if padding_sigmas else padding_share * (high - low)
    edges = torch.linspace(low - padding, high + padding, bins + 1, dtype=torch.float64)
    if not bool(((edges.diff() > 0) & edges.diff().isfinite()).all()):
        raise ValueError(f"[{low - padding}, {high + padding}] cannot be cut into {bins} bins in float64")
    return edges


def bin_centres(edges: Tensor) -> Tensor:
    """Middles ``(k,)`` of the bins between edges ``(k + 1,)``."""
    return (edges[1:] + edges[:-1]) / 2


# ---------------------------------------------------------------- targets


def truncated_gaussian_target(y: Tensor, edges: Tensor, sigma: float | Tensor) -> Tensor:
    """Masses of Normal(y, sigma²) cut off at the ends of the support (HL-Gaussian).

    ``c_i = (G(e_i) - G(e_{i-1})) / (G(e_k) - G(e_0))`` with ``G(t) = erf((t - y) / (sqrt(2) sigma))``. Labels are
    clamped to the support first: in float32 the denominator is 0 for a label 5.6 sigma outside.

    Args:
        y: Labels ``(...,)``.
        edges: ``(k + 1,)``.
        sigma: Standard deviation in [0, 1e30], in the units of the labels; a larger one would be infinite in float32. 0
            gives :func:`dirac_target`, the limit. The value of a tensor ``()`` is not checked, since that would stall a
            GPU; it must be above 0.

    Raises:
        ValueError: For a sigma out of range or NaN.
    """
    if not isinstance(sigma, Tensor):
        if not 0 <= sigma <= 1e30:
            raise ValueError(f"sigma is {sigma}; expected a number in [0, 1e30]")
        if sigma < torch.finfo(torch.float32).tiny:
            return dirac_target(y, edges)
    y, edges = _same_precision(y, edges)
    y = y.clamp(edges[0], edges[-1])
    cumulative = torch.erf((edges - y[..., None]) / (math.sqrt(2) * sigma))
    masses = cumulative.diff(dim=-1).clamp_(min=0)  # erf falls by a rounding here and there
    return masses.div_(cumulative[..., -1:] - cumulative[..., :1])


def dirac_target(y: Tensor, edges: Tensor) -> Tensor:
    """All mass in the label's bin (HL-OneBin): the loss is a classifier's cross-entropy."""
    y, edges = _same_precision(y, edges)
    masses = edges.new_zeros(*y.shape, len(edges) - 1)
    one = torch.where(y.isnan(), y, 1.0)
    return masses.scatter_(-1, bin_index(y, edges)[..., None], one[..., None])


def uniform_mix_target(y: Tensor, edges: Tensor, epsilon: float = 1e-3) -> Tensor:
    """A mass of epsilon in each other bin, the rest in the label's (HL-Uniform): label smoothing by k epsilon.

    The authors' code has an epsilon of 1e-3.

    Raises:
        ValueError: For an epsilon outside ``[0, 1 / (k - 1)]``.
    """
    target = dirac_target(y, edges)
    bins = target.shape[-1]
    if not 0 <= epsilon <= 1 / (bins - 1):
        raise ValueError(f"epsilon is {epsilon}; expected a number in [0, {1 / (bins - 1):g}] for {bins} bins")
    return target * (1 - bins * epsilon) + epsilon


def projected_target(y: Tensor, edges: Tensor) -> Tensor:
    """Mass in the two bins whose centres are nearest, so that the mean is the label (HL-Projected, "two-hot").

    A label beyond the outermost centre puts all mass there.
    """
    y, edges = _same_precision(y, edges)
    centres = bin_centres(edges)
    left = (torch.bucketize(y, centres, right=True) - 1).clamp_(0, len(centres) - 2)
    share = ((y - centres[left]) / (centres[left + 1] - centres[left])).clamp(0, 1)
    masses = edges.new_zeros(*y.shape, len(centres))
    index = torch.stack([left, left + 1], -1)
    return masses.scatter_(-1, index, torch.stack([1 - share, share], -1))


def bin_index(y: Tensor, edges: Tensor) -> Tensor:
    """Index of the bin that holds each label, ``(...,)`` int64: the nearest for labels outside, the last for NaN."""
    y, edges = _same_precision(y, edges)
    return (torch.bucketize(y, edges, right=True) - 1).clamp_(0, len(edges) - 2)


def target_entropy(target: Tensor) -> Tensor:
    """Entropy H(c), ``(...,)``, in nats, of masses ``(..., k)``: the least that the histogram loss can be."""
    return torch.special.entr(at_least_float32(target)).sum(-1)


# ---------------------------------------------------------------- losses


def histogram_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy ``-sum_i c_i log h_i`` with ``h = softmax(logits)``, in nats.

    It is KL(target || prediction) plus the target's entropy H(c), so that its minimum is H(c), not 0. The gradient with
    respect to a row of logits is ``(h - c) / B``.

    Args:
        logits: ``(B, k)``, any floating dtype; computed in float32 at least. Where one is minus infinity, the loss is
            infinite, or NaN if the target has no mass there either.
        target: Masses c, ``(B, k)``, each row of which sums to 1.
    """
    check_rows(logits=logits, target=target)
    dtype = torch.promote_types(torch.promote_types(logits.dtype, target.dtype), torch.float32)
    return functional.cross_entropy(logits.to(dtype), target.to(dtype))


def gaussian_loss(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Mean negative log-density of Normal(mean, scale²), in nats; all are ``(B,)``. Scales must be above 0."""
    check_same_shape(y=y, mean=mean, scale=scale)
    y, mean, scale = (at_least_float32(values) for values in (y, mean, scale))
    return (((y - mean) / scale).square() / 2 + scale.log()).mean() + math.log(2 * math.pi) / 2


def mixture_loss(y: Tensor, logits: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Mean negative log-density of a mixture of normal distributions, in nats (Bishop 1994, eq. 29).

    Labels are ``(B,)``; the weights' logits, the means and the scales, which must be above 0, are ``(B, M)``.
    """
    check_rows(logits=logits, means=means, scales=scales)
    if y.shape != means.shape[:1]:
        raise ValueError(f"labels {tuple(y.shape)} with means {tuple(means.shape)}: expected (B,) and (B, M)")
    y, logits, means, scales = (at_least_float32(values) for values in (y, logits, means, scales))
    exponents = ((y[:, None] - means) / scales).square() / 2 + scales.log() + math.log(2 * math.pi) / 2
    return -(logits.log_softmax(-1) - exponents).logsumexp(-1).mean()


# ---------------------------------------------------------------- point predictions


def histogram_mean(masses: Tensor, edges: Tensor) -> Tensor:
    """Mean ``(...,)`` of histograms ``(..., k)``: the sum of masses times centres, never beyond the outermost ones."""
    masses, edges = _histogram(masses, edges)
    with torch.autocast(masses.device.type, enabled=False):  # it would give the mean two or three digits
        return masses @ bin_centres(edges).to(masses.dtype)


def histogram_median(masses: Tensor, edges: Tensor) -> Tensor:
    """Median ``(...,)`` of histograms ``(..., k)`` that are uniform within each bin.

    ``e_{j-1} + w_j (1/2 - F_{j-1}) / h_j`` for the first bin j whose cumulative mass F_j reaches one half.
    """
    masses, edges = _histogram(masses, edges)
    edges = edges.to(masses.dtype)
    cumulative = masses.cumsum(-1)
    half = cumulative[..., -1:] / 2
    index = (cumulative < half).sum(-1, keepdim=True).clamp_(max=masses.shape[-1] - 1)
    mass = masses.gather(-1, index)
    share = ((half - cumulative.gather(-1, index) + mass) / mass).clamp(0, 1).squeeze(-1)
    index = index.squeeze(-1)
    return edges[index] + share * edges.diff()[index]


def histogram_mode(masses: Tensor, edges: Tensor) -> Tensor:
    """Centre ``(...,)`` of the bin of the highest density of histograms ``(..., k)``; resolution one bin.

    The first of several; NaN where a mass is NaN.
    """
    masses, edges = _histogram(masses, edges)
    highest, index = (masses / edges.diff()).max(-1)
    return torch.where(highest.isnan(), highest, bin_centres(edges)[index]).to(masses.dtype)


def _histogram(masses: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    if edges.dim() != 1 or masses.shape[-1:] != (len(edges) - 1,):
        raise ValueError(
            f"masses {tuple(masses.shape)} with edges {tuple(edges.shape)}: expected (..., k) and (k + 1,)"
        )
    return at_least_float32(masses), at_least_float32(edges)


def _same_precision(y: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    if edges.dim() != 1 or len(edges) < 3:
        raise ValueError(f"edges {tuple(edges.shape)}: expected (k + 1,) with 2 bins at least")
    dtype = torch.promote_types(torch.promote_types(y.dtype, edges.dtype), torch.float32)
    return y.to(dtype), edges.to(dtype)
