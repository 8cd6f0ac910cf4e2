"""The local heads, which compute the loss of a block; inference leaves them out."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..shared.arguments import check_choice
from ..shared.processes import gather_rows
from .loss import (
    backprop_free_prediction_loss,
    compared_by_deviation,
    feature_rows,
    local_loss,
    prediction_loss,
    similarity_matching_loss,
)
from .recompute import AveragePooling, convolved_deviation

LossName = Literal["pred", "sim", "predsim", "pred-bpf", "sim-bpf", "predsim-bpf"]
CODE_SIZE = 128  # numbers in the random code of a class


def average_pooling(shape: Sequence[int], max_dim: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Kernel and padding, each ``(height, width)``, of the average pooling of maps ``(C, H, W)`` before a classifier.

    The kernel doubles, the height's side first, until the pooled map has at most ``max_dim`` numbers (the official
    code's "dim-in-decoder") or covers the map; with more channels it cannot get there. The stride is the kernel.
    """
    channels, *sides = shape
    kernel = [1, 1]

    def pooled(axis: int) -> int:
        return math.ceil(sides[axis] / kernel[axis])

    while channels * pooled(0) * pooled(1) > max_dim and (kernel[0] < sides[0] or kernel[1] < sides[1]):
        for axis in (0, 1):
            if channels * pooled(0) * pooled(1) > max_dim and kernel[axis] < sides[axis]:
                kernel[axis] *= 2
    padding = [kernel[axis] * (pooled(axis) - sides[axis] // kernel[axis]) // 2 for axis in (0, 1)]
    return (kernel[0], kernel[1]), (padding[0], padding[1])


def pooling(shape: Sequence[int], max_dim: int) -> nn.Module:
    """``average_pooling`` as a module; nothing for vectors ``(d,)`` and where the kernel is one pixel.

    The padding counts as zeros, as in the official code.
    """
    if len(shape) == 1:
        return nn.Identity()
    kernel, padding = average_pooling(shape, max_dim)
    return nn.Identity() if kernel == (1, 1) else AveragePooling(kernel, padding=padding)


def _fixed_uniform(rows: int, columns: int) -> Tensor:
    """``(rows, columns)`` as PyTorch initialises a linear layer: uniform within ``columns ** -0.5`` of zero."""
    return torch.empty(rows, columns).uniform_(-(columns**-0.5), columns**-0.5)


class Classifier(nn.Module):
    """A local linear classifier on the pooled output of a block, with zero weights to begin with."""

    def __init__(self, shape: Sequence[int], outputs: int, max_dim: int) -> None:
        super().__init__()
        self.pooling = pooling(shape, max_dim)
        self.linear = nn.Linear(self.pooling(torch.empty(1, *shape, device="meta")).numel(), outputs)
        nn.init.zeros_(self.linear.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits ``(n, K)``."""
        return self.linear(self.pooled(hidden))

    def pooled(self, hidden: Tensor) -> Tensor:
        """Pooled features ``(n, d)``; of maps, the channels of the first pixel come first.

        The other order would cost a layout change of the whole map's gradient where maps are channels-last.
        """
        pooled = self.pooling(hidden)
        return (pooled.permute(0, 2, 3, 1) if pooled.dim() == 4 else pooled).flatten(1)

    def loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """The loss "pred"."""
        return prediction_loss(self(hidden), labels)


class FeedbackClassifier(Classifier):
    """A local classifier of the bits of the class's code, trained by feedback alignment with a fixed matrix."""

    feedback: Tensor

    def __init__(self, shape: Sequence[int], max_dim: int) -> None:
        super().__init__(shape, CODE_SIZE, max_dim)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("feedback", _fixed_uniform(CODE_SIZE, self.linear.in_features))

    def loss(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """The loss "pred-bpf"."""
        pooled = self.pooled(hidden)
        return backprop_free_prediction_loss(pooled, self.linear.weight, self.linear.bias, self.feedback, codes)


class LocalHead(nn.Module):
    """The local loss of one block, with the layers that it needs.

    Args:
        shape: ``(d,)`` or ``(C, H, W)`` of the block's output h.
        num_classes: Number of classes.
        loss: One of the six.
        beta: Weight of the similarity in "predsim" and "predsim-bpf".
        max_dim: The largest number of features of the local classifier; see ``average_pooling``.
        all_pairs: Whether the similarity compares the samples of all processes, or those of this one.

    Raises:
        ValueError: For a block's output that is neither a vector nor a map, or a loss that does not exist.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        loss: LossName = "predsim",
        beta: float = 0.99,
        max_dim: int = 4096,
        all_pairs: bool = False,
    ) -> None:
        super().__init__()
        if len(shape) not in (1, 3):
            raise ValueError(
                f"a block gives {tuple(shape)} for each sample; its local loss needs (d,) or (channels, height, width)"
            )
        check_choice("loss", loss, get_args(LossName))
        self.num_classes, self.beta, self.all_pairs = num_classes, beta, all_pairs
        self.backprop_free = loss.endswith("-bpf")
        self.prediction: Classifier | None = None
        self.similarity: Any = None
        if self.backprop_free:
            self.register_buffer("projection", _fixed_uniform(CODE_SIZE, num_classes))
        if loss.startswith("pred"):
            self.prediction = (
                FeedbackClassifier(shape, max_dim) if self.backprop_free else Classifier(shape, num_classes, max_dim)
            )
        if "sim" in loss:
            if self.backprop_free:
                self.similarity = pooling(shape, max_dim)
            elif len(shape) == 3:
                self.similarity = nn.Conv2d(shape[0], shape[0], 3, padding=1, bias=False)
            else:
                self.similarity = nn.Linear(shape[0], shape[0], bias=False)

    def targets(self, labels: Tensor) -> Tensor:
        """The rows whose similarities the features should have: one-hot labels ``(n, K)`` or codes ``(n, 128)``."""
        if self.backprop_free:
            return self.get_buffer("projection").t()[labels]
        return functional.one_hot(labels, self.num_classes).float()

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """The local loss of a block's output ``(n, d)`` or ``(n, C, H, W)``, a scalar."""
        targets = self.targets(labels)
        prediction = None
        if self.prediction is not None:
            prediction = self.prediction.loss(hidden, targets if self.backprop_free else labels)
            if self.similarity is None:
                return prediction
        if isinstance(self.similarity, nn.Conv2d) and compared_by_deviation(hidden):
            rows = convolved_deviation(hidden, self.similarity)
        else:
            rows = feature_rows(self.similarity(hidden))
        if self.all_pairs:
            rows, targets = gather_rows(rows), gather_rows(targets)
        similarity = similarity_matching_loss(rows, targets)
        return similarity if prediction is None else local_loss(prediction, similarity, self.beta)
