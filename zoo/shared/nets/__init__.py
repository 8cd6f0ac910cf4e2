"""Networks used by at least two papers.

Every classifier network here takes ``(image_shape, num_classes, ...)`` and offers ``forward(x) -> (B, K)`` logits,
``features(x) -> (B, D)`` penultimate features, and ``head``, the last linear layer, with
``forward(x) == head(features(x))``.
"""

from inspect import signature

import torch
from torch import nn

from .lenet import LeNet
from .mlp import MLP
from .resnet import ResNet18
from .small_conv import SmallConvNet
from .wide_resnet import WideResNet

__all__ = ["MLP", "LeNet", "ResNet18", "SmallConvNet", "WideResNet", "build_network"]


def build_network(name: str, image_shape: tuple[int, int, int], num_classes: int, **arguments: object) -> nn.Module:
    """Build a network of this package from plain values.

    Args:
        name: The class's name, for example ``"WideResNet"``.
        image_shape: ``(channels, height, width)`` of one image.
        num_classes: Number of logits, at least two.
        **arguments: Further arguments of that class.

    Returns:
        The network, in channels-last memory format (the faster layout for convolutions, on CPU and GPU alike).

    Raises:
        ValueError: For an unknown name or argument, a width that is none, or fewer than two classes.
    """
    names = sorted(entry for entry in __all__ if entry != "build_network")
    if name not in names:
        raise ValueError(f"network {name!r} is unknown; expected one of {', '.join(names)}")
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2 classes")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape is {tuple(image_shape)}; expected (channels, height, width), all positive")
    network = globals()[name]
    known = list(signature(network).parameters)[2:]
    if unknown := sorted(arguments.keys() - set(known)):
        raise ValueError(f"network_args has {unknown}, which {name} does not take; it takes {known}")
    for argument, value in arguments.items():
        if signature(network).parameters[argument].annotation is int and (type(value) is not int or value < 1):
            raise ValueError(f"network_args has {argument}={value!r}; expected a whole number of at least 1")
    built: nn.Module = network(tuple(image_shape), num_classes, **arguments)
    return built.to(memory_format=torch.channels_last)
