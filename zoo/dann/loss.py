"""Losses and schedules of domain-adversarial training, and the inputs of a conditional domain head.

All raise ``ValueError`` for numbers out of their range, NaN included, and for shapes that do not fit.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..shared.arguments import check_positive, check_share
from ..shared.losses import at_least_float32, check_same_shape
from .reversal import ReverseGradient


def reverse_gradient(x: Tensor, coefficient: float | Tensor = 1.0) -> Tensor:
    """The gradient reversal layer: the identity, whose gradient is the incoming one times ``-coefficient``.

    The layers behind it minimise their loss; the layers before it maximise it. The coefficient scales only the gradient
    of the layers before it: the domain head learns at its full rate. Ganin et al. 2016, section 4.2.

    Args:
        x: Any shape, floating-point.
        coefficient: Lambda, at least 0; no gradient reaches it. The value of a tensor is not checked: that would stall
            a GPU.

    Returns:
        The values of ``x``, bit for bit.
    """
    if not isinstance(coefficient, Tensor) and not coefficient >= 0:
        raise ValueError(f"coefficient is {coefficient}; expected a number of at least 0")
    return ReverseGradient.apply(x, coefficient)


def domain_coefficient(progress: float, gamma: float = 10.0) -> float:
    """The weight of the reversed gradient: ``lambda_p = 2 / (1 + exp(-gamma p)) - 1``, from 0 up to almost 1.

    Ganin et al. 2016, section 5.2.2. The progress p in [0, 1] is the share of the training that is done; gamma, the
    steepness, is above 0.
    """
    check_share(progress=progress)
    check_positive(gamma=gamma)
    return math.tanh(gamma * progress / 2)  # the same function, without overflow


def annealing_factor(progress: float) -> float:
    """The factor of the learning rate at progress p: ``(1 + 10 p)^-0.75`` (Ganin et al. 2016, section 5.2.2)."""
    check_share(progress=progress)
    return (1 + 10 * progress) ** -0.75


def domain_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of the domain head: the mean over the source plus the mean over the target.

    Source is 0 and target is 1. The two means are added, whatever the sizes of the two halves, as in section 4.2; many
    implementations take the mean over both, which halves the gradient that the features receive.

    Args:
        source_logits: (B,), log P(target) - log P(source) by the domain head for images of the source.
        target_logits: (B',), likewise for images of the target.
        source_weights: (B,) weights with mean 1, see :func:`entropy_weights`; None for equal ones.
        target_weights: (B',), likewise.

    Returns:
        A scalar in nats, float32 at least; 2 log 2 for a head that knows nothing, NaN where a domain has no images.
    """
    total = torch.zeros((), device=source_logits.device)
    for logits, weights in ((source_logits, source_weights), (-target_logits, target_weights)):
        if weights is not None:
            check_same_shape(logits=logits, weights=weights)
        loss = functional.softplus(at_least_float32(logits))  # -log(1 - P(target)), or -log P(target)
        total = total + (loss if weights is None else loss * weights).mean()
    return total


def conditional_features(features: Tensor, probabilities: Tensor, maps: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The input of CDAN's domain head: the outer product of class probabilities and features (Long et al. 2018).

    Args:
        features: (B, D).
        probabilities: (B, K); the caller detaches them, so that the label head is not trained through them.
        maps: Random matrices R_f (D, d) and R_g (K, d), fixed, with standard normal entries: then the product is
            ``(f R_f) * (g R_g) / sqrt(d)``, whose inner products are those of the outer product in expectation.

    Returns:
        (B, K D), class by class, or (B, d).
    """
    if features.dim() != 2 or probabilities.dim() != 2 or len(features) != len(probabilities):
        raise ValueError(
            f"features {tuple(features.shape)} with probabilities {tuple(probabilities.shape)}: expected (B, D) and "
            "(B, K)"
        )
    rows = features.shape[1], probabilities.shape[1]
    if maps is not None and [tuple(part.shape) for part in maps] != [(count, maps[0].shape[-1]) for count in rows]:
        raise ValueError(
            f"maps {tuple(maps[0].shape)} and {tuple(maps[1].shape)} of {rows[0]} features and {rows[1]} classes: "
            "expected (D, d) and (K, d)"
        )
    if maps is None:
        return (probabilities[:, :, None] * features[:, None, :]).flatten(1)
    return (features @ maps[0]) * (probabilities @ maps[1]) / math.sqrt(maps[0].shape[1])


def entropy_weights(logits: Tensor) -> Tensor:
    """Weights of CDAN+E: ``1 + exp(-H)``, scaled to mean 1, so images that are classified with confidence count more.

    Args:
        logits: (B, K) of the images of one domain, minus infinity for a probability of 0; no gradient flows into them.

    Returns:
        (B,), float32 at least, with mean 1: the ratio of two weights is at most 2.
    """
    logarithms = at_least_float32(logits.detach()).log_softmax(1)
    logarithms = logarithms.clamp(min=torch.finfo(logarithms.dtype).min)  # 0 log 0 is 0
    weights = 1 + (logarithms.exp() * logarithms).sum(1).exp()
    return weights / weights.mean()
