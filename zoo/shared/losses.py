"""The loss of class labels."""

import torch
from torch import Tensor
from torch.nn import functional

NO_LABEL = -(2**31)  # torch leaves labels of -100 out of the mean, without a word, unless told another number


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy between softmax(logits) and the labels, in nats; NaN for an empty batch.

    Args:
        logits: ``(B, K)``, any floating dtype; computed in float32 at least.
        labels: ``(B,)``, integers in ``[0, K)`` of any dtype; torch refuses others.
        label_smoothing: Share of the target's mass spread evenly over all K classes, in [0, 1].

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: For labels that are no integers or do not fit the logits, or a share out of range.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected a share in [0, 1]")
    labels = class_indices(logits, labels)
    return functional.cross_entropy(
        at_least_float32(logits), labels, ignore_index=NO_LABEL, label_smoothing=label_smoothing
    )


def class_indices(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels as torch wants them to count classes with. Only shapes and dtypes are looked at, which costs nothing.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)``, integers of any dtype.

    Returns:
        ``(B,)`` int64.

    Raises:
        ValueError: For labels that are no integers, or do not fit the logits.
    """
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} of {labels.dtype} with logits {tuple(logits.shape)}: expected integers (B,) "
            "with (B, K)"
        )
    return labels.long()


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of different shapes, which torch would broadcast to a wrong number without a word.

    Args:
        **tensors: By the names that the error shall have.

    Raises:
        ValueError: With the shapes.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{found}: expected the same shape")


def check_rows(**tensors: Tensor) -> None:
    """Refuse tensors that are no rows ``(B, K)``, all of one shape.

    Args:
        **tensors: By the names that the error shall have.

    Raises:
        ValueError: With the shapes.
    """
    check_same_shape(**tensors)
    for name, tensor in tensors.items():
        if tensor.dim() != 2:
            raise ValueError(f"{name} {tuple(tensor.shape)}: expected rows (B, K)")


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; all else as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
