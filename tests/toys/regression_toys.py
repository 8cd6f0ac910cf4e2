"""Regressors and data for tests of the evaluation of predictive distributions, and of the zoo's own regressors."""

from typing import Any

import lightning as L
import torch
from evaluation_toys import integers
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.distributions import Distribution, Gumbel, Laplace, MixtureSameFamily, Normal
from torch.distributions.categorical import Categorical
from torch.utils.data import DataLoader, TensorDataset

from zoo import GaussianRegression, HistogramRegression, MixtureDensityNetwork, PointRegression

INPUTS = 3
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Histogram(Distribution):
    """Piecewise uniform, with nothing but what the callback knows it by."""

    def __init__(self, edges, probs):
        self.edges, self.probs = edges, probs
        super().__init__(probs.shape[:1], validate_args=False)


def normal(x):
    return Normal(2 * x.sum(1), 0.5 + x[:, 0].abs() / 2)


def laplace(x):
    return Laplace(2 * x.sum(1), 0.5 + x[:, 0].abs() / 2)


def mixture(x):
    centres = 2 * x.sum(1, keepdim=True) + torch.tensor([-3.0, 0.0, 1.0])
    parts = Normal(centres, torch.tensor([0.5, 1.0, 2.0]).expand_as(centres))
    return MixtureSameFamily(Categorical(logits=x), parts)


def histogram(x):
    edges = torch.tensor([-12.0, -6.0, -2.0, 0.0, 3.0, 8.0, 13.0])
    centres = (edges[:-1] + edges[1:]) / 2
    return Histogram(edges, torch.softmax(-((centres - 2 * x.sum(1, keepdim=True)) ** 2) / 20, 1))


def gumbel(x):
    return Gumbel(2 * x.sum(1).double(), torch.full((len(x),), 1.5, dtype=torch.float64))


class Regressor(LightningModule):
    """What a stranger brings: ``predictive`` and a test step."""

    def __init__(self, make=normal):
        super().__init__()
        self.make = make
        self.weight = torch.nn.Parameter(torch.ones(INPUTS))

    def predictive(self, x):
        return self.make(x * self.weight)

    def forward(self, x):
        return self.predictive(x).mean

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        pass


def rows(samples, seed, spread=1.5):
    """Inputs with few binary digits; labels that scatter more, or less, than `normal` says."""
    x = integers(-8, 9, (samples, INPUTS), seed) / 8
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(1000 + seed))
    return TensorDataset(x, 2 * x.sum(1) + spread * noise)


class Table(LightningDataModule):
    def __init__(self, samples=43, validation=60, batch_size=8, spread=1.5, **loader):
        super().__init__()
        self.target_name, self.test_sets = "toys", ("test",)
        self.batch_size, self.loader = batch_size, loader
        self.train, self.test = rows(32, 3, spread), rows(samples, 1, spread)
        self.validation = rows(validation, 2, spread) if validation else None

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.validation, self.batch_size) if self.validation else []

    def test_dataloader(self):
        return DataLoader(self.test, self.batch_size, **self.loader)


def run_test(callbacks, module=None, data=None, **options):
    trainer = Trainer(accelerator="cpu", **{"devices": 1, **QUIET, **options}, callbacks=callbacks)
    trainer.test(module or Regressor(), data or Table(), verbose=False)
    return trainer


# ---------------------------------------------------------------- the zoo's regressors on a small table

SMALL: dict[str, Any] = {"num_features": 3, "hidden": [8, 8]}
ALL = [HistogramRegression, PointRegression, GaussianRegression, MixtureDensityNetwork]


def labelled_rows(count: int = 64, offset: float = 50.0, scale: float = 10.0, seed: int = 0) -> TensorDataset:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=draw)
    return TensorDataset(x, offset + scale * x[:, 0])


def quiet(**arguments: Any) -> L.Trainer:
    few: dict[str, Any] = {
        "max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "log_every_n_steps": 1,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return L.Trainer(**few | arguments)


def fit(module: L.LightningModule, data: Any = None, val: Any = None, **arguments: Any) -> L.Trainer:
    trainer = quiet(**arguments)
    trainer.fit(module, DataLoader(data or labelled_rows(), 16), val and DataLoader(val, 16))
    return trainer
