"""Domain adaptation judged without a label of the target: validators, proxy distance, decision regions."""

from . import report as report  # adds the room's section to the report
from .callback import AdaptationEvaluation
from .decision_regions import DecisionRegions
from .density_ratio import density_ratio
from .proxy_distance import ProxyDistance, proxy_a_distance
from .validators import (
    deep_embedded_validation,
    diversity_score,
    entropy_score,
    information_maximisation,
    soft_neighbourhood_density,
    source_accuracy,
)

__all__ = [
    "AdaptationEvaluation",
    "DecisionRegions",
    "ProxyDistance",
    "deep_embedded_validation",
    "density_ratio",
    "diversity_score",
    "entropy_score",
    "information_maximisation",
    "proxy_a_distance",
    "soft_neighbourhood_density",
    "source_accuracy",
]
