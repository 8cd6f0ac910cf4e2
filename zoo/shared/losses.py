"""The loss of class labels, and checks of what losses are given."""

import torch
from torch import Tensor
from torch.nn import functional

from .arguments import check_share

NO_LABEL = -(2**31)  # torch leaves labels of -100 out of the mean, without a word, unless told another number


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """Cross-entropy between softmax(logits) and the labels, in nats.

    Args:
        logits: ``(B, K)``, any floating dtype; computed in float32 at least.
        labels: ``(B,)``, integers in ``[0, K)`` of any dtype; torch refuses others.
        label_smoothing: Share of the target's mass spread evenly over all K classes, in [0, 1] (Szegedy et al. 2016,
            section 7).
        reduction: ``mean`` over the batch, or ``none``.

    Returns:
        A scalar, NaN for an empty batch, or ``(B,)``; at least 0.

    Raises:
        ValueError: For labels that are no integers or do not fit the logits, or a share out of range.
    """
    check_share(label_smoothing=label_smoothing)
    labels = class_indices(logits, labels)
    return functional.cross_entropy(
        at_least_float32(logits), labels, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction=reduction
    )


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the rows of logits ``(B, K)`` whose largest one is that of the label ``(B,)``; a scalar."""
    return (logits.argmax(1) == labels).float().mean()


def class_indices(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels ``(B,)`` of any integer dtype as int64, which torch wants.

    Only shapes and dtypes are checked, which costs nothing.

    Raises:
        ValueError: For labels that are no integers, or do not fit the logits ``(B, K)``.
    """
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} of {labels.dtype} with logits {tuple(logits.shape)}: expected integers (B,) "
            "with (B, K)"
        )
    return labels.long()


def check_same_shape(**tensors: Tensor) -> None:
    """Raise ``ValueError`` unless tensors have one shape: torch would broadcast others to a wrong result."""
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{shapes}: expected the same shape")


def check_rows(**tensors: Tensor) -> None:
    """Raise ``ValueError`` unless tensors are rows ``(B, K)``, all of one shape."""
    check_same_shape(**tensors)
    for name, tensor in tensors.items():
        if tensor.dim() != 2:
            raise ValueError(f"{name} {tuple(tensor.shape)}: expected rows (B, K)")


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 if their dtype has less precision, else unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
