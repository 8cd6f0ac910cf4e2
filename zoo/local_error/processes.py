"""What the blocks of several processes tell each other: averaged gradients, and samples for the similarity.

DistributedDataParallel expects one backward pass for each forward pass and holds a block's gradients back until all
others exist. Updates in the forward sweep have as many backward passes as blocks, and want each one's average while the
next block computes. So they run with its reduction switched off (Lightning's ``block_backward_sync``), and average by
themselves, here. DDP still gives all ranks the weights of rank 0 when training begins.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn


def share() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class Average:
    """The average of some tensors over all processes, under way since the object was made.

    Every process sums in the same order, so all get the same bits.

    Args:
        tensors: What to average, in place; the same shapes in the same order on each process.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        self.flat = torch.cat([tensor.reshape(-1) for tensor in self.tensors])
        self.work = distributed.all_reduce(self.flat, async_op=True)

    def wait(self) -> None:
        """Write the averages into the tensors."""
        assert self.work is not None
        self.work.wait()
        self.flat /= distributed.get_world_size()
        pieces = self.flat.split([tensor.numel() for tensor in self.tensors])
        for tensor, piece in zip(self.tensors, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))


def learnt_from_batch(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The gradients of some modules, and their running statistics, which each process gathers from its own batches.

    DDP would broadcast rank 0's statistics; here they are averaged with the gradients and cost no message of their own.
    """
    parts = [part for module in modules for part in module.modules()]
    gradients = [p.grad for part in parts for p in part.parameters(recurse=False) if p.grad is not None]
    statistics = [
        tensor
        for module in parts
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for tensor in (module.running_mean, module.running_var)
        if tensor is not None
    ]
    return [*gradients, *statistics]


class _Gather(torch.autograd.Function):
    """All processes' rows. Every process computes the same loss of them, so nobody needs to send a gradient back.

    What a process finds for its own rows is the whole gradient of the loss of the joint batch. The gradients of the
    weights are averaged afterwards, where the joint batch needs their sum: hence the factor.
    """

    @staticmethod
    def forward(rows: Tensor) -> Tensor:
        found = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(found, rows)
        return torch.cat(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.count = len(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rank, world = share()
        return gradient[rank * ctx.count : (rank + 1) * ctx.count] * world


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, with gradients that are right after averaging those of the weights.

    Args:
        rows: ``(n, d)``; n is the same on all processes.

    Returns:
        ``(n * processes, d)``, in the order of the ranks; on one process, what came.
    """
    return _Gather.apply(rows.contiguous()) if share()[1] > 1 else rows
