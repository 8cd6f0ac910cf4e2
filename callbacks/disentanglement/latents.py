"""`LatentPictures`: what each latent of a module codes, in traversals, reconstructions and divergences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from ..shared.batches import batch_inputs
from ..shared.checks import check_at_least, check_shape, require_method
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
from .metrics.encoding import posterior_moments
from .report import latent_pictures

NAME = "LatentPictures"
SAMPLES = 10_000  # largest number of images of a process whose codes are used
ACTIVE = 0.01  # smallest variance of an active latent's means (Burda et al. 2016, section 5.2)
CHUNK = 64  # codes in one call of the decoder


class LatentPictures(Callback):
    """Shows what each latent codes, in ``trainer.test`` and, on request, after validations of a fit.

    Batches are images (B, C, H, W), alone or first in a tuple, with C = 1 or 3. The module needs ``encode(x) -> (B,
    L)`` and ``decode(z) -> (B, C, H, W)`` in [0, 1], and may have ``posterior(x)``, a ``Normal`` or
    ``Independent(Normal)`` distribution of shape (B, L), whose mean is then used.

    The loggers get these figures:

    * ``latents/traversals``: for some images of the first test set one latent at a time takes several values, while the
      others stay at the posterior mean of the image. Rows are latents, those with the largest divergence first. The
      values go from ``-extent`` to ``extent`` standard deviations of the latent's aggregate posterior around its mean,
      so they suit a latent on any scale. A frame marks the value that is nearest to the image's own.
    * ``latents/reconstructions``: images above, the decoded posterior means below.
    * ``latents/kl``: for each latent the mean divergence of the posterior from N(0, 1) in nats, if the module has a
      ``posterior``. Without one, latents are sorted by the standard deviation of their values.
    * ``latents/mutual_information``: of latents and factors, if `DisentanglementEvaluation` is among the trainer's
      callbacks and computes it.

    It logs ``latents/active``: the number of latents whose posterior mean has a variance above 0.01 over the images
    (Burda et al. 2016, "Importance weighted autoencoders", section 5.2).

    On several processes the pictures are of the first images of rank 0, and the numbers are of all images that the
    processes see, at most 10,000 of each. All processes call the module alike, because its methods may be collective.

    Args:
        number: Number of images that are reconstructed.
        starts: Number of these images from which traversals start.
        columns: Number of values that a latent takes in a traversal, at least 2.
        extent: Standard deviations on both sides of the mean, positive.
        latents: Largest number of latents in a traversal.
        every_n_validations: Draw after every n-th validation of a fit too; None for tests only.
        input_range: Values of black and white in the batches.

    Attributes:
        results: After a test (or validation): "samples"; "kl" (L,), or None; "mean" and "std" (L,) of the aggregate
            posterior; "active" (L,) bool; "order" (L,), latents from the largest divergence down; "input" and
            "reconstruction" (n, H, W, C) uint8; "traversals" (S, R, columns, H, W, C) uint8 with "steps" (columns,) in
            standard deviations and "nearest" (S, R), the column nearest to the image's own value.
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
        every = 1 if every_n_validations is None else every_n_validations
        check_at_least(1, starts=starts, latents=latents, every_n_validations=every)
        check_at_least(starts, number=number)
        check_at_least(2, columns=columns)
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
        """Check that the module has an encoder and a decoder."""
        require_method(pl_module, "encode(x) -> (B, L)", NAME)
        require_method(pl_module, "decode(z) -> (B, C, H, W) in [0, 1]", NAME)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard earlier images and sums."""
        self.results, self._images, self._sums = {}, [], None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the validations of the fit."""
        self.on_test_start(trainer, pl_module)
        self._validations += not trainer.sanity_checking

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add the images and codes of a batch of the first loader, in a test or a validation that is drawn."""
        if dataloader_idx or not self._draws_now(trainer):
            return
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
            sums = code_sums(*posterior_moments(pl_module, x))
        self._sums = sums if self._sums is None else self._sums + sums

    on_validation_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decode, and log the number of active latents. A collective."""
        self._decode(trainer, pl_module)
        if self.results:
            log_identical(pl_module, {"latents/active": float(self.results["active"].sum())})

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decode and draw after every n-th validation. A collective."""
        if self._draws_now(trainer):
            self._decode(trainer, pl_module)
            self.on_test_end(trainer, pl_module)

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report, with pictures in place of arrays."""
        return latent_pictures(self.results) if self.results else {}

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the figures to the loggers."""
        if not self.results or not trainer.loggers:
            return
        log_figure(trainer, "latents/traversals", traversals_figure(self.results))
        grid = reconstruction_grid(self.results)
        log_images(trainer, "latents/reconstructions", grid.transpose(2, 0, 1)[None])
        if self.results["kl"] is not None:
            log_figure(trainer, "latents/kl", kl_figure(self.results))
        if information := information_in_test(trainer):
            figure = mutual_information_figure(*information, self.results["order"])
            log_figure(trainer, "latents/mutual_information", figure)

    def _draws_now(self, trainer: Trainer) -> bool:
        if trainer.testing:
            return True
        if self.every_n_validations is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return False
        return self._validations % self.every_n_validations == 0

    def _decode(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the results from images and sums; all processes decode the images of rank 0."""
        seen = None if self._sums is None else (torch.cat(self._images).numpy(), tuple(self._sums.shape))
        seen = trainer.strategy.broadcast(seen, src=0)
        sums, self._images, self._sums = self._sums, [], None
        if seen is None:
            rank_zero_warn(f"{NAME} found no image")
            return
        images, device = torch.from_numpy(seen[0]), trainer.strategy.root_device
        sums = torch.zeros(seen[1], dtype=torch.float64) if sums is None else sums  # a process without any image
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.to(device), reduce_op="sum").cpu()
        if not sums.isfinite().all():
            # processes would not all raise an error at the same place, and figures are not worth a run
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
        unit = (images - black) / (white - black)
        if unit.min() < -0.01 or unit.max() > 1.01:
            low, high = images.min().item(), images.max().item()
            raise ValueError(f"{NAME} expects images in input_range [{black}, {white}], got [{low:.3g}, {high:.3g}]")
        return unit


def information_in_test(trainer: Any) -> tuple[NDArray, list[str]] | None:
    """Shares (L, K) of the factors' entropies that latents hold, and K names, if they were computed in this test."""
    for callback in trainer.callbacks if trainer.state.fn == "test" else ():
        if isinstance(callback, DisentanglementEvaluation) and callback.results:
            matrix = callback.results["matrices"]["mean"].get("mutual_information")
            if matrix is not None:
                shares = information_shares(matrix, callback.results["factor_sizes"])
                return shares, callback.results["factor_names"]
    return None


def code_sums(mean: Tensor, deviation: Tensor | None) -> Tensor:
    """Sums over a batch of means (B, L) and deviations (B, L) or None, for `code_statistics`.

    Returns:
        (3, L) float64 on the CPU: number of codes, sums of the means and of their squares; with deviations (5, L), in
        addition sums of the variances and of the divergences from N(0, 1) in nats.
    """
    mean = mean.detach().cpu().double()
    parts = [torch.ones_like(mean), mean, mean.square()]
    if deviation is not None:
        variance = deviation.detach().cpu().double().square()
        parts += [variance, (mean.square() + variance - 1 - variance.log()) / 2]
    return torch.stack([part.sum(0) for part in parts])


def code_statistics(sums: Tensor) -> dict[str, Any]:
    """Compute part of the ``results`` of `LatentPictures` from the `code_sums` of all batches, added up."""
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
        starts: (S, L) codes of the images.
        statistics: "mean" and "std" (L,).
        rows: (R,) the latents.
        steps: (T,) in standard deviations from the mean.

    Returns:
        Codes (S, R, T, L), and (S, R) the step that is nearest to the start's own value; a latent without any spread
        is taken to start in the middle.
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
    """Decode codes (N, L) to pictures (N, C, H, W) of the shape (C, H, W), on the CPU in float32."""
    parts = []
    for chunk in codes.split(CHUNK):
        pictures = check_shape(module.decode(chunk), (len(chunk), *shape), f"{type(module).__name__}.decode(z)")
        parts.append(pictures.detach().float().cpu())
    return torch.cat(parts)
