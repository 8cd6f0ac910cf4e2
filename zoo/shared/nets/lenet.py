"""A LeNet-like network for 28x28 digits."""

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """Two 5x5 convolutions with max-pooling and two linear layers (LeCun et al., 1998, with ReLU).

    Args:
        hidden: Units of the penultimate layer.

    Raises:
        ValueError: When the image is smaller than 12x12, too small for the two poolings.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, hidden: int = 128) -> None:
        super().__init__()
        if min(image_shape[1:]) < 12:
            raise ValueError(f"LeNet needs images of at least 12x12, got {image_shape[1]}x{image_shape[2]}")
        convolutions = nn.Sequential(
            nn.Conv2d(image_shape[0], 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        flat = convolutions(torch.zeros(1, *image_shape)).shape[1]
        self.body = nn.Sequential(convolutions, nn.Linear(flat, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features ``(B, hidden)`` of images ``(B, C, H, W)``."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        return self.head(self.features(x))
