"""The loss of class labels."""

from torch import Tensor
from torch.nn import functional

from .batches import class_indices
from .precision import at_least_float32

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
