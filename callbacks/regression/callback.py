"""`RegressionCalibration`: how good a regressor's predictive distributions are, before and after recalibration."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from ..shared.batches import data_module, fingerprints, has_targets, target_batch
from ..shared.checks import require_method
from ..shared.collect import Collector, Table, log_identical
from ..shared.held_out import HeldOut, refuse_same_data, refuse_same_samples
from ..shared.loggers import log_figure, log_table
from ..shared.samplers import flatten_loaders
from . import metrics
from .figures import fan_figure, pit_figure, quantile_figure
from .predictive import PredictiveDistribution, predictive_distribution, recalibrated

METRICS = ("rmse", "mae", "crps", "nll", "qce", "qce_squared", "sharpness")
OF_INTERVALS = ("coverage", "width", "winkler")
PIT_BINS, FEW = 20, 400  # half as many bins for fewer labels
SHOWN = 200  # test rows in the fan


class RegressionCalibration(Callback):
    """Measures in ``trainer.test`` how good the predictive distributions of any regressor are, on the first test set.

    All in the units of the labels, each before and after recalibration:

    * RMSE and MAE of the predictive mean, ``sharpness`` (the mean predictive standard deviation);
    * CRPS, and NLL in nats, infinite where a label has a predicted density of zero;
    * ``qce``, the quantile calibration error: mean |coverage - level| over the levels 1 to 99 % (Chung et al. 2021),
      and ``qce_squared``, the mean square (Kuleshov et al. 2018);
    * coverage, mean width and Winkler score (Gneiting and Raftery 2007) of central intervals.

    The recalibrated distribution function is R(F(y)), where R is an isotonic regression of the PIT values F(y) of the
    data module's validation data (Kuleshov et al. 2018; see `fit_recalibration`), and all metrics are those of that
    distribution. Validation data are refused where the two sets draw a sample of the same data set,
    or where more than 10 % of their rows (inputs and label) are equal to test rows; fewer give a warning.

    Every sample counts once on any number of processes. Logged as ``calibration/<metric>``, intervals as
    ``calibration/coverage_90`` and so on, each with ``_after`` too.

    The module needs ``predictive(x)``: a ``torch.distributions.Distribution`` of batch shape (B,) over the units of
    y, and batches ``(x, y)`` with real numbers y (B,). The CRPS is in closed form for Normal, Laplace, mixtures of
    Normals and histograms (attributes ``edges`` (k + 1,) or (B, k + 1) and ``probs`` (B, k)), numerical for any other
    distribution with a ``cdf``: see `callbacks.regression.predictive`.

    Args:
        levels: Of the central intervals, in (0, 1).
        calibration_data: Loader of ``(x, y)`` for the recalibration instead of the validation data.

    Attributes:
        results: After a test run: "samples", "law" (family of the distributions), "target" (the data module's
            ``target_name``, or None), "levels", "qce_by_chance" (of a perfect forecaster on so many labels), "before",
            "after" and "recalibration" ("samples", "qce_by_chance" for a map fitted on so many, and the knots of R as
            "pit" and "level"). Each part has the metrics, the
            standard errors "<metric>_error" of the first four, "zero_density" (labels with an infinite NLL),
            "intervals" (a dict of lists, one entry for each level), "curve" (coverage at the levels 1 to 99 %), "pit"
            (counts) and "fan" (rows sorted by prediction). Without validation data "after" and "recalibration" are
            None.

    Raises:
        ValueError: No level, or one outside (0, 1).
    """

    report_key = "regression"

    def __init__(
        self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95), calibration_data: DataLoader | None = None
    ) -> None:
        if not levels or not all(0 < level < 1 for level in levels):
            raise ValueError(f"expected levels of central intervals in (0, 1), got levels={list(levels)}")
        self.levels = sorted(set(levels))
        self.results: dict[str, Any] = {}
        self._collector: Collector | None = None
        self._calibration: Table = {}
        self._recalibration: metrics.Recalibration | None = None
        self._family = ""
        self._held_out = HeldOut("val", calibration_data, has_targets, target_batch)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise a ``TypeError`` if the module has no ``predictive``."""
        self._held_out.remember(trainer, stage)
        if stage == "test":
            signature = "predictive(x) -> a torch.distributions.Distribution of batch shape (B,)"
            require_method(pl_module, signature, "RegressionCalibration")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the recalibration.

        Raises:
            ValueError: Its data are drawn from the test set, or have labels or predictions that are not finite.
        """
        self.results, self._calibration, self._recalibration = {}, {}, None
        test_loader = flatten_loaders(trainer.test_dataloaders)[0]
        self._collector = Collector(trainer, test_loader, "the test set")
        loader = self._held_out.find(trainer, pl_module)
        if loader is None:
            rank_zero_warn("RegressionCalibration found no validation data: nothing is recalibrated")
            return
        refuse_same_data(loader, test_loader, "a recalibration")

        def measure(x: Tensor, y: Tensor) -> Table:
            predicted, labels = self._predict(trainer, pl_module, x), y.cpu().double()
            pit = predicted.cdf(labels[:, None])[:, 0]
            return {"label": labels, "mean": predicted.mean, "pit": pit, "fingerprint": _fingerprints(x, y)}

        self._calibration = self._held_out.run(trainer, pl_module, loader, measure)
        if self._calibration:
            _check(self._calibration, "the calibration data")
            self._recalibration = metrics.fit_recalibration(self._calibration["pit"])

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Measure the predictive distributions of the first test set."""
        if dataloader_idx or self._collector is None:
            return
        x, y = target_batch(batch)
        predicted, labels = self._predict(trainer, pl_module, x), y.cpu().double()
        columns = {"label": labels} | _measured(predicted, labels, self.levels)
        if self._recalibration is not None:
            after = _measured(recalibrated(predicted, self._recalibration), labels, self.levels)
            columns |= {f"{name}_after": column for name, column in after.items()}
            columns["fingerprint"] = _fingerprints(x, y)
        self._collector.add(batch_idx, columns)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics.

        Raises:
            ValueError: Labels or predictions that are not finite, or more than 10 % of the calibration rows in the
                test set.
        """
        if self._collector is None:
            return
        test, self._collector = self._collector.gather(), None
        calibration, self._calibration = self._calibration, {}
        _check(test, "the test set")
        fit = self._recalibration
        if fit is not None:
            refuse_same_samples(calibration["fingerprint"], test["fingerprint"], "a recalibration")
        name = getattr(data_module(trainer), "target_name", None)
        self.results = {
            "samples": len(test["label"]),
            "law": self._family,
            "target": name if isinstance(name, str) else None,
            "levels": self.levels,
            "qce_by_chance": metrics.expected_calibration_error_by_chance(len(test["label"])),
            "before": _judged(test, "", self.levels),
            "after": None if fit is None else _judged(test, "_after", self.levels),
            "recalibration": None,
        }
        if fit is not None:
            self.results["recalibration"] = {
                "samples": fit.samples,
                "qce_by_chance": metrics.expected_calibration_error_by_chance(len(test["label"]), fit.samples),
                "pit": fit.pit.tolist(),
                "level": fit.level.tolist(),
            }
        for part, suffix in (("before", ""), ("after", "_after")):
            values = self._logged(part).items()
            log_identical(pl_module, {f"calibration/{name}{suffix}": value for name, value in values})

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report."""
        return self.results

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the pictures and the table of metrics to the loggers."""
        if self.results and trainer.loggers:
            log_figure(trainer, "calibration/quantiles", quantile_figure(self.results))
            log_figure(trainer, "calibration/pit", pit_figure(self.results))
            log_figure(trainer, "calibration/fan", fan_figure(self.results))
            after = self._logged("after")
            rows = [[name, value, after.get(name)] for name, value in self._logged("before").items()]
            log_table(trainer, "calibration/figures", ["metric", "before", "after"], rows)

    def _logged(self, part: str) -> dict[str, float]:
        """The metrics before or after recalibration by the name under which they are logged; empty without them."""
        values = self.results[part]
        if values is None:
            return {}
        logged = {name: values[name] for name in METRICS}
        for index, level in enumerate(self.levels):
            logged |= {f"{name}_{100 * level:g}": values["intervals"][name][index] for name in OF_INTERVALS}
        return logged

    def _predict(self, trainer: Trainer, pl_module: Any, x: Tensor) -> PredictiveDistribution:
        with trainer.precision_plugin.forward_context():
            distribution = pl_module.predictive(x)
        predicted = predictive_distribution(distribution, len(x), type(pl_module).__name__)
        self._family = predicted.name
        return predicted


def _fingerprints(x: Tensor, y: Tensor) -> Tensor:
    """Of rows, label included: equal inputs with other labels are repeated measurements, not copies."""
    return 3 * fingerprints(x) + fingerprints(y)


def _measured(predicted: PredictiveDistribution, labels: Tensor, levels: Sequence[float]) -> Table:
    tails = torch.tensor([(1 + sign * level) / 2 for sign in (-1, 1) for level in levels], dtype=torch.float64)
    low, high = predicted.icdf(tails).tensor_split(2, dim=1)
    return {
        "mean": predicted.mean,
        "deviation": predicted.deviation,
        "pit": predicted.cdf(labels[:, None])[:, 0],
        "nll": -predicted.log_prob(labels),
        "crps": predicted.crps(labels),
        "low": low,
        "high": high,
    }


def _check(table: Table, of: str) -> None:
    if not table:
        raise ValueError(f"no samples in {of}")
    rows = len(table["label"])
    for name, column in (("labels", table["label"]), ("predictions", table["mean"] + table["pit"])):
        if broken := int((~column.isfinite()).sum()):
            raise ValueError(f"NaN or infinite {name} for {broken} of {rows} samples of {of}")


def _judged(table: Table, suffix: str, levels: Sequence[float]) -> dict[str, Any]:
    names = ("mean", "deviation", "pit", "nll", "crps", "low", "high")
    mean, deviation, pit, nll, crps, low, high = (table[name + suffix] for name in names)
    labels = table["label"]
    error = mean - labels
    rmse = error.square().mean().sqrt().item()
    coverage = metrics.quantile_coverage(pit)
    qce, qce_squared = metrics.quantile_calibration_error(coverage)
    inside = (low <= labels[:, None]) & (labels[:, None] <= high)
    winkler = [metrics.interval_score(low[:, k], high[:, k], labels, level) for k, level in enumerate(levels)]
    squared_error = _standard_error(error.square())
    means = {"mae": error.abs(), "crps": crps, "nll": nll}
    return {
        "rmse": rmse,
        "rmse_error": squared_error and squared_error / (2 * rmse),  # to first order
        **{name: values.mean().item() for name, values in means.items()},
        **{f"{name}_error": _standard_error(values) for name, values in means.items()},
        "zero_density": int(nll.isposinf().sum()),
        "qce": qce,
        "qce_squared": qce_squared,
        "sharpness": deviation.mean().item(),
        "intervals": {
            "coverage": [column.double().mean().item() for column in inside.T],
            "width": [column.mean().item() for column in (high - low).T],
            "winkler": [score.mean().item() for score in winkler],
        },
        "curve": coverage.tolist(),
        "pit": metrics.pit_histogram(pit, PIT_BINS if len(pit) >= FEW else PIT_BINS // 2),
        "fan": _fan(mean, low, high, labels),
    }


def _standard_error(values: Tensor) -> float | None:
    """Of the mean; None where it is unknown, for one value and for infinite ones."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return error if math.isfinite(error) else None


def _fan(mean: Tensor, low: Tensor, high: Tensor, labels: Tensor) -> dict[str, list]:
    """At most `SHOWN` rows, evenly spread over all, sorted by prediction."""
    number = min(SHOWN, len(labels))
    rows = torch.argsort(mean, stable=True)[torch.arange(number) * len(labels) // number]
    fan = {"prediction": mean, "label": labels, "low": low.T, "high": high.T}
    return {name: values[..., rows].tolist() for name, values in fan.items()}
