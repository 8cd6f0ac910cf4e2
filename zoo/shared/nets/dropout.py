"""Random numbers and dropout that no two processes share."""

from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn


def own_draw(draw: Callable[..., Tensor], like: Tensor) -> Tensor:
    """Random numbers of this process, in the shape of a tensor.

    Each process draws those of all and takes its own, because a seed makes their generators alike and no two shall draw
    the same.

    Args:
        draw: ``torch.rand`` or ``torch.randn``.
        like: Gives shape and device.
    """
    rank, processes = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, processes = distributed.get_rank(), distributed.get_world_size()
    return draw(processes, *like.shape, device=like.device)[rank]


class Dropout(nn.Module):
    """Dropout of single numbers.

    Args:
        probability: In [0, 1).
        name: Of the argument that it came by, for the error.

    Raises:
        ValueError: For a probability out of range.
    """

    def __init__(self, probability: float, name: str = "dropout") -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"{name} is {probability}; expected a probability in [0, 1)")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        if not self.training or not self.probability:
            return x
        kept = own_draw(torch.rand, x) >= self.probability
        return x * kept / (1 - self.probability)

    def extra_repr(self) -> str:
        """The probability, for printing."""
        return f"{self.probability}"
