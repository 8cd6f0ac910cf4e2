"""The loader's share of an epoch on a table of 17,000 rows: ``python -m benchmarks.speed.table_loader``.

The data module's own loader, shuffled, batches of 256 with 12 features, against whole epochs of training the histogram
loss with four hidden layers of 64: inside ``Trainer.fit``, and in a bare loop. CPU time of one process.
"""

import argparse

import torch
from torch.utils.data import DataLoader

from datamodules.tables.base import RowSet, TabularDataModule
from zoo import HistogramRegression

from ..shared.runs import quiet_trainer, silence_lightning
from ..shared.timing import alternate, print_machine, print_ratios

ROWS, FEATURES, BATCH = 17_000, 12, 256


def fit(loader: DataLoader) -> None:
    """One epoch by the trainer, its start and end included."""
    quiet_trainer(max_epochs=1, accelerator="cpu", devices=1).fit(
        HistogramRegression(FEATURES, hidden=[64] * 4, low=-5, high=5), loader
    )


def bare_loop(loader: DataLoader) -> None:
    """One epoch without Lightning."""
    module = HistogramRegression(FEATURES, hidden=[64] * 4, low=-5, high=5)
    optimizer: torch.optim.Optimizer = module.configure_optimizers()
    for x, y in loader:
        optimizer.zero_grad()
        module.losses(module.network(x), y, False)["loss"].backward()
        optimizer.step()


def main() -> None:
    """Run through the loader, and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    silence_lightning()
    torch.set_num_threads(1)
    print_machine()
    torch.manual_seed(0)
    x = torch.randn(ROWS, FEATURES)
    loader = TabularDataModule.loader(TabularDataModule(), RowSet(x, x[:, 0]), BATCH, shuffle=True)

    def run_through() -> None:
        for _ in loader:
            pass

    contestants = {
        "Trainer.fit": lambda: fit(loader),
        "bare loop": lambda: bare_loop(loader),
        "the loader alone": run_through,
    }
    print_ratios(alternate(contestants, arguments.rounds), unit="ms", scale=1e3)


if __name__ == "__main__":
    main()
