"""The standard deviation of each channel over its map, for maps in any layout."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SAMPLES = 8  # whose squares exist at the same time


class ChannelDeviation(torch.autograd.Function):
    """``x.std(dim=(2, 3))`` in float32 at least, for ``(n, C, H, W)`` with at least two pixels.

    PyTorch's own takes three times as long on channels-last maps, and would keep a float32 copy of a bfloat16 map. A
    constant channel gets the gradient zero.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Deviations ``(n, C)``, with the unbiased variance's n - 1."""
        return deviation(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the map and the deviations."""
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient with respect to the map, in its dtype and layout."""
        return deviation_gradient(*ctx.saved_tensors, gradient)


def deviation(x: Tensor) -> Tensor:
    """``(n, C)`` of maps ``(n, C, H, W)``; see ``ChannelDeviation``."""
    pieces = zip(x.split(SAMPLES), _mean(x).split(SAMPLES), strict=True)
    sums = torch.cat([(piece - mean).square_().sum((2, 3)) for piece, mean in pieces])
    return (sums / (x.shape[2:].numel() - 1)).sqrt()


def deviation_gradient(x: Tensor, deviation: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to the map, from the gradient with respect to its deviations ``(n, C)``."""
    factor = torch.where(deviation > 0, gradient / (deviation * (x.shape[2:].numel() - 1)), 0.0)[:, :, None, None]
    return torch.addcmul(-_mean(x) * factor, x, factor).to(x.dtype)


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
