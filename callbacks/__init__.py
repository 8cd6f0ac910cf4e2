"""Evaluation and pictures for any LightningModule."""

from .adaptation.callback import AdaptationEvaluation
from .adaptation.decision_regions import DecisionRegions
from .calibration.callback import CalibrationEvaluation
from .disentanglement.callback import DisentanglementEvaluation
from .disentanglement.latents import LatentPictures
from .generation.samples import SampleGrid
from .ood.callback import OODEvaluation
from .regression.callback import RegressionCalibration
from .report import Report
from .runs.clean_stop import CleanStop
from .runs.end_together import EndTogether
from .runs.kept_logs import KeptLogs, ResumableCSVLogger
from .runs.mid_epoch import MidEpochCheckpoint
from .runs.randomness import Randomness
from .similarity.callback import SimilarityMatrices

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
