"""FactorVAE: a discriminator estimates the total correlation of the codes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..shared.arguments import check_at_least, check_positive
from .loss import density_ratio_tc, discriminator_loss, permute_latents
from .net import Discriminator
from .vae import VAE, Codes, Likelihood


class FactorVAE(VAE):
    """FactorVAE (Kim and Mnih 2018): minimises ``reconstruction + KL + gamma TC``, TC by a discriminator.

    The discriminator learns to tell codes from codes with each latent permuted over the batch. Encoder and decoder get
    no gradient of its loss, and it gets none of theirs: it sees detached codes, and in the total correlation its
    weights are constants. Both are updated at once, after one pass of the encoder and one backward pass.

    Their two Adams are parameter groups of one, with rates and betas of their own; the arithmetic is that of two. So
    ``max_steps`` counts batches. In the study's code each of the two raises the step counter: its 300,000 steps are
    about 150,000 batches.

    Logs ``discriminator_loss`` too, which ``loss`` does not contain: log 2 for a discriminator that knows nothing.
    Batches, figures and what is refused are those of ``BetaVAE``. With several processes each permutes its own batch,
    so a step of two with batches of n is not that of one with 2 n; and the total correlation in validation and test is
    the mean of that of batches, which are others on other numbers of processes. 16-mixed leaves out about eleven
    steps at the start, see ``BetaVAE``.

    Args:
        image_shape: ``(channels, 64, 64)``; the command line takes it from the data.
        num_latents: L, size of a code.
        gamma: Weight of the total correlation, at least 0; 10, 20, 30, 40, 50 and 100 in the study.
        second_batch: Whether the permuted codes are those of other images, as Kim and Mnih have it: of the second half
            of each training batch, which serves nothing else. Otherwise of the same, as in the study's code.
        likelihood: ``bernoulli`` on logits, or ``gaussian`` with variance 1/2.
        lr: Adam's learning rate for encoder and decoder.
        discriminator_lr: Adam's learning rate for the discriminator.
        discriminator_betas: Adam's two for the discriminator.

    Raises:
        ValueError: For a value out of its range, images that the network does not take, or a batch of one image that is
            to be halved.
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
        """Codes ``(B, L)`` to two logits, of codes and of permuted ones; override it for your own."""
        return Discriminator(self.hparams["num_latents"])

    def figures(
        self, x: Tensor, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All that is logged for images ``(B, *image_shape)`` in [-1, 1], with gradients."""
        x = (x + 1) / 2
        halves = self.training and self.hparams["second_batch"]
        if halves and len(x) < 2:
            raise ValueError(f"second_batch halves a batch of {len(x)}; expected 2 images at least, better 128")
        x, others = x.chunk(2) if halves else (x, None)
        codes = self.draw_codes(x, generator, noise)
        figures = self.figures_of(x, codes, generator)
        z = codes.z.detach()
        with torch.no_grad():
            permuted = permute_latents(z if others is None else self.draw_codes(others, generator).z, generator)
        with torch.autocast(x.device.type, enabled=False):
            logits = self.discriminator(self.in_precision(torch.cat([z, permuted])))  # in one pass
            figures["discriminator_loss"] = discriminator_loss(logits[: len(z)], logits[len(z) :])
        return figures

    def regulariser(self, codes: Codes, kl: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """``KL + gamma TC``, and the total correlation by itself; the discriminator's weights get no gradient."""
        constants = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        tc = density_ratio_tc(functional_call(self.discriminator, constants, (self.in_precision(codes.z),)))
        return {"regulariser": kl + self.hparams["gamma"] * tc, "total_correlation": tc}

    def minimised(self, figures: dict[str, Tensor]) -> Tensor:
        """The losses of both, whose gradients reach different parameters."""
        return figures["loss"] + figures["discriminator_loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with rates and betas of its own for the discriminator."""
        h: Any = self.hparams
        discriminator = {
            "params": list(self.discriminator.parameters()),
            "lr": h.discriminator_lr,
            "betas": tuple(h.discriminator_betas),
        }
        own = [*self.encoder.parameters(), *self.decoder.parameters()]
        return torch.optim.Adam([{"params": own}, discriminator], h.lr, fused=True)
