"""Evaluation and pictures for any LightningModule."""

from .calibration import CalibrationEvaluation
from .ood import OODEvaluation
from .randomness import Randomness
from .regression import RegressionCalibration
from .report import Report
from .samples import SampleGrid
from .similarity import SimilarityMatrices

__all__ = [
    "CalibrationEvaluation",
    "OODEvaluation",
    "Randomness",
    "RegressionCalibration",
    "Report",
    "SampleGrid",
    "SimilarityMatrices",
]
