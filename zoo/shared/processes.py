"""What several processes share: their ranks, rows of all of them, random numbers that no two of them share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed


def share() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


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
    return Gather.apply(x) if share()[1] > 1 else x


def own_draw(draw: Callable[..., Tensor], like: Tensor) -> Tensor:
    """Random numbers of this process, in the shape of a tensor.

    Each process draws those of all and takes its own, because a seed makes their generators alike and no two shall draw
    the same.

    Args:
        draw: ``torch.rand`` or ``torch.randn``.
        like: Gives shape and device.
    """
    rank, processes = share()
    return draw(processes, *like.shape, device=like.device)[rank]
