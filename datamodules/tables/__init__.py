"""Tables for regression: features standardised by the training rows, labels in their units."""

from .base import CSVRegressionDataModule, UCIRegressionDataModule
from .sine import SineDataModule

__all__ = ["CSVRegressionDataModule", "SineDataModule", "UCIRegressionDataModule"]
