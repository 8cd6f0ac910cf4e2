"""ResNet-18 for 32x32 images."""

from torch import Tensor, nn
from torchvision.models import resnet18


class ResNet18(nn.Module):
    """torchvision's ResNet-18 with the usual stem for small images: a 3x3 convolution, no max-pooling."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        body = resnet18(num_classes=1)
        body.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
        body.maxpool = nn.Identity()
        body.fc = nn.Identity()
        self.body = body
        self.head = nn.Linear(512, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features ``(B, 512)`` of images ``(B, C, H, W)``."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        return self.head(self.features(x))
