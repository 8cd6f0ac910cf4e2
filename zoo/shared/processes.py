"""Several processes: their ranks, the rows of all of them, random numbers that no two of them share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed


def rank_and_world_size() -> tuple[int, int]:
    """Rank of this process and number of processes; ``(0, 1)`` without ``torch.distributed``."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # The losses of all processes depend on the rows of this one.
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, ``(B, ...)`` to ``(world_size B, ...)``, with gradients.

    The gradient of a loss of all rows, computed on each process, is summed over the processes: after DDP's mean over
    them the weights get just the gradient that one process would give them with the whole batch.

    Args:
        x: ``(B, ...)``, with the same B on each process.
    """
    return _Gather.apply(x) if rank_and_world_size()[1] > 1 else x


def own_draw(draw: Callable[..., Tensor], like: Tensor) -> Tensor:
    """Random numbers of this process, in the shape of a tensor.

    A seed gives all processes the same generator state, so each draws the numbers of all of them and takes its own.

    Args:
        draw: Such as ``torch.rand``: called with sizes and ``device``.
        like: The tensor whose shape and device the numbers have.
    """
    rank, processes = rank_and_world_size()
    return draw(processes, *like.shape, device=like.device)[rank]
