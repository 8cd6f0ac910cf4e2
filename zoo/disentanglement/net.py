"""The networks of the study: convolutional encoder and decoder for 64x64 images, FactorVAE's discriminator."""

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Encoder(nn.Module):
    """Network of the posterior: four convolutions of stride 2, a dense layer of 256, a linear head.

    It has 309,204 parameters for one channel and ten latents. The last two convolutions have 2x2 kernels, as in the
    study's code; many copies have 4x4 there.
    """

    def __init__(self, channels: int, num_latents: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, 32, 4, 2, 1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(32, 64, 2, 2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(64, 64, 2, 2), nn.ReLU(inplace=True)),
            *(nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(inplace=True)),
        )
        self.head = nn.Linear(256, 2 * num_latents)
        start(self)
        for half in self.head.weight.chunk(2):  # each of the two heads has L units
            nn.init.xavier_uniform_(half)

    def forward(self, x: Tensor) -> Tensor:
        """Means, then logarithms of variances, ``(B, 2 L)``, of images ``(B, C, 64, 64)`` in [0, 1]."""
        hidden = self.body(x)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round narrow posteriors
            return self.head(hidden.to(self.head.weight.dtype))


class Decoder(nn.Module):
    """Network from a code to an image: dense layers of 256 and 1,024, four transposed convolutions of stride 2.

    It has 381,313 parameters for one channel and ten latents.
    """

    def __init__(self, channels: int, num_latents: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Linear(num_latents, 256), nn.ReLU(inplace=True)),
            *(nn.Linear(256, 1024), nn.ReLU(inplace=True), nn.Unflatten(1, (64, 4, 4))),
            *(nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU(inplace=True)),
            *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(inplace=True)),
            *(nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(inplace=True)),
            nn.ConvTranspose2d(32, channels, 4, 2, 1),
        )
        start(self)

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``(B, C, 64, 64)`` of codes ``(B, L)``."""
        return self.body(z)


class Discriminator(nn.Sequential):
    """FactorVAE's discriminator of codes: six dense layers of ``width`` with leaky ReLU of slope 0.2, two logits.

    It has 5,018,002 parameters for ten latents. Logit 0 is for codes of the aggregate posterior, logit 1 for permuted
    ones.
    """

    def __init__(self, num_latents: int, width: int = 1000) -> None:
        layers: list[nn.Module] = []
        for inputs in [num_latents, *[width] * 5]:
            layers += [nn.Linear(inputs, width), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*layers, nn.Linear(width, 2))
        start(self)


def start(network: nn.Module) -> None:
    """Draw Glorot-uniform weights and set biases to zero, as the study does; torch's own initialisation differs."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_image_shape(image_shape: Shape) -> None:
    """Raise ``ValueError`` for images that the study's network does not take: for anything but ``(C, 64, 64)``."""
    if len(image_shape) != 3 or image_shape[0] < 1 or tuple(image_shape[1:]) != (64, 64):
        raise ValueError(
            f"image_shape is {tuple(image_shape)}; the study's network takes (C, 64, 64): resize the images, or "
            "override build_encoder and build_decoder"
        )
