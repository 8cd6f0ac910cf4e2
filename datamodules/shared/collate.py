"""Collation: batches that a data set returns as they are."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(indices: list[int]) -> Tensor:
    """A list of indices as a tensor (B,) int64; through NumPy, which is five times as fast as ``torch.tensor``."""
    return torch.from_numpy(np.asarray(indices, dtype=np.int64))


def as_is(batch: Any) -> Any:
    """Collates nothing: ``__getitems__`` gave a batch already."""
    return batch


def listed(items: list) -> str:
    """The first of many, for a message."""
    return ", ".join(map(str, items[:12])) + (f" and {len(items) - 12} more" if len(items) > 12 else "")
