"""What the latents of a module code: traversals, reconstructions, divergences from the prior, factors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Independent, Normal

from ..shared.batches import batch_inputs
from ..shared.collect import log_identical
from ..shared.loggers import log_figure, log_images, to_uint8
from ..shared.random_state import preserved_random_state
from .callback import DisentanglementEvaluation
from .latents_figure import (
    information_shares,
    kl_figure,
    mutual_information_figure,
    reconstruction_grid,
    traversals_figure,
)
from .report import latent_pictures

NAME = "LatentPictures"
SAMPLES = 10_000  # images of a process at most whose codes are looked at
ACTIVE = 0.01  # smallest variance of an active latent's means (Burda et al. 2016, section 5.2)
CHUNK = 64  # codes in one call of the decoder


class LatentPictures(Callback):
    """Shows what each latent codes, in ``trainer.test`` and, if asked for, after validations.

    * ``latents/traversals``: for some images of the first test set one latent at a time takes several values, while the
      others stay at the posterior mean of the image. Rows are latents, those with the largest divergence first. The
      values go from ``-extent`` to ``extent`` standard deviations of the latent's aggregate posterior around its mean,
      so they suit a latent on any scale. A frame marks the value that is nearest to the image's own.
    * ``latents/reconstructions``: images above, the decoded posterior means below.
    * ``latents/kl``: for each latent the mean divergence of the posterior from N(0, 1) in nats, if the module has a
      ``posterior``. Without one, latents are sorted by the standard deviation of their values.
    * ``latents/mutual_information``: of latents and factors, as `DisentanglementEvaluation` found it, if it is among
      the trainer's callbacks.

    ``latents/active`` is logged: the number of latents whose posterior mean has a variance above 0.01 over the images
    (Burda et al. 2016, "Importance weighted autoencoders", section 5.2).

    The module needs ``encode(x) -> (B, L)`` and ``decode(z) -> (B, C, H, W)`` in [0, 1] with C = 1 or 3, and may have
    ``posterior(x)``, an ``Independent(Normal)`` with event shape (L,), whose mean is then used. On several processes
    the pictures are of the first images of rank 0, and the figures are of all images that the processes saw, at most
    10,000 of each. All processes call the module alike, because its methods may be collective.

    Args:
        number: Images that are reconstructed.
        starts: Images from which traversals start, the first of those.
        columns: Values that a latent takes in a traversal, at least 2.
        extent: Standard deviations on both sides of the mean, positive.
        latents: Latents in a traversal at most.
        every_n_validations: Draw after every n-th validation of a fit too; None for tests only.
        input_range: Values of black and white in the batches.

    Attributes:
        results: After a test (or validation): "samples"; "kl" (L,), or None; "mean" and "std" (L,) of the aggregate
            posterior; "active" (L,) bool; "order" (L,), latents from the largest divergence down; "input" and
            "reconstruction" (n, H, W, C) uint8; "traversals" (S, R, columns, H, W, C) uint8 with "steps" (columns,) in
            standard deviations and "nearest" (S, R), the column nearest to the image's own value.

    Raises:
        ValueError: An argument is out of its range.
    """

    report_key = "latents"

    def __init__(
        self,
        number: int = 10,
        starts: int = 3,
        columns: int = 9,
        extent: float = 2.0,
        latents: int = 10,
        every_n_validations: int | None = None,
        input_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        for name, value, least in (
            ("starts", starts, 1),
            ("number", number, starts),
            ("columns", columns, 2),
            ("latents", latents, 1),
            ("every_n_validations", 1 if every_n_validations is None else every_n_validations, 1),
        ):
            if value < least:
                raise ValueError(f"expected {name} >= {least}, got {value}")
        if not extent > 0:
            raise ValueError(f"expected extent > 0, got {extent}")
        if len(input_range) != 2 or not input_range[0] < input_range[1]:
            raise ValueError(f"expected input_range [black, white] with black < white, got {input_range}")
        self.number = number
        self.starts = starts
        self.columns = columns
        self.extent = extent
        self.latents = latents
        self.every_n_validations = every_n_validations
        self.input_range = (float(input_range[0]), float(input_range[1]))
        self.results: dict[str, Any] = {}
        self._validations = 0
        self._images: list[Tensor] = []
        self._sums: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without an encoder or a decoder.

        Raises:
            TypeError: It lacks one of them.
        """
        for name, signature in (("encode", "encode(x) -> (B, L)"), ("decode", "decode(z) -> (B, C, H, W) in [0, 1]")):
            if not callable(getattr(pl_module, name, None)):
                kind = type(pl_module).__name__
                raise TypeError(f"{NAME} needs a module with {signature}; {kind} has no method {name!r}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier images."""
        self._forget()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the validations of the fit."""
        self._forget()
        self._validations += not trainer.sanity_checking

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch's codes.

        Raises:
            ValueError: The batch holds no images, or the module gives something else than codes.
        """
        if not dataloader_idx:
            self._add(trainer, pl_module, batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The same in a validation after which pictures are drawn.

        Raises:
            ValueError: As in a test.
        """
        if not dataloader_idx and self._draws_now(trainer):
            self._add(trainer, pl_module, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decode, and log the number of active latents. A collective.

        Raises:
            ValueError: The decoder gives something else than pictures.
        """
        self._look(trainer, pl_module)
        if self.results:
            active = float(self.results["active"].sum())  # equal on all processes
            figures = {"latents/active": active}
            log_identical(pl_module, figures)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decode after a validation after which pictures are drawn. A collective.

        Raises:
            ValueError: As in a test.
        """
        if self._draws_now(trainer):
            self._look(trainer, pl_module)
            self._send(trainer)

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report, pictures in place of arrays."""
        return latent_pictures(self.results) if self.results else {}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the pictures to the loggers."""
        self._send(trainer)

    def _draws_now(self, trainer: Trainer) -> bool:
        if self.every_n_validations is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return False
        return self._validations % self.every_n_validations == 0

    def _forget(self) -> None:
        self.results, self._images, self._sums = {}, [], None

    def _add(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        seen = 0 if self._sums is None else int(self._sums[0, 0])
        x = batch_inputs(batch)[: SAMPLES - seen]
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"{NAME} expects a batch of images (B, 1 or 3, H, W), got shape {tuple(x.shape)}")
        if not len(x):
            return
        missing = self.number - sum(map(len, self._images))
        if missing > 0:
            self._images.append(x[:missing].detach().float().cpu().clone())
        with torch.no_grad(), preserved_random_state(x.device), trainer.precision_plugin.forward_context():
            mean, deviation = posterior_moments(pl_module, x)
        sums = code_sums(mean, deviation)
        self._sums = sums if self._sums is None else self._sums + sums

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the results of what was added; all processes decode the images of rank 0."""
        found = None if self._sums is None else (torch.cat(self._images).numpy(), tuple(self._sums.shape))
        found = trainer.strategy.broadcast(found, src=0)
        sums, self._images, self._sums = self._sums, [], None
        if found is None:
            rank_zero_warn(f"{NAME} found no image")
            return
        images, device = torch.from_numpy(found[0]), trainer.strategy.root_device
        sums = torch.zeros(found[1], dtype=torch.float64) if sums is None else sums  # a process without any image
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.to(device), reduce_op="sum").cpu()
        if not sums.isfinite().all():
            # an error would not be raised by all processes at the same place, and a picture is not worth a run
            rank_zero_warn(f"{NAME} draws nothing: codes of {type(pl_module).__name__} are not finite")
            return
        statistics = code_statistics(sums)
        with torch.no_grad(), preserved_random_state(device), trainer.precision_plugin.forward_context():
            starts = posterior_moments(pl_module, images.to(device))[0].double().cpu()
            rows = statistics["order"][: self.latents]
            steps = np.linspace(-self.extent, self.extent, self.columns)
            codes, nearest = traversal_codes(starts[: self.starts], statistics, rows, steps)
            decoded = decode(pl_module, torch.cat([starts, codes.flatten(0, 2)]).float().to(device), images.shape[1:])
        pictures = to_uint8(decoded)
        self.results = {
            **statistics,
            "input": to_uint8(self._unit(images)),
            "reconstruction": pictures[: len(starts)],
            "traversals": pictures[len(starts) :].reshape(*codes.shape[:3], *pictures.shape[1:]),
            "steps": steps,
            "nearest": nearest,
        }

    def _unit(self, images: Tensor) -> Tensor:
        """Images in [0, 1]."""
        black, white = self.input_range
        found = (images - black) / (white - black)
        if found.min() < -0.01 or found.max() > 1.01:
            low, high = images.min().item(), images.max().item()
            raise ValueError(f"{NAME} expects images in input_range [{black}, {white}], got [{low:.3g}, {high:.3g}]")
        return found

    @rank_zero_only
    def _send(self, trainer: Trainer) -> None:
        if not self.results or not trainer.loggers:
            return
        log_figure(trainer, "latents/traversals", traversals_figure(self.results))
        grid = reconstruction_grid(self.results)
        log_images(trainer, "latents/reconstructions", grid.transpose(2, 0, 1)[None])
        if self.results["kl"] is not None:
            log_figure(trainer, "latents/kl", kl_figure(self.results))
        if information := found_information(trainer):
            figure = mutual_information_figure(*information, self.results["order"])
            log_figure(trainer, "latents/mutual_information", figure)


def found_information(trainer: Any) -> tuple[NDArray, list[str]] | None:
    """Shares (L, K) of the factors' entropies that latents hold, and K names, if they were computed in this test."""
    for callback in trainer.callbacks if trainer.state.fn == "test" else ():
        if isinstance(callback, DisentanglementEvaluation) and callback.results:
            matrix = callback.results["matrices"]["mean"].get("mutual_information")
            if matrix is not None:
                shares = information_shares(matrix, callback.results["factor_sizes"])
                return shares, callback.results["factor_names"]
    return None


def posterior_moments(module: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean (B, L) and standard deviation (B, L) of the posterior of images; None for the latter if there is none.

    Args:
        module: With ``posterior(x)`` or ``encode(x)``.
        x: (B, C, H, W).

    Raises:
        ValueError: The posterior is not an ``Independent(Normal)``, or codes have another shape.
    """
    name = type(module).__name__
    if callable(getattr(module, "posterior", None)):
        posterior = module.posterior(x)
        if not isinstance(posterior, Independent) or not isinstance(posterior.base_dist, Normal):
            raise ValueError(f"{NAME} expects an Independent(Normal) of {name}.posterior(x), got {posterior}")
        mean, deviation, method = posterior.mean, posterior.stddev, "posterior"
    else:
        mean, deviation, method = module.encode(x), None, "encode"
    if not isinstance(mean, Tensor) or mean.ndim != 2 or len(mean) != len(x):
        shape = tuple(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__
        raise ValueError(f"{NAME} expects codes of shape ({len(x)}, L) of {name}.{method}(x), got {shape}")
    return mean, deviation


def code_sums(mean: Tensor, deviation: Tensor | None) -> Tensor:
    """Sums over a batch, for each latent, from which `code_statistics` follow.

    Args:
        mean: (B, L).
        deviation: (B, L), or None for codes without a posterior.

    Returns:
        (3, L) float64 on the CPU: number of codes, sums of the means and of their squares. With a posterior (5, L),
        also those of its variances and of its divergences from N(0, 1) in nats.
    """
    mean = mean.detach().cpu().double()
    parts = [torch.ones_like(mean), mean, mean.square()]
    if deviation is not None:
        variance = deviation.detach().cpu().double().square()
        parts += [variance, (mean.square() + variance - 1 - variance.log()) / 2]
    return torch.stack([part.sum(0) for part in parts])


def code_statistics(sums: Tensor) -> dict[str, Any]:
    """What `LatentPictures` says of the codes; see there.

    Args:
        sums: Those of all batches of `code_sums`, added up.

    Returns:
        "samples", "kl", "mean", "std", "active" and "order".
    """
    count = sums[0, 0]
    mean, square, *posterior = (sums / count)[1:].unbind()
    of_means = (square - mean.square()).clamp(min=0)
    variance, kl = posterior or (torch.zeros_like(mean), None)
    deviation = (of_means + variance).sqrt()
    by = deviation if kl is None else kl
    return {
        "samples": int(count),
        "kl": None if kl is None else kl.numpy(),
        "mean": mean.numpy(),
        "std": deviation.numpy(),
        "active": (of_means > ACTIVE).numpy(),
        "order": torch.argsort(by, descending=True, stable=True).numpy(),
    }


def traversal_codes(
    starts: Tensor, statistics: dict[str, Any], rows: NDArray, steps: NDArray
) -> tuple[Tensor, NDArray]:
    """Codes in which one latent at a time takes several values.

    Args:
        starts: (S, L), the codes of the images.
        statistics: "mean" and "std" (L,).
        rows: (R,), the latents.
        steps: (T,), in standard deviations from the mean.

    Returns:
        (S, R, T, L), and (S, R) the step that is nearest to the start's own value; a latent without any spread is
        taken to start in the middle.
    """
    mean, deviation = (torch.as_tensor(statistics[name], dtype=starts.dtype)[rows] for name in ("mean", "std"))
    values = mean[:, None] + deviation[:, None] * torch.as_tensor(steps, dtype=starts.dtype)
    codes = starts[:, None, None, :].repeat(1, len(rows), len(steps), 1)
    for row, latent in enumerate(rows.tolist()):
        codes[:, row, :, latent] = values[row]
    own = (starts[:, rows] - mean) / deviation
    own = torch.where(deviation > 0, own, torch.zeros_like(own))
    return codes, (own[..., None] - torch.as_tensor(steps)).abs().argmin(-1).numpy()


def decode(module: Any, codes: Tensor, shape: Sequence[int]) -> Tensor:
    """Pictures (N, C, H, W) of codes (N, L), on the CPU in float32; `shape` is (C, H, W).

    Raises:
        ValueError: The decoder gives something else.
    """
    parts = []
    for chunk in codes.split(CHUNK):
        pictures = module.decode(chunk)
        expected = (len(chunk), *shape)
        if not isinstance(pictures, Tensor) or tuple(pictures.shape) != expected:
            found = tuple(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
            raise ValueError(f"{NAME} expects {expected} of {type(module).__name__}.decode(z), got {found}")
        parts.append(pictures.detach().float().cpu())
    return torch.cat(parts)
