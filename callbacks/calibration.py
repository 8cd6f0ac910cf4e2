"""`CalibrationEvaluation`: how far a classifier's confidences can be trusted, before and after temperature."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from . import calibration_metrics as metrics
from .collect import (
    Collector,
    Table,
    batch_logits,
    check_logits,
    data_module,
    fingerprints,
    flatten_loaders,
    labelled_batch,
)
from .figures import reliability_figure
from .fit_data import find_loader, refuse_same_data, refuse_same_samples, run_through
from .loggers import log_figure, log_table

FIGURES = ("accuracy", "nll", "brier", "ece", "rmsce", "mce", "ace", "classwise_ece", "aurc", "mean_confidence")


class CalibrationEvaluation(Callback):
    """Judges the confidences of any classifier in ``trainer.test``, on the first test set.

    Accuracy, NLL in nats, Brier score (summed over classes, in [0, 2]), ECE, its root-mean-square form ("rmsce"),
    MCE, adaptive ECE ("ace": top label, bins of equal counts), class-wise ECE, the area under the risk-coverage curve
    ("aurc") and the mean confidence, each before and after temperature scaling. Every sample counts once on any
    number of processes. Logged as ``calibration/<figure>``, ``calibration/<figure>_after`` and
    ``calibration/temperature``.

    The temperature is fitted on the data module's validation data. They are refused where the two sets draw a
    sample of the same data set, or where more than 10 % of their inputs are equal to test inputs; fewer, as the
    duplicates in real data are, give a warning with their number.

    The module needs ``forward(x) -> (B, K)`` logits and labelled batches ``(x, y)``. If its ``test_step`` returns
    a dict with "logits", these are used and the forward is not run a second time.

    Attributes:
        results: After a test run: "samples", "classes", "temperature", "before", "after" (each with the figures and
            a "diagram": "edges", "count", "accuracy", "confidence", None for empty bins). Without validation data
            "temperature" and "after" are None.
    """

    def __init__(self, bins: int = 15, right_closed: bool = False, calibration_data: DataLoader | None = None) -> None:
        """Store the arguments.

        Args:
            bins: Number of bins.
            right_closed: Bins ``(lo, hi]`` as in Guo et al. instead of ``[lo, hi)`` with the last one closed.
            calibration_data: Loader of ``(x, y)`` for the temperature instead of the validation data.

        Raises:
            ValueError: Fewer than one bin.
        """
        if bins < 1:
            raise ValueError(f"expected at least one bin, got bins={bins}")
        self.bins = bins
        self.right_closed = right_closed
        self.calibration_data = calibration_data
        self.results: dict[str, Any] = {}
        self._collector: Collector | None = None
        self._calibration: Table = {}
        self._set_up_for_fit: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the module.

        Raises:
            ValueError: It has no forward.
        """
        if stage == "fit":
            self._set_up_for_fit = id(data_module(trainer))
        if stage == "test" and not is_overridden("forward", pl_module):
            raise ValueError(f"CalibrationEvaluation needs forward(x) -> (B, K) logits: {_name(pl_module)} has none")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the calibration data through the module.

        Raises:
            ValueError: Some are drawn from the test set.
        """
        self.results = {}
        test_loader = flatten_loaders(trainer.test_dataloaders)[0]
        self._collector = Collector(trainer, test_loader, "the test set")
        self._calibration = {}
        loader = self.calibration_data
        if loader is None:
            is_set_up = self._set_up_for_fit == id(data_module(trainer))
            loader = find_loader(trainer, pl_module, "val", is_set_up)
        if loader is None:
            rank_zero_warn("CalibrationEvaluation found no validation data: no temperature is fitted")
            return
        refuse_same_data(loader, test_loader, "a temperature")

        def measure(x: Tensor, y: Tensor) -> Table:
            logits = batch_logits(trainer, pl_module, None, x)
            return {"logits": logits, "label": y.cpu().long(), "fingerprint": fingerprints(x)}

        limit = 1.0 if self.calibration_data is not None else trainer.limit_val_batches
        self._calibration = run_through(trainer, pl_module, loader, measure, limit)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect logits and labels of the first test set."""
        if dataloader_idx == 0 and self._collector is not None:
            x, y = labelled_batch(batch)
            columns = {"logits": batch_logits(trainer, pl_module, outputs, x), "label": y.cpu().long()}
            if self._calibration:
                columns["fingerprint"] = fingerprints(x)
            self._collector.add(batch_idx, columns)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the figures.

        Raises:
            ValueError: Logits that are none, labels out of range, or more than 10 % of the calibration inputs in the
                test set.
        """
        if self._collector is None:
            return
        test, self._collector = self._collector.gather(), None
        calibration, self._calibration = self._calibration, {}
        _check(test, "the test set")
        self.results = {
            "samples": len(test["label"]),
            "classes": test["logits"].shape[1],
            "temperature": None,
            "before": self._judge(test["logits"], test["label"]),
            "after": None,
        }
        if calibration:
            _check(calibration, "the calibration data")
            refuse_same_samples(calibration["fingerprint"], test["fingerprint"], "a temperature")
            fit = metrics.fit_temperature(calibration["logits"], calibration["label"])
            if not fit.converged:
                rank_zero_warn(f"the fit of the temperature did not converge: it ended at T = {fit.value:.4g}")
            self.results["temperature"] = fit.value
            self.results["after"] = self._judge(test["logits"].double() / fit.value, test["label"])
        figures = {f"calibration/{name}": self.results["before"][name] for name in FIGURES}
        if self.results["after"]:
            figures |= {f"calibration/{name}_after": self.results["after"][name] for name in FIGURES}
            figures["calibration/temperature"] = self.results["temperature"]
        # equal on all processes: the largest is all of them, to the last digit
        pl_module.log_dict(figures, reduce_fx="max", sync_dist=trainer.world_size > 1, add_dataloader_idx=False)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the reliability diagrams and the table of figures to the loggers."""
        if self.results and trainer.is_global_zero and trainer.loggers:
            log_figure(trainer, "calibration/reliability", reliability_figure(self.results))
            after = self.results["after"] or {}
            rows = [[name, self.results["before"][name], after.get(name)] for name in FIGURES]
            log_table(trainer, "calibration/figures", ["figure", "before", "after"], rows)

    def _judge(self, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        p, y = metrics.softmax(logits), labels.numpy()
        confidence, correct = metrics.top_label(p, y)
        bins = metrics.reliability(confidence, correct, self.bins, self.right_closed)
        return {
            "accuracy": metrics.accuracy(p, y),
            "nll": metrics.nll(logits, labels),
            "brier": metrics.brier(p, y),
            "ece": metrics.ece(bins),
            "rmsce": metrics.rmsce(bins),
            "mce": metrics.mce(bins),
            "ace": metrics.adaptive_ece(confidence, correct, self.bins),
            "classwise_ece": metrics.classwise_ece(p, y, self.bins, self.right_closed),
            "aurc": metrics.aurc(confidence, correct),
            "mean_confidence": float(confidence.mean()),
            "diagram": {
                "edges": bins.edges.tolist(),
                "count": bins.count.tolist(),
                "accuracy": [None if value != value else value for value in bins.accuracy.tolist()],
                "confidence": [None if value != value else value for value in bins.confidence.tolist()],
            },
        }


def _name(pl_module: LightningModule) -> str:
    return type(pl_module).__name__


def _check(table: Table, of: str) -> None:
    check_logits(table.get("logits", torch.empty(0, 2)), of)
    labels, classes = table["label"], table["logits"].shape[1]
    if broken := int(((labels < 0) | (labels >= classes)).sum()):
        raise ValueError(
            f"labels of {of} out of range for {broken} of {len(labels)} samples: expected 0 to {classes - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
