"""The losses of JEM, on logits ``f(x)`` of shape ``(B, K)``.

The model is ``p(x, y) = exp(f(x)[y]) / Z``, so ``log p(x) = LSE(x) - log Z`` with ``LSE`` the logsumexp over the K
logits (Grathwohl et al. 2020, section 3). Z is unknown and never computed: every density here is up to that constant.
All results are float32 at least, whatever the logits are, and the means of empty batches are NaN. Labels are integers
``(B,)`` in ``[0, K)``; what is no integer or does not fit the logits raises a ``ValueError``.
"""

import torch
from torch import Tensor

from ..shared.losses import at_least_float32, class_indices


def log_density(logits: Tensor) -> Tensor:
    """``log p(x)`` up to the constant ``log Z``: the logsumexp of the logits, ``(B,)``; larger is more likely.

    Adding c to all logits adds c here and leaves ``p(y|x)`` as it was. Torch takes the gradient, the softmax, from the
    rounded result: in float32 it is off by a share of 1e-7 times its size.
    """
    return at_least_float32(logits).logsumexp(-1)


def energy(logits: Tensor) -> Tensor:
    """``E(x) = -LSE(x)`` (section 3): ``(B, K)`` to ``(B,)``, smaller is more likely."""
    return -log_density(logits)


def generative_loss(logits_data: Tensor, logits_samples: Tensor) -> Tensor:
    """Contrastive estimate of ``-log p(x)``: ``mean LSE(samples) - mean LSE(data)``.

    Its gradient is the maximum-likelihood gradient when the samples come from the model (section 2, equation 2). The
    value itself is no likelihood: it hovers around zero while training is healthy. The samples, ``(B', K)``, may be
    more or fewer than the data; no gradient may flow through them into the sampler.
    """
    return log_density(logits_samples).mean() - log_density(logits_data).mean()


def conditional_generative_loss(logits_data: Tensor, logits_samples: Tensor, labels: Tensor) -> Tensor:
    """Contrastive estimate of ``-log p(x|y)``: ``mean f(samples)[y] - mean f(data)[y]``.

    The logits are those of real images and of samples drawn for the same labels, each ``(B, K)``.
    """
    return class_log_density(logits_samples, labels).mean() - class_log_density(logits_data, labels).mean()


def energy_penalty(logits_data: Tensor, logits_samples: Tensor) -> Tensor:
    """``mean LSE(data)^2 + mean LSE(samples)^2``: keeps the free constant of the energies near zero.

    The per-sample form that VERA's code uses (Grathwohl et al. 2021); the squared-mean form is smaller. Infinite in
    float32 for energies beyond 1e19. The numbers of data and samples, ``(B, K)`` and ``(B', K)``, may differ.
    """
    return log_density(logits_data).square().mean() + log_density(logits_samples).square().mean()


def class_log_density(logits: Tensor, labels: Tensor | None) -> Tensor:
    """``log p(x|y)`` up to a constant, ``f(x)[y]``; without labels ``log p(x)``. Either is ``(B,)``."""
    if labels is None:
        return log_density(logits)
    return at_least_float32(logits.gather(1, class_indices(logits, labels).unsqueeze(1)).squeeze(1))


def log_odds_of_error(logits: Tensor) -> Tensor:
    """``log((1 - p) / p)`` for ``p = max_y p(y|x)``, ``(B,)``, without the ties of a float32 softmax that is 1.

    A decreasing function of ``p``, so it ranks like ``-p``; minus infinity for a single class.
    """
    top = at_least_float32(logits).topk(logits.shape[1], dim=1).values
    return torch.logsumexp(top[:, 1:], 1) - top[:, 0]
