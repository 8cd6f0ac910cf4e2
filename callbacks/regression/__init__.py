"""Calibration of regressors: CRPS, quantiles, intervals, isotonic recalibration."""

from . import report as report  # adds the room's section to the report
from .callback import RegressionCalibration
from .metrics import (
    Recalibration,
    crps_histogram,
    crps_laplace,
    crps_normal,
    crps_normal_mixture,
    expected_calibration_error_by_chance,
    fit_recalibration,
    interval_score,
    pit_histogram,
    quantile_calibration_error,
    quantile_coverage,
)
from .predictive import PredictiveDistribution, predictive_distribution, recalibrated

__all__ = [
    "PredictiveDistribution",
    "Recalibration",
    "RegressionCalibration",
    "crps_histogram",
    "crps_laplace",
    "crps_normal",
    "crps_normal_mixture",
    "expected_calibration_error_by_chance",
    "fit_recalibration",
    "interval_score",
    "pit_histogram",
    "predictive_distribution",
    "quantile_calibration_error",
    "quantile_coverage",
    "recalibrated",
]
