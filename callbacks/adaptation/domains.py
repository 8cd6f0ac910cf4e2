"""Which loaders hold the source and the target, and what a module makes of their samples."""

import math
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..calibration.metrics import nll
from ..shared.batches import batch_inputs, batch_logits, check_logits, is_labelled, to_table
from ..shared.collect import Collector, Table, gather_rows
from ..shared.held_out import HeldOut, first_loader, run_through
from ..shared.random_state import preserved_random_state
from ..shared.samplers import flatten_loaders, has_known_sampler, named_loaders

TARGET = "target/"


class Domains(NamedTuple):
    """Where the two domains are among the loaders of a validation or test.

    Attributes:
        loaders: All loaders, the source's first.
        target: Position of the target's.
        names: Of source and target.
    """

    loaders: list[Any]
    target: int
    names: tuple[str, str]


class DomainRows(NamedTuple):
    """What a module made of a domain.

    Attributes:
        logits: (N, K) of all samples, in the data set's order.
        labels: (N,), -1 where there are none.
        features: (M, D) of M <= N samples, evenly spread.
        places: (M,) whose features these are.
    """

    logits: Tensor
    labels: Tensor
    features: Tensor
    places: Tensor


def check_module(pl_module: LightningModule, needed_by: str) -> None:
    """Refuse a module without logits or without features.

    Raises:
        TypeError: It has no ``forward``, or neither ``domain_features`` nor ``features``.
    """
    name = type(pl_module).__name__
    if not is_overridden("forward", pl_module):
        raise TypeError(f"{needed_by} needs forward(x) -> (B, K) logits: {name} has none")
    if not any(callable(getattr(pl_module, method, None)) for method in ("domain_features", "features")):
        raise TypeError(
            f"{needed_by} needs a module with domain_features(x) -> (B, D), what its domain head sees, or "
            f"features(x) -> (B, D); {name} has neither"
        )


def find_target(names: list[str], attribute: str, needed_by: str) -> int:
    """The position of the first name ``target/…``, the source being at 0.

    Raises:
        ValueError: There is none after the first.
    """
    found = [position for position, name in enumerate(names) if position and name.startswith(TARGET)]
    if not found:
        raise ValueError(
            f"{needed_by} needs a set named '{TARGET}<name>' after the source's in {attribute}, got {names}"
        )
    return found[0]


def find_domains(trainer: Trainer, attribute: str, given: list[str] | None, needed_by: str) -> Domains:
    """Find source and target among the loaders that run now.

    Without names the first two loaders are source and target.

    Args:
        trainer: In a validation or test.
        attribute: "val_sets" or "test_sets".
        given: Names, or None for the data module's.
        needed_by: For messages.

    Raises:
        ValueError: There is only one loader, no target among the names, or not one name for each loader.
    """
    names, loaders = named_loaders(trainer, attribute, given, needed_by)
    if len(loaders) < 2:
        raise ValueError(f"{needed_by} needs two loaders, of source and of target data, got {len(loaders)}")
    if names is None:
        return Domains(loaders, 1, ("source", "target"))
    target = find_target(names, attribute, needed_by)
    return Domains(loaders, target, (names[0], names[target]))


def training_loader(trainer: Trainer, pl_module: LightningModule, held_out: HeldOut) -> DataLoader | None:
    """The loader of labelled training data.

    In a fit it is one of the loaders that train, so that no data set is built a second time; but not if reading from
    them could change what they draw next.

    Args:
        trainer: In any run.
        pl_module: Its module.
        held_out: Finds the loader in other runs.
    """
    running = flatten_loaders(trainer.train_dataloader) if trainer.state.fn == "fit" else []
    if running and all(_can_be_read(loader) for loader in running):
        return first_loader(trainer.train_dataloader)
    return held_out.find(trainer, pl_module)


def _can_be_read(loader: Any) -> bool:
    return isinstance(loader, DataLoader) and has_known_sampler(loader)  # that of a stream is unknown


def run_features(
    trainer: Trainer,
    pl_module: LightningModule,
    loader: DataLoader,
    limit: int | float,
    number: int,
    dataloader_idx: int = 0,
) -> Table:
    """Domain features and labels of at most so many samples of a loader, evenly spread, by a pass of its own.

    A collective.

    Args:
        trainer: In any run.
        pl_module: In evaluation mode.
        loader: Of batches ``(x, y)`` or ``x``.
        limit: A share of the samples, or a number of batches, as Lightning's ``limit_val_batches``.
        number: Largest number of rows.
        dataloader_idx: Its position, for the hooks of the device transfer.

    Returns:
        "features" (N, D) and "label" (N,), -1 where the batch has none. Empty without samples.
    """

    def read(batch: Any) -> tuple[Tensor, Tensor]:
        x = batch_inputs(batch)
        return x, (batch[1] if is_labelled(batch) else torch.full((len(x),), -1))

    def measure(x: Tensor, y: Tensor) -> Table:
        return {"features": domain_features(pl_module, x), "label": y.cpu().long()}

    return run_through(trainer, pl_module, loader, measure, limit, number, read, dataloader_idx)


def domain_features(pl_module: Any, x: Tensor) -> Tensor:
    """What the domain head sees, (B, D) on the CPU: ``domain_features(x)``, or ``features(x)`` of other modules.

    Raises:
        ValueError: They have another shape.
    """
    method = "domain_features" if callable(getattr(pl_module, "domain_features", None)) else "features"
    features = getattr(pl_module, method)(x)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(x):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"expected {type(pl_module).__name__}.{method}(x) of shape ({len(x)}, D), got {shape}")
    return to_table(features)


def evenly(rows: Tensor, number: int) -> Tensor:
    """At most so many rows, evenly spread and in order."""
    wanted = min(number, len(rows))
    return rows[torch.arange(wanted) * len(rows) // max(wanted, 1)]


class DomainCollector:
    """Collects logits and labels of a loader while it is validated or tested, and features of some of its samples.

    While it runs, because a module may treat the domains differently, as one with batch normalisation for each does.

    Args:
        trainer: In its validation or test.
        domains: All loaders.
        target: Whether this is the target and not the source.
        number: Features of at most so many samples are taken, evenly spread; 0 for none.
    """

    def __init__(self, trainer: Trainer, domains: Domains, target: bool, number: int) -> None:
        self._trainer = trainer
        self._labelled = not target
        position = domains.target if target else 0
        self._rows = Collector(trainer, domains.loaders[position], f"set {domains.names[target]!r}")
        self._number = number
        self._samples = _samples(trainer, domains.loaders[position], position)
        self._features: list[Table] = []

    def add(self, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add a batch ``(x, y)`` or ``x`` that went through the step."""
        x = batch_inputs(batch)
        labels = batch[1].cpu().long() if is_labelled(batch) else torch.full((len(x),), -1)
        with preserved_random_state(self._trainer.strategy.root_device):
            keys = self._rows.keys(batch_idx, len(x))
            chosen = self._chosen(keys)
            if chosen.any():
                with self._trainer.precision_plugin.forward_context():
                    features = domain_features(pl_module, x[chosen.to(x.device)])
                self._features.append({"key": keys[chosen], "features": features})
            self._rows.add(batch_idx, {"logits": batch_logits(self._trainer, pl_module, outputs, x), "label": labels})

    def gather(self) -> DomainRows:
        """What all processes collected, each sample once. A collective.

        Raises:
            ValueError: There is no sample, all logits are probabilities, or labels are missing or out of range; the
                target may have none.
        """
        rows = self._rows.gather()
        check_rows(rows, self._rows.of, self._labelled)
        names = self._features[0] if self._features else ()
        some = {name: torch.cat([part[name] for part in self._features]) for name in names}
        some = gather_rows(self._trainer, some) if self._number else {}
        if not some:
            return DomainRows(rows["logits"], rows["label"], torch.empty(0, 0), torch.empty(0).long())
        place = torch.searchsorted(rows["key"], some["key"])
        return DomainRows(
            rows["logits"], rows["label"], evenly(some["features"], self._number), evenly(place, self._number)
        )

    def _chosen(self, keys: Tensor) -> Tensor:
        """Which samples of a batch have features taken, (B,) bool."""
        if self._samples is None or self._samples <= self._number or not self._number:
            return torch.full(keys.shape, bool(self._number))
        return keys * self._number // self._samples != (keys - 1) * self._number // self._samples


def _samples(trainer: Trainer, loader: Any, position: int) -> int | None:
    """How many samples of a loader are seen in this run; None where nobody knows."""
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    batches = (trainer.num_test_batches if trainer.testing else trainer.num_val_batches)[position]
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not size:
        return None
    return min(len(cast(Sized, loader.dataset)), int(batches) * int(size) * trainer.world_size)


@contextmanager
def evaluating(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """In the middle of training: without gradients, and in evaluation mode for the module and for the data's hooks."""
    modes = {module: module.training for module in pl_module.modules()}
    pl_module.eval()
    trainer.validating = True  # as Lightning does where it validates within a fit
    try:
        with torch.no_grad():
            yield
    finally:
        trainer.training = True
        for module, mode in modes.items():
            module.training = mode


def check_rows(table: Table, of: str, labelled: bool) -> None:
    """Refuse rows that no figure can be made of. Logits that are not finite are let through.

    Args:
        table: "logits" (N, K) and "label" (N,), or empty.
        of: Which set, for the message.
        labelled: Whether every sample must have a label.

    Raises:
        ValueError: There is no sample, all logits are probabilities, or labels are missing or out of range.
    """
    logits, labels = table.get("logits", torch.empty(0, 2)), table.get("label", torch.empty(0))
    finite = logits[logits.isfinite().all(1)]
    if len(finite) or not len(logits):
        check_logits(finite, of)
    least = 0 if labelled else -1
    if broken := int(((labels < least) | (labels >= logits.shape[1])).sum()):
        raise ValueError(
            f"labels of {of} missing or out of range for {broken} of {len(labels)} samples: expected 0 to "
            f"{logits.shape[1] - 1}, got {labels.min()} to {labels.max()}"
        )


def oracle_figures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy "acc" and mean negative log-likelihood "nll" in nats of (N, K) logits and (N,) labels.

    A sample whose logits are not finite counts as wrong, and makes the likelihood infinite.
    """
    finite = logits.isfinite().all(1)
    correct = (logits.argmax(1) == labels) & finite
    return {"acc": correct.double().mean().item(), "nll": nll(logits, labels) if finite.all() else math.inf}
