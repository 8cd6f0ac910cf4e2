"""Runs validation or training data through a module during ``trainer.test``, in order and without augmentation.

For what is fitted before it is judged: the temperature, the feature-based scores.
"""

from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from .collect import Table, data_module, flatten_loaders, gather_rows, is_labelled, labelled_batch, sampler_parts

Stage = Literal["train", "val"]
MOST_COMMON = 0.1  # share of the calibration inputs that may be test inputs too


def find_loader(
    trainer: Trainer,
    pl_module: LightningModule,
    stage: Stage,
    is_set_up: bool,
    accepts: Callable[[Any], bool] = is_labelled,
) -> DataLoader | None:
    """The data module's (or else the module's own) loader of labelled training or validation batches.

    Of several loaders the one that is called "labelled" or "source", else the first whose batches are ``(x, y)``.

    Args:
        trainer: In its test run, which set up the data module for testing only.
        pl_module: The module under test.
        stage: Which loader.
        is_set_up: Whether the data module went through ``setup("fit")`` already; a second time might draw
            another split.
        accepts: Which batches count as labelled.

    Returns:
        None where there is none.
    """
    name = f"{stage}_dataloader"
    data = data_module(trainer)
    source = data if data is not None and is_overridden(name, data) else pl_module
    if not is_overridden(name, source) or getattr(trainer, f"limit_{stage}_batches") == 0:
        return None
    if source is data and not is_set_up:
        source.setup("fit")
    return first_loader(getattr(source, name)(), accepts)


def first_loader(loaders: Any, accepts: Callable[[Any], bool] = is_labelled) -> DataLoader | None:
    """Of loaders in any structure the one that is called "labelled" or "source", else the first that is accepted."""
    if isinstance(loaders, dict):
        loaders = loaders.get("labelled", loaders.get("source", loaders))
    for loader in flatten_loaders(loaders):
        if isinstance(loader, DataLoader) and accepts(next(iter(_probe(loader)), None)):
            return loader
    return None


def run_through(
    trainer: Trainer,
    pl_module: LightningModule,
    loader: DataLoader,
    measure: Callable[[Tensor, Tensor], Table],
    limit: int | float = 1.0,
    max_samples: int | None = None,
    read: Callable[[Any], tuple[Tensor, Tensor]] = labelled_batch,
    dataloader_idx: int = 0,
) -> Table:
    """Columns for the samples of a loader, in the data set's order, equal on all processes. A collective.

    Batches go through the hooks of the device transfer like test batches, and are shared out over the processes.

    Args:
        trainer: In its test run.
        pl_module: The module under test.
        loader: Of labelled batches. Its sampler's order plays no role.
        measure: From x and y on the device to columns (B, …).
        limit: Lightning's ``limit_train_batches`` or ``limit_val_batches``: a share, or a number of batches.
        max_samples: At most so many samples. Where fewer than all are taken, they are evenly spread.
        read: From a batch to x and y.
        dataloader_idx: What the hooks of the device transfer are told.

    Returns:
        ``key`` and the measured columns; empty where there is no sample.

    Raises:
        ValueError: An iterable data set on several processes, or a batch that is not ``(x, y)``.
    """
    rank, world = trainer.global_rank, trainer.world_size
    if isinstance(loader.dataset, IterableDataset):
        if world > 1:
            raise ValueError("an iterable data set cannot be shared out over processes: test with devices=1")
        batches: Iterator[tuple[int, Any]] = enumerate(loader)
        batches = islice(batches, limit) if isinstance(limit, int) else batches
    else:
        groups = _groups(trainer, loader, limit, max_samples)
        batches = zip(range(rank, len(groups), world), _over(loader, groups[rank::world]), strict=True)
    parts: list[Table] = []
    rows = 0
    for number, batch in batches:
        x, y = read(_to_device(trainer, pl_module, batch, dataloader_idx))
        with trainer.precision_plugin.forward_context():
            columns = measure(x, y)
        parts.append({"key": (number << 32) + torch.arange(len(x)), **columns})
        rows += len(x)
        if isinstance(loader.dataset, IterableDataset) and max_samples and rows >= max_samples:
            break
    table = {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    return gather_rows(trainer, table)


def _to_device(trainer: Trainer, pl_module: LightningModule, batch: Any, dataloader_idx: int) -> Any:
    """What the test loop does with a batch before the step."""
    batch = trainer.precision_plugin.convert_input(batch)
    data = data_module(trainer)
    hooks = data if data is not None and is_overridden("on_before_batch_transfer", data) else pl_module
    batch = hooks.on_before_batch_transfer(batch, dataloader_idx)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=dataloader_idx)


def drawable(loader: DataLoader) -> list[Any]:
    """What a loader can draw from its data set, each index once, ascending, without drawing where possible.

    Samplers over the whole data set are known; one of an unknown kind is asked once.
    """
    part = _innermost(loader)
    if isinstance(part, SubsetRandomSampler):
        return sorted(int(index) for index in part.indices)
    if has_known_sampler(loader):
        return list(range(len(cast(Sized, loader.dataset))))
    drawn = ([item] if isinstance(item, int) else item for item in part)
    return sorted({int(index) for indices in drawn for index in indices})


def has_known_sampler(loader: DataLoader) -> bool:
    """Whether `drawable` need not ask the sampler, which might then draw something else the next time."""
    known = SequentialSampler | RandomSampler | WeightedRandomSampler | DistributedSampler | SubsetRandomSampler
    return isinstance(_innermost(loader), known)


def _innermost(loader: DataLoader) -> Any:
    """The sampler below all others."""
    sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    innermost = [part for part in sampler_parts(sampler) if type(part) is not BatchSampler]
    return innermost[-1] if innermost else sampler


def origin(loader: DataLoader) -> tuple[Any, set[int]]:
    """The data set below all ``Subset``s, and which of its samples the loader can draw."""
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        return dataset, {0}
    indices = drawable(loader)
    while isinstance(dataset, Subset):
        indices = [int(dataset.indices[index]) for index in indices]
        dataset = dataset.dataset
    return dataset, set(indices)


def refuse_same_data(calibration: DataLoader, test: Any, what: str, of: str = "the test set") -> None:
    """Refuse calibration data that are drawn from the samples of the test loader.

    Args:
        calibration: Loader of the data on which something is fitted.
        test: Loader of the test set; nothing is refused where it is no ``DataLoader``.
        what: What is fitted, for the message.
        of: What the test loader holds, for the message.

    Raises:
        ValueError: A sample is in both.
    """
    if not isinstance(test, DataLoader):
        return
    dataset, indices = origin(calibration)
    test_dataset, test_indices = origin(test)
    if dataset is test_dataset and (common := len(indices & test_indices)):
        raise ValueError(
            f"the calibration data are {of}: {common} of its samples are drawn from the same data set "
            f"({type(dataset).__name__}); {what} must be fitted on data held out from testing"
        )


def refuse_same_samples(calibration: Tensor, test: Tensor, what: str, inputs: str = "test inputs") -> None:
    """Refuse calibration data of which more than 10 % are test data, and warn of fewer.

    Args:
        calibration: (N,) fingerprints.
        test: (M,) fingerprints.
        what: What is fitted, for the message.
        inputs: What the test inputs are, for the message.

    Raises:
        ValueError: More than 10 % are.
    """
    known = int(torch.isin(calibration, test).sum())
    found = f"{known} of {len(calibration)} calibration inputs are also {inputs}"
    if known > MOST_COMMON * len(calibration):
        raise ValueError(f"{found}, more than {MOST_COMMON:.0%}: {what} must be fitted on data held out from testing")
    if known:
        rank_zero_warn(f"{found}: {what} is fitted on data that are not all held out from testing")


def _groups(trainer: Trainer, loader: DataLoader, limit: int | float, max_samples: int | None) -> list[list[int]]:
    """The indices of each batch; equal on all processes."""
    indices = drawable(loader)
    if trainer.world_size > 1:  # a sampler of an unknown kind may give each process a part
        everywhere: list[list[int]] = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(everywhere, indices)
        indices = sorted(set().union(*everywhere))
    size = _batch_size(loader)
    wanted = limit * size if isinstance(limit, int) else int(limit * len(indices))
    wanted = min(wanted, len(indices), max_samples or len(indices))
    chosen = [indices[row * len(indices) // wanted] for row in range(wanted)]
    return [chosen[start : start + size] for start in range(0, wanted, size)]


def _batch_size(loader: DataLoader) -> int:
    for part in (loader, loader.batch_sampler, loader.sampler):
        if size := getattr(part, "batch_size", None):
            return int(size)
    return 1 if _draws_batches(loader) else 64


def _draws_batches(loader: DataLoader) -> bool:
    """Whether each index of the data set is a whole batch."""
    return loader.batch_sampler is None and not isinstance(loader.sampler, BatchSampler)


def _over(loader: DataLoader, groups: list[list[int]]) -> DataLoader:
    """A loader of the same data set over given batches, in order."""
    # a generator of its own: iterating must not move the global random state that a module's test step may use
    common: dict[str, Any] = {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "worker_init_fn": loader.worker_init_fn,
        "generator": torch.Generator().manual_seed(0),
    }
    if loader.batch_sampler is not None:
        return DataLoader(loader.dataset, batch_sampler=groups, **common)
    sampler: list[Any] = [group[0] for group in groups] if _draws_batches(loader) else groups
    return DataLoader(loader.dataset, batch_size=None, sampler=sampler, **common)


def _probe(loader: DataLoader) -> DataLoader:
    """A loader that gives one batch, of one sample where it can."""
    if isinstance(loader.dataset, IterableDataset):
        return loader
    first = [[index] for index in drawable(loader)[:1]]
    probe = _over(loader, first)
    probe.num_workers = 0
    return probe
