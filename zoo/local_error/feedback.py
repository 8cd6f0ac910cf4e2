"""A linear layer whose backward pass uses a fixed random matrix: feedback alignment (Lillicrap et al. 2014)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class FeedbackLinear(torch.autograd.Function):
    """``features @ weight.T + bias`` forward; the gradient returns to the features through ``feedback``.

    Weight and bias get their true gradients, ``feedback`` gets none.
    """

    @staticmethod
    def forward(features: Tensor, weight: Tensor, bias: Tensor, feedback: Tensor) -> Tensor:
        """Logits ``(n, m)`` of features ``(n, d)``; weight and feedback are ``(m, d)``, the bias is ``(m,)``."""
        return torch.addmm(bias, features, weight.t())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what the backward pass needs: not the weight."""
        features, _, _, feedback = inputs
        ctx.save_for_backward(features, feedback)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of features, weight and bias."""
        features, feedback = ctx.saved_tensors
        to_features = gradient @ feedback if ctx.needs_input_grad[0] else None
        return to_features, gradient.t() @ features, gradient.sum(0), None
