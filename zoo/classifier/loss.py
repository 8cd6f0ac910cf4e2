"""The loss of a supervised classifier."""

from torch import Tensor

from ..shared.losses import cross_entropy


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy between softmax(logits) and the labels, in nats; see `cross_entropy` for what it raises.

    Args:
        logits: ``(B, K)``, any floating dtype.
        labels: ``(B,)``, integers in ``[0, K)``.
        label_smoothing: Share of the target's mass spread evenly over all K classes (Szegedy et al. 2016, section 7).

    Returns:
        A scalar, at least 0; NaN for an empty batch.
    """
    return cross_entropy(logits, labels, label_smoothing)
