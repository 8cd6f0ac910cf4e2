"""Per-sample values of whole data sets, the same on every process: each sample once, in the data set's order.

Lightning's distributed sampler repeats samples to give every process as many, and figures like the AUROC are no
means over processes. So each row carries the key of its sample, rows are gathered, and of equal keys one is kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from torchmetrics.utilities.distributed import gather_all_tensors

Table = dict[str, Tensor]


def data_module(trainer: Trainer) -> LightningDataModule | None:
    """The data module of a run, where it has one."""
    return getattr(trainer, "datamodule", None)


def labelled_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return x (B, …) and y (B,) of a batch ``(x, y)``.

    Raises:
        ValueError: It is something else.
    """
    if is_labelled(batch):
        return batch[0], batch[1]
    raise ValueError(f"expected a batch (x, y) with integer labels y of shape (B,), got {_describe(batch)}")


def is_labelled(batch: Any) -> bool:
    """Whether a batch is ``(x, y)`` with integer labels, one for each sample."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        return False
    x, y = batch[:2]
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.ndim == 0:
        return False
    return y.shape == x.shape[:1] and not y.is_floating_point() and y.dtype != torch.bool


def target_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return x (B, …) and y (B,) of a batch ``(x, y)`` of regression.

    Raises:
        ValueError: It is something else.
    """
    if has_targets(batch):
        return batch[0], batch[1]
    raise ValueError(f"expected a batch (x, y) with real numbers y of shape (B,), got {_describe(batch)}")


def has_targets(batch: Any) -> bool:
    """Whether a batch is ``(x, y)`` with a real number, integer or not, for each sample."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        return False
    x, y = batch[:2]
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.ndim == 0:
        return False
    return y.shape == x.shape[:1] and y.dtype != torch.bool and not y.is_complex()


def batch_inputs(batch: Any) -> Tensor:
    """Return x (B, …) of a batch ``(x, …)`` or ``x``."""
    x = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    if not isinstance(x, Tensor) or x.ndim == 0:
        raise ValueError(f"expected a batch (x, y) or x with a tensor x, got {_describe(batch)}")
    return x


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}: " + ", ".join(_describe(part) for part in value[:3])
    return type(value).__name__


def batch_logits(trainer: Trainer, pl_module: LightningModule, outputs: Any, x: Tensor) -> Tensor:
    """Logits (B, K) on the CPU: those that the step returned in a dict as "logits", else of the forward.

    Raises:
        ValueError: They have another shape.
    """
    logits = outputs.get("logits") if isinstance(outputs, dict) else None
    if logits is None:
        with trainer.precision_plugin.forward_context():
            logits = pl_module(x)
    name = type(pl_module).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(f"expected logits of shape ({len(x)}, classes) from {name}, got {_describe(logits)}")
    if logits.shape[1] < 2:
        raise ValueError(f"expected logits of at least two classes from {name}, got shape {tuple(logits.shape)}")
    return to_table(logits)


def to_table(values: Tensor) -> Tensor:
    """Detached, on the CPU, and in float32 at least."""
    values = values.detach().cpu()
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def check_logits(logits: Tensor, of: str) -> None:
    """Refuse logits that are none.

    Args:
        logits: (N, K) of a whole set.
        of: Which set, for the message.

    Raises:
        ValueError: There is no row, a row is not finite, or all rows are probabilities.
    """
    if len(logits) == 0:
        raise ValueError(f"no samples in {of}")
    if broken := int((~logits.isfinite().all(dim=1)).sum()):
        raise ValueError(f"NaN or infinite logits for {broken} of {len(logits)} samples of {of}")
    if bool((logits >= 0).all()) and bool(((logits.double().sum(dim=1) - 1).abs() < 1e-3).all()):
        raise ValueError(f"expected logits, but all rows of {of} are probabilities: return them before the softmax")


def fingerprints(x: Tensor, values: int = 4096) -> Tensor:
    """One number per sample, (B, …) to (B,) int64: equal for equal inputs, whatever batch they are in.

    Made of at most so many values of a sample, evenly spread, in integer arithmetic, which has no rounding.
    """
    flat = x.detach().flatten(1) if x.ndim > 1 else x.detach()[:, None]
    flat = flat[:, :: max(1, -(-flat.shape[1] // values))].float() + 0.0  # no negative zero
    weights = torch.randint(2**62, flat.shape[1:], generator=torch.Generator().manual_seed(0)).to(flat.device)
    return (flat.contiguous().view(torch.int32).long() * weights).sum(dim=1).cpu()


def flatten_loaders(loaders: Any) -> list[Any]:
    """All loaders of a loader, a (nested) list or dict of loaders, or a `CombinedLoader`, in its order."""
    if isinstance(loaders, CombinedLoader):
        loaders = loaders.iterables
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, tuple | list):
        return [loader for part in loaders for loader in flatten_loaders(part)]
    return [] if loaders is None else [loaders]


class Collector:
    """Collects rows of one test loader during ``trainer.test`` and gathers them over the processes.

    Args:
        trainer: In its test run.
        loader: The loader as Lightning runs it (from ``trainer.test_dataloaders``).
        of: Which set it holds, for messages.

    Raises:
        ValueError: On several processes, where the loader's order cannot be known: for an iterable data set, a
            random sampler or anything that is no ``DataLoader``.
    """

    def __init__(self, trainer: Trainer, loader: Any, of: str) -> None:
        self.trainer = trainer
        self.of = of
        self._batches: list[Table] = []
        self._rows = 0
        self._drawn = _drawn_batches(loader, of) if trainer.world_size > 1 else None

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
        table = {name: torch.cat([batch[name] for batch in self._batches]) for name in self._names()}
        self._batches = []
        return gather_rows(self.trainer, table)

    def _names(self) -> list[str]:
        return list(self._batches[0]) if self._batches else []


def gather_rows(trainer: Trainer, table: Table) -> Table:
    """Concatenate tables over the processes and keep one row of each ``key``, ascending. A collective.

    Args:
        trainer: Of the run.
        table: Columns (B, …) with the int64 column ``key``, or empty where a process has no row.

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


def _drawn_batches(loader: Any, of: str) -> list[list[int] | int]:
    """What this process's sampler draws, batch by batch: indices of samples, or of whole batches."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            f"the loader of {of} has no sampler (an iterable data set, or no DataLoader): on several processes "
            "nobody knows which of its samples are repeated; test with devices=1"
        )
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    kinds = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
    random = any(isinstance(part, kinds) for part in sampler_parts(sampler))
    drawn = [] if random else list(sampler)
    if random or drawn != list(sampler):  # drawn a second time: an unknown sampler may be random too
        raise ValueError(
            f"the sampler of {of} is random ({type(loader.sampler).__name__}): on several processes nobody knows "
            "which samples it drew where; set shuffle=False or test with devices=1"
        )
    return [batch if isinstance(batch, int) else [int(index) for index in batch] for batch in drawn]


def sampler_parts(sampler: Any) -> Iterator[Any]:
    """A sampler and the samplers inside it."""
    while sampler is not None:
        yield sampler
        # Lightning's wrapper keeps the user's sampler in its data set
        inner = getattr(getattr(sampler, "dataset", None), "_sampler", None)
        sampler = getattr(sampler, "sampler", None) if inner is None else inner
