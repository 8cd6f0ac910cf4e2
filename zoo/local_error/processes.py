"""Averages of gradients over processes, block by block.

DistributedDataParallel expects one backward pass for each forward pass, and holds a block's gradients back until all
others exist. Updates in the forward sweep have a backward pass for each block, whose gradients are to be averaged while
the next block computes. So DDP's reduction is off during the sweep (Lightning's ``block_backward_sync``), and gradients
are averaged here. DDP still gives all ranks the weights of rank 0 when training begins.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


class Average:
    """The average of tensors over all processes, in place, which is computed in the background until `wait`.

    Every process has the same shapes in the same order and sums in the same order, so all have the same bits.
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


def gradients_and_statistics(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The gradients of modules, and the running statistics of their batch normalisations, all of which are averaged.

    DDP would broadcast rank 0's statistics; here they go with the gradients and need no message of their own.
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
