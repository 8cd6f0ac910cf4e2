"""`AdaptationEvaluation`: scores for choosing a checkpoint of domain adaptation without target labels."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch.utils.data import DataLoader

from ..shared.checks import check_at_least
from ..shared.collect import log_identical
from ..shared.held_out import HeldOut
from ..shared.loggers import log_figure
from ..shared.random_state import preserved_random_state
from ..shared.samplers import loader_names
from . import validators
from .density_ratio import density_ratio
from .domains import (
    DomainCollector,
    DomainRows,
    Domains,
    check_module,
    evenly,
    find_domains,
    find_target,
    oracle_metrics,
    run_features,
    training_loader,
    validating,
)
from .figures import domains_figure, in_plane, picture_of, tsne
from .proxy_distance import FEWEST, proxy_a_distance

NAME = "AdaptationEvaluation"
MAX_WEIGHT = "validator/dev_max_weight"


class AdaptationEvaluation(Callback):
    """Judges domain adaptation without target labels after each validation, in ``trainer.fit`` and ``validate``.

    The source is the first validation loader, the target the first that is named ``target/<name>`` in the data module's
    ``val_sets``; without names it is the second. Batches are ``(x, y)``, in the target also ``x``. The module needs
    ``forward(x) -> (B, K)`` logits and ``domain_features(x) -> (B, D)``, what its domain head sees, or ``features(x) ->
    (B, D)``. If its ``validation_step`` returns a dict with "logits", these are used.

    It logs validators. All are larger for a better model and, but for the accuracy, in nats:

    * ``validator/source_accuracy`` on source validation data;
    * ``validator/entropy`` (minus the mean entropy), ``validator/diversity`` and their sum
      ``validator/information_maximisation`` from the target's logits;
    * ``validator/accuracy_and_information``: source accuracy + information maximisation / log K, in [0, 2]. Begin with
      this one: it needs both a good classifier and certain, diverse predictions on the target;
    * ``validator/snd``: soft neighbourhood density of the target's class probabilities;
    * ``validator/dev``: deep embedded validation, the importance-weighted cross-entropy of the source validation data,
      with density ratios from the domain features of source training and target validation data. Beside it
      ``validator/dev_max_weight``, the largest ratio: with one of hundreds the score means nothing.

    Any of them can be ``ModelCheckpoint(monitor="validator/…", mode="max")``. Target labels, where the batches have
    them, are used for ``oracle/val_acc`` and ``oracle/val_nll`` only: not to be monitored in adaptation without labels.

    Every sample counts once on any number of processes. The sanity check is left out. The random state and the loaders
    of the training are not changed. A run that diverged is not ended: where logits or features are not finite there is
    a warning, and the validators are logged as minus infinity, for otherwise `ModelCheckpoint` would go by the values
    of an earlier epoch.

    In ``trainer.test``, the first test set and the one named ``target/<name>`` in ``test_sets`` give
    ``oracle/test_acc``, ``oracle/test_nll`` and ``adaptation/proxy_a_distance`` of the domain features (how well a
    freshly trained classifier tells the domains apart, in [0, 2]). The loggers get figures of the domain features by
    domain and by class, before and after training: ``adaptation/pca`` and ``adaptation/tsne``. The features before
    training are those of the validation data at the start of the fit. `Report` shows all of it.

    Attributes:
        validation: The metrics of the last validation, by name. Kept in checkpoints.
        results: After a test run: "names" of source and target, "samples" of each, "validation" (see above), "monitors"
            (of checkpoints and early stopping), "test" ("source_accuracy", with labels also "acc" and "nll" of the
            oracle), "proxy_a_distance" ("value", "optimistic", "error"), "pca" and "tsne" (see `domains_figure`).
    """

    report_key = "adaptation"

    def __init__(
        self,
        max_samples: int = 2000,
        dev_every_n_epochs: int = 1,
        max_points: int = 300,
        val_sets: list[str] | None = None,
        test_sets: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        """Store the arguments.

        Args:
            max_samples: Largest number of samples of each domain, evenly spread, for the density of neighbourhoods,
                deep embedded validation and the proxy A-distance; all others take every sample. At least 10.
            dev_every_n_epochs: Deep embedded validation takes longest (half a second for 768 features) and comes only
                every so many epochs. A checkpoint that monitors it should be written as rarely.
            max_points: Largest number of samples of each domain in the figures, at least 10. t-SNE takes 1.4 seconds
                for 300 + 300 and 2.6 for 500 + 500 on one core, before and after training alike.
            val_sets: Names of the validation loaders, the source's first, one of the others ``target/<name>``; None for
                the data module's ``val_sets``.
            test_sets: The same for the test loaders.
            seed: Seed of the random splits.

        Raises:
            ValueError: A number out of range, or no target among the names.
        """
        check_at_least(10, max_samples=max_samples, max_points=max_points)
        check_at_least(1, dev_every_n_epochs=dev_every_n_epochs)
        for attribute, names in (("val_sets", val_sets), ("test_sets", test_sets)):
            if names is not None:
                find_target(names, attribute, NAME)
        self.max_samples = max_samples
        self.dev_every_n_epochs = dev_every_n_epochs
        self.max_points = max_points
        self.val_sets = val_sets
        self.test_sets = test_sets
        self.seed = seed
        self.validation: dict[str, float] = {}
        self.results: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._monitors: list[str] = []
        self._pictures: dict[str, dict[str, Any]] = {}
        self._held_out = HeldOut("train")
        self._names = ("source", "target")
        self._collectors: dict[int, DomainCollector] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what the module and the data module offer."""
        check_module(pl_module, NAME)
        self._held_out.remember(trainer, stage)
        if stage != "test" and (names := loader_names(trainer, "val_sets", self.val_sets)) is not None:
            find_target(names, "val_sets", NAME)

    def state_dict(self) -> dict[str, Any]:
        """Keep the metrics of the last validation, and the features before training (a few hundred numbers each)."""
        return {"validation": self.validation, "before": self._before, "monitors": self._monitors}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.validation = dict(state_dict["validation"])
        self._before = dict(state_dict["before"])
        self._monitors = list(state_dict["monitors"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the untrained module's features for the figures, and what checkpoints and early stopping monitor."""
        choosing = (*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks)
        monitors = {getattr(callback, "monitor", None) for callback in choosing}
        self._monitors = sorted(str(monitor) for monitor in monitors if monitor)
        if trainer.global_step or trainer.val_dataloaders is None:
            return
        self._before = {}
        domains = find_domains(trainer, "val_sets", self.val_sets, NAME)
        loaders = {place: domains.loaders[place] for place in (0, domains.target)}
        if not all(isinstance(loader, DataLoader) for loader in loaders.values()):
            return
        with preserved_random_state(trainer.strategy.root_device), validating(trainer, pl_module):
            tables = [
                run_features(trainer, pl_module, loader, trainer.limit_val_batches, self.max_points, place)
                for place, loader in loaders.items()
            ]
        if all(tables):
            features, labels = ([table[name] for table in tables] for name in ("features", "label"))
            self._before = picture_of(features, labels, self.max_points)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loaders of the two domains."""
        domains = find_domains(trainer, "val_sets", self.val_sets, NAME)
        self._collectors = {}
        if not trainer.sanity_checking:
            wants_dev = trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.dev_every_n_epochs == 0
            self._collect_from(trainer, domains, self.max_samples if wants_dev else 0)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loaders of the two domains; where there are none, only a warning is given."""
        self.results, self._collectors = {}, {}
        try:
            domains = find_domains(trainer, "test_sets", self.test_sets, NAME)
        except ValueError as error:
            rank_zero_warn(f"nothing is tested: {error}")
        else:
            self._names = domains.names
            self._collect_from(trainer, domains, self.max_samples)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect logits, labels and features of the two domains."""
        if (collector := self._collectors.get(dataloader_idx)) is not None:
            collector.add(pl_module, outputs, batch, batch_idx)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the validators and the oracle's metrics."""
        if not self._collectors:
            return
        source, target = self._gather()  # equal on all processes
        with preserved_random_state(trainer.strategy.root_device):
            metrics = self._from_logits(source, target)
            if len(source.features):
                metrics |= self._from_features(trainer, pl_module, source, target)
        if not all(map(math.isfinite, metrics.values())):
            rank_zero_warn(f"{NAME}: NaN or infinite logits or features; the validators of this epoch are -inf")
            metrics = {name: -math.inf for name in metrics if name != MAX_WEIGHT}
        if (target.labels >= 0).all():
            oracle = oracle_metrics(target.logits, target.labels)
            metrics |= {f"oracle/val_{name}": value for name, value in oracle.items()}
        self.validation = metrics
        log_identical(pl_module, metrics)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the oracle's metrics and the proxy A-distance."""
        if not self._collectors:
            return
        source, target = self._gather()
        test = {"source_accuracy": oracle_metrics(source.logits, source.labels)["acc"]}
        metrics: dict[str, float] = {}
        if (target.labels >= 0).all():
            test |= oracle_metrics(target.logits, target.labels)
            metrics = {f"oracle/test_{name}": test[name] for name in ("acc", "nll")}
        features, distance = (source.features, target.features), None
        if all(len(rows) >= FEWEST and rows.isfinite().all() for rows in features):
            distance = proxy_a_distance(*features, self.seed)
            metrics["adaptation/proxy_a_distance"] = distance.value
        labels = [domain.labels[domain.places] for domain in (source, target)]
        pictures = {"before": self._before, "after": picture_of(features, labels, self.max_points)}
        self._pictures = {name: picture | {"names": self._names} for name, picture in pictures.items() if picture}
        self.results = {
            "names": self._names,
            "samples": (len(source.labels), len(target.labels)),
            "validation": self.validation,
            "monitors": self._monitors,
            "test": test,
            "proxy_a_distance": None if distance is None else distance._asdict(),
            "pca": {name: in_plane(picture, picture["points"][:, :2]) for name, picture in self._pictures.items()},
        }
        log_identical(pl_module, metrics)

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute t-SNE, and send the figures to the loggers."""
        if not self.results:
            return
        self.results["tsne"] = {
            name: in_plane(picture, tsne(picture["points"], self.seed)) for name, picture in self._pictures.items()
        }
        for name, title in (("pca", "PCA"), ("tsne", "t-SNE")):
            if trainer.loggers and self.results[name]:
                log_figure(trainer, f"adaptation/{name}", domains_figure(self.results[name], title))

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report."""
        return self.results

    def _collect_from(self, trainer: Trainer, domains: Domains, number: int) -> None:
        self._collectors = {
            place: DomainCollector(trainer, domains, is_target, number)
            for place, is_target in ((0, False), (domains.target, True))
        }

    def _gather(self) -> tuple[DomainRows, DomainRows]:
        """The collected rows of source and target. A collective."""
        source, target = (collector.gather() for collector in self._collectors.values())
        self._collectors = {}
        return source, target

    def _from_logits(self, source: DomainRows, target: DomainRows) -> dict[str, float]:
        finite = source.logits.isfinite().all()
        accuracy = validators.source_accuracy(source.logits, source.labels) if finite else math.nan
        information = validators.information_maximisation(target.logits)
        probabilities = evenly(target.logits, self.max_samples).double().softmax(1)
        metrics = {
            "source_accuracy": accuracy,
            "accuracy_and_information": accuracy + information / math.log(target.logits.shape[1]),
            "information_maximisation": information,
            "entropy": validators.entropy_score(target.logits),
            "diversity": validators.diversity_score(target.logits),
            "snd": validators.soft_neighbourhood_density(probabilities),
        }
        return {f"validator/{name}": value for name, value in metrics.items()}

    def _from_features(
        self, trainer: Trainer, pl_module: LightningModule, source: DomainRows, target: DomainRows
    ) -> dict[str, float]:
        """Deep embedded validation. A collective."""
        loader = training_loader(trainer, pl_module, self._held_out)
        if loader is None:
            rank_zero_warn(f"{NAME} leaves out validator/dev: there is no DataLoader of labelled training data")
            return {}
        train = run_features(trainer, pl_module, loader, trainer.limit_train_batches, self.max_samples)["features"]
        if min(len(train), len(target.features)) < 2:
            rank_zero_warn(f"{NAME} leaves out validator/dev: there are fewer than two samples of a domain")
            return {}
        logits, labels = source.logits[source.places], source.labels[source.places]
        if not all(table.isfinite().all() for table in (train, target.features, source.features, logits)):
            return {"validator/dev": -math.inf}
        weights = density_ratio(train, target.features, source.features, self.seed)
        losses = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
        score = validators.deep_embedded_validation(losses.numpy(), weights)
        return {"validator/dev": score, MAX_WEIGHT: float(weights.max())}
