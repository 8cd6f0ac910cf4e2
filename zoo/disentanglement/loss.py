"""The terms of the six objectives, in nats per image, as means over a batch of B images.

Posteriors are diagonal Gaussians: ``mean`` and ``logvar`` of shape ``(B, L)``, and ``z`` one draw of each. Images are
in [0, 1]. Everything is computed in float32 at least, under autocast too; give posteriors and codes in float32, since
half precision loses the tails. The means of empty batches are NaN. All functions raise ``ValueError`` for shapes that
do not fit, instead of broadcasting them, and for numbers out of range; a loss is a scalar.
"""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..shared.arguments import check_at_least
from ..shared.losses import at_least_float32, check_rows, check_same_shape
from ..shared.processes import own_draw

LOG_2_PI = math.log(2 * math.pi)


# ---------------------------------------------------------------- reconstruction


def bernoulli_reconstruction(x: Tensor, logits: Tensor) -> Tensor:
    """``mean_b sum_pixels [softplus(l) - x l]``: the negative log-likelihood of pixels as probabilities.

    Of ``x`` in [0, 1] and logits, both ``(B, ...)``; zeros give ``4096 log 2 = 2839.13`` for 64x64 pixels. The sum over
    pixels matters: a mean would multiply every other term by their number. Its minimum is :func:`bernoulli_entropy`,
    which is above 0 for grey pixels.
    """
    check_same_shape(x=x, logits=logits)
    logits = at_least_float32(logits)
    return functional.binary_cross_entropy_with_logits(logits, x.to(logits.dtype), reduction="sum") / len(x)


def bernoulli_entropy(x: Tensor) -> Tensor:
    """The minimum of :func:`bernoulli_reconstruction` for images ``(B, ...)`` in [0, 1]."""
    x = at_least_float32(x).clamp(0, 1)
    return (torch.special.entr(x) + torch.special.entr(1 - x)).sum() / len(x)


def gaussian_reconstruction(x: Tensor, logits: Tensor) -> Tensor:
    """``mean_b sum_pixels [(x - sigmoid(l))^2 + log(pi) / 2]``: the negative log-density with variance 1/2.

    Of ``x`` in [0, 1] and logits, both ``(B, ...)``. Without the constant it is the squared error of the study's code.
    """
    check_same_shape(x=x, logits=logits)
    logits = at_least_float32(logits)
    error = functional.mse_loss(logits.sigmoid(), x.to(logits.dtype), reduction="sum")
    return error / len(x) + x.shape[1:].numel() * math.log(math.pi) / 2


# ---------------------------------------------------------------- divergence from the prior


def kl_per_latent(mean: Tensor, logvar: Tensor) -> Tensor:
    """``KL(q(z_l|x_b) || N(0, 1)) = (mean^2 + exp(logvar) - logvar - 1) / 2``, ``(B, L)``, at least 0 but for rounding.

    In float32 it is infinite for a ``logvar`` above 88.
    """
    check_rows(mean=mean, logvar=logvar)
    mean, logvar = at_least_float32(mean), at_least_float32(logvar)
    return (mean.square() + logvar.exp() - logvar - 1) / 2


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """``mean_b sum_l`` of :func:`kl_per_latent`."""
    return kl_per_latent(mean, logvar).sum() / len(mean)


def annealed_capacity(step: Tensor, max_capacity: float, annealing_steps: int) -> Tensor:
    """``c(t) = max_capacity min(1, t / T)`` in nats, from 0 in the first step (Burgess et al. 2018).

    t is ``step``, a scalar, the number of steps made, and T is ``annealing_steps``, at least 1.
    """
    check_at_least(0, max_capacity=max_capacity)
    check_at_least(1, annealing_steps=annealing_steps)
    return max_capacity * (step / annealing_steps).clamp(max=1)


def capacity_penalty(kl: Tensor, capacity: Tensor | float, gamma: float) -> Tensor:
    """``gamma |KL - c|`` with the mean over the batch inside, not image by image; c in nats, gamma at least 0."""
    check_at_least(0, gamma=gamma)
    return gamma * (kl - capacity).abs()


# ---------------------------------------------------------------- DIP-VAE


def covariance_of_means(mean: Tensor) -> Tensor:
    """``E[mean mean'] - E[mean] E[mean]'`` over the batch, divided by B: ``(B, L)`` to ``(L, L)``."""
    check_rows(mean=mean)
    mean = at_least_float32(mean)
    centred = mean - mean.mean(0)
    with torch.autocast(mean.device.type, enabled=False):
        return centred.T @ centred / len(mean)


def covariance_of_codes(mean: Tensor, logvar: Tensor) -> Tensor:
    """Covariance of the aggregate posterior, ``(L, L)``: that of the means plus the mean of the variances."""
    check_rows(mean=mean, logvar=logvar)
    return covariance_of_means(mean) + at_least_float32(logvar).exp().mean(0).diag()


def dip_penalty(covariance: Tensor, lambda_od: float, lambda_d: float) -> Tensor:
    """``lambda_od sum_{i != j} S_ij^2 + lambda_d sum_i (S_ii - 1)^2`` (Kumar et al. 2018).

    DIP-VAE-I has :func:`covariance_of_means` as S, ``(L, L)``, DIP-VAE-II :func:`covariance_of_codes`.
    """
    if covariance.dim() != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance {tuple(covariance.shape)}: expected (L, L)")
    covariance = at_least_float32(covariance)
    diagonal = covariance.diagonal()
    off_diagonal = (covariance - diagonal.diag()).square().sum()
    return lambda_od * off_diagonal + lambda_d * (diagonal - 1).square().sum()


# ---------------------------------------------------------------- total correlation, from densities


def gaussian_log_density(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """``log N(z; mean, exp(logvar))``, element by element; the three broadcast.

    In float32 it is minus infinity for a ``logvar`` below -88, and NaN where ``z`` is the mean too.
    """
    z, mean, logvar = at_least_float32(z), at_least_float32(mean), at_least_float32(logvar)
    return -((z - mean).square() * (-logvar).exp() + logvar + LOG_2_PI) / 2


def unnormalised_tc(z: Tensor, mean: Tensor, logvar: Tensor, log_weights: Tensor | None = None) -> Tensor:
    """``mean_j { LSE_i [w_ji + sum_l p_jil] - sum_l LSE_i [w_ji + p_jil] }`` with ``p_jil = log q(z_jl | x_i)``.

    Without weights this is what the study's code calls total correlation: that of :func:`mixture_tc` minus
    ``(L - 1) log B``, mostly negative. All three arguments receive gradients. Memory and work are those of J x B x L
    numbers. Differences come before squares: products of matrices would be no faster at B = 64, and in float32 they
    cancel where posteriors are narrow.

    Args:
        z: Draws, ``(J, L)``.
        mean: Means of the mixture's components, ``(B, L)``, B above 0.
        logvar: Logarithms of their variances.
        log_weights: w, ``(J, B)``; None for zeros.
    """
    check_rows(mean=mean, logvar=logvar)
    if len(mean) == 0 or z.dim() != 2 or z.shape[1] != mean.shape[1]:
        raise ValueError(
            f"draws {tuple(z.shape)} of components {tuple(mean.shape)}: expected (J, L) of (B, L), B above 0"
        )
    if log_weights is not None and log_weights.shape != (len(z), len(mean)):
        raise ValueError(f"weights {tuple(log_weights.shape)} of {len(mean)} components for {len(z)} draws")
    densities = gaussian_log_density(z.T[:, :, None], mean.T[:, None, :], logvar.T[:, None, :])  # (L, J, B)
    joint = densities.sum(0)
    if log_weights is not None:
        densities, joint = densities + log_weights, joint + log_weights
    return (joint.logsumexp(1) - densities.logsumexp(2).sum(0)).mean()


def mixture_tc(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Total correlation of the mixture of a batch's posteriors: :func:`unnormalised_tc` plus ``(L - 1) log B``.

    It is 0 where all posteriors are alike. For many latents and narrow posteriors it lies far above the truth: a batch
    of 64 cannot show that ten latents are independent. ``z``, ``mean`` and ``logvar`` are ``(B, L)``.
    """
    return weighted_tc(z, mean, logvar, dataset_size=1)


def weighted_tc(z: Tensor, mean: Tensor, logvar: Tensor, dataset_size: int) -> Tensor:
    """Minibatch-weighted sampling (Chen et al. 2018): :func:`unnormalised_tc` plus ``(L - 1) log(B N)``.

    N is ``dataset_size``, the number of different images, at least 1; ``z``, ``mean`` and ``logvar`` are ``(B, L)``.
    """
    check_rows(z=z, mean=mean, logvar=logvar)
    check_at_least(1, dataset_size=dataset_size)
    return unnormalised_tc(z, mean, logvar) + (z.shape[1] - 1) * math.log(len(mean) * dataset_size)


def stratified_tc(z: Tensor, mean: Tensor, logvar: Tensor, dataset_size: int) -> Tensor:
    """Minibatch-stratified sampling (Chen et al. 2018, appendix C.2), with :func:`stratified_log_weights`.

    ``z``, ``mean`` and ``logvar`` are ``(B, L)``, B from 2 to ``dataset_size``, the number of different images.
    """
    check_rows(z=z, mean=mean, logvar=logvar)
    weights = stratified_log_weights(len(z), dataset_size).to(z.device, at_least_float32(z).dtype)
    return unnormalised_tc(z, mean, logvar, weights)


def stratified_log_weights(batch_size: int, dataset_size: int) -> Tensor:
    """Logarithms ``(B, B)`` of the weight of posterior i for draw j; with M = B - 1 each row sums to 1.

    ``1 / N`` for the posterior that the draw is from, ``(N - M) / (N M)`` for the next one, ``1 / M`` for each other.

    Raises:
        ValueError: For fewer than 2 images, or a batch larger than the data set.
    """
    if not 2 <= batch_size <= dataset_size:
        raise ValueError(
            f"stratified sampling has a batch of {batch_size} of a data set of {dataset_size}; expected 2 at least, "
            "and no more than there are"
        )
    others = batch_size - 1
    weights = torch.full((batch_size, batch_size), 1 / others, dtype=torch.float64)
    index = torch.arange(batch_size)
    weights[index, (index + 1) % batch_size] = (dataset_size - others) / (dataset_size * others)
    weights[index, index] = 1 / dataset_size
    return weights.log()


# ---------------------------------------------------------------- total correlation, by a discriminator


def permute_latents(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws of the product of the marginals: each latent permuted over the batch by itself (Kim and Mnih 2018, alg. 1).

    ``z`` is ``(B, L)``, and the generator on its device, or None for the default one. Several processes with the same
    state draw different permutations.
    """
    check_rows(z=z)
    order = own_draw(partial(torch.rand, generator=generator), z).argsort(0)
    return z.gather(0, order)


def density_ratio_tc(logits: Tensor) -> Tensor:
    """``mean_b (logit_0 - logit_1)``: the total correlation by a discriminator (Kim and Mnih 2018, eq. 3).

    The logits ``(B, 2)`` are for codes of the aggregate posterior; logit 0 stands for these, 1 for permuted ones.
    """
    _check_pairs(logits)
    logits = at_least_float32(logits)
    return (logits[:, 0] - logits[:, 1]).mean()


def discriminator_loss(logits: Tensor, permuted_logits: Tensor) -> Tensor:
    """``-(mean log p_0(z) + mean log p_1(z_permuted)) / 2``: log 2 for equal logits.

    Of logits ``(B, 2)`` for detached codes of the aggregate posterior, and ``(B', 2)`` for permuted ones. The study's
    code clips the probabilities; here they are not clipped, so that confident errors keep their gradient.
    """
    _check_pairs(logits)
    _check_pairs(permuted_logits)
    right = at_least_float32(logits).log_softmax(1)[:, 0].mean()
    return -(right + at_least_float32(permuted_logits).log_softmax(1)[:, 1].mean()) / 2


def _check_pairs(logits: Tensor) -> None:
    if logits.dim() != 2 or logits.shape[1] != 2:
        raise ValueError(f"logits {tuple(logits.shape)} of a discriminator: expected (B, 2)")
