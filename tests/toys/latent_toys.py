"""Autoencoders and pictures for tests of what looks at latents."""

import torch
from evaluation_toys import QUIET
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.distributions import Independent, Normal
from torch.utils.data import DataLoader, TensorDataset

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


def trainer_of(*callbacks, **options):
    return Trainer(accelerator="cpu", **{"devices": 1, **QUIET, **options}, callbacks=list(callbacks))
