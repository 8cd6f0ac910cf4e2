"""Per-sample values of whole data sets, the same on every process: each sample once, in the data set's order.

Lightning's distributed sampler repeats samples to give every process as many, and metrics like the AUROC are no
means over processes. So each row carries the key of its sample, rows are gathered, and of equal keys one is kept.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from .samplers import drawn_batches

Table = dict[str, Tensor]


class Collector:
    """Collects rows of one loader, as Lightning runs it, and gathers them over the processes.

    Raises:
        ValueError: On several processes, where the loader's order cannot be known: for an iterable data set, a
            random sampler or anything that is no ``DataLoader``.
    """

    def __init__(self, trainer: Trainer, loader: Any, of: str) -> None:
        self.trainer = trainer
        self.of = of
        self._batches: list[Table] = []
        self._rows = 0
        self._drawn = drawn_batches(loader, of) if trainer.world_size > 1 else None

    def add(self, batch_idx: int, columns: Table) -> None:
        """Add a batch: columns (B, …), the same names each time."""
        rows = len(next(iter(columns.values())))
        self._batches.append({"key": self.keys(batch_idx, rows), **columns})
        self._rows += rows

    def keys(self, batch_idx: int, rows: int) -> Tensor:
        """(B,) int64, by which the samples of the next batch to be added are known on all processes."""
        if self._drawn is None:
            return torch.arange(self._rows, self._rows + rows)
        if isinstance(drawn := self._drawn[batch_idx], int):
            return (drawn << 32) + torch.arange(rows)  # the loader draws whole batches
        if len(drawn) == rows:
            return torch.tensor(drawn)
        raise ValueError(
            f"batch {batch_idx} of {self.of} has {rows} samples where the sampler drew {len(drawn)}: on several "
            "processes samples are known by the sampler's indices, so the collate function may drop none"
        )

    def gather(self) -> Table:
        """All rows of all processes, each sample once, in the order of the data set. A collective."""
        names = self._batches[0] if self._batches else ()
        table = {name: torch.cat([batch[name] for batch in self._batches]) for name in names}
        self._batches = []
        return gather_rows(self.trainer, table)


def gather_rows(trainer: Trainer, table: Table) -> Table:
    """Concatenate tables over the processes and keep one row of each ``key``, ascending. A collective.

    A table has columns (B, …), one of them the int64 ``key``, or none where a process has no row.

    Raises:
        ValueError: Processes have other columns.
    """
    if trainer.world_size > 1:
        mine = {name: (column.dtype, tuple(column.shape[1:])) for name, column in table.items()}
        layouts: list[dict] = [{} for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(layouts, mine)
        layout = next((layout for layout in layouts if layout), {})
        if any(other and other != layout for other in layouts):
            raise ValueError(f"the processes collected different columns: {[list(other) for other in layouts]}")
        device = trainer.strategy.root_device
        empty = {name: torch.empty((0, *shape), dtype=dtype) for name, (dtype, shape) in layout.items()}
        table = {
            name: torch.cat([part.cpu() for part in gather_all_tensors(table.get(name, empty[name]).to(device))])
            for name in layout
        }
    if not table:
        return table
    order = torch.argsort(table["key"], stable=True)
    keys = table["key"][order]
    first = torch.ones(len(keys), dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    return {name: column[order[first]] for name, column in table.items()}


def log_identical(pl_module: LightningModule, metrics: Mapping[str, float]) -> None:
    """Log metrics that every process computed from the same gathered rows."""
    sync = pl_module.trainer.world_size > 1  # by `max`, since a mean would round
    pl_module.log_dict(metrics, reduce_fx="max", sync_dist=sync, add_dataloader_idx=False)
