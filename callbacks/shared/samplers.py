"""Which samples the loaders draw, in which order, and on which process."""

from collections.abc import Iterator, Sequence, Sized
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
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

from .batches import data_module
from .private_names import sampler_inside


def flatten_loaders(loaders: Any) -> list[Any]:
    """All loaders of a loader, a (nested) list or dict of loaders, or a `CombinedLoader`, in its order."""
    if isinstance(loaders, CombinedLoader):
        loaders = loaders.iterables
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, tuple | list):
        return [loader for part in loaders for loader in flatten_loaders(part)]
    return [] if loaders is None else [loaders]


def loader_names(trainer: Trainer, attribute: str, given: Sequence[str] | None) -> list[str] | None:
    """The given names of validation or test loaders, or else those of the data module.

    It has them in its attribute "val_sets" or "test_sets"; what is no list of names there counts as none.
    """
    names = given or getattr(data_module(trainer), attribute, None)
    are_names = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if names and are_names else None


def named_loaders(
    trainer: Trainer, attribute: str, given: Sequence[str] | None, needed_by: str
) -> tuple[list[str] | None, list[Any]]:
    """`loader_names` and the loaders of the validation or test that runs now.

    Raises:
        ValueError: There is not one name for each loader, or a name twice.
    """
    loaders = flatten_loaders(trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders)
    names = loader_names(trainer, attribute, given)
    if names and len(names) != len(loaders):
        raise ValueError(f"{needed_by} knows {len(names)} names for {len(loaders)} loaders: {attribute} is {names}")
    if names and len(set(names)) < len(names):
        raise ValueError(f"{needed_by} expects distinct names in {attribute}, got {names}")
    return names, loaders


def drawn_batches(loader: Any, of: str) -> list[list[int] | int]:
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
        inner = sampler_inside(sampler)
        sampler = getattr(sampler, "sampler", None) if inner is None else inner


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


def batch_size_of(loader: DataLoader) -> int:
    """Samples in a batch; 1 where each index is a whole batch, 64 where nobody knows."""
    for part in (loader, loader.batch_sampler, loader.sampler):
        if size := getattr(part, "batch_size", None):
            return int(size)
    return 1 if _draws_batches(loader) else 64


def _draws_batches(loader: DataLoader) -> bool:
    """Whether each index of the data set is a whole batch."""
    return loader.batch_sampler is None and not isinstance(loader.sampler, BatchSampler)


def loader_over(loader: DataLoader, groups: list[list[int]]) -> DataLoader:
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


def loader_of_one(loader: DataLoader) -> DataLoader:
    """A loader that gives one batch, of one sample where it can."""
    if isinstance(loader.dataset, IterableDataset):
        return loader
    probe = loader_over(loader, [[index] for index in drawable(loader)[:1]])
    probe.num_workers = 0
    return probe
