"""Dropout whose masks no two processes share."""

import torch
from torch import Tensor, nn

from ..processes import own_draw


class Dropout(nn.Module):
    """Dropout of single numbers.

    Args:
        probability: In [0, 1); others raise a ``ValueError``.
        name: Name of the argument that gave the probability, for the error.
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
        return x * self.mask(x) / (1 - self.probability)

    def mask(self, x: Tensor) -> Tensor:
        """What stays of a tensor: booleans that have its shape, or are broadcast to it."""
        return own_draw(torch.rand, x) >= self.probability

    def extra_repr(self) -> str:
        """The probability, for printing."""
        return f"{self.probability}"


class ChannelDropout(Dropout):
    """Dropout of whole channels of maps ``(n, C, H, W)``, or of the numbers of vectors ``(n, d)``."""

    def mask(self, x: Tensor) -> Tensor:
        """``(n, C, 1, 1)`` for maps, ``(n, d)`` for vectors."""

        def draw(*sizes: int, device: torch.device) -> Tensor:
            return torch.empty(sizes, dtype=torch.bool, device=device).bernoulli_(1 - self.probability)

        return own_draw(draw, x if x.dim() == 2 else x[:, :, :1, :1])
