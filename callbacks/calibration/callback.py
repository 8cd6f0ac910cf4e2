"""`CalibrationEvaluation`: how far a classifier's confidences can be trusted, before and after temperature."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from ..shared.batches import batch_logits, check_logits, fingerprints, is_labelled, labelled_batch
from ..shared.checks import check_at_least, require_logits
from ..shared.collect import Collector, Table, log_identical
from ..shared.held_out import HeldOut, refuse_same_data, refuse_same_samples
from ..shared.loggers import log_figure, log_table
from ..shared.samplers import named_loaders
from . import metrics
from .figures import reliability_figure

METRICS = ("accuracy", "nll", "brier", "ece", "rmsce", "mce", "ace", "classwise_ece", "aurc", "mean_confidence")


class CalibrationEvaluation(Callback):
    """Measures in ``trainer.test`` how far the confidences of any classifier can be trusted.

    On the first test set: accuracy, NLL in nats, Brier score (summed over classes, in [0, 2]), ECE, its
    root-mean-square form ("rmsce"), MCE, adaptive ECE ("ace": top label, bins of equal counts), class-wise ECE, the
    area under the risk-coverage curve ("aurc") and the mean confidence, each before and after temperature scaling.
    Every sample counts once on any number of processes. Logged as ``calibration/<metric>``,
    ``calibration/<metric>_after`` and ``calibration/temperature``.

    The temperature is fitted on the data module's validation data. They are refused where the two sets draw a
    sample of the same data set, or where more than 10 % of their inputs are equal to test inputs; fewer, as the
    duplicates in real data are, give a warning with their number.

    Calibration under shift: every further test set named ``target/<name>``, which needs labels, is judged by the same
    metrics, before and after that same temperature, so that one sees what the shift did to the confidences and
    whether the temperature still helps. Logged as ``calibration/target/<name>/<metric>`` and
    ``calibration/target/<name>/<metric>_after``.

    The module needs ``forward(x) -> (B, K)`` logits and labelled batches ``(x, y)``. If its ``test_step`` returns
    a dict with "logits", these are used and the forward is not run a second time.

    Attributes:
        results: After a test run: "samples", "classes", "temperature", "before", "after" (each with the metrics and
            a "diagram": "edges", "count", "accuracy", "confidence", None for empty bins). Without validation data
            "temperature" and "after" are None. With ``target/`` sets also "shifted": by name "samples", "before" and
            "after" of each.
    """

    report_key = "calibration"

    def __init__(
        self,
        bins: int = 15,
        right_closed: bool = False,
        calibration_data: DataLoader | None = None,
        test_sets: list[str] | None = None,
    ) -> None:
        """Store the arguments.

        Args:
            bins: Number of bins.
            right_closed: Bins ``(lo, hi]`` as in Guo et al. instead of ``[lo, hi)`` with the last one closed.
            calibration_data: Loader of ``(x, y)`` for the temperature instead of the validation data.
            test_sets: Names of the test loaders, of which those that start with ``target/`` are judged beside the
                first; None for the data module's ``test_sets``, where it has them.

        Raises:
            ValueError: Fewer than one bin, or names that are not distinct.
        """
        check_at_least(1, bins=bins)
        if test_sets is not None and (not test_sets or len(set(test_sets)) < len(test_sets)):
            raise ValueError(f"expected test_sets with at least one name, each once, got {test_sets}")
        self.bins = bins
        self.right_closed = right_closed
        self.test_sets = test_sets
        self._held_out = HeldOut("val", calibration_data)
        self.results: dict[str, Any] = {}
        self._targets: dict[int, str] = {}
        self._collectors: dict[int, Collector] = {}
        self._calibration: Table = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise a ``TypeError`` if the module has no ``forward``."""
        self._held_out.remember(trainer, stage)
        if stage == "test":
            require_logits(pl_module, "CalibrationEvaluation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the calibration data through the module.

        Raises:
            ValueError: Some are drawn from a test set, or the names do not fit the test loaders.
        """
        self.results, self._calibration = {}, {}
        names, loaders = named_loaders(trainer, "test_sets", self.test_sets, type(self).__name__)
        self._targets = {at: name for at, name in enumerate(names or ()) if at and name.startswith("target/")}
        of = {0: "the test set"} | {place: f"test set {name!r}" for place, name in self._targets.items()}
        self._collectors = {place: Collector(trainer, loaders[place], of[place]) for place in of}
        loader = self._held_out.find(trainer, pl_module)
        if loader is None:
            rank_zero_warn("CalibrationEvaluation found no validation data: no temperature is fitted")
            return
        for place, collector in self._collectors.items():
            refuse_same_data(loader, loaders[place], "a temperature", collector.of)

        def measure(x: Tensor, y: Tensor) -> Table:
            logits = batch_logits(trainer, pl_module, None, x)
            return {"logits": logits, "label": y.cpu().long(), "fingerprint": fingerprints(x)}

        self._calibration = self._held_out.run(trainer, pl_module, loader, measure)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect logits and labels of the first test set and of the ``target/`` sets."""
        collector = self._collectors.get(dataloader_idx)
        if collector is None:
            return
        if dataloader_idx and not is_labelled(batch):
            raise ValueError(f"{collector.of} has no labels: expected batches (x, y) to judge its calibration")
        x, y = labelled_batch(batch)
        columns = {"logits": batch_logits(trainer, pl_module, outputs, x), "label": y.cpu().long()}
        if self._calibration:
            columns["fingerprint"] = fingerprints(x)
        collector.add(batch_idx, columns)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics.

        Raises:
            ValueError: Logits that are empty, not finite or probabilities, labels out of range, or more than 10 % of
                the calibration inputs in a test set.
        """
        collectors, self._collectors = self._collectors, {}
        calibration, self._calibration = self._calibration, {}
        tables = {place: collector.gather() for place, collector in collectors.items()}
        for place, table in tables.items():
            _check(table, collectors[place].of)
        temperature = None
        if calibration:
            _check(calibration, "the calibration data")
            for place, table in tables.items():
                inputs = f"inputs of {collectors[place].of}" if place else "test inputs"
                refuse_same_samples(calibration["fingerprint"], table["fingerprint"], "a temperature", inputs)
            fit = metrics.fit_temperature(calibration["logits"], calibration["label"])
            if not fit.converged:
                rank_zero_warn(f"the fit of the temperature did not converge: it ended at T = {fit.value:.4g}")
            temperature = fit.value
        self.results = {"classes": tables[0]["logits"].shape[1], "temperature": temperature}
        self.results |= self._judge(tables[0], temperature)
        if self._targets:
            shifted = {name: self._judge(tables[place], temperature) for place, name in self._targets.items()}
            self.results["shifted"] = shifted
        logged = {} if temperature is None else {"calibration/temperature": temperature}
        for group, judged in self._groups().items():
            logged |= {f"{group}/{name}": judged["before"][name] for name in METRICS}
            logged |= {f"{group}/{name}_after": judged["after"][name] for name in METRICS if judged["after"]}
        log_identical(pl_module, logged)

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report."""
        return self.results

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the reliability diagrams and the tables of metrics to the loggers."""
        for group, judged in self._groups().items() if trainer.loggers else ():
            log_figure(trainer, f"{group}/reliability", reliability_figure(self.results | judged))
            after = judged["after"] or {}
            rows = [[name, judged["before"][name], after.get(name)] for name in METRICS]
            log_table(trainer, f"{group}/figures", ["metric", "before", "after"], rows)

    def _groups(self) -> dict[str, dict[str, Any]]:
        """The results of each judged test set by the start of its log keys."""
        shifted = self.results.get("shifted", {})
        first = {"calibration": self.results} if self.results else {}
        return first | {f"calibration/{name}": judged for name, judged in shifted.items()}

    def _judge(self, table: Table, temperature: float | None) -> dict[str, Any]:
        """Metrics of a set before and after the temperature."""
        logits, labels = table["logits"], table["label"]
        return {
            "samples": len(labels),
            "before": self._metrics(logits, labels),
            "after": None if temperature is None else self._metrics(logits.double() / temperature, labels),
        }

    def _metrics(self, logits: Tensor, labels: Tensor) -> dict[str, Any]:
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


def _check(table: Table, of: str) -> None:
    check_logits(table.get("logits", torch.empty(0, 2)), of)
    labels, classes = table["label"], table["logits"].shape[1]
    if broken := int(((labels < 0) | (labels >= classes)).sum()):
        raise ValueError(
            f"labels of {of} out of range for {broken} of {len(labels)} samples: expected 0 to {classes - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
