"""Networks of blocks with a local loss each, and the paper's networks by name."""

import copy
import math
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ..shared.arguments import check_choice, check_image_shape, check_names
from ..shared.nets.dropout import ChannelDropout
from .blocks import AverageMap, Block, convolution, linear, non_linearity, pre_activation_residual, residual
from .recompute import ConvolutionBody

Shape = tuple[int, int, int]
VGG8B_LAYERS = (128, 256, "M", 256, 512, "M", 512, "M", 512, "M")
VGG11B_LAYERS = (128, 128, 128, 256, "M", 256, 512, "M", 512, 512, "M", 512, "M")


class LocalNetwork(nn.Module):
    """Blocks, a local head for each, and a linear output layer.

    Heads are made for the shape of each block's output, which a forward pass on the meta device finds.

    Args:
        blocks: At least one. The last one's output is flattened for the output layer.
        image_shape: Shape of one sample.
        num_classes: Number of logits.
        make_head: Makes the local head, a module ``(features, labels) -> loss``, of the shape of a block's output for
            one sample; None for a network without local losses, trained by back-propagation. With local losses the
            output layer starts with zero weights.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        image_shape: Sequence[int],
        num_classes: int,
        make_head: Callable[[tuple[int, ...]], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not blocks:
            raise ValueError("a local network needs at least one block")
        wrapped = [block if isinstance(block, Block) else Block(block) for block in blocks]
        shapes, features = output_shapes(wrapped, image_shape)
        self.blocks: Any = nn.ModuleList(wrapped)  # any: mypy would take hand_on for a tensor
        self.heads = nn.ModuleList(make_head(shape) for shape in shapes) if make_head else nn.ModuleList()
        largest = max(map(math.prod, shapes))
        for block, shape in zip(wrapped, shapes, strict=True):
            if make_head and isinstance(block.body, ConvolutionBody):
                block.body.frugal = math.prod(shape) == largest  # the blocks that need the most memory
        self.output = nn.Linear(features, num_classes)
        if make_head:
            nn.init.zeros_(self.output.weight)

    def features(self, x: Tensor) -> Tensor:
        """Inputs of the output layer, ``(n, D)``, of images ``(n, C, H, W)``."""
        for block in self.blocks:
            x = block.hand_on(block(x), x)
        return x.flatten(1)

    def classify(self, x: Tensor) -> Tensor:
        """Logits ``(n, K)`` of what the last block hands on."""
        return self.output(x.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, K)`` of images ``(n, C, H, W)``; the local heads have no part in it."""
        return self.classify(self.features(x))


def output_shapes(blocks: Sequence[Block], image_shape: Sequence[int]) -> tuple[list[tuple[int, ...]], int]:
    """The shape of each block's features for one sample, and how many numbers the last block hands on."""
    x = torch.empty(2, *image_shape, device="meta")
    shapes = []
    with torch.no_grad():
        for block in blocks:
            replica = copy.deepcopy(block).to("meta").eval()
            hidden = replica(x)
            shapes.append(tuple(hidden.shape[1:]))
            x = replica.hand_on(hidden, x)
    return shapes, x[0].numel()


# ---------------------------------------------------------------- the networks by name
# Each takes the image shape (channels, height, width), the probability of the dropout after each block and the slope of
# the leaky ReLU, and gives a list of blocks.


def MLP(image_shape: Shape, dropout: float, slope: float, hidden: Sequence[int] = (1024, 1024, 1024)) -> list[Block]:
    """Fully connected layers of ``hidden`` units; three of 1024 in the paper, of 3000 for CIFAR."""
    blocks, inputs = [], image_shape[0] * image_shape[1] * image_shape[2]
    for units in hidden:
        blocks.append(linear(inputs, units, slope, ChannelDropout(dropout)))
        inputs = units
    return blocks


def VGG(
    image_shape: Shape,
    dropout: float,
    slope: float,
    layers: Sequence[int | str] = VGG8B_LAYERS,
    width: float = 1.0,
    hidden: Sequence[int] = (1024,),
) -> list[Block]:
    """3x3 convolutions with 2x2 max-pooling, then fully connected layers.

    ``layers`` has the channels of each convolution, with an "M" where the maps are pooled, and ``width`` multiplies the
    channels. ``hidden`` has the units of the fully connected layers. Images with a side above 64 pixels meet a first
    convolution of 7x7 with stride 2.

    Raises:
        ValueError: For images too small for the poolings, or layers that begin with a pooling.
    """
    channels, *sides = image_shape
    large = max(sides) > 64
    if wrong := [layer for layer in layers if layer != "M" and (type(layer) is not int or layer < 1)]:
        raise ValueError(f'layers has {wrong[0]!r}; expected channels of at least 1, or "M"')
    if layers[0] == "M" or min(sides) // (1 + large) < 2 ** (poolings := layers.count("M")):
        raise ValueError(
            f"layers {list(layers)} on images of {sides[0]}x{sides[1]}: they begin with a convolution, and "
            f"{poolings} poolings need {2**poolings * (1 + large)} pixels a side"
        )
    blocks: list[Block] = []
    for position, layer in enumerate(layers):
        if layer == "M":
            continue
        pools = [nn.MaxPool2d(2) for following in layers[position + 1 : position + 2] if following == "M"]
        outputs = max(1, round(int(layer) * width))
        kernel, stride = (7, 2) if large and not blocks else (3, 1)
        after = nn.Sequential(ChannelDropout(dropout), *pools)
        blocks.append(convolution(channels, outputs, slope, kernel, stride, after))
        channels = outputs
    inputs = output_shapes(blocks, image_shape)[1]
    return [*blocks, *MLP((inputs, 1, 1), dropout, slope, hidden)]


def VGG8B(image_shape: Shape, dropout: float, slope: float, width: float = 1.0) -> list[Block]:
    """The paper's VGG8B: six convolutions, one hidden layer."""
    return VGG(image_shape, dropout, slope, VGG8B_LAYERS, width)


def VGG11B(image_shape: Shape, dropout: float, slope: float, width: float = 1.0) -> list[Block]:
    """The paper's VGG11B: nine convolutions, one hidden layer."""
    return VGG(image_shape, dropout, slope, VGG11B_LAYERS, width)


def _average(block: Block) -> Block:
    """The block, which then hands the average over its whole map on."""
    block.after = nn.Sequential(block.after, AverageMap())
    return block


def ResNet(
    image_shape: Shape, dropout: float, slope: float, depths: Sequence[int] = (2, 2, 2, 2), width: int = 64
) -> list[Block]:
    """A residual network with a 3x3 stem (He et al. 2016); each convolution is a local block.

    ``depths`` has the residual blocks of each stage; from the second stage on the first of them has stride 2. ``width``
    is the channels of the stem and the first stage; each later stage has twice as many as the one before.
    """
    stem = nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), non_linearity(slope)
    blocks, channels = [Block(nn.Sequential(*stem), ChannelDropout(dropout))], width
    for stage, depth in enumerate(depths):
        for number in range(depth):
            outputs, stride = width * 2**stage, 2 if stage and not number else 1
            blocks += residual(channels, outputs, stride, slope, dropout)
            channels = outputs
    return [*blocks[:-1], _average(blocks[-1])]


def ResNet18(image_shape: Shape, dropout: float, slope: float, width: int = 64) -> list[Block]:
    """ResNet-18: two residual blocks in each of four stages."""
    return ResNet(image_shape, dropout, slope, (2, 2, 2, 2), width)


def ResNet34(image_shape: Shape, dropout: float, slope: float, width: int = 64) -> list[Block]:
    """ResNet-34: three, four, six and three residual blocks."""
    return ResNet(image_shape, dropout, slope, (3, 4, 6, 3), width)


def WideResNet(image_shape: Shape, dropout: float, slope: float, depth: int = 28, width: int = 10) -> list[Block]:
    """A wide residual network (Zagoruyko and Komodakis 2016); each convolution is a local block.

    Normalisation comes before the convolutions, so the local losses are taken of their sums; the last block ends in a
    normalisation and a non-linearity, which its local loss trains. There are ``depth`` layers, ``6 n + 4`` with n
    residual blocks in each of three stages, whose 16, 32 and 64 channels ``width`` multiplies. Dropout lies between the
    two convolutions of a residual block only.

    Raises:
        ValueError: When ``depth`` is not ``6 n + 4``.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth is {depth}; a wide ResNet has 6 n + 4 layers: 10, 16, 22, 28, 40")
    channels = 16
    blocks = [Block(nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False))]
    for stage, stride in enumerate((1, 2, 2)):
        for number in range((depth - 4) // 6):
            outputs = 16 * width * 2**stage
            blocks += pre_activation_residual(channels, outputs, 1 if number else stride, slope, dropout)
            channels = outputs
    blocks[-1].activation = nn.Sequential(nn.BatchNorm2d(channels), non_linearity(slope))
    return [*blocks[:-1], _average(blocks[-1])]


NETWORKS: dict[str, Callable[..., list[Block]]] = {
    network.__name__: network for network in (MLP, VGG, VGG8B, VGG11B, ResNet, ResNet18, ResNet34, WideResNet)
}


def make_blocks(name: str, image_shape: Shape, dropout: float, slope: float, **arguments: object) -> list[Block]:
    """The blocks of a network of this file, by its function's name, such as ``"VGG8B"``, and arguments.

    Raises:
        ValueError: For an unknown name or argument, or an impossible image shape.
    """
    check_choice("network", name, [*NETWORKS])
    check_image_shape(image_shape)
    check_names("network_args", arguments, name, list(signature(NETWORKS[name]).parameters)[3:])
    return NETWORKS[name](tuple(image_shape), dropout, slope, **arguments)
