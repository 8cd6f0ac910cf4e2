"""Random numbers and dropout that no two processes share."""

import torch
from torch import Tensor, nn

from ..processes import own_draw


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
