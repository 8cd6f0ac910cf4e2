"""Rows of features at a common scale."""

import torch
from torch import Tensor


def within_one(rows: Tensor) -> Tensor:
    """Rows (N, D) in float64, each divided by its largest absolute value: squares neither under- nor overflow then."""
    rows = rows.double()
    largest = rows.abs().amax(dim=1, keepdim=True)
    return rows / torch.where(largest == 0, 1, largest)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows (N, D) in float64, brought to length 1, however short or long; a row of zeros stays as it is."""
    scaled = within_one(rows)
    return scaled / scaled.norm(dim=1, keepdim=True).clamp(min=1)  # at least 1, but for a row of zeros
