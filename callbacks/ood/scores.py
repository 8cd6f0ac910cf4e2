"""Out-of-distribution scores from logits, and ODIN: pure functions, a larger score is more out-of-distribution.

Everything is computed and returned in float64, and in forms that do not saturate: a confident network's softmax
is exactly 1 for many samples in float32, and those would tie.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def msp(logits: Tensor) -> Tensor:
    """Maximum softmax probability p as its negative log-odds, log((1 - p) / p), (B, K) to (B,): no ties.

    The ranking is that of p, which is ``sigmoid(-score)``. Hendrycks & Gimpel 2017.
    """
    return _log_rest(logits.double()) - logits.double().amax(dim=1)


def max_logit(logits: Tensor) -> Tensor:
    """Negative largest logit, (B, K) to (B,). Hendrycks et al. 2022."""
    return -logits.double().amax(dim=1)


def energy(logits: Tensor) -> Tensor:
    """Negative log-sum-exp of the logits, (B, K) to (B,), temperature 1. Liu et al. 2020."""
    return -logits.double().logsumexp(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax in nats, (B, K) to (B,), in [0, log K]."""
    z = logits.double()
    others = z.log_softmax(dim=1).topk(z.shape[1], dim=1).values[:, 1:]
    # -log of the largest p from the other classes, else it is lost where p rounds to 1
    largest = torch.log1p((_log_rest(z) - z.amax(dim=1)).exp())
    # nothing where p is 0 and its logarithm infinite
    return (-largest).exp() * largest - (others.exp() * others).where(others != -torch.inf, 0.0).sum(dim=1)


def gen(logits: Tensor, gamma: float = 0.1, top: int = 100) -> Tensor:
    """Generalised entropy: sum of (p (1 - p)) ** gamma over the most probable classes, (B, K) to (B,).

    Liu, Lochman & Zach 2023. The sum, as in the paper; some libraries take the mean.
    """
    z = logits.double()
    log_p = z.log_softmax(dim=1).topk(min(top, z.shape[1]), dim=1).values
    # 1 - p of the largest p from the other classes, else it is 0 where p rounds to 1
    log_rest = torch.cat([(_log_rest(z) - z.logsumexp(dim=1))[:, None], torch.log1p(-log_p[:, 1:].exp())], dim=1)
    return (gamma * (log_p + log_rest)).exp().sum(dim=1)


def _log_rest(logits: Tensor) -> Tensor:
    """Log-sum-exp over all classes but the largest, (B, K >= 2) to (B,)."""
    return logits.topk(logits.shape[1], dim=1).values[:, 1:].logsumexp(dim=1)


def odin(
    forward: Callable[[Tensor], Tensor], x: Tensor, epsilon: float = 0.0028, temperature: float = 1000.0
) -> Tensor:
    """`msp` at a high temperature after a small step of the input towards its predicted class.

    Liang, Li & Srikant 2018. Right in inference mode too, and leaves no gradient in the weights.

    Args:
        forward: (B, ...) inputs to (B, K) logits, each sample on its own.
        x: (B, ...) floating-point inputs; the scores (B,) are on the CPU.
        epsilon: Step in units of the input. The paper's 0.0014 of pixels in [0, 1] is 0.0028 in [-1, 1].
        temperature: Of both softmaxes.
    """

    def loss(inputs: Tensor) -> Tensor:
        logits = forward(inputs)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # not every device has float64
        # sum of -log p of the predicted class
        return -(logits / temperature).log_softmax(dim=1).amax(dim=1).sum()

    # before torch 2.12, torch.func.grad silently gives zeros in inference mode
    with torch.inference_mode(False), torch.no_grad():
        step = epsilon * torch.func.grad(loss)(x).sign()
    return msp(forward(x - step).detach().cpu().double() / temperature)


LOGIT_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "msp": msp,
    "max_logit": max_logit,
    "energy": energy,
    "entropy": entropy,
    "gen": gen,
}
