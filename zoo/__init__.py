"""The zoo: one paper, one LightningModule with its own loss."""

from .classifier import Classifier
from .dann import DANN
from .disentanglement import DIPVAE, AnnealedVAE, BetaTCVAE, BetaVAE, FactorVAE
from .distillation import HistogramDistillation, KnowledgeDistillation
from .histogram_loss import GaussianRegression, HistogramRegression, MixtureDensityNetwork, PointRegression
from .jem import JEM
from .local_error import LocalErrorSignals

__all__ = [
    "DANN",
    "DIPVAE",
    "JEM",
    "AnnealedVAE",
    "BetaTCVAE",
    "BetaVAE",
    "Classifier",
    "FactorVAE",
    "GaussianRegression",
    "HistogramDistillation",
    "HistogramRegression",
    "KnowledgeDistillation",
    "LocalErrorSignals",
    "MixtureDensityNetwork",
    "PointRegression",
]
