"""What the six methods share: encoder and decoder, the step, the figures, the optimiser."""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ..shared.arguments import check_at_least, check_choice, check_positive
from ..shared.batches import check_unit_images
from ..shared.evaluation import SetMeans, positions
from ..shared.processes import gather_rows, own_draw
from ..shared.schedules import logs_now
from .loss import at_least_float32, bernoulli_entropy, bernoulli_reconstruction, gaussian_reconstruction, kl_divergence
from .net import Decoder, Encoder, check_image_shape

Likelihood = Literal["bernoulli", "gaussian"]
Statistics = Literal["local", "all_ranks"]


class Codes(NamedTuple):
    """Posteriors of a batch, each ``(B, L)``, float32 at least: one draw, means, logarithms of variances."""

    z: Tensor
    mean: Tensor
    logvar: Tensor


class VAE(LightningModule):
    """Parent of the methods: a variational autoencoder whose loss is ``reconstruction + regulariser``.

    A child defines ``regulariser``. Its constructor takes ``image_shape``, ``num_latents``, ``likelihood`` and ``lr``,
    and ``statistics`` where the regulariser is one of the batch and not a mean over its images.

    Batch: ``(x, factors)`` or ``x``: images ``(B, *image_shape)`` in [-1, 1]; factors are not looked at.

    Logs, in nats per image: ``loss``, ``reconstruction``, ``kl``, ``regulariser``, which is all but the reconstruction,
    and parts of it; in validation and test also ``elbo`` and, for the Bernoulli likelihood, ``reconstruction_excess``:
    what of the reconstruction lies above the entropy of the pixels, its floor. Evaluation draws the same code for an
    image each time, whatever batch and process it is in, and leaves the random state alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        h: Any = self.hparams
        check_choice("likelihood", h.likelihood, get_args(Likelihood))
        check_choice("statistics", h.get("statistics", "local"), get_args(Statistics))
        check_at_least(1, num_latents=h.num_latents)
        check_positive(lr=h.lr)
        self.image_shape = tuple(h.image_shape)
        self.encoder: Any = self.build_encoder().to(memory_format=torch.channels_last)
        self.decoder: Any = self.build_decoder().to(memory_format=torch.channels_last)
        self.means = SetMeans()

    # ------------------------------------------------------------ what a child or a user may change

    def build_encoder(self) -> nn.Module:
        """The network from images in [0, 1] to ``(B, 2 L)``, means, then log-variances; override it for your own."""
        check_image_shape(self.image_shape)
        return Encoder(self.image_shape[0], self.hparams["num_latents"])

    def build_decoder(self) -> nn.Module:
        """The network from codes ``(B, L)`` to logits ``(B, *image_shape)``; override it for your own."""
        check_image_shape(self.image_shape)
        return Decoder(self.image_shape[0], self.hparams["num_latents"])

    def regulariser(self, codes: Codes, kl: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """``regulariser``, what is added to the reconstruction, and further figures to log; all scalars.

        Args:
            codes: Of the batch; of those of all processes with ``statistics`` all_ranks.
            kl: Their KL divergence, a scalar.
            generator: For whatever is drawn; None for the default one.
        """
        raise NotImplementedError

    def minimised(self, figures: dict[str, Tensor]) -> Tensor:
        """What a step minimises, of all figures."""
        return figures["loss"]

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
        """Images ``(n, *image_shape)`` in [0, 1] of draws from the prior."""
        return self.decode(torch.randn(n, self.hparams["num_latents"], device=self.device))

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of images in [0, 1]."""
        mean, logvar = at_least_float32(self.encoder(x)).chunk(2, 1)
        return mean, logvar

    def in_precision(self, codes: Tensor) -> Tensor:
        """Codes, which are float32 at least, in the precision of the weights, which may be less."""
        return codes.to(next(self.parameters()).dtype)

    def draw_codes(self, x: Tensor, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Codes:
        """A draw of the posterior of each image ``(B, *image_shape)`` in [0, 1]; each process draws its own.

        Args:
            x: The images.
            generator: Draws the noise; None for the default one.
            noise: ``(B, L)`` instead of a draw.
        """
        mean, logvar = self._encode(x)
        if noise is None:
            noise = own_draw(partial(torch.randn, generator=generator, dtype=mean.dtype), mean)
        return Codes(mean + (logvar / 2).exp() * noise, mean, logvar)

    def figures(
        self, x: Tensor, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All that is logged for images ``(B, *image_shape)`` in [-1, 1], with gradients.

        Args:
            x: The images.
            generator: For noise and permutations; None for the default one.
            noise: Of the codes, ``(B, L)``, instead of a draw.
        """
        x = (x + 1) / 2
        return self.figures_of(x, self.draw_codes(x, generator, noise), generator)

    def figures_of(self, x: Tensor, codes: Codes, generator: torch.Generator | None) -> dict[str, Tensor]:
        """The same of images in [0, 1] and their codes."""
        logits = self.decoder(self.in_precision(codes.z))
        with torch.autocast(x.device.type, enabled=False):
            likelihood = (
                gaussian_reconstruction if self.hparams["likelihood"] == "gaussian" else bernoulli_reconstruction
            )
            reconstruction = likelihood(x, logits)
            if self.training and self.hparams.get("statistics") == "all_ranks":
                rows = gather_rows(torch.cat(codes, 1))
                codes = Codes(*rows.chunk(3, 1))
            kl = kl_divergence(codes.mean, codes.logvar)
            found = self.regulariser(codes, kl, generator)
        return {"loss": reconstruction + found["regulariser"], "reconstruction": reconstruction, "kl": kl, **found}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step of the method."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        log_now = logs_now(self.trainer)
        if log_now or batch_idx == 0 or not x.is_cuda:  # on a GPU the check would stall the queue in each step
            check_unit_images(x, self.image_shape)
        figures = self.figures(x)
        if log_now:
            self.log_dict({f"train/{name}": value for name, value in figures.items()})
        return self.minimised(figures)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The figures on the validation set."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The figures on the data's own test set, which comes first."""
        if dataloader_idx == 0:
            self._evaluate(batch, batch_idx, "test")

    def _evaluate(self, batch: Any, batch_idx: int, stage: str) -> None:
        x = batch if isinstance(batch, Tensor) else batch[0]
        check_unit_images(x, self.image_shape)
        numbers = positions(self.trainer, batch_idx, len(x))
        count = len(numbers)
        if count:
            x = x[:count]
        else:  # repetitions only, whose figures count nothing
            numbers = torch.arange(len(x))
        noise = noise_of(numbers, self.hparams["num_latents"]).to(x)
        figures = self.figures(x, torch.Generator(x.device).manual_seed(batch_idx), noise)
        figures["elbo"] = -figures["reconstruction"] - figures["kl"]
        if self.hparams["likelihood"] == "bernoulli":
            figures["reconstruction_excess"] = figures["reconstruction"] - bernoulli_entropy((x + 1) / 2)
        self.means.log(self, stage, figures, count)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Posterior means ``(B, L)``."""
        return self.encode(batch if isinstance(batch, Tensor) else batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, the same rate for encoder and decoder throughout."""
        return torch.optim.Adam(self.parameters(), self.hparams["lr"], fused=True)


def noise_of(numbers: Tensor, size: int) -> Tensor:
    """Normal noise ``(n, size)`` of images by their numbers ``(n,)`` in their set, each from a seed of its own."""
    generator = torch.Generator()
    return torch.stack([torch.randn(size, generator=generator.manual_seed(n)) for n in numbers.tolist()])
