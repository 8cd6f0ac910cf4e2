"""Calibration of classifiers: errors by bins, proper scores, temperature scaling."""

from . import report as report  # adds the room's section to the report
from .callback import CalibrationEvaluation
from .metrics import (
    Bins,
    Temperature,
    accuracy,
    adaptive_ece,
    aurc,
    brier,
    classwise_ece,
    ece,
    fit_temperature,
    mce,
    nll,
    reliability,
    rmsce,
    softmax,
    top_label,
)

__all__ = [
    "Bins",
    "CalibrationEvaluation",
    "Temperature",
    "accuracy",
    "adaptive_ece",
    "aurc",
    "brier",
    "classwise_ece",
    "ece",
    "fit_temperature",
    "mce",
    "nll",
    "reliability",
    "rmsce",
    "softmax",
    "top_label",
]
