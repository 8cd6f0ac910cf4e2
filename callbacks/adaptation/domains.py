"""Find the loaders of source and target, and compute a module's logits and features of their samples."""

import math
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..shared.batches import batch_inputs, batch_logits, check_logits, is_labelled, to_table
from ..shared.checks import check_shape, require_logits
from ..shared.collect import Collector, Table, gather_rows
from ..shared.held_out import HeldOut, first_loader, run_through
from ..shared.random_state import evaluation_mode, preserved_random_state
from ..shared.samplers import flatten_loaders, has_known_sampler, named_loaders

TARGET = "target/"


class Domains(NamedTuple):
    """The loaders of a validation or test, the source's first, and among them the position of the target's."""

    loaders: list[Any]
    target: int
    names: tuple[str, str]  # of source and target


class DomainRows(NamedTuple):
    """A module's outputs for the samples of a domain, in the data set's order."""

    logits: Tensor  # (N, K)
    labels: Tensor  # (N,), -1 where there are none
    features: Tensor  # (M, D) of M <= N samples, evenly spread
    places: Tensor  # (M,) rows of these samples


def check_module(pl_module: LightningModule, needed_by: str) -> None:
    """Raise a TypeError if a module has no ``forward``, or neither ``domain_features`` nor ``features``."""
    name = type(pl_module).__name__
    require_logits(pl_module, needed_by)
    if not any(callable(getattr(pl_module, method, None)) for method in ("domain_features", "features")):
        raise TypeError(
            f"{needed_by} needs a module with domain_features(x) -> (B, D), what its domain head sees, or "
            f"features(x) -> (B, D); {name} has neither"
        )


def find_target(names: list[str], attribute: str, needed_by: str) -> int:
    """Position of the first name ``target/…`` after the source's, which is at 0; a ValueError if there is none."""
    for position, name in enumerate(names):
        if position and name.startswith(TARGET):
            return position
    raise ValueError(f"{needed_by} needs a set named '{TARGET}<name>' after the source's in {attribute}, got {names}")


def find_domains(trainer: Trainer, attribute: str, given: list[str] | None, needed_by: str) -> Domains:
    """Find source and target among the loaders of the running validation or test: without names the first two.

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

    In a fit it is one of the loaders that train, so that no data set is built a second time, unless reading from them
    could change what they draw next: those of a stream or of a sampler of an unknown kind. Else ``held_out`` finds it.
    """
    running = flatten_loaders(trainer.train_dataloader) if trainer.state.fn == "fit" else []
    if running and all(isinstance(loader, DataLoader) and has_known_sampler(loader) for loader in running):
        return first_loader(trainer.train_dataloader)
    return held_out.find(trainer, pl_module)


def run_features(
    trainer: Trainer,
    pl_module: LightningModule,
    loader: DataLoader,
    limit: int | float,
    number: int,
    dataloader_idx: int = 0,
) -> Table:
    """Features and labels of at most so many samples of a loader, evenly spread, in a pass of its own. A collective.

    For the arguments see `run_through`; batches are ``(x, y)`` or ``x``. The columns are "features" (N, D) and "label"
    (N,), which is -1 where a batch has none.
    """

    def measure(x: Tensor, y: Tensor) -> Table:
        return {"features": domain_features(pl_module, x), "label": y}

    return run_through(trainer, pl_module, loader, measure, limit, number, _inputs_and_labels, dataloader_idx)


def _inputs_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """The inputs of a batch ``(x, y)`` or ``x``, and its labels (B,) on the CPU, -1 where it has none."""
    x = batch_inputs(batch)
    return x, batch[1].cpu().long() if is_labelled(batch) else torch.full((len(x),), -1)


def domain_features(pl_module: Any, x: Tensor) -> Tensor:
    """The input of the domain head, (B, D) on the CPU: ``domain_features(x)``, or ``features(x)`` of other modules."""
    method = "domain_features" if callable(getattr(pl_module, "domain_features", None)) else "features"
    features = getattr(pl_module, method)(x)
    return to_table(check_shape(features, (len(x), "D"), f"{type(pl_module).__name__}.{method}(x)"))


def evenly(rows: Tensor, number: int) -> Tensor:
    """At most so many rows, evenly spread and in order."""
    wanted = min(number, len(rows))
    return rows[torch.arange(wanted) * len(rows) // max(wanted, 1)]


class DomainCollector:
    """Collects logits and labels of a loader while it is validated or tested, and features of some of its samples.

    This happens in the loader's own run, because a module may treat the domains differently: one with batch
    normalisation for each domain does. It is the target's loader or the source's, and features are those of at most
    ``number`` samples, evenly spread; 0 for none.
    """

    def __init__(self, trainer: Trainer, domains: Domains, target: bool, number: int) -> None:
        position = domains.target if target else 0
        loader = domains.loaders[position]
        self._trainer, self._labelled, self._number = trainer, not target, number
        self._rows = Collector(trainer, loader, f"set {domains.names[target]!r}")
        self._samples = _number_of_samples(trainer, loader, position)
        self._features: list[Table] = []

    def add(self, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add a batch ``(x, y)`` or ``x`` that went through the step."""
        x, labels = _inputs_and_labels(batch)
        with preserved_random_state(self._trainer.strategy.root_device):
            keys = self._rows.keys(batch_idx, len(x))
            chosen = self._chosen(keys)
            if chosen.any():
                with self._trainer.precision_plugin.forward_context():
                    features = domain_features(pl_module, x[chosen.to(x.device)])
                self._features.append({"key": keys[chosen], "features": features})
            self._rows.add(batch_idx, {"logits": batch_logits(self._trainer, pl_module, outputs, x), "label": labels})

    def gather(self) -> DomainRows:
        """Rows of all processes, each sample once. A collective."""
        rows = self._rows.gather()
        check_rows(rows, self._rows.of, self._labelled)
        names = self._features[0] if self._features else ()
        some = {name: torch.cat([part[name] for part in self._features]) for name in names}
        some = gather_rows(self._trainer, some) if self._number else {}
        if not some:
            return DomainRows(rows["logits"], rows["label"], torch.empty(0, 0), torch.empty(0).long())
        places = torch.searchsorted(rows["key"], some["key"])
        features, places = (evenly(table, self._number) for table in (some["features"], places))
        return DomainRows(rows["logits"], rows["label"], features, places)

    def _chosen(self, keys: Tensor) -> Tensor:
        """Which samples (B,) of a batch have their features collected."""
        if self._samples is None or self._samples <= self._number or not self._number:
            return torch.full(keys.shape, bool(self._number))
        return keys * self._number // self._samples != (keys - 1) * self._number // self._samples


def _number_of_samples(trainer: Trainer, loader: Any, position: int) -> int | None:
    """Number of samples of a loader in this run; None where it cannot be known."""
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    batches = (trainer.num_test_batches if trainer.testing else trainer.num_val_batches)[position]
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not size:
        return None
    return min(len(cast(Sized, loader.dataset)), int(batches) * int(size) * trainer.world_size)


@contextmanager
def validating(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """In the middle of training: evaluation mode for the module, and validation for the data's hooks."""
    trainer.validating = True  # as Lightning does where it validates within a fit
    try:
        with evaluation_mode(pl_module):
            yield
    finally:
        trainer.training = True


def check_rows(table: Table, of: str, labelled: bool) -> None:
    """Raise a ``ValueError`` if there is no row, all logits are probabilities, or labels are missing or out of range.

    Logits (N, K) that are not finite are accepted, and if not ``labelled``, labels (N,) of -1.
    """
    logits, labels = table.get("logits", torch.empty(0, 2)), table.get("label", torch.empty(0))
    finite = logits[logits.isfinite().all(1)]
    if len(finite) or not len(logits):
        check_logits(finite, of)
    if broken := int(((labels < (0 if labelled else -1)) | (labels >= logits.shape[1])).sum()):
        raise ValueError(
            f"labels of {of} missing or out of range for {broken} of {len(labels)} samples: expected 0 to "
            f"{logits.shape[1] - 1}, got {labels.min()} to {labels.max()}"
        )


def oracle_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy "acc" and mean negative log-likelihood "nll" in nats of (N, K) logits and (N,) labels.

    A sample whose logits are not finite counts as wrong, and makes the likelihood infinite.
    """
    finite = logits.isfinite().all(1)
    accuracy = ((logits.argmax(1) == labels) & finite).double().mean().item()
    nll = torch.nn.functional.cross_entropy(logits.double(), labels).item() if finite.all() else math.inf
    return {"acc": accuracy, "nll": nll}
