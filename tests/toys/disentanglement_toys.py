"""Codes and factors with known scores, autoencoders with known latents, and the zoo's methods on small images."""

import math
from typing import Any
from unittest import mock

import lightning as L
import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.utils.data import DataLoader, TensorDataset

from callbacks.disentanglement.metrics import boosting
from zoo import DIPVAE, AnnealedVAE, BetaTCVAE, BetaVAE, FactorVAE
from zoo.disentanglement.net import Discriminator
from zoo.disentanglement.vae import VAE

SPRITES = (3, 6, 40, 32, 32)


def draw(number, seed, sizes=SPRITES):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(size, size=number) for size in sizes], 1)


def few_stages():
    """Ten stages of boosted trees for what holds after any number, in a tenth of the time of the usual hundred."""
    return mock.patch.object(boosting, "STAGES", 10)


def sample_of(sizes):
    return lambda n, generator: torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], 1)


def perfect(factors, sizes=SPRITES):
    """Each factor as one latent with mean 0 and variance 1."""
    sizes = np.array(sizes)
    return (np.asarray(factors) - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)


def noise(number, latents, seed=5):
    return np.random.default_rng(seed).normal(size=(number, latents))


def rotated(factors, sizes=SPRITES):
    """The perfect code, turned so that every latent has a part of every factor."""
    codes = perfect(factors, sizes)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(codes.shape[1],) * 2))
    return codes @ rotation


class FactorImages(LightningDataModule):
    """Images of 2 x 4 pixels whose first ones are the factors; ``noisy`` ones get a random pixel."""

    def __init__(self, sizes=(3, 4, 5), noisy=False):
        super().__init__()
        self.factor_sizes = tuple(sizes)
        self.factor_names = tuple(f"factor_{i}" for i in range(len(sizes)))
        self.deterministic_images = not noisy

    def sample_factors(self, n, generator):
        return torch.stack([torch.randint(size, (n,), generator=generator) for size in self.factor_sizes], 1)

    def images_of(self, factors, generator):
        x = torch.zeros(len(factors), 8)
        x[:, : len(self.factor_sizes)] = factors / 4 - 0.5
        if not self.deterministic_images:
            x[:, 7] = torch.rand(len(factors), generator=generator)
        return x.reshape(-1, 1, 2, 4)

    def test_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(2, 1, 2, 4), torch.zeros(2, len(self.factor_sizes)).long()), 1)


class Encoder(LightningModule):
    """The first pixels are the mean, with some of the last one; counts what it encodes."""

    def __init__(self, latents=4):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8)[:, :latents] + 0.125 * torch.eye(8)[7][:, None])
        self.batches = []

    def encode(self, x):
        self.batches.append(len(x))
        return x.flatten(1) @ self.weight

    def test_step(self, batch, batch_idx): ...


class Variational(Encoder):
    def posterior(self, x):
        mean = self.encode(x)
        return Independent(Normal(mean, torch.full_like(mean, 0.25)), 1)


# ---------------------------------------------------------------- the zoo's methods on images of 6 x 6 pixels

ALL = [BetaVAE, AnnealedVAE, FactorVAE, DIPVAE, BetaTCVAE]


def images(count: int = 8, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def small_network(kind: type[VAE]) -> type[VAE]:
    """The same method with a linear encoder and decoder and a small discriminator, for images of any size."""

    class Small(kind):  # type: ignore[misc, valid-type]  # a class that is an argument
        def build_encoder(self) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.image_shape), 2 * self.hparams["num_latents"]))

        def build_decoder(self) -> nn.Module:
            pixels = math.prod(self.image_shape)
            return nn.Sequential(nn.Linear(self.hparams["num_latents"], pixels), nn.Unflatten(1, self.image_shape))

        def build_discriminator(self) -> nn.Module:
            return Discriminator(self.hparams["num_latents"], width=16)

    return Small


def small(kind: type[VAE], **arguments: Any) -> Any:
    torch.manual_seed(0)
    return small_network(kind)(**{"image_shape": (1, 6, 6), "num_latents": 3} | arguments)


def few(count: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def objective(module: Any, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    return module.objective(x, torch.Generator().manual_seed(seed))


def quiet(**arguments: Any) -> L.Trainer:
    usual: dict[str, Any] = {
        "max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "log_every_n_steps": 1,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return L.Trainer(**usual | arguments)


def loader(x: Tensor, batch_size: int = 8) -> DataLoader:
    return DataLoader(TensorDataset(x, torch.zeros(len(x), dtype=torch.int64)), batch_size)


SIDE = 8


class ToyEncoder(LightningModule):
    """Two latents hold how bright the halves of a picture are; the third holds nothing."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def encode(self, x):
        left, right = x.chunk(2, -1)
        halves = torch.stack([left.flatten(1).mean(1), right.flatten(1).mean(1)], 1) * self.scale
        return torch.cat([halves, torch.zeros_like(halves[:, :1])], 1)

    def decode(self, z):
        halves = ((z[:, :2] + 1) / 2).repeat_interleave(SIDE // 2, 1)
        return halves[:, None, None, :].repeat(1, 1, SIDE, 1).clamp(0, 1)

    def forward(self, x):
        return self.decode(self.encode(x))

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) - (batch[0] + 1) / 2).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class ToyVAE(ToyEncoder):
    """The right half more uncertain than the left, the third latent at the prior."""

    deviations = (0.1, 0.5, 1.0)

    def posterior(self, x):
        mean = self.encode(x)
        return Independent(Normal(mean, torch.tensor(self.deviations).expand_as(mean)), 1)


class Halves(LightningDataModule):
    """Pictures in [-1, 1]: the brightness of the left half is the first factor, of the right half the second."""

    factor_names = ("left", "right")
    factor_sizes = (5, 3)
    deterministic_images = True

    def __init__(self, number=30, batch_size=4):
        super().__init__()
        self.batch_size = batch_size
        self.factors = torch.stack([torch.arange(number) % 5, torch.arange(number) // 2 % 3], 1)

    def images_of(self, factors, generator=None):
        halves = torch.stack([factors[:, 0] / 2 - 1, 1 - factors[:, 1]], 1)
        return halves.repeat_interleave(SIDE // 2, 1)[:, None, None, :].repeat(1, 1, SIDE, 1).float()

    def sample_factors(self, n, generator):
        sizes = torch.tensor(self.factor_sizes)
        return (torch.rand(n, len(sizes), generator=generator) * sizes).long()

    def loader(self):
        return DataLoader(TensorDataset(self.images_of(self.factors), self.factors), self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = loader
