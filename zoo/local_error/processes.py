"""What the blocks of several processes tell each other: averaged gradients, and samples for the similarity.

DistributedDataParallel expects one backward pass for each forward pass and holds a block's gradients back until all
others exist. Updates in the forward sweep have as many backward passes as blocks, and want each one's average while the
next block computes. So they run with its reduction switched off (Lightning's ``block_backward_sync``), and average by
themselves, here. DDP still gives all ranks the weights of rank 0 when training begins.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


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


def gradients_and_statistics(modules: Iterable[nn.Module]) -> list[Tensor]:
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
