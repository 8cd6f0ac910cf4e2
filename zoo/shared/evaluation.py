"""Metrics of whole sets in validation and test: each sample counts once, on any number of processes.

Lightning's distributed sampler repeats samples until every process has as many, and its own weighted mean divides
counts of several processes as whole numbers. The repeated samples come last, so that each process can tell how many of
a batch are not.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DistributedSampler
from torchmetrics import Metric

from .batches import batch_inputs, check_labelled_batch, check_regression_batch
from .losses import cross_entropy

WIDE = torch.float32 if torch.backends.mps.is_available() else torch.float64  # MPS has no float64
Evaluate = Callable[[Tensor, Tensor, slice], tuple[Tensor, dict[str, Tensor]]]


def judge_classifier(
    module: Any,
    stage: str,
    batch: tuple[Tensor, Tensor],
    batch_idx: int,
    dataloader_idx: int = 0,
    **more: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The validation or test step of a classifier: logits for the callbacks, loss and accuracy for the loggers.

    Logs ``<stage>/loss``, the cross-entropy in nats, and ``<stage>/acc`` of the first loader; those after it hold
    other data, whose labels may mean nothing.

    Args:
        module: With logits ``(B, K)`` as its ``forward``, ``image_shape``, ``num_classes`` in its hyper-parameters, and
            a ``SetMeans`` as ``means``.
        stage: ``val`` or ``test``.
        batch: Images ``(B, *image_shape)`` and labels ``(B,)``.
        batch_idx: As for the module's step.
        dataloader_idx: As for the module's step.
        **more: Further metrics: each a function from logits ``(B, K)`` to a number for each sample, ``(B,)``.

    Raises:
        ValueError: For images of another shape, NaN or infinite pixels, or labels out of range, in the first loader.
    """
    if dataloader_idx:
        return {"logits": module(batch_inputs(batch))}
    x, y = batch
    check_labelled_batch(x, y, module.image_shape, module.hparams["num_classes"])
    logits = module(x)
    metrics = {"loss": cross_entropy(logits, y, reduction="none"), "acc": logits.argmax(1) == y}
    metrics |= {name: metric(logits) for name, metric in more.items()}
    module.means.log_each(module, stage, batch_idx, **metrics)
    return {"logits": logits}


def class_probabilities(module: Any, batch: Any) -> Tensor:
    """The prediction step of a classifier: ``(B, K)`` of a batch ``(x, ...)`` or ``x``."""
    return module(batch_inputs(batch)).softmax(1)


def judge_regressor(
    module: Any,
    stage: str,
    batch: tuple[Tensor, Tensor],
    batch_idx: int,
    evaluate: Evaluate,
    dataloader_idx: int = 0,
) -> dict[str, Tensor]:
    """The validation or test step of a regressor: predictions for the callbacks, losses and errors for the loggers.

    Logs ``<stage>/mae``, ``<stage>/rmse`` and what ``evaluate`` returns, of the first loader. The module has point
    predictions ``(B,)`` as its ``forward``, ``num_features`` in its hyper-parameters, and a ``SetMeans`` as ``means``.
    ``evaluate`` is called with features ``(B, D)``, labels ``(B,)``, and the slice of the samples that count; it
    returns predictions ``(B,)`` of all samples, and by name means over those that count. See `judge_classifier` for the
    others.

    Raises:
        ValueError: For features or labels of another shape, NaN or infinity, in the first loader.
    """
    if dataloader_idx:
        return {"prediction": module(batch_inputs(batch))}
    x, y = batch
    check_regression_batch(x, y, module.hparams["num_features"])
    count = len(positions(module.trainer, batch_idx, len(y)))
    prediction, means = evaluate(x, y, slice(count or None))
    module.means.log(module, stage, means, count)
    errors = (prediction - y).to(WIDE)
    module.means.log_each(module, stage, batch_idx, mae=errors.abs())
    module.means.log_each(module, stage, batch_idx, SetRoot, rmse=errors.square())
    return {"prediction": prediction}


def positions(trainer: Trainer, batch_idx: int, size: int) -> Tensor:
    """Places of a batch's samples in the set of the first validation or test loader, in the order of all processes.

    ``(n,)`` int64, of the first n samples: all ``size`` of them, except at the end of a set whose size the number of
    processes does not divide, where the rest are repetitions. The last batch of some processes may have none.
    """
    loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    while isinstance(loaders, dict | list | tuple) and loaders:
        loaders = next(iter(loaders.values() if isinstance(loaders, dict) else loaders))
    here = batch_idx * (getattr(loaders, "batch_size", None) or size) + torch.arange(size)
    sampler = getattr(loaders, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return here
    everywhere = here * sampler.num_replicas + sampler.rank
    return everywhere[everywhere < len(cast(Any, sampler.dataset))]


class SetMean(Metric):
    """Mean over the samples of all processes, summed in float64."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=WIDE), "sum")
        self.add_state("count", torch.zeros((), dtype=WIDE), "sum")

    def update(self, total: Tensor, count: int) -> None:
        """Add the sum over so many samples."""
        if count:  # else the sum may be NaN
            # not in place: a state that was made in a test is an inference tensor
            self.total = self.total + total
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
    """The means that a module logs in validation and test: an attribute of the module, named ``means``."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict()

    @torch.compiler.disable  # `torch.compile` would take the metrics' bookkeeping to pieces
    def log_each(
        self, module: LightningModule, stage: str, batch_idx: int, kind: type[SetMean] = SetMean, **per_sample: Tensor
    ) -> None:
        """Add numbers of each sample of a batch, ``(B,)`` by name; every process must call it for each of its batches.

        ``module`` is the one whose attribute this is, ``stage`` val or test, and ``kind`` says whether the mean is
        logged, or its root.
        """
        for name, values in per_sample.items():
            count = len(positions(module.trainer, batch_idx, len(values)))
            self._add(module, stage, name, values[:count].detach().to(WIDE).sum(), count, kind)

    @torch.compiler.disable  # `torch.compile` would take the metrics' bookkeeping to pieces
    def log(self, module: LightningModule, stage: str, means: dict[str, Tensor], count: int) -> None:
        """Add means over the first samples of a batch, of which ``count`` are no repetition; see `log_each`."""
        for name, mean in means.items():
            self._add(module, stage, name, mean.detach().to(WIDE) * count, count, SetMean)

    def _add(
        self, module: LightningModule, stage: str, name: str, total: Tensor, count: int, kind: type[SetMean]
    ) -> None:
        key = f"{stage}/{name}"
        if key not in self.metrics:
            self.metrics[key] = kind().to(module.device)
        metric: Any = self.metrics[key]
        metric.update(total, count)
        shared: Any = {"add_dataloader_idx": False, "prog_bar": stage == "val", "metric_attribute": key}
        module.log(key, metric, batch_size=max(count, 1), **shared)
