"""Feature maps that the backward pass computes again, so that a block holds less memory.

A convolutional block computes ``h = activation(batch_norm(z))``. The backward pass needs z anyway. So only z is saved,
and h is computed again from it, with the same bits, where a gradient needs it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .deviation import ChannelDeviation, deviation, deviation_gradient

HELD = 0.8  # share of the samples whose convolution is saved for the backward pass, which repeats it for the others
Make = Callable[..., Tensor]


class ConvolutionBody(nn.Sequential):
    """Convolution, batch normalisation, and a ReLU or leaky ReLU.

    Attributes:
        frugal: Whether to save the normalisation's input only, and to normalise twice more in the backward pass.
    """

    frugal = False

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(n, C, H, W)`` of maps ``(n, c, h, w)``."""
        parts: Any = self
        convolution, norm, activation = parts
        z = convolution(x)
        # Other layers in their places, such as batch normalisation over all processes, save what they need themselves.
        known = type(norm) is nn.BatchNorm2d and type(activation) in (nn.ReLU, nn.LeakyReLU)
        if not self.frugal or not known or not norm.training or not z.requires_grad:
            return activation(norm(z))
        norm.num_batches_tracked.add_(1)
        slope = getattr(activation, "negative_slope", 0.0)
        hidden: Any = _NormActivation.apply(z, norm.weight, norm.bias, norm, slope)
        make = partial(normalise_and_activate, eps=norm.eps, slope=slope)
        hidden.made_from = (z.detach(), norm.weight.detach(), norm.bias.detach()), make
        return hidden


def normalise_and_activate(z: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
    """Batch normalisation of ``(n, C, H, W)`` by its own statistics, and a leaky ReLU."""
    return functional.leaky_relu_(torch.native_batch_norm(z, weight, bias, None, None, True, 0.0, eps)[0], slope)


class _NormActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, slope: float) -> Tensor:
        assert norm.momentum is not None
        running = norm.running_mean, norm.running_var
        hidden, mean, inverse = torch.native_batch_norm(z, weight, bias, *running, True, norm.momentum, norm.eps)
        ctx.save_for_backward(z, weight, bias, mean, inverse)
        ctx.eps, ctx.slope = norm.eps, slope
        return functional.leaky_relu_(hidden, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, bias, *statistics = ctx.saved_tensors
        hidden = normalise_and_activate(z, weight, bias, ctx.eps, ctx.slope)
        gradient = torch.ops.aten.leaky_relu_backward(gradient, hidden, ctx.slope, True)
        del hidden
        gradients = torch.ops.aten.native_batch_norm_backward(
            gradient, z, weight, None, None, *statistics, True, ctx.eps, [True] * 3
        )
        return *gradients, None, None


class _ConvolvedDeviation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, parts: tuple[Tensor, ...], make: Make) -> Tensor:
        ctx.make, ctx.size = make, math.ceil(len(hidden) * HELD)
        convolved = [functional.conv2d(piece, weight, padding=1) for piece in hidden.split(ctx.size)]
        deviations = torch.cat([deviation(piece) for piece in convolved])
        ctx.save_for_backward(weight, deviations, convolved[0], *parts)
        return deviations

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, deviations, convolved, *parts = ctx.saved_tensors
        weight_gradient = torch.zeros_like(weight)
        weight = weight.to(convolved.dtype)
        hidden = ctx.make(*parts)
        pieces = (tensor.split(ctx.size) for tensor in (hidden, deviations, gradient))
        for number, (piece, own, wanted) in enumerate(zip(*pieces, strict=True)):
            if number:
                convolved = functional.conv2d(piece, weight, padding=1)
            outer = deviation_gradient(convolved, own, wanted)
            piece_gradient, part, _ = torch.ops.aten.convolution_backward(
                outer, piece, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
            )
            piece.copy_(piece_gradient)  # in the memory of h, which is no longer needed
            weight_gradient += part
        return hidden, weight_gradient, None, None


def convolved_deviation(hidden: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Deviations ``(n, K)`` of the output of a 3x3 convolution with padding 1 and no bias; see ``ChannelDeviation``.

    If a frugal block made ``hidden``, ``(n, C, H, W)``, it is not saved, and the convolution's output is saved for
    ``HELD`` of the samples only.
    """
    if not hasattr(hidden, "made_from"):
        return ChannelDeviation.apply(convolution(hidden))
    return _ConvolvedDeviation.apply(hidden, convolution.weight, *hidden.made_from)


class AveragePooling(nn.AvgPool2d):
    """Average pooling that saves nothing: its backward pass needs only the shape of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Pooled maps of maps ``(n, C, H, W)``."""
        return _AveragePooling.apply(x, self.kernel_size, self.padding)


class _AveragePooling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.made_like = x.shape, x.stride(), {"dtype": x.dtype, "device": x.device}
        ctx.numbers = kernel, kernel, padding, False, True, None
        return functional.avg_pool2d(x, kernel, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        shape, stride, kind = ctx.made_like
        x = torch.empty_strided(shape, stride, **kind)  # never filled: its shape and layout count
        return torch.ops.aten.avg_pool2d_backward(gradient, x, *ctx.numbers), None, None
