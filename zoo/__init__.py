"""The zoo: one paper, one LightningModule with its own loss."""

from .classifier import Classifier
from .dann import DANN
from .distillation import HistogramDistillation, KnowledgeDistillation
from .histogram_loss import GaussianRegression, HistogramRegression, MixtureDensityNetwork, PointRegression
from .jem import JEM
from .local_error import LocalErrorSignals

__all__ = [
    "DANN",
    "JEM",
    "Classifier",
    "GaussianRegression",
    "HistogramDistillation",
    "HistogramRegression",
    "KnowledgeDistillation",
    "LocalErrorSignals",
    "MixtureDensityNetwork",
    "PointRegression",
]
