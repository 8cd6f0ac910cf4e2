"""The zoo: one paper, one LightningModule with its own loss."""

from .classifier import Classifier
from .jem import JEM

__all__ = ["JEM", "Classifier"]
