"""Networks used by at least two papers.

Every classifier network here takes ``image_shape``, which is ``(channels, height, width)``, the number K of classes
``num_classes``, and what its class documents. It offers ``forward(x) -> (B, K)`` logits, ``features(x) -> (B, D)``
penultimate features, and ``head``, the last linear layer, with ``forward(x) == head(features(x))``.
"""

from collections.abc import Callable
from inspect import signature

import torch
from torch import nn

from ..arguments import check_at_least, check_choice, check_image_shape, check_names
from .lenet import LeNet
from .mlp import MLP
from .resnet import ResNet18
from .small_conv import SmallConvNet
from .wide_resnet import WideResNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    network.__name__: network for network in (LeNet, MLP, ResNet18, SmallConvNet, WideResNet)
}


def build_network(name: str, image_shape: tuple[int, int, int], num_classes: int, **arguments: object) -> nn.Module:
    """Build a network of this package from plain values, in channels-last memory format where that is safe.

    Args:
        name: The class's name, for example ``"WideResNet"``.
        image_shape: ``(channels, height, width)`` of one image.
        num_classes: Number of logits, at least two.
        **arguments: Further arguments of that class.

    Raises:
        ValueError: For an unknown name or argument, a width below 1, an impossible image shape, or fewer than two
            classes.
    """
    check_choice("network", name, [*NETWORKS])
    check_at_least(2, num_classes=num_classes)
    check_image_shape(image_shape)
    parameters = dict([*signature(NETWORKS[name]).parameters.items()][2:])
    check_names("network_args", arguments, name, [*parameters])
    for argument, value in arguments.items():
        if parameters[argument].annotation is int and (type(value) is not int or value < 1):
            raise ValueError(f"network_args has {argument}={value!r}; expected a whole number of at least 1")
    return channels_last(NETWORKS[name](tuple(image_shape), num_classes, **arguments))


def channels_last(network: nn.Module) -> nn.Module:
    """Bring a network, in place, to channels-last, the faster memory format for convolutions on CPU and GPU alike.

    A network with a 1x1 convolution of fewer than 8 input channels and a stride above 1 stays as it is: on processors
    without AVX-512 the backward pass of that convolution, in this layout, writes beyond its memory in torch 2.14.1.
    """
    pointwise = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)]
    if any(max(layer.stride) > 1 and layer.in_channels < 8 for layer in pointwise):
        return network
    return network.to(memory_format=torch.channels_last)
