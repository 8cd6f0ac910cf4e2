"""Blocks: the parts of a network that have a local loss each."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..shared.nets.dropout import ChannelDropout
from .recompute import ConvolutionBody


class AverageMap(nn.Module):
    """The average of each channel over its whole map."""

    def forward(self, x: Tensor) -> Tensor:
        """``(n, C, 1, 1)`` of maps ``(n, C, H, W)``."""
        # Not mean() or AdaptiveAvgPool2d: the contiguous gradient of these makes the next backward 30 times slower
        # where the maps are channels-last.
        return functional.avg_pool2d(x, x.shape[-2:])


class Block(nn.Module):
    """A block: ``body`` gives the features of the local loss, ``after`` turns them into the next block's input.

    Args:
        body: Any module that maps a batch to a batch.
        after: Dropout or pooling. It learns nothing, because the features that it gets are detached.
    """

    def __init__(self, body: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.after = nn.Identity() if after is None else after

    def forward(self, x: Any) -> Tensor:
        """The features h, ``(n, d)`` or ``(n, C, H, W)``, of the block's input."""
        return self.body(x)

    def hand_on(self, hidden: Tensor, x: Any) -> Any:
        """The input of the next block, from this block's features and its own input."""
        return self.after(hidden)


class ResidualStart(Block):
    """A convolution inside a residual block, which hands its input on beside its features, for the shortcut."""

    def hand_on(self, hidden: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """A pair of features and shortcut."""
        return self.after(hidden), x


class ResidualEnd(Block):
    """The last convolution of a residual block: the shortcut is added before the non-linearity.

    The residual block's input passes through ``shortcut``, whose projection the local loss trains too, and the sum
    through ``activation``.
    """

    def __init__(
        self, body: nn.Module, shortcut: nn.Module, activation: nn.Module, after: nn.Module | None = None
    ) -> None:
        super().__init__(body, after)
        self.shortcut, self.activation = shortcut, activation

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        """The features h of a pair of features and shortcut."""
        hidden, shortcut = x
        return self.activation(self.body(hidden) + self.shortcut(shortcut))


def non_linearity(slope: float) -> nn.Module:
    """Leaky ReLU, or ReLU for slope 0; in place, because batch normalisation needs its input only."""
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def convolution(
    inputs: int, outputs: int, slope: float, kernel: int = 3, stride: int = 1, after: nn.Module | None = None
) -> Block:
    """Convolution with bias, batch normalisation, non-linearity: a block of the VGG networks."""
    return Block(
        ConvolutionBody(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2),
            nn.BatchNorm2d(outputs),
            non_linearity(slope),
        ),
        after,
    )


def linear(inputs: int, outputs: int, slope: float, after: nn.Module | None = None) -> Block:
    """Flattening, linear layer, batch normalisation, non-linearity."""
    layers = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), non_linearity(slope)
    return Block(nn.Sequential(nn.Flatten(), *layers), after)


def residual(inputs: int, outputs: int, stride: int, slope: float, dropout: float) -> list[Block]:
    """The two local blocks of a basic residual block (He et al. 2016): no biases, the stride on the first."""

    def body(channels: int, step: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, outputs, 3, step, padding=1, bias=False), nn.BatchNorm2d(outputs)]

    shortcut: nn.Module = nn.Identity()
    if stride > 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return [
        ResidualStart(ConvolutionBody(*body(inputs, stride), non_linearity(slope)), ChannelDropout(dropout)),
        ResidualEnd(nn.Sequential(*body(outputs, 1)), shortcut, non_linearity(slope), ChannelDropout(dropout)),
    ]


def pre_activation_residual(inputs: int, outputs: int, stride: int, slope: float, dropout: float) -> list[Block]:
    """The two local blocks of a wide residual block (Zagoruyko and Komodakis 2016): normalisation comes first.

    Dropout lies between the two convolutions only, as in that paper: the shortcut's path is never cut.
    """

    def body(channels: int, step: int) -> nn.Sequential:
        layer = nn.Conv2d(channels, outputs, 3, step, padding=1, bias=False)
        return nn.Sequential(nn.BatchNorm2d(channels), non_linearity(slope), layer)

    same = stride == 1 and inputs == outputs
    shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return [
        ResidualStart(body(inputs, stride), ChannelDropout(dropout)),
        ResidualEnd(body(outputs, 1), shortcut, nn.Identity()),
    ]
