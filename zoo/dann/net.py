"""The paper's networks: features, label head and domain head (Figure 4), the shallow one, and AlexNet."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from ..shared.arguments import check_choice, check_names
from ..shared.nets.dropout import Dropout

Shape = tuple[int, ...]


class DomainNetwork(nn.Module):
    """A feature extractor G_f with a label head G_y and a domain head G_d on top of it.

    The extractor maps images ``(B, *image_shape)`` to features, and maps are flattened. ``label_hidden`` and
    ``domain_hidden`` are the units of the heads' hidden layers, ``dropout`` is that of the label head. A
    ``conditional`` domain head sees the class probabilities beside the features, by random maps to ``random_features``
    inputs or as all products.
    """

    def __init__(
        self,
        extractor: nn.Module,
        image_shape: Shape,
        num_classes: int,
        label_hidden: Sequence[int],
        domain_hidden: Sequence[int],
        conditional: bool = False,
        random_features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        width = output_width(extractor, image_shape)
        self.label_body, label_width = hidden_layers(width, label_hidden, dropout)
        self.label_output = nn.Linear(label_width, num_classes)
        if conditional and random_features is not None:
            self.register_buffer("feature_map", torch.randn(width, random_features))
            self.register_buffer("probability_map", torch.randn(num_classes, random_features))
            width = random_features
        elif conditional:
            width *= num_classes
        domain_body, domain_width = hidden_layers(width, domain_hidden, 0.0)
        self.domain_head = nn.Sequential(domain_body, nn.Linear(domain_width, 1))

    def domain_features(self, x: Tensor) -> Tensor:
        """G_f: ``(B, D)`` of images ``(B, *image_shape)``."""
        return self.extractor(x).flatten(1)

    def maps(self) -> tuple[Tensor, Tensor] | None:
        """The random maps of a conditional domain head, if it has them."""
        buffers: Any = dict(self.named_buffers(recurse=False))
        return (buffers["feature_map"], buffers["probability_map"]) if buffers else None

    @torch.no_grad()
    def limit_norms(self, largest: float) -> None:
        """Scale down the weights of each unit whose l2-norm is above the largest that is allowed."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.copy_(layer.weight.renorm(2, 0, largest))


def hidden_layers(width: int, hidden: Sequence[int], dropout: float) -> tuple[nn.Sequential, int]:
    """Linear layers with ReLU (and dropout), and the width of the last."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        layers += [Dropout(dropout)] if dropout else []
        width = units
    return nn.Sequential(*layers), width


def output_width(extractor: nn.Module, image_shape: Shape) -> int:
    """Number of features that an extractor gives for an image; ``ValueError`` if it does not take the images."""
    training = extractor.training
    try:
        with torch.no_grad():
            return extractor.eval()(torch.zeros(1, *image_shape)).flatten(1).shape[1]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the feature network does not take inputs of image_shape {tuple(image_shape)}: {reason}"
        ) from error
    finally:
        extractor.train(training)


def convolution(inputs: int, outputs: int, kernel: int, padding: int, norm: bool, pool: int = 0) -> list[nn.Module]:
    """Convolution, batch normalisation if wanted, max-pooling with stride 2 if wanted, ReLU.

    The maximum and ReLU commute: pooling first gives the same numbers with a quarter of the work for ReLU.
    """
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=padding)]
    layers += [nn.BatchNorm2d(outputs)] if norm else []
    layers += [nn.MaxPool2d(pool, 2)] if pool else []
    return [*layers, nn.ReLU()]


def mnist_features(image_shape: Shape, norm: bool, padding: int = 0) -> nn.Module:
    """The MNIST column: 5x5 convolutions of 32 and 48 channels with 2x2 pooling; 768 features of 28x28."""
    return nn.Sequential(
        *convolution(image_shape[0], 32, 5, padding, norm, pool=2), *convolution(32, 48, 5, padding, norm, pool=2)
    )


def svhn_features(image_shape: Shape, norm: bool, padding: int = 2) -> nn.Module:
    """The SVHN column: 5x5 convolutions of 64, 64, 128 channels, two 3x3 poolings; 6,272 features of 32x32."""
    return nn.Sequential(
        *convolution(image_shape[0], 64, 5, padding, norm, pool=3),
        *convolution(64, 64, 5, padding, norm, pool=3),
        *convolution(64, 128, 5, padding, norm),
    )


def gtsrb_features(image_shape: Shape, norm: bool, padding: int = 0) -> nn.Module:
    """The GTSRB column: convolutions of 96 (5x5), 144 (3x3), 256 (5x5) channels with 2x2 pooling; 1,024 of 40x40."""
    return nn.Sequential(
        *convolution(image_shape[0], 96, 5, padding, norm, pool=2),
        *convolution(96, 144, 3, padding, norm, pool=2),
        *convolution(144, 256, 5, padding, norm, pool=2),
    )


def shallow_features(image_shape: Shape, norm: bool, hidden: int = 15) -> nn.Module:
    """One hidden layer of sigmoid units (section 4.1); weights start Glorot-uniform, biases at zero, as in its code."""
    layer = nn.Linear(torch.Size(image_shape).numel(), hidden)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer, nn.Sigmoid())


def alexnet_features(image_shape: Shape, norm: bool, bottleneck: int = 256) -> nn.Module:
    """AlexNet up to its second wide layer, and a linear bottleneck; parameters are named as in torchvision."""
    return AlexNetFeatures(bottleneck)


class AlexNetFeatures(nn.Module):
    """AlexNet without its last layer, with a bottleneck on top."""

    def __init__(self, bottleneck: int) -> None:
        super().__init__()
        whole = torchvision.models.alexnet(weights=None)
        self.features, self.avgpool, self.classifier = whole.features, whole.avgpool, whole.classifier[:6]
        for place, layer in enumerate(self.classifier):
            if isinstance(layer, nn.Dropout):
                self.classifier[place] = Dropout(layer.p)
        self.bottleneck = nn.Linear(4096, bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, bottleneck)`` of images ``(B, 3, H, W)``, best of 224x224."""
        return self.bottleneck(self.classifier(self.avgpool(self.features(x)).flatten(1)))


# Features, hidden units of the label head and of the domain head.
COLUMNS: dict[str, tuple[Any, list[int], list[int]]] = {
    "MNIST": (mnist_features, [100, 100], [100]),
    "SVHN": (svhn_features, [3072, 2048], [1024, 1024]),
    "GTSRB": (gtsrb_features, [512], [1024, 1024]),
    "Shallow": (shallow_features, [], []),
    "AlexNet": (alexnet_features, [], [1024, 1024]),
}


def check_network(network: str, network_args: dict[str, Any], normalisation: str) -> None:
    """Check that a network exists, takes the arguments, and has a place for the batch normalisation that is wanted."""
    check_choice("network", network, [*COLUMNS])
    known = [*list(signature(COLUMNS[network][0]).parameters)[2:], "label_hidden", "domain_hidden", "dropout"]
    check_names("network_args", network_args, network, known)
    if normalisation != "none" and network in ("Shallow", "AlexNet"):
        raise ValueError(f"normalisation={normalisation!r}, but the network {network} has no place for it")


def initialise_shallow_heads(network: DomainNetwork) -> None:
    """Initialise the shallow network's heads as in its code: Glorot-uniform labels, zero biases and domain head."""
    nn.init.xavier_uniform_(network.label_output.weight)
    nn.init.zeros_(network.label_output.bias)
    for parameter in network.domain_head.parameters():
        nn.init.zeros_(parameter)
