"""Losses of a student on a teacher's soft targets, for classes and for histograms.

Everything is computed in float32 at least, also under autocast. The means of empty batches are NaN. Losses are scalars.
All raise ``ValueError`` for numbers out of their range and for shapes or labels that do not fit.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..shared.arguments import check_positive, check_share
from ..shared.losses import at_least_float32, check_rows, cross_entropy


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0, alpha: float = 0.9
) -> Tensor:
    """``(1 - alpha) CE(labels, softmax(z)) + alpha T² KL(softmax(v / T) || softmax(z / T))``, in nats.

    Mean over the batch (Hinton, Vinyals and Dean 2015, section 2). The hard term is at T = 1.

    Args:
        student_logits: z, ``(B, K)``.
        teacher_logits: v, ``(B, K)``; no gradient reaches them.
        labels: ``(B,)``, integers in ``[0, K)``.
        temperature: T, above 0.
        alpha: Weight of the soft term, in [0, 1].
    """
    return mix(hard_loss(student_logits, labels), soft_target_loss(student_logits, teacher_logits, temperature), alpha)


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """``T² KL(softmax(v / T) || softmax(z / T))``, mean over the batch, in nats.

    The gradient with respect to a row of z is ``T (q - p) / B`` with the two softmaxes p and q. For a high T it is near
    ``((z - mean z) - (v - mean v)) / (K B)``, the matching of logits: T² keeps it of that size (section 2.1).
    The value, not the gradient, loses digits in float32 at very high temperatures: an error of about 1e-7 T². A
    temperature so small or so large that ``v / T`` or T² is infinite in that precision gives NaN.

    Args:
        student_logits: z, ``(B, K)``, finite.
        teacher_logits: v, ``(B, K)``; minus infinity is a probability of 0; no gradient reaches them.
        temperature: T, above 0.

    Returns:
        A scalar, at least 0 but for rounding.
    """
    check_positive(temperature=temperature)
    check_rows(student_logits=student_logits, teacher_logits=teacher_logits)
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits.detach())
    masses = (teacher / temperature).softmax(-1)
    # "batchmean" sums over the classes; "mean" would divide by their number too
    divergence = functional.kl_div((student / temperature).log_softmax(-1), masses, reduction="batchmean")
    return temperature * temperature * divergence  # a square that overflows would raise another error


def mix(hard: Tensor, soft: Tensor, alpha: float) -> Tensor:
    """``(1 - alpha) hard + alpha soft``, of the losses on the labels and on the teacher's targets; alpha in [0, 1]."""
    check_share(alpha=alpha)
    return (1 - alpha) * hard + alpha * soft


def rebin(masses: Tensor, edges: Tensor, new_edges: Tensor) -> Tensor:
    """The masses of histograms in other bins: exactly the differences of their piecewise linear cdf at the new edges.

    Mass beyond the new edges goes to the outermost new bins, so the sum stays. Edges that do not rise give NaN: to
    check their values would stall a GPU.

    Args:
        masses: ``(..., k)``, spread evenly within each bin.
        edges: ``(k + 1,)``, rising; the widths may differ.
        new_edges: ``(m + 1,)``, rising.

    Returns:
        ``(..., m)``, float32 at least.
    """
    if edges.dim() != 1 or new_edges.dim() != 1 or len(new_edges) < 2 or masses.shape[-1:] != (len(edges) - 1,):
        raise ValueError(
            f"masses {tuple(masses.shape)} with edges {tuple(edges.shape)} and new edges {tuple(new_edges.shape)}: "
            "expected (..., k), (k + 1,) and (m + 1,)"
        )
    masses, edges, new_edges = (at_least_float32(values) for values in (masses, edges, new_edges))
    dtype = torch.promote_types(torch.promote_types(masses.dtype, edges.dtype), new_edges.dtype)
    masses, edges, new_edges = masses.to(dtype), edges.to(dtype), new_edges.to(dtype)
    inner = new_edges[1:-1]
    lows = torch.cat([inner.new_full((1,), -math.inf), inner])
    highs = torch.cat([inner, inner.new_full((1,), math.inf)])
    # The part of each old bin in each new one. Overlaps instead of differences of sums: nothing cancels in the tails.
    overlap = torch.minimum(edges[1:, None], highs) - torch.maximum(edges[:-1, None], lows)
    parts = overlap.clamp(min=0) / torch.where(edges.diff() > 0, edges.diff(), torch.nan)[:, None]
    parts = torch.where(new_edges.diff() > 0, parts, torch.nan)
    with torch.autocast(masses.device.type, enabled=False):  # the only operation here that it would lower
        return masses @ parts


def hard_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with given targets, ``-sum_i c_i log h_i``, ``h = softmax(logits)``: mean over the batch, in nats.

    Args:
        logits: ``(B, K)``.
        target: c, ``(B, K)``, each row of which sums to 1; or labels ``(B,)``, integers in ``[0, K)``.
    """
    if not target.is_floating_point():
        return cross_entropy(logits, target)
    check_rows(logits=logits, target=target)
    logits = at_least_float32(logits)
    return functional.cross_entropy(logits, target.to(logits.dtype))
