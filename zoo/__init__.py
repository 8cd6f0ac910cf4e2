"""The zoo: one paper, one LightningModule with its own loss."""

from .classifier import Classifier
from .jem import JEM
from .local_error import LocalErrorSignals

__all__ = ["JEM", "Classifier", "LocalErrorSignals"]
