"""Evaluation and pictures for any LightningModule."""

from .adaptation import AdaptationEvaluation
from .calibration import CalibrationEvaluation
from .clean_stop import CleanStop
from .decision_regions import DecisionRegions
from .disentanglement_evaluation import DisentanglementEvaluation
from .end_together import EndTogether
from .kept_logs import KeptLogs, ResumableCSVLogger
from .latents import LatentPictures
from .mid_epoch import MidEpochCheckpoint
from .ood import OODEvaluation
from .randomness import Randomness
from .regression import RegressionCalibration
from .report import Report
from .samples import SampleGrid
from .similarity import SimilarityMatrices

__all__ = [
    "AdaptationEvaluation",
    "CalibrationEvaluation",
    "CleanStop",
    "DecisionRegions",
    "DisentanglementEvaluation",
    "EndTogether",
    "KeptLogs",
    "LatentPictures",
    "MidEpochCheckpoint",
    "OODEvaluation",
    "Randomness",
    "RegressionCalibration",
    "Report",
    "ResumableCSVLogger",
    "SampleGrid",
    "SimilarityMatrices",
]
