"""The loss of a supervised classifier."""

from torch import Tensor
from torch.nn import functional


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy between softmax(logits) and the labels, in nats.

    Args:
        logits: ``(B, K)``, any floating dtype; computed in float32 at least.
        labels: ``(B,)``, integers in ``[0, K)``.
        label_smoothing: Share of the target's mass spread evenly over all K classes (Szegedy et al. 2016, section 7).

    Returns:
        A scalar, at least 0.
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
