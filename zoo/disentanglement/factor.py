"""FactorVAE, in which a discriminator estimates the total correlation of the codes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..shared.arguments import check_at_least, check_positive
from .loss import density_ratio_tc, discriminator_loss, permute_latents
from .net import Discriminator
from .vae import VAE, Codes, Likelihood


class FactorVAE(VAE):
    """FactorVAE: an autoencoder that minimises ``reconstruction + KL + gamma TC`` (Kim and Mnih 2018).

    A discriminator estimates TC, the total correlation of the codes: it learns to tell codes from codes with each
    latent permuted over the batch. Its loss gives encoder and decoder no gradient, since it sees detached codes; TC
    gives it none, since there its weights are constants. Both are updated at once, after one pass of the encoder and
    one backward pass, by one Adam with two parameter groups, which computes what two would; so ``max_steps`` counts
    batches.

    Batch, logs and errors are those of ``BetaVAE``. ``total_correlation`` is logged, too, and ``discriminator_loss``,
    which ``loss`` does not contain and which is log 2 for a discriminator that cannot tell. With several processes each
    permutes its own batch, so a step of two with batches of n is not that of one with 2 n; and in validation and test
    the total correlation is the mean over batches, which depend on the number of processes. 16-mixed leaves out about
    eleven steps at the start, see ``BetaVAE``.

    Args:
        image_shape: ``(channels, 64, 64)``; the command line takes it from the data.
        num_latents: L, size of a code.
        gamma: Weight of the total correlation, at least 0; 10, 20, 30, 40, 50 and 100 in the study.
        second_batch: Whether the permuted codes are those of the second half of each training batch, which then serves
            nothing else and needs two images, as in Kim and Mnih's algorithm; otherwise those of the same images, as in
            the study's code.
        likelihood: ``bernoulli`` on logits, or ``gaussian`` with variance 1/2.
        lr: Adam's learning rate for encoder and decoder.
        discriminator_lr: Adam's learning rate for the discriminator.
        discriminator_betas: Adam's betas for the discriminator.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...] = (1, 64, 64),
        num_latents: int = 10,
        gamma: float = 30.0,
        second_batch: bool = False,
        likelihood: Likelihood = "bernoulli",
        lr: float = 1e-4,
        discriminator_lr: float = 1e-4,
        discriminator_betas: tuple[float, float] = (0.5, 0.9),
    ) -> None:
        check_at_least(0, gamma=gamma)
        check_positive(discriminator_lr=discriminator_lr)
        super().__init__()
        self.discriminator: Any = self.build_discriminator()

    def build_discriminator(self) -> nn.Module:
        """Network from ``(B, L)`` to logits ``(B, 2)`` of codes and of permuted codes; override it for your own."""
        return Discriminator(self.hparams["num_latents"])

    def objective(
        self, x: Tensor, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss, its terms and the discriminator's loss, scalars with gradients, of images in [-1, 1]."""
        x = (x + 1) / 2
        halves = self.training and self.hparams["second_batch"]
        if halves and len(x) < 2:
            raise ValueError(f"second_batch halves a batch of {len(x)}; expected 2 images at least, better 128")
        x, others = x.chunk(2) if halves else (x, None)
        codes = self.draw_codes(x, generator, noise)
        terms = self.terms(x, codes, generator)
        z = codes.z.detach()
        with torch.no_grad():
            permuted = permute_latents(z if others is None else self.draw_codes(others, generator).z, generator)
        with torch.autocast(x.device.type, enabled=False):
            logits = self.discriminator(self.in_precision(torch.cat([z, permuted])))
            terms["discriminator_loss"] = discriminator_loss(logits[: len(z)], logits[len(z) :])
        return terms

    def regulariser(self, codes: Codes, kl: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """``KL + gamma TC``, and the total correlation, in which the discriminator's weights are constants."""
        constants = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        tc = density_ratio_tc(functional_call(self.discriminator, constants, (self.in_precision(codes.z),)))
        return {"regulariser": kl + self.hparams["gamma"] * tc, "total_correlation": tc}

    def minimised(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of both losses, whose gradients reach different parameters."""
        return terms["loss"] + terms["discriminator_loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with a learning rate and betas of their own for the discriminator's weights."""
        h: Any = self.hparams
        autoencoder: Any = {"params": [*self.encoder.parameters(), *self.decoder.parameters()]}
        own = {"lr": h.discriminator_lr, "betas": tuple(h.discriminator_betas)}
        return torch.optim.Adam([autoencoder, {"params": self.discriminator.parameters()} | own], h.lr, fused=True)
