"""Codes and factors with known scores, for tests of the metrics of disentanglement."""

from unittest import mock

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.distributions import Independent, Normal
from torch.utils.data import DataLoader, TensorDataset

from callbacks.disentanglement.metrics import boosting

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
