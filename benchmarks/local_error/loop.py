"""The official algorithm of local error signals (Nøkland and Eidnes 2019) on VGG8B, written down plainly.

What the module's speed and memory are compared with: float32, contiguous maps, an optimiser for each block, the
similarity's standard deviation over the whole map, losses added up for printing in each step.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.local_error.heads import average_pooling


def similarities(x: Tensor) -> Tensor:
    """Correlations ``(n, n)`` between the samples of a batch; maps are compared by the deviations of their channels."""
    if x.dim() == 4:
        x = x.flatten(2).std(dim=2)
    x = x - x.mean(dim=1, keepdim=True)
    x = x / (1e-8 + x.norm(dim=1, keepdim=True))
    return (x @ x.t()).clamp(-1, 1)


class PlainBlock(nn.Module):
    """A block with its two heads and its optimiser, that learns in its forward pass."""

    def __init__(self, body: nn.Module, passing_on: nn.Module, similarity: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.body, self.passing_on, self.similarity, self.classifier = body, passing_on, similarity, classifier
        self.optimizer = torch.optim.Adam(self.parameters(), 5e-4)
        self.losses = 0.0

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """What the next block gets."""
        hidden = self.body(x)
        passed_on = self.passing_on(hidden)
        target = similarities(functional.one_hot(y, 10).float()).detach()
        similarity = functional.mse_loss(similarities(self.similarity(hidden)), target)
        prediction = functional.cross_entropy(self.classifier(hidden), y)
        loss = 0.01 * prediction + 0.99 * similarity
        self.losses += loss.item()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return passed_on.detach()


def zero_linear(inputs: int) -> nn.Linear:
    """Ten logits, with zero weights to begin with."""
    layer = nn.Linear(inputs, 10)
    nn.init.zeros_(layer.weight)
    return layer


class PlainVGG8B(nn.Module):
    """VGG8B for images of 3x32x32 and ten classes, with predsim.

    Args:
        max_dim: Of the local classifiers.
        dropout: After each block.
    """

    def __init__(self, max_dim: int = 2048, dropout: float = 0.2) -> None:
        super().__init__()
        blocks, inputs, side = [], 3, 32
        for channels, pooled in ((128, False), (256, True), (256, False), (512, True), (512, True), (512, True)):
            body = nn.Sequential(
                nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.LeakyReLU(0.01)
            )
            passing_on = nn.Sequential(nn.Dropout2d(dropout), nn.MaxPool2d(2) if pooled else nn.Identity())
            similarity = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            (height, width), _ = average_pooling((channels, side, side), max_dim)
            features = channels * (side // height) * (side // width)
            classifier = nn.Sequential(nn.AvgPool2d((height, width)), nn.Flatten(), zero_linear(features))
            blocks.append(PlainBlock(body, passing_on, similarity, classifier))
            inputs, side = channels, side // 2 if pooled else side
        inputs *= side * side
        body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 1024), nn.BatchNorm1d(1024), nn.LeakyReLU(0.01))
        blocks.append(PlainBlock(body, nn.Dropout(dropout), nn.Linear(1024, 1024, bias=False), zero_linear(1024)))
        self.blocks = nn.ModuleList(blocks)
        self.output = zero_linear(1024)
        self.optimizer = torch.optim.Adam(self.output.parameters(), 5e-4)

    def forward(self, x: Tensor, y: Tensor) -> None:
        """One training step on images ``(n, 3, 32, 32)`` with labels ``(n,)``."""
        for block in self.blocks:
            x = block(x, y)
        loss = 0.01 * functional.cross_entropy(self.output(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
