"""Figures of whole sets in validation and test: each sample counts once, on any number of processes.

Lightning's distributed sampler repeats samples until every process has as many, and its own weighted mean divides
counts of several processes as whole numbers. The repeated samples come last, so that each process can tell how many of
a batch are not.
"""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DistributedSampler
from torchmetrics import Metric

WIDE = torch.float32 if torch.backends.mps.is_available() else torch.float64  # MPS has no float64


def positions(trainer: Trainer, batch_idx: int, size: int) -> Tensor:
    """Where the samples of a batch of the first validation or test loader stand in its order of all processes.

    Args:
        trainer: In its validation or test.
        batch_idx: Number of the batch on this process.
        size: Samples in it.

    Returns:
        ``(n,)`` int64 for the first n samples, all that are no repetition: ``size`` of them but at the end of a set
        whose size the processes do not divide. The last batch of some processes may have none.
    """
    loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    while isinstance(loaders, dict | list | tuple) and loaders:
        loaders = next(iter(loaders.values() if isinstance(loaders, dict) else loaders))
    before = batch_idx * (getattr(loaders, "batch_size", None) or size)
    sampler = getattr(loaders, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return before + torch.arange(size)
    found = (before + torch.arange(size)) * sampler.num_replicas + sampler.rank
    return found[found < len(cast(Any, sampler.dataset))]


class SetMean(Metric):
    """Mean over the samples of all processes, summed in float64."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=WIDE), "sum")
        self.add_state("count", torch.zeros((), dtype=WIDE), "sum")

    def update(self, mean: Tensor, count: int) -> None:
        """Add the mean of so many samples."""
        if count:
            # not in place: a state that was made in a test is an inference tensor
            self.total = self.total + mean.detach().to(WIDE) * count
            self.count = self.count + count

    def compute(self) -> Tensor:
        """The mean, in the precision in which Lightning logs."""
        return (self.total / self.count).to(torch.get_default_dtype())


class SetRoot(SetMean):
    """Root of the mean, as of squared errors."""

    def compute(self) -> Tensor:
        """The root of the mean."""
        return super().compute().sqrt()


class SetMeans(nn.Module):
    """The means that a module logs in validation and test."""

    def __init__(self) -> None:
        super().__init__()
        self.of = nn.ModuleDict()

    @torch.compiler.disable  # `torch.compile` would take the metrics' bookkeeping to pieces
    def log(
        self, module: LightningModule, stage: str, figures: dict[str, Tensor], count: int, kind: type[SetMean] = SetMean
    ) -> None:
        """Add the figures of a batch; every process is to call it for each of its batches.

        Args:
            module: Whose attribute this is.
            stage: ``val`` or ``test``.
            figures: By name, each a mean over the samples that count; where none does, any number.
            count: How many of the batch count, see `positions`.
            kind: What is logged of the mean, itself or its root.
        """
        for name, figure in figures.items():
            key = f"{stage}/{name}"
            if key not in self.of:
                self.of[key] = kind().to(module.device)
            metric: Any = self.of[key]
            metric.update(figure, count)
            shared: Any = {"add_dataloader_idx": False, "prog_bar": stage == "val", "metric_attribute": key}
            module.log(key, metric, batch_size=max(count, 1), **shared)


def log_errors(means: SetMeans, module: LightningModule, stage: str, errors: Tensor, count: int) -> None:
    """Log ``rmse`` and ``mae`` of a regressor.

    Args:
        means: The module's.
        module: That logs.
        stage: ``val`` or ``test``.
        errors: Of the samples that count, ``(n,)``; where none does, any.
        count: How many of the batch count.
    """
    errors = errors.detach().to(WIDE)
    means.log(module, stage, {"mae": errors.abs().mean()}, count)
    means.log(module, stage, {"rmse": errors.square().mean()}, count, SetRoot)
