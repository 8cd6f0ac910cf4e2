"""Wide residual networks with and without normalisation."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from ..arguments import check_choice
from .dropout import Dropout

Norm = Literal["none", "batch", "instance", "layer"]

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "layer": lambda channels: nn.GroupNorm(1, channels),
}


class _Block(nn.Module):
    """Pre-activation block; the stride sits on the second convolution, as in JEM's official network."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        make_norm = _NORMS[norm]
        self.residual = nn.Sequential(
            make_norm(inputs), nn.LeakyReLU(0.2), nn.Conv2d(inputs, outputs, 3, padding=1), Dropout(dropout),
            make_norm(outputs), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(outputs, outputs, 3, stride, padding=1),
        )  # fmt: skip
        # The shortcut takes the raw block input, before norm and activation.
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class WideResNet(nn.Module):
    """Wide ResNet (Zagoruyko and Komodakis, 2016) as JEM uses it: LeakyReLU(0.2), a bias in every convolution.

    Without normalisation, depth 28 and width 10 have 36,471,338 parameters for ten classes. The tail averages the whole
    map; JEM's official 8x8 average-pooling is the same thing for 32x32 images and undefined for smaller ones.

    Args:
        depth: Number of layers, ``6 n + 4`` with n blocks in each of three stages.
        width: Multiplier of the 16, 32 and 64 channels of the stages.
        norm: ``none``, ``batch``, ``instance`` (affine) or ``layer`` (group norm with one group).
        dropout: Probability after the first convolution of each block.

    Raises:
        ValueError: When ``depth`` is not ``6 n + 4`` or ``norm`` is unknown.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        depth: int = 28,
        width: int = 10,
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth is {depth}; a wide ResNet has 6 n + 4 layers: 10, 16, 22, 28, 40")
        check_choice("norm", norm, [*_NORMS])
        channels = 16
        layers: list[nn.Module] = [nn.Conv2d(image_shape[0], channels, 3, padding=1)]
        for stage, stride in enumerate((1, 2, 2)):
            outputs = 16 * width * 2**stage
            for block in range((depth - 4) // 6):
                layers.append(_Block(channels, outputs, stride if block == 0 else 1, dropout, norm))
                channels = outputs
        self.body = nn.Sequential(*layers, _NORMS[norm](channels), nn.LeakyReLU(0.2, inplace=True))
        self.head = nn.Linear(channels, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features ``(B, 64 * width)`` of images ``(B, C, H, W)``."""
        maps = self.body(x)
        # Not mean() or AdaptiveAvgPool2d: the contiguous gradient of these makes the next backward 30 times slower
        # where the maps are channels-last.
        return functional.avg_pool2d(maps, maps.shape[-2:]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        return self.head(self.features(x))
