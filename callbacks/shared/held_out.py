"""Runs validation or training data through a module during ``trainer.test``, in order and without augmentation.

Something is fitted on them before the module is judged: a temperature, a recalibration, scores of features.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from .batches import data_module, is_labelled, labelled_batch
from .collect import Table, gather_rows
from .samplers import batch_size_of, drawable, flatten_loaders, loader_of_one, loader_over, origin

Stage = Literal["train", "val"]
MOST_COMMON = 0.1  # largest share of the calibration inputs that may be test inputs too


class HeldOut:
    """Labelled data on which a callback fits something before it judges a model.

    Call `remember` in the callback's ``setup``, and in a run `find` and `run`.

    Args:
        stage: Whether training or validation data are looked for.
        given: Loader to use instead.
        accepts: Which batches can be read.
        read: From such a batch to x and y.
    """

    def __init__(
        self,
        stage: Stage,
        given: DataLoader | None = None,
        accepts: Callable[[Any], bool] = is_labelled,
        read: Callable[[Any], tuple[Tensor, Tensor]] = labelled_batch,
    ) -> None:
        self.stage = stage
        self.given = given
        self._accepts = accepts
        self._read = read
        self._set_up: int | None = None

    def remember(self, trainer: Trainer, stage: str) -> None:
        """Note which data module went through ``setup("fit")``: a second time might draw another split."""
        if stage == "fit":
            self._set_up = id(data_module(trainer))

    def find(self, trainer: Trainer, pl_module: LightningModule) -> DataLoader | None:
        """The given loader, or else the data module's, or else the module's own.

        Of several loaders the one that is called "labelled" or "source", else the first that is accepted. None where
        there is none.
        """
        if self.given is not None:
            return self.given
        name = f"{self.stage}_dataloader"
        data = data_module(trainer)
        source = data if data is not None and is_overridden(name, data) else pl_module
        if not is_overridden(name, source) or getattr(trainer, f"limit_{self.stage}_batches") == 0:
            return None
        if source is data and self._set_up != id(data):
            source.setup("fit")
        return first_loader(getattr(source, name)(), self._accepts)

    def run(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        loader: DataLoader,
        measure: Callable[[Tensor, Tensor], Table],
        max_samples: int | None = None,
    ) -> Table:
        """`run_through` for the loader from `find`, of which the trainer's limits hold unless it was given."""
        limit = 1.0 if self.given is not None else getattr(trainer, f"limit_{self.stage}_batches")
        return run_through(trainer, pl_module, loader, measure, limit, max_samples, self._read)


def first_loader(loaders: Any, accepts: Callable[[Any], bool] = is_labelled) -> DataLoader | None:
    """Of loaders in any structure the one that is called "labelled" or "source", else the first that is accepted."""
    if isinstance(loaders, dict):
        loaders = loaders.get("labelled", loaders.get("source", loaders))
    for loader in flatten_loaders(loaders):
        if isinstance(loader, DataLoader) and accepts(next(iter(loader_of_one(loader)), None)):
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

    Batches go through the hooks of the device transfer like test batches, and are shared out over the processes. Which
    order the sampler has plays no role.

    Args:
        trainer: In any run.
        pl_module: Its module in evaluation mode.
        loader: Of batches from which ``read`` takes x and y.
        measure: From x and y on the device to columns (B, …), which are returned with ``key``; none without samples.
        limit: Lightning's ``limit_train_batches`` or ``limit_val_batches``: a share, or a number of batches.
        max_samples: At most so many samples. Where fewer than all are taken, they are evenly spread.
        read: From a batch to x and y.
        dataloader_idx: What the hooks of the device transfer are told.

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
        batches = zip(range(rank, len(groups), world), loader_over(loader, groups[rank::world]), strict=True)
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


def refuse_same_data(calibration: DataLoader, test: Any, what: str, of: str = "the test set") -> None:
    """Raise a ``ValueError`` if a sample can be drawn by the loaders of calibration and test data.

    The message says what is fitted, and of which set. Nothing is refused where the test loader is no ``DataLoader``.
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
    """Raise a ``ValueError`` if more than 10 % of the calibration data are test data, and warn of fewer.

    Both are known by their fingerprints, (N,) and (M,). The message says what is fitted, and what the inputs are.
    """
    common = int(torch.isin(calibration, test).sum())
    text = f"{common} of {len(calibration)} calibration inputs are also {inputs}"
    if common > MOST_COMMON * len(calibration):
        raise ValueError(f"{text}, more than {MOST_COMMON:.0%}: {what} must be fitted on data held out from testing")
    if common:
        rank_zero_warn(f"{text}: {what} is fitted on data that are not all held out from testing")


def _groups(trainer: Trainer, loader: DataLoader, limit: int | float, max_samples: int | None) -> list[list[int]]:
    """The indices of each batch; equal on all processes."""
    indices = drawable(loader)
    if trainer.world_size > 1:  # a sampler of an unknown kind may give each process a part
        everywhere: list[list[int]] = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(everywhere, indices)
        indices = sorted(set().union(*everywhere))
    size = batch_size_of(loader)
    wanted = limit * size if isinstance(limit, int) else int(limit * len(indices))
    wanted = min(wanted, len(indices), max_samples or len(indices))
    chosen = [indices[row * len(indices) // wanted] for row in range(wanted)]
    return [chosen[start : start + size] for start in range(0, wanted, size)]
