"""What a module takes from the training labels before it trains: their range, and their targets."""

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, distributed

TABLE_BYTES = 64 * 2**20  # most that the targets computed in advance may take


def training_labels(trainer: Any) -> Tensor | None:
    """The labels of all training rows, on every process.

    They are the data module's ``training_targets``, or else those of one pass over the training loader, which draws
    nothing from torch's generators. Returns ``(N,)`` float32 on the CPU, or None for a loader without a length.

    Raises:
        ValueError: There are no labels, some are NaN or infinite, or a batch is not ``(x, y)``.
    """
    labels: Tensor | None = getattr(trainer.datamodule, "training_targets", None)
    if labels is None:
        with torch.random.fork_rng(devices=[]):
            trainer.fit_loop.setup_data()
            if not math.isfinite(trainer.num_training_batches):
                return None
            batches = [_labels(batch) for batch in islice(trainer.train_dataloader, int(trainer.num_training_batches))]
        labels = torch.cat(batches) if batches else torch.empty(0)
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(gathered, labels)
            labels = torch.cat(gathered)
    labels = labels.detach().float().cpu()
    if labels.dim() != 1 or not len(labels):
        raise ValueError(f"training labels of shape {tuple(labels.shape)}; expected (N,), one number for each row")
    if not torch.isfinite(labels).all():
        rows = torch.nonzero(~torch.isfinite(labels)).flatten().tolist()
        raise ValueError(f"NaN or infinite labels in {len(rows)} of {len(labels)} training rows: rows {rows[:5]}")
    return labels


def _labels(batch: Any) -> Tensor:
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)):
        raise ValueError(f"batches are each a {type(batch).__name__} of {len(batch)}; expected features and labels")
    return batch[1].detach().float().cpu()


def label_range(labels: Tensor | None, low: float | None, high: float | None) -> tuple[float, float]:
    """The ends of the support: those that were given, or else the smallest and largest label."""
    if labels is None:
        raise ValueError("the training loader has no length, so its labels are unknown: give low and high")
    smallest, largest = (float(value) for value in labels.aminmax())
    low, high = smallest if low is None else low, largest if high is None else high
    if low < high:
        return low, high
    given = f"all {len(labels)} training labels are {smallest:g}" if smallest == largest else f"low={low}, high={high}"
    raise ValueError(f"{given}: a support needs two different ends, so give low and high with low < high")


def warn_of_clamped(labels: Tensor, edges: Tensor, share: float) -> None:
    """Warn when more than a share of the labels lie outside the support and thus count as its nearer end."""
    low, high = float(edges[0]), float(edges[-1])
    outside = int(((labels < low) | (labels > high)).sum())
    if outside > share * len(labels):
        smallest, largest = (float(value) for value in labels.aminmax())
        rank_zero_warn(
            f"{outside} of {len(labels)} training labels ({outside / len(labels):.1%}) lie outside the support "
            f"[{low:g}, {high:g}] and count as its ends; the labels reach from {smallest:g} to {largest:g}: "
            "widen low and high, or leave them to the data"
        )


class TargetTable:
    """The targets of all training labels, computed once and looked up in each step.

    A look-up takes half of the time of the error functions (``benchmarks.histogram_loss.step_time``). It is for the
    CPU: on a GPU the test whether a label is known would stall the queue. ``target`` maps labels ``(N,)`` to masses
    ``(N, k)``.
    """

    def __init__(self, labels: Tensor, target: Callable[[Tensor], Tensor]) -> None:
        self.known = labels.unique()
        self.masses = torch.cat([target(chunk) for chunk in self.known.split(4096)])

    @staticmethod
    def fits(labels: Tensor, bins: int) -> bool:
        """Whether the table of these labels is no larger than 64 MiB."""
        return len(labels.unique()) * bins * 4 <= TABLE_BYTES

    def find(self, y: Tensor) -> Tensor | None:
        """Masses ``(B, k)`` of labels ``(B,)``; None when one of them is not in the table."""
        if y.dtype != self.known.dtype or y.device != self.known.device:
            return None
        rows = torch.searchsorted(self.known, y).clamp_(max=len(self.known) - 1)
        if not torch.equal(self.known.index_select(0, rows), y):
            return None
        return self.masses.index_select(0, rows)  # faster than indexing
