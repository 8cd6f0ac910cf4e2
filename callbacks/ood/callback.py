"""`OODEvaluation`: how well a classifier tells its own test set from others that it was never trained on."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from ..shared.batches import batch_inputs, batch_logits, to_table
from ..shared.checks import check_at_least, check_shape, require_logits
from ..shared.collect import Collector, Table, log_identical
from ..shared.held_out import HeldOut
from ..shared.loggers import log_figure, log_table
from ..shared.samplers import loader_names, named_loaders
from .figures import auroc_heatmap_figure, roc_figure, score_histogram_figure
from .results import auroc_table, evaluate, log_values
from .scores import odin
from .selection import BUILT_IN, COLUMN, FITTED, NEED_FEATURES, ScoreSelection, score_tables, select_scores


class OODEvaluation(Callback):
    """Measures in ``trainer.test`` how well any classifier tells out-of-distribution data from its own test set.

    The first test set is in-distribution ("ID"), the others are OOD. A larger score means more OOD. Metrics for
    each set and score: AUROC with a bootstrap interval, average precision with OOD and with ID as the positive side,
    the false-positive rate at 95 % true positives both ways, exact in the presence of ties; means over the sets
    named ``near/…`` and ``far/…``. Every sample counts once on any number of processes.

    Scores from logits: "msp", "max_logit", "energy", "entropy", "gen"; from gradients: "odin"; from ``features``:
    "knn", "mahalanobis", "relative_mahalanobis"; from features and the last linear layer: "vim", "react", "ash_s",
    "scale", "gradnorm"; and whatever the module's ``ood_scores(x)`` gives, under names other than these. The fitted
    ones ("knn" to "react") see training data, which are run through the module at the start of the test, without
    augmentation.

    The module needs ``forward(x) -> (B, K)`` logits. If its ``test_step`` returns a dict with "logits", these are
    used and the forward is not run a second time.

    The loggers get ``ood/<set>/<score>/<metric>`` and ``ood/near_mean/<score>/<metric>``; the AUROCs are in
    ``trainer.callback_metrics``; ``trainer.test`` returns and prints the mean AUROCs.

    Detection under shift: a set named ``target/<name>`` holds the classes of the first under a shift. It counts in no
    mean; its own metrics, ``ood/target/<name>/<score>/<metric>``, say how far the shift is detected. And every OOD set
    is judged against it as in-distribution too: ``ood/target/<name>/<set>/<score>/<metric>`` and
    ``ood/target/<name>/near_mean/<score>/<metric>`` go to the loggers, the mean AUROCs to ``callback_metrics`` as
    well. The fitted scores see training data of the first set's side only, whichever set is in-distribution.

    Attributes:
        results: After a test run: "id", "samples", "scores", "sets", "near_mean", "far_mean", "skipped",
            "histograms", "roc". With ``target/`` and OOD sets also "shifted": by name of the target "id", "samples",
            "scores", "sets", "near_mean", "far_mean" with the target as in-distribution.
    """

    report_key = "ood"

    def __init__(
        self,
        scores: list[str] | None = None,
        test_sets: list[str] | None = None,
        resamples: int = 200,
        knn_k: int = 50,
        odin_epsilon: float = 0.0028,
        max_fit_samples: int | None = 10_000,
        fit_data: DataLoader | None = None,
        seed: int = 0,
    ) -> None:
        """Store the arguments.

        Args:
            scores: Names, None for all that can be computed. A named score that cannot be is an error.
            test_sets: Names of the test loaders, in-distribution first, then ``near/<name>``, ``far/<name>`` and
                ``target/<name>``; None for the data module's ``test_sets``.
            resamples: Bootstrap resamples for the 95 % interval of each AUROC; 0 for none. They are most of the
                cost: 200 for 10,000 + 10,000 samples take about 20 ms a score and set.
            knn_k: Neighbour of "knn".
            odin_epsilon: Step of "odin" in units of the module's input: the paper's 0.0014 of pixels in [0, 1] is
                0.0028 in [-1, 1].
            max_fit_samples: At most so many training samples, evenly spread, are run through the module for the
                fitted scores; None for all, as in the papers. The cost of "knn" grows with them.
            fit_data: Loader of ``(x, y)`` for the fitted scores instead of the training data.
            seed: Of the bootstrap.

        Raises:
            ValueError: A number out of range, or names that are not distinct.
        """
        check_at_least(0, resamples=resamples, odin_epsilon=odin_epsilon)
        check_at_least(1, knn_k=knn_k, max_fit_samples=1 if max_fit_samples is None else max_fit_samples)
        for name, names in (("scores", scores), ("test_sets", test_sets)):
            if names is not None and (not names or len(set(names)) < len(names)):
                raise ValueError(f"expected {name} with at least one name, each once, got {names}")
        self.scores = scores
        self.test_sets = test_sets
        self.resamples = resamples
        self.knn_k = knn_k
        self.odin_epsilon = odin_epsilon
        self.max_fit_samples = max_fit_samples
        self.seed = seed
        self._held_out = HeldOut("train", fit_data)
        self.results: dict[str, Any] = {}
        self._selection = ScoreSelection(scores)
        self._collectors: dict[str, Collector] = {}
        self._fit: Table = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise an error for a module without ``forward``, or for a requested score that it cannot give."""
        self._held_out.remember(trainer, stage)
        if stage != "test":
            return
        require_logits(pl_module, "OODEvaluation")
        select_scores(self.scores, pl_module)
        names = loader_names(trainer, "test_sets", self.test_sets)
        if names is not None and len(names) == 1:
            rank_zero_warn(
                f"OODEvaluation has nothing to evaluate: {names[0]!r} is the only test set; name out-of-distribution "
                "sets in the data module's argument ood"
            )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the test sets, and run training data through the module for the fitted scores."""
        self.results, self._collectors, self._fit = {}, {}, {}
        self._selection = select_scores(self.scores, pl_module)
        names, loaders = named_loaders(trainer, "test_sets", self.test_sets, type(self).__name__)
        if len(loaders) == 1:
            if names is None:
                rank_zero_warn("OODEvaluation has nothing to evaluate: there is one test loader only")
            return
        if names is None:
            raise ValueError(
                f"OODEvaluation knows no names for {len(loaders)} loaders: give it "
                "test_sets=[<in-distribution>, 'near/<name>', 'far/<name>', ...], or the data module an attribute "
                "test_sets"
            )
        if self._selection.wants_any(FITTED):
            self._fit = self._collect_fit(trainer, pl_module)
            if not self._fit:
                self._selection.skip(FITTED, "there are no training data to fit it on")
        self._collectors = {
            name: Collector(trainer, loader, f"test set {name!r}") for name, loader in zip(names, loaders, strict=True)
        }

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect logits, features and the scores that need the input."""
        if not self._collectors:
            return
        collector = list(self._collectors.values())[dataloader_idx]
        x = batch_inputs(batch)
        columns = {"logits": batch_logits(trainer, pl_module, outputs, x)}
        with trainer.precision_plugin.forward_context():
            if self._selection.wants_any(NEED_FEATURES):
                columns["features"] = _features(pl_module, x)
            own = self._own_scores(pl_module, x)
            if self._selection.wants("odin"):
                if x.is_floating_point():
                    columns[f"{COLUMN}odin"] = odin(pl_module, x, self.odin_epsilon)
                else:
                    self._selection.skip(["odin"], f"inputs of type {x.dtype} have no gradient")
        collector.add(batch_idx, columns | {f"{COLUMN}{name}": values for name, values in own.items()})

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute all scores and metrics, and log them; see `score_tables` for what is refused."""
        if not self._collectors:
            return
        tables = {name: collector.gather() for name, collector in self._collectors.items()}
        id_name = next(iter(tables))
        self._collectors, fit, self._fit = {}, self._fit, {}
        root = trainer.strategy.root_device
        device = root if root.type == "cuda" else torch.device("cpu")  # not every device has float64
        tolerance = 0.03 if "16" in str(trainer.precision) else 1e-3
        scores = score_tables(tables, id_name, self._selection, pl_module, fit, self.knn_k, tolerance, device)
        self.results = evaluate(scores, id_name, self._selection.skipped, self.resamples, self.seed)
        for reason, names in self._selection.reasons().items():
            rank_zero_info(f"OODEvaluation left out {', '.join(names)}: {reason}")
        values = log_values(self.results)
        everything = dict(values)
        for name, results in self.results.get("shifted", {}).items():
            everything |= log_values(results, f"ood/{name}")
        # not by `log`, which would print each of them once per test loader
        for logger in trainer.loggers:
            logger.log_metrics(everything, step=trainer.global_step)
        aurocs = {name: value for name, value in everything.items() if name.endswith("/auroc")}
        # not all of them: launchers by fork and spawn hang where these metrics fill a pipe (64 kB)
        trainer.callback_metrics.update({name: torch.tensor(aurocs[name]) for name in aurocs if name in values})
        log_identical(pl_module, {name: value for name, value in aurocs.items() if "_mean/" in name})

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report."""
        return self.results

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send heat maps, tables of AUROCs, and histogram and ROC of the energy to the loggers."""
        if not self.results or not trainer.loggers:
            return
        shifted = self.results.get("shifted", {})
        for group, results in {"ood": self.results, **{f"ood/{name}": of for name, of in shifted.items()}}.items():
            log_figure(trainer, f"{group}/auroc", auroc_heatmap_figure(results))
            log_table(trainer, f"{group}/auroc_table", *auroc_table(results))
        for score in [name for name in self.results["scores"] if name == "energy" or name not in BUILT_IN]:
            log_figure(trainer, f"ood/histogram/{score}", score_histogram_figure(self.results, score))
            log_figure(trainer, f"ood/roc/{score}", roc_figure(self.results, score))

    def _collect_fit(self, trainer: Trainer, pl_module: LightningModule) -> Table:
        loader = self._held_out.find(trainer, pl_module)
        if loader is None:
            return {}

        def measure(x: Tensor, y: Tensor) -> Table:
            return {"features": _features(pl_module, x), "label": y.cpu().long()}

        return self._held_out.run(trainer, pl_module, loader, measure, self.max_fit_samples)

    def _own_scores(self, pl_module: LightningModule, x: Tensor) -> Table:
        own: Callable[[Tensor], Table] | None = getattr(pl_module, "ood_scores", None)
        if own is None or (self.scores is not None and all(name in BUILT_IN for name in self.scores)):
            return {}
        name = type(pl_module).__name__
        scores = {score: to_table(values) for score, values in own(x).items()}
        for score, values in scores.items():
            check_shape(values, (len(x),), f"{name}.ood_scores(x)[{score!r}]")
            if score in (*BUILT_IN, "samples") or "/" in score:
                raise ValueError(
                    f"{name}.ood_scores gives {score!r}: choose a name that is not built in and has no '/'"
                )
        wanted = list(scores) if self.scores is None else [score for score in self.scores if score not in BUILT_IN]
        if missing := [score for score in wanted if score not in scores]:
            raise ValueError(f"unknown scores {missing}: {name}.ood_scores gives {list(scores)}, see also {BUILT_IN}")
        return {score: values for score, values in scores.items() if score in wanted}


def _features(pl_module: Any, x: Tensor) -> Tensor:
    return to_table(check_shape(pl_module.features(x), (len(x), "D"), f"{type(pl_module).__name__}.features(x)"))
