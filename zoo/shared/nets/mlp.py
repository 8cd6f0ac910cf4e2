"""A fully connected network, for small images."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .dropout import Dropout


class MLP(nn.Module):
    """Fully connected layers with ReLU, on the flattened image.

    Args:
        hidden: Width of each hidden layer, at least one.
        dropout: Probability with which a hidden unit is dropped in training.
        input_dropout: The same for a pixel, which then counts as black (-1).

    Raises:
        ValueError: For no hidden layer, a width below 1, or a probability out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden is {list(hidden)}; expected the widths of one layer or more, each at least 1")
        sizes = [image_shape[0] * image_shape[1] * image_shape[2], *hidden]
        layers: list[nn.Module] = []
        for inputs, width in pairwise(sizes):
            linear = nn.Linear(inputs, width)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU(), Dropout(dropout)]
        self.pixels = Dropout(input_dropout, "input_dropout")
        self.body = nn.Sequential(nn.Flatten(), *layers)
        self.head = nn.Linear(sizes[-1], num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features ``(B, hidden[-1])`` of images ``(B, C, H, W)``."""
        if self.training and self.pixels.probability:
            x = self.pixels(x + 1) - 1
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        return self.head(self.features(x))
