"""The loss of a supervised classifier: cross-entropy with label smoothing, from the functions that papers share."""

from ..shared.losses import cross_entropy as classification_loss

__all__ = ["classification_loss"]
