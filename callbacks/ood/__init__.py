"""Out-of-distribution detection: scores of logits and features, and the metrics that judge them."""

from . import report as report  # adds the room's section to the report
from .callback import OODEvaluation
from .feature_scores import (
    Head,
    ash_s,
    find_head,
    fit_knn,
    fit_mahalanobis,
    fit_react,
    fit_relative_mahalanobis,
    fit_vim,
    gradnorm,
    scale,
)
from .metrics import (
    Curve,
    auroc,
    average_precision,
    bootstrap_aurocs,
    bootstrap_interval,
    detection_metrics,
    flip,
    fpr95,
    roc,
)
from .scores import energy, entropy, gen, max_logit, msp, odin

__all__ = [
    "Curve",
    "Head",
    "OODEvaluation",
    "ash_s",
    "auroc",
    "average_precision",
    "bootstrap_aurocs",
    "bootstrap_interval",
    "detection_metrics",
    "energy",
    "entropy",
    "find_head",
    "fit_knn",
    "fit_mahalanobis",
    "fit_react",
    "fit_relative_mahalanobis",
    "fit_vim",
    "flip",
    "fpr95",
    "gen",
    "gradnorm",
    "max_logit",
    "msp",
    "odin",
    "roc",
    "scale",
]
