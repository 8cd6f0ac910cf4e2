"""What the six methods share: encoder and decoder, steps, logging, optimiser."""

from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ..shared.arguments import check_at_least, check_literals, check_positive
from ..shared.batches import batch_inputs, check_unit_images
from ..shared.evaluation import SetMeans, positions
from ..shared.nets import channels_last
from ..shared.processes import gather_rows, own_draw
from ..shared.schedules import check_is_due, log_training
from .loss import at_least_float32, bernoulli_entropy, bernoulli_reconstruction, gaussian_reconstruction, kl_divergence
from .net import Decoder, Encoder, check_image_shape

Likelihood = Literal["bernoulli", "gaussian"]
Statistics = Literal["local", "all_ranks"]


class Codes(NamedTuple):
    """Posteriors of a batch: one draw, means, logarithms of variances, each ``(B, L)`` in float32 at least."""

    z: Tensor
    mean: Tensor
    logvar: Tensor


class VAE(LightningModule):
    """Shared parts of the methods: a variational autoencoder that minimises ``reconstruction + regulariser``.

    A subclass defines ``regulariser``. Its constructor takes ``image_shape``, ``num_latents``, ``likelihood`` and
    ``lr``, and ``statistics`` where the regulariser is a statistic of the batch instead of a mean over its images.
    Batch and logs are those of ``BetaVAE``, and parts of the regulariser are logged. Evaluation draws the same code for
    an image each time, whatever batch and process it is in, and leaves the random state alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        h: Any = self.hparams
        check_literals(self)
        check_at_least(1, num_latents=h.num_latents)
        check_positive(lr=h.lr)
        self.image_shape = tuple(h.image_shape)
        self.encoder: Any = channels_last(self.build_encoder())
        self.decoder: Any = channels_last(self.build_decoder())
        self.means = SetMeans()

    # ------------------------------------------------------------ what a subclass may change

    def build_encoder(self) -> nn.Module:
        """Network from images in [0, 1] to means, then log-variances, ``(B, 2 L)``; override it for your own."""
        check_image_shape(self.image_shape)
        return Encoder(self.image_shape[0], self.hparams["num_latents"])

    def build_decoder(self) -> nn.Module:
        """Network from codes ``(B, L)`` to logits ``(B, *image_shape)``; override it for your own."""
        check_image_shape(self.image_shape)
        return Decoder(self.image_shape[0], self.hparams["num_latents"])

    def regulariser(self, codes: Codes, kl: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """The scalar ``regulariser`` that is added to the reconstruction, and further scalars to log.

        ``codes`` are those of the batch, with ``statistics`` all_ranks those of all processes, and ``kl`` is the KL
        divergence of their posteriors, a scalar. Random draws are made from the generator; None is the default one.
        """
        raise NotImplementedError

    def minimised(self, terms: dict[str, Tensor]) -> Tensor:
        """What a training step minimises, of the terms of ``objective``."""
        return terms["loss"]

    # ------------------------------------------------------------ what all have

    def posterior(self, x: Tensor) -> Independent:
        """``q(z|x)`` of images ``(B, *image_shape)`` in [-1, 1]: batch shape ``(B,)``, event shape ``(L,)``."""
        mean, logvar = self._encode((x + 1) / 2)
        return Independent(Normal(mean, (logvar / 2).exp()), 1)

    def encode(self, x: Tensor) -> Tensor:
        """Posterior means ``(B, L)`` of images ``(B, *image_shape)`` in [-1, 1]."""
        return self._encode((x + 1) / 2)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Images ``(B, *image_shape)`` in [0, 1] of codes ``(B, L)``."""
        return at_least_float32(self.decoder(self.in_precision(z))).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions ``(B, *image_shape)`` in [0, 1], from the posterior means, of images in [-1, 1]."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Images ``(n, *image_shape)`` in [0, 1] from draws of the prior."""
        return self.decode(torch.randn(n, self.hparams["num_latents"], device=self.device))

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each ``(B, L)``, of images in [0, 1]."""
        mean, logvar = at_least_float32(self.encoder(x)).chunk(2, 1)
        return mean, logvar

    def in_precision(self, codes: Tensor) -> Tensor:
        """Codes in the weights' precision, which may be lower than theirs."""
        return codes.to(next(self.parameters()).dtype)

    def draw_codes(self, x: Tensor, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Codes:
        """Codes ``mean + exp(logvar / 2) noise`` of images ``(B, *image_shape)`` in [0, 1].

        Each process draws noise of its own from the generator (None for the default one), unless ``noise``, ``(B, L)``,
        is given.
        """
        mean, logvar = self._encode(x)
        if noise is None:
            noise = own_draw(partial(torch.randn, generator=generator, dtype=mean.dtype), mean)
        return Codes(mean + (logvar / 2).exp() * noise, mean, logvar)

    def objective(
        self, x: Tensor, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss and its terms, scalars with gradients, of images ``(B, *image_shape)`` in [-1, 1].

        Noise and permutations are drawn from the generator, or from the default one; see `draw_codes`.
        """
        x = (x + 1) / 2
        return self.terms(x, self.draw_codes(x, generator, noise), generator)

    def terms(self, x: Tensor, codes: Codes, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Reconstruction, KL divergence, regulariser and their loss, of images in [0, 1] and their codes."""
        logits = self.decoder(self.in_precision(codes.z))
        bernoulli = self.hparams["likelihood"] == "bernoulli"
        with torch.autocast(x.device.type, enabled=False):
            reconstruction = (bernoulli_reconstruction if bernoulli else gaussian_reconstruction)(x, logits)
            if self.training and self.hparams.get("statistics") == "all_ranks":
                codes = Codes(*gather_rows(torch.cat(codes, 1)).chunk(3, 1))
            kl = kl_divergence(codes.mean, codes.logvar)
            terms = self.regulariser(codes, kl, generator)
        return {"loss": reconstruction + terms["regulariser"], "reconstruction": reconstruction, "kl": kl, **terms}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        x = batch_inputs(batch)
        if check_is_due(self, batch_idx, x):
            check_unit_images(x, self.image_shape)
        terms = self.objective(x)
        log_training(self, **terms)
        return self.minimised(terms)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the objective on the validation set."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the objective on the data's own test set, which comes first."""
        if dataloader_idx == 0:
            self._evaluate(batch, batch_idx, "test")

    def _evaluate(self, batch: Any, batch_idx: int, stage: str) -> None:
        x = batch_inputs(batch)
        check_unit_images(x, self.image_shape)
        numbers = positions(self.trainer, batch_idx, len(x))
        count = len(numbers)
        if not count:  # only samples that the sampler repeated, which count nothing
            numbers = torch.arange(len(x))
        x = x[: len(numbers)]
        noise = noise_of(numbers, self.hparams["num_latents"]).to(x)
        metrics = self.objective(x, torch.Generator(x.device).manual_seed(batch_idx), noise)
        metrics["elbo"] = -metrics["reconstruction"] - metrics["kl"]
        if self.hparams["likelihood"] == "bernoulli":
            metrics["reconstruction_excess"] = metrics["reconstruction"] - bernoulli_entropy((x + 1) / 2)
        self.means.log(self, stage, metrics, count)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Posterior means ``(B, L)``."""
        return self.encode(batch_inputs(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant learning rate."""
        return torch.optim.Adam(self.parameters(), self.hparams["lr"], fused=True)


def noise_of(numbers: Tensor, size: int) -> Tensor:
    """Normal noise ``(n, size)`` of images, each seeded by its number, of ``(n,)``, in the data set."""
    generator = torch.Generator()
    return torch.stack([torch.randn(size, generator=generator.manual_seed(n)) for n in numbers.tolist()])
