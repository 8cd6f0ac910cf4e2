"""Tables, small and real, and what tests look at of their data modules."""

import os

import lightning.pytorch as pl
import numpy as np
import torch

from datamodules.tables.base import TabularDataModule
from datamodules.tables.text import Table

ZOO_DATA = os.environ.get("ZOO_DATA", "")
REAL = {  # rows, features, first label and sum of the labels
    "bike-sharing": (17_379, 12, 16, 3_292_679),
    "bostonHousing": (506, 13, 24.0, 11_401.6),
    "concrete": (1_030, 8, 79.99, 36_892.5),
    "energy": (768, 8, 15.55, 17_131.93),
    "naval-propulsion-plant": (11_934, 16, 0.95, 11_635.65),
    "power-plant": (9_568, 4, 480.48, 4_347_364.41),
    "wine-quality-red": (1_599, 11, 5, 9_012),
    "yacht": (308, 6, 0.11, 3_232.57),
}


class Numbered(TabularDataModule):
    """A user's own table: row i has the features (i, -i, 7) and the label 10 i, so that every row can be recognised."""

    name, num_features, target_name = "numbered", 3, "ten times the number"
    count = 50

    def load_table(self):
        number = np.arange(self.count, dtype=np.float64)
        return Table(np.stack((number, -number, np.full(self.count, 7.0)), 1), 10 * number)


class Recorder(pl.LightningModule):
    """Keeps the labels that each stage got; they identify the rows of ``Numbered``."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch[1].tolist())
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch[1].tolist())

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch[1].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def rows_of(data):
    """The numbers of the rows of ``Numbered`` in training, validation and test."""
    return [(rows.targets / 10).long().tolist() for rows in data.sets()]


def raw(data, rows):
    """Features as they were measured, (N, D) float64."""
    return rows.features.double().numpy() * np.where(np.isinf(data.std), 0, data.std) + data.mean


def joined(data):
    """All rows of the three sets, features first, sorted by all columns; constant columns are the training mean."""
    sets = data.sets()
    table = np.concatenate([np.column_stack((raw(data, rows), rows.targets.double().numpy())) for rows in sets])
    return table[np.lexsort(table.T)]


def csv_file(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text)
    return str(path)


def table_text(count=20, columns=("a", "b", "y"), delimiter=","):
    random = np.random.default_rng(0)
    lines = [delimiter.join(columns)]
    lines += [delimiter.join(f"{value:.3f}" for value in random.normal(size=len(columns))) for _ in range(count)]
    return "\n".join(lines) + "\n"
