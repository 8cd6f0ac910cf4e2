"""Codes of images by their factors: each image is encoded once for all metrics, on any number of processes."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.distributions import Normal
from tqdm import tqdm

from ...shared.checks import check_shape

TABLE = 2**22  # largest number of combinations of factors whose codes are kept


def posterior_moments(module: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and standard deviation (B, L) of a module's ``posterior(x)``, or ``encode(x)`` and None without a posterior.

    Raises:
        ValueError: The posterior is no ``Normal`` or ``Independent(Normal)``, or codes have another shape.
    """
    name = type(module).__name__
    if not callable(getattr(module, "posterior", None)):
        return check_shape(module.encode(x), (len(x), "latents"), f"{name}.encode(x)"), None
    posterior = module.posterior(x)
    if not isinstance(getattr(posterior, "base_dist", posterior), Normal):
        raise ValueError(f"expected a Normal or Independent(Normal) from {name}.posterior(x), got {posterior}")
    shape = (len(x), "latents")
    mean = check_shape(posterior.mean, shape, f"{name}.posterior(x).mean")
    return mean, check_shape(posterior.stddev, shape, f"{name}.posterior(x).stddev")


class Representations(NamedTuple):
    """Means (n, L) of n images; with a posterior, its standard deviations and draws from it, (n, L) each."""

    mean: np.ndarray
    deviation: np.ndarray | None
    sampled: np.ndarray | None

    @property
    def codes(self) -> np.ndarray:
        """Means (n, L), or means and draws side by side (n, 2 L)."""
        return self.mean if self.sampled is None else np.concatenate([self.mean, self.sampled], 1)


class Encoding:
    """Encodes images of factors by a data module's ``images_of`` and a module's ``posterior`` or ``encode``.

    If equal factors give equal images, a combination is encoded once and then looked up. Otherwise, and for more than
    four million combinations, every requested row is encoded. Processes share the work in blocks that do not depend on
    the number of processes, so that codes are equal to the last digit; every process must request the same rows.

    Args:
        trainer: Gives device, precision and processes.
        pl_module: Has ``posterior(x)`` with a mean and a standard deviation (B, L), or ``encode(x) -> (B, L)``.
        data: Has ``factor_sizes``, ``deterministic_images`` and ``images_of``.
        batch_size: Largest number of images in one forward pass.

    Attributes:
        encoded: Number of images encoded so far.
        num_latents: L, after the first image.
        has_posterior: Whether there is a sampled representation.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, data: Any, batch_size: int) -> None:
        self._trainer, self._module, self._data, self._batch_size = trainer, pl_module, data, batch_size
        self._sizes = tuple(data.factor_sizes)
        self._keeps = bool(data.deterministic_images) and math.prod(self._sizes) <= TABLE
        self._known = np.zeros(math.prod(self._sizes) if self._keeps else 0, dtype=bool)
        self._table = np.empty((0, 0), np.float32)
        self.has_posterior = callable(getattr(pl_module, "posterior", None))
        self.encoded = self.num_latents = 0
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        self._bar = tqdm(desc="images encoded", unit="", unit_scale=True, disable=not shown, leave=False)

    def close(self) -> None:
        """Remove the progress bar."""
        self._bar.close()

    def representations(self, factors: np.ndarray, generator: torch.Generator) -> Representations:
        """Encode images of factors. A collective.

        Args:
            factors: (n, K), equal on all processes.
            generator: Seeds the noise and what the images need beside the factors. One number is taken from it, however
                many images are encoded, so that later draws do not depend on that.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        moments = self._look_up(factors, seed) if self._keeps else self._encode(factors, seed)
        if not self.has_posterior:
            return Representations(moments, None, None)
        mean, deviation = np.split(moments, 2, axis=1)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).numpy()
        return Representations(mean, deviation, mean + deviation * noise)

    def codes(self, factors: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Encode images of factors, see `representations`: means (n, L), or means and draws side by side (n, 2 L)."""
        return self.representations(factors, generator).codes

    def _look_up(self, factors: np.ndarray, seed: int) -> np.ndarray:
        index = np.ravel_multi_index(tuple(factors.T), self._sizes)
        missing = np.unique(index[~self._known[index]])
        if len(missing):
            moments = self._encode(np.stack(np.unravel_index(missing, self._sizes), 1), seed)
            if not self._table.size:
                self._table = np.empty((len(self._known), moments.shape[1]), np.float32)
            self._table[missing] = moments
            self._known[missing] = True
        return self._table[index]

    def _encode(self, factors: np.ndarray, seed: int) -> np.ndarray:
        """Encode every row: means (n, L), or means and deviations (n, 2 L) of the posterior. A collective."""
        processes, rank = self._trainer.world_size, self._trainer.global_rank
        blocks = math.ceil(len(factors) / self._batch_size)
        size = math.ceil(len(factors) / blocks)
        padded = torch.from_numpy(factors[np.minimum(np.arange(blocks * size), len(factors) - 1)]).split(size)
        rounds = math.ceil(blocks / processes)
        parts = []
        for turn in range(rounds):  # every process makes as many forward passes, because a module's may be collective
            block = min(turn * processes + rank, blocks - 1)
            parts.append(self._forward(padded[block], torch.Generator().manual_seed(seed + 1 + block)))
            self._bar.update(min(size * processes, len(factors)))
        local = torch.stack(parts)
        if processes > 1:
            # (processes, rounds, size, …) to the order of the blocks
            local = self._trainer.strategy.all_gather(local).transpose(0, 1).flatten(0, 1)
        self.encoded += len(factors)
        moments = local.flatten(0, 1)[: len(factors)].cpu()
        name = type(self._module).__name__
        if broken := int((~moments.isfinite()).any(1).sum()):
            raise ValueError(f"NaN or infinite codes of {name} for {broken} of {len(moments)} images")
        if self.has_posterior and bool((moments[:, self.num_latents :] <= 0).any()):
            raise ValueError(f"expected positive standard deviations of {name}.posterior(x), got 0 or less")
        return moments.numpy()

    def _forward(self, factors: Tensor, generator: torch.Generator) -> Tensor:
        x = self._data.images_of(factors.to(self._trainer.strategy.root_device), generator)
        with torch.no_grad(), self._trainer.precision_plugin.forward_context():
            mean, deviation = posterior_moments(self._module, x)
        self.num_latents = mean.shape[1]
        return torch.cat([part.float() for part in (mean, deviation) if part is not None], 1)
