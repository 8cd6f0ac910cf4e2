"""The identity whose gradient is turned round."""

from typing import Any

import torch
from torch import Tensor


class ReverseGradient(torch.autograd.Function):
    """Behind ``reverse_gradient``, in ``loss.py``."""

    generate_vmap_rule = True  # for torch.func.vmap

    @staticmethod
    def forward(x: Tensor, coefficient: float) -> Tensor:
        """The same values."""
        return x.view_as(x)  # a view: the tensor itself would be taken for an input that is handed out again

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        """Keep the coefficient."""
        ctx.coefficient = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Minus the coefficient times the gradient."""
        return -ctx.coefficient * gradients[0], None
