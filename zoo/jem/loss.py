"""The losses of JEM, on logits ``f(x)`` of shape ``(B, K)``.

The model is ``p(x, y) = exp(f(x)[y]) / Z``, so ``log p(x) = LSE(x) - log Z`` with ``LSE`` the logsumexp over the K
logits (Grathwohl et al. 2020, section 3). Z is unknown and never computed: every density here is up to that constant.
All results are float32 at least, whatever the logits are, and the means of empty batches are NaN.
"""

import torch
from torch import Tensor

from ..shared.losses import at_least_float32, class_indices


def log_density(logits: Tensor) -> Tensor:
    """``log p(x)`` up to the constant ``log Z``: the logsumexp of the logits.

    Args:
        logits: ``(B, K)``.

    Returns:
        ``(B,)``; larger is more likely. Adding c to all logits adds c here and leaves ``p(y|x)`` as it was. Torch takes
        the gradient, the softmax, from the rounded result: in float32 it is off by a share of 1e-7 times its size.
    """
    return at_least_float32(logits).logsumexp(-1)


def energy(logits: Tensor) -> Tensor:
    """``E(x) = -LSE(x)`` (section 3): ``(B, K)`` to ``(B,)``, smaller is more likely."""
    return -log_density(logits)


def generative_loss(logits_data: Tensor, logits_samples: Tensor) -> Tensor:
    """Contrastive estimate of ``-log p(x)``: ``mean LSE(samples) - mean LSE(data)``.

    Its gradient is the maximum-likelihood gradient when the samples come from the model (section 2, equation 2). The
    value itself is no likelihood: it hovers around zero while training is healthy.

    Args:
        logits_data: ``(B, K)`` of real images.
        logits_samples: ``(B', K)`` of samples, through which no gradient may flow into the sampler.

    Returns:
        A scalar to minimise.
    """
    return log_density(logits_samples).mean() - log_density(logits_data).mean()


def conditional_generative_loss(logits_data: Tensor, logits_samples: Tensor, labels: Tensor) -> Tensor:
    """Contrastive estimate of ``-log p(x|y)``: ``mean f(samples)[y] - mean f(data)[y]``.

    Args:
        logits_data: ``(B, K)`` of real images.
        logits_samples: ``(B, K)`` of samples drawn for the same labels.
        labels: ``(B,)``, integers in ``[0, K)``.

    Returns:
        A scalar to minimise.

    Raises:
        ValueError: For labels that are no integers or do not fit the logits.
    """
    return class_log_density(logits_samples, labels).mean() - class_log_density(logits_data, labels).mean()


def energy_penalty(logits_data: Tensor, logits_samples: Tensor) -> Tensor:
    """``mean LSE(data)^2 + mean LSE(samples)^2``: keeps the free constant of the energies near zero.

    The per-sample form that VERA's code uses (Grathwohl et al. 2021); the squared-mean form is smaller. Infinite in
    float32 for energies beyond 1e19.

    Args:
        logits_data: ``(B, K)``.
        logits_samples: ``(B', K)``.

    Returns:
        A scalar, at least 0.
    """
    return log_density(logits_data).square().mean() + log_density(logits_samples).square().mean()


def class_log_density(logits: Tensor, labels: Tensor | None) -> Tensor:
    """``log p(x|y)`` up to a constant, ``f(x)[y]``; without labels ``log p(x)``.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)`` integers, or None.

    Returns:
        ``(B,)``.

    Raises:
        ValueError: For labels that are no integers or do not fit the logits.
    """
    if labels is None:
        return log_density(logits)
    return at_least_float32(logits.gather(1, class_indices(logits, labels).unsqueeze(1)).squeeze(1))


def log_odds_of_error(logits: Tensor) -> Tensor:
    """``log((1 - p) / p)`` for ``p = max_y p(y|x)``, without the ties of a float32 softmax that is 1.

    Args:
        logits: ``(B, K)``.

    Returns:
        ``(B,)``, minus infinity for a single class; a decreasing function of ``p``, so it ranks like ``-p``.
    """
    top = at_least_float32(logits).topk(logits.shape[1], dim=1).values
    return torch.logsumexp(top[:, 1:], 1) - top[:, 0]
