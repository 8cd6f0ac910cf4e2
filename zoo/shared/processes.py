"""Batch statistics over all processes."""

from typing import Any

import torch
from torch import Tensor, distributed


class Gather(torch.autograd.Function):
    """Rows of all processes, with gradients that find their way back."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """``(B, ...)`` to ``(processes B, ...)``, rank by rank."""
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The sum of what all processes' losses ask of this process's rows."""
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all processes, ``(B, ...)`` to ``(processes B, ...)``; B is to be the same on each.

    The gradient of a loss of all rows, computed on each process, is summed over the processes: after DDP's mean over
    them the weights get just the gradient that one process would give them with the whole batch.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return x
    return Gather.apply(x)
