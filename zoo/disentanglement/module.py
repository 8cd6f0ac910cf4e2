"""beta-VAE, AnnealedVAE, DIP-VAE and beta-TCVAE, each with its own regulariser."""

from typing import Any, Literal

import torch
from torch import Tensor

from ..shared.arguments import check_at_least
from .loss import (
    annealed_capacity,
    capacity_penalty,
    covariance_of_codes,
    covariance_of_means,
    dip_penalty,
    mixture_tc,
    stratified_tc,
    unnormalised_tc,
    weighted_tc,
)
from .vae import VAE, Codes, Likelihood, Statistics

Estimator = Literal["mixture", "weighted", "stratified", "unnormalised"]


class BetaVAE(VAE):
    """beta-VAE: an autoencoder that minimises ``reconstruction + beta KL`` (Higgins et al. 2017).

    Batch: ``(x, factors)`` or ``x`` with images ``(B, *image_shape)`` in [-1, 1]; factors are never used. Logs, in nats
    per image, ``loss``, ``reconstruction``, ``kl`` and ``regulariser``; in validation and test also ``elbo`` and, for
    Bernoulli, ``reconstruction_excess`` over the entropy of the pixels. A step of two processes with batches of n
    equals one of a single process with 2 n, given the same noise. 16-mixed leaves out about ten steps at the start: the
    loss is a sum over pixels, and torch has to find a smaller scale for it.

    Args:
        image_shape: ``(channels, 64, 64)``; the command line takes it from the data.
        num_latents: L, size of a code.
        beta: Weight of the KL, at least 0; 1, 2, 4, 6, 8 and 16 in the study. With 1 it is the plain VAE.
        likelihood: ``bernoulli`` on logits, for grey and coloured pixels too, as in the study; ``gaussian``, with
            variance 1/2 around the sigmoid of the logits.
        lr: Adam's learning rate.

    Raises:
        ValueError: For a value out of its range, or images that the network does not take.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...] = (1, 64, 64),
        num_latents: int = 10,
        beta: float = 4.0,
        likelihood: Likelihood = "bernoulli",
        lr: float = 1e-4,
    ) -> None:
        check_at_least(0, beta=beta)
        super().__init__()

    def regulariser(self, codes: Codes, kl: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """``beta KL``."""
        return {"regulariser": self.hparams["beta"] * kl}


class AnnealedVAE(VAE):
    """AnnealedVAE: an autoencoder that minimises ``reconstruction + gamma |KL - c(t)|`` (Burgess et al. 2018).

    The capacity ``c(t) = max_capacity min(1, t / annealing_steps)`` grows with the optimiser's steps, whose number t is
    kept in checkpoints. In validation and test it is ``max_capacity`` from the start, as in the study. The absolute
    value is taken of the batch's mean KL. Batch, logs and errors are those of ``BetaVAE``, and ``capacity`` is logged.

    A step of two processes with batches of n is that of one with 2 n for ``statistics`` all_ranks, not for local. In
    validation and test ``regulariser`` and ``loss`` are means over each process's batches, so that they change with the
    number of processes; ``reconstruction``, ``kl`` and ``elbo`` do not. Both hold for DIP-VAE and beta-TCVAE, too.
    16-mixed leaves out about eleven steps at the start, see ``BetaVAE``.

    Args:
        image_shape: ``(channels, 64, 64)``; the command line takes it from the data.
        num_latents: L, size of a code.
        max_capacity: In nats, at least 0; 5, 10, 25, 50, 75 and 100 in the study.
        gamma: Weight of the distance, at least 0.
        annealing_steps: Steps until the capacity is reached, at least 1.
        statistics: Whether the KL within the absolute value is that of the process's batch, ``local``, or of the
            batches of ``all_ranks``, which are to be of equal size; in training.
        likelihood: ``bernoulli`` on logits, or ``gaussian`` with variance 1/2.
        lr: Adam's learning rate.
    """

    step: Tensor

    def __init__(
        self,
        image_shape: tuple[int, ...] = (1, 64, 64),
        num_latents: int = 10,
        max_capacity: float = 25.0,
        gamma: float = 1000.0,
        annealing_steps: int = 100_000,
        statistics: Statistics = "local",
        likelihood: Likelihood = "bernoulli",
        lr: float = 1e-4,
    ) -> None:
        check_at_least(0, max_capacity=max_capacity, gamma=gamma)
        check_at_least(1, annealing_steps=annealing_steps)
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def regulariser(self, codes: Codes, kl: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """``gamma |KL - c|``, and the capacity c."""
        h: Any = self.hparams
        step = self.step if self.training else torch.full_like(self.step, h.annealing_steps)
        capacity = annealed_capacity(step, h.max_capacity, h.annealing_steps)
        return {"regulariser": capacity_penalty(kl, capacity, h.gamma), "capacity": capacity}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then advance the annealing counter."""
        super().optimizer_step(*args, **kwargs)
        self.step += 1


class DIPVAE(VAE):
    """DIP-VAE: an autoencoder that draws the covariance of its codes towards the identity (Kumar et al. 2018).

    It minimises ``reconstruction + KL + lambda_od sum_{i != j} S_ij^2 + lambda_d sum_i (S_ii - 1)^2``, where S is the
    covariance of the posteriors' means (I) or of the aggregate posterior (II) over one batch, whose size matters.

    Batch, logs and errors are those of ``BetaVAE``, and ``penalty``, the term with S, is logged; several processes are
    as for ``AnnealedVAE``: with ``statistics`` local a step of two with batches of n is not that of one with 2 n.
    16-mixed leaves out about eleven steps at the start.

    Args:
        image_shape: ``(channels, 64, 64)``; the command line takes it from the data.
        num_latents: L, size of a code.
        variant: ``I`` or ``II``.
        lambda_od: Weight off the diagonal, at least 0; 1, 2, 5, 10, 20 and 50 in the study.
        lambda_d: Weight on the diagonal, at least 0; None for the study's, 10 ``lambda_od`` for I and ``lambda_od``
            for II.
        statistics: Whether S is that of the process's batch, ``local``, or of the batches of ``all_ranks``, which are
            to be of equal size; in training.
        likelihood: ``bernoulli`` on logits, or ``gaussian`` with variance 1/2.
        lr: Adam's learning rate.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...] = (1, 64, 64),
        num_latents: int = 10,
        variant: Literal["I", "II"] = "I",
        lambda_od: float = 5.0,
        lambda_d: float | None = None,
        statistics: Statistics = "local",
        likelihood: Likelihood = "bernoulli",
        lr: float = 1e-4,
    ) -> None:
        check_at_least(0, lambda_od=lambda_od, lambda_d=lambda_d)
        super().__init__()

    def regulariser(self, codes: Codes, kl: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """KL plus penalty, and the penalty."""
        h: Any = self.hparams
        first = h.variant == "I"
        covariance = covariance_of_means(codes.mean) if first else covariance_of_codes(codes.mean, codes.logvar)
        lambda_d = (10 if first else 1) * h.lambda_od if h.lambda_d is None else h.lambda_d
        penalty = dip_penalty(covariance, h.lambda_od, lambda_d)
        return {"regulariser": kl + penalty, "penalty": penalty}


class BetaTCVAE(VAE):
    """beta-TCVAE: an autoencoder that minimises ``reconstruction + KL + (beta - 1) TC`` (Chen et al. 2018).

    TC, the total correlation of the codes, is estimated from the batch's posteriors; at 64 images and ten latents the
    estimate is far too high for narrow ones. Batch, logs and errors are those of ``BetaVAE``, and ``total_correlation``
    is logged; several processes are as for ``AnnealedVAE``: with ``statistics`` local a step of two with batches of n
    is not that of one with 2 n. 16-mixed leaves out about eleven steps at the start.

    Args:
        image_shape: ``(channels, 64, 64)``; the command line takes it from the data.
        num_latents: L, size of a code.
        beta: Weight of the total correlation in the ELBO, at least 0; 1, 2, 4, 6, 8 and 10 in the study. With 1 it is
            the plain VAE.
        estimator: ``mixture``, the total correlation of the mixture of the batch's posteriors; ``weighted``, Chen et
            al.'s minibatch-weighted sampling; ``unnormalised``, the study's, which lacks its constants: these three
            have the same gradients. ``stratified``, their minibatch-stratified sampling.
        dataset_size: Number of different images, which ``weighted`` and ``stratified`` need; 737,280 for dSprites.
        statistics: Whether the posteriors are those of the process's batch, ``local``, or of the batches of
            ``all_ranks``, which are to be of equal size: then the estimate is better; in training.
        likelihood: ``bernoulli`` on logits, or ``gaussian`` with variance 1/2.
        lr: Adam's learning rate.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...] = (1, 64, 64),
        num_latents: int = 10,
        beta: float = 4.0,
        estimator: Estimator = "mixture",
        dataset_size: int | None = None,
        statistics: Statistics = "local",
        likelihood: Likelihood = "bernoulli",
        lr: float = 1e-4,
    ) -> None:
        check_at_least(0, beta=beta)
        if estimator in ("weighted", "stratified"):
            if dataset_size is None:
                raise ValueError(f"estimator {estimator!r} needs dataset_size, the number of different images")
            check_at_least(1, dataset_size=dataset_size)
        super().__init__()

    def regulariser(self, codes: Codes, kl: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """``KL + (beta - 1) TC``, and the total correlation."""
        h: Any = self.hparams
        if h.estimator == "stratified" and (self.training or len(codes.z) > 1):  # a set's last batch may be one image
            tc = stratified_tc(*codes, h.dataset_size)
        elif h.estimator == "weighted":
            tc = weighted_tc(*codes, h.dataset_size)
        else:
            tc = mixture_tc(*codes) if h.estimator == "mixture" else unnormalised_tc(*codes)
        return {"regulariser": kl + (h.beta - 1) * tc, "total_correlation": tc}
