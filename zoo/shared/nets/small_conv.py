"""A small convolutional network without normalisation, for images from 8x8 to 32x32."""

from torch import Tensor, nn


class SmallConvNet(nn.Module):
    """Four 3x3 convolutions with SiLU, two of them with stride 2, averaged to 2x2.

    No normalisation: the logits of an image depend on that image alone, as an energy needs. SiLU because a smooth
    energy lets Langevin chains take larger steps before they diverge. He et al.'s initialisation, because PyTorch's
    lets the signal fade through layers without normalisation: training then begins with epochs on a plateau.

    Args:
        width: Channels of the first convolution; the later ones have two, two and four times as many.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int = 32) -> None:
        super().__init__()
        widths = (image_shape[0], width, 2 * width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in zip(widths, widths[1:], (1, 2, 1, 2), strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        for layer in self.body:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.head = nn.Linear(4 * widths[-1], num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features ``(B, 16 * width)`` of images ``(B, C, H, W)``."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        return self.head(self.features(x))
