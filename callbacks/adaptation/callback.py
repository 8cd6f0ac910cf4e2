"""`AdaptationEvaluation`: scores for choosing a checkpoint of domain adaptation without target labels."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch.utils.data import DataLoader

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
    evaluating,
    evenly,
    find_domains,
    find_target,
    oracle_figures,
    run_features,
    training_loader,
)
from .figures import domains_figure, in_plane, picture_of, tsne
from .proxy_distance import FEWEST, proxy_a_distance

NAME = "AdaptationEvaluation"
MAX_WEIGHT = "validator/dev_max_weight"


class AdaptationEvaluation(Callback):
    """Judges domain adaptation without target labels after each validation, in ``trainer.fit`` and ``validate``.

    Logged are, all larger for a better model, in nats but for the accuracy:

    * ``validator/source_accuracy`` on source validation data;
    * ``validator/entropy`` (minus the mean entropy), ``validator/diversity`` and their sum
      ``validator/information_maximisation`` from the target's logits;
    * ``validator/accuracy_and_information``: source accuracy + information maximisation / log K, in [0, 2]. The one to
      begin with: it asks for both, for a good classifier and for sure and diverse predictions on the target;
    * ``validator/snd``: soft neighbourhood density of the target's class probabilities;
    * ``validator/dev``: deep embedded validation, the importance-weighted cross-entropy of the source validation data,
      with density ratios from the domain features of source training and target validation data. Beside it
      ``validator/dev_max_weight``, the largest ratio: with one of hundreds the score means nothing.

    Any of them can be ``ModelCheckpoint(monitor="validator/…", mode="max")``. Target labels, where the batches have
    them, serve ``oracle/val_acc`` and ``oracle/val_nll`` only; who chooses by these has not adapted without labels.

    The source is the first validation loader, the target the first that is named ``target/<name>`` in the data module's
    ``val_sets``; without names it is the second. Every sample counts once on any number of processes. The sanity check
    is left out. The training's random state and loaders are left alone.

    The module needs ``forward(x) -> (B, K)`` logits and ``domain_features(x) -> (B, D)``, what its domain head sees, or
    ``features(x) -> (B, D)``. If its ``validation_step`` returns a dict with "logits", these are used.

    In ``trainer.test``, on the first test set and the one named ``target/<name>`` in ``test_sets``, as above:
    ``oracle/test_acc``, ``oracle/test_nll`` and ``adaptation/proxy_a_distance`` of the domain features (how far a
    freshly trained classifier tells the domains apart, in [0, 2]). The loggers get pictures of the domain features by
    domain and by class, before training and after it: ``adaptation/pca`` and ``adaptation/tsne``. The features before
    training are those of the validation data, taken when the fit starts; `Report` shows all of it.

    A run that diverged is not ended: where logits or features are not finite there is a warning, and the validators are
    logged as minus infinity, for otherwise `ModelCheckpoint` would go by the values of an earlier epoch.

    Attributes:
        validation: The figures of the last validation, by name. Kept in checkpoints.
        results: After a test run: "names" of source and target, "samples" of each, "validation" (see above), "monitors"
            (what checkpoints and early stopping went by), "test" ("source_accuracy", and "acc" and "nll" of the oracle
            where there are labels), "proxy_a_distance" ("value", "optimistic", "error"), "pca" and "tsne" (arguments of
            `domains_figure`).
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
            max_samples: At most so many samples of each domain, evenly spread, for the density of neighbourhoods, deep
                embedded validation and the proxy A-distance; all others take every sample. At least 10.
            dev_every_n_epochs: Deep embedded validation, the dearest (half a second for 768 features), every so many
                epochs only. A checkpoint that monitors it should then be written as rarely.
            max_points: At most so many samples of each domain in the pictures. t-SNE takes 1.4 seconds for
                300 + 300 and 2.6 for 500 + 500 on one core, before and after training alike. At least 10.
            val_sets: Names of the validation loaders, the source's first, one of the others ``target/<name>``; None for
                the data module's ``val_sets``.
            test_sets: The same of the test loaders.
            seed: Of the random splits.

        Raises:
            ValueError: A number out of range, or no target among the names.
        """
        for name, value, least in (
            ("max_samples", max_samples, 10),
            ("dev_every_n_epochs", dev_every_n_epochs, 1),
            ("max_points", max_points, 10),
        ):
            if value < least:
                raise ValueError(f"expected {name} of at least {least}, got {value}")
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
        self._domains: Domains | None = None
        self._collectors: dict[int, DomainCollector] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what the module and the data module offer.

        Raises:
            TypeError: The module has no forward or no features.
            ValueError: No validation set is a target's.
        """
        check_module(pl_module, NAME)
        self._held_out.remember(trainer, stage)
        if stage != "test" and (names := loader_names(trainer, "val_sets", self.val_sets)) is not None:
            find_target(names, "val_sets", NAME)

    def state_dict(self) -> dict[str, Any]:
        """Keep the figures of the last validation, and the features before training (a few hundred numbers each)."""
        return {"validation": self.validation, "before": self._before, "monitors": self._monitors}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what the checkpoint holds."""
        self.validation = dict(state_dict["validation"])
        self._before = dict(state_dict["before"])
        self._monitors = list(state_dict["monitors"])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loaders of the two domains.

        Raises:
            ValueError: There are not two, or the names do not fit them.
        """
        self._domains = find_domains(trainer, "val_sets", self.val_sets, NAME)
        self._collectors = {}
        if not trainer.sanity_checking:
            wants_dev = trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.dev_every_n_epochs == 0
            self._collect_from(trainer, self._domains, self.max_samples if wants_dev else 0)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect logits, labels and features of the two domains."""
        if (collector := self._collectors.get(dataloader_idx)) is not None:
            collector.add(pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the validators and the oracle's figures.

        Raises:
            ValueError: A domain has no sample, labels are out of range, or logits are probabilities.
        """
        if self._domains is None or not self._collectors:
            return
        source, target = self._gather()
        # equal on all processes, from here on
        with preserved_random_state(trainer.strategy.root_device):
            figures = self._from_logits(source, target)
            if len(source.features):
                figures |= self._from_features(trainer, pl_module, source, target)
        if not all(map(math.isfinite, figures.values())):
            rank_zero_warn(f"{NAME}: NaN or infinite logits or features; the validators of this epoch are -inf")
            figures = {name: -math.inf for name in figures if name != MAX_WEIGHT}
        if (target.labels >= 0).all():
            oracle = oracle_figures(target.logits, target.labels)
            figures |= {f"oracle/val_{name}": value for name, value in oracle.items()}
        self.validation = figures
        log_identical(pl_module, figures)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the features of a module that is still untrained, for the pictures, and what the training goes by."""
        choosing = (*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks)
        monitors = {getattr(callback, "monitor", None) for callback in choosing}
        self._monitors = sorted(str(monitor) for monitor in monitors if monitor)
        if trainer.global_step or trainer.val_dataloaders is None:
            return
        domains = find_domains(trainer, "val_sets", self.val_sets, NAME)
        places = (0, domains.target)
        loaders = [domains.loaders[place] for place in places]
        self._before = {}
        if not all(isinstance(loader, DataLoader) for loader in loaders):
            return
        with preserved_random_state(trainer.strategy.root_device), evaluating(trainer, pl_module):
            tables = [
                run_features(trainer, pl_module, loader, trainer.limit_val_batches, self.max_points, place)
                for place, loader in zip(places, loaders, strict=True)
            ]
        if all(tables):
            features, labels = ([table[name] for table in tables] for name in ("features", "label"))
            self._before = picture_of(features, labels, self.max_points)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loaders of the two domains; where there are none, only a warning is given."""
        self.results, self._domains, self._collectors = {}, None, {}
        try:
            self._domains = find_domains(trainer, "test_sets", self.test_sets, NAME)
        except ValueError as error:
            rank_zero_warn(f"nothing is tested: {error}")
            return
        self._collect_from(trainer, self._domains, self.max_samples)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect logits, labels and features of the two domains."""
        if (collector := self._collectors.get(dataloader_idx)) is not None:
            collector.add(pl_module, outputs, batch, batch_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the oracle's figures and the proxy A-distance.

        Raises:
            ValueError: A domain has no sample, labels are missing or out of range, or logits are probabilities.
        """
        if self._domains is None or not self._collectors:
            return
        source, target = self._gather()
        names = self._domains.names
        test = {"source_accuracy": oracle_figures(source.logits, source.labels)["acc"]}
        figures: dict[str, float] = {}
        if (target.labels >= 0).all():
            test |= oracle_figures(target.logits, target.labels)
            figures = {f"oracle/test_{name}": test[name] for name in ("acc", "nll")}
        features = (source.features, target.features)
        finite = all(bool(rows.isfinite().all()) for rows in features)
        enough = min(map(len, features)) >= FEWEST
        distance = proxy_a_distance(*features, self.seed) if finite and enough else None
        if distance is not None:
            figures["adaptation/proxy_a_distance"] = distance.value
        labels = [domain.labels[domain.places] for domain in (source, target)]
        pictures = {"before": self._before, "after": picture_of(features, labels, self.max_points)}
        self._pictures = {name: picture | {"names": names} for name, picture in pictures.items() if picture}
        self.results = {
            "names": names,
            "samples": (len(source.labels), len(target.labels)),
            "validation": self.validation,
            "monitors": self._monitors,
            "test": test,
            "proxy_a_distance": None if distance is None else distance._asdict(),
            "pca": {name: in_plane(picture, picture["points"][:, :2]) for name, picture in self._pictures.items()},
        }
        log_identical(pl_module, figures)

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report."""
        return self.results

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute t-SNE, and send the pictures to the loggers."""
        if not self.results:
            return
        self.results["tsne"] = {
            name: in_plane(picture, tsne(picture["points"], self.seed)) for name, picture in self._pictures.items()
        }
        for name, title in (("pca", "PCA"), ("tsne", "t-SNE")):
            if trainer.loggers and self.results[name]:
                log_figure(trainer, f"adaptation/{name}", domains_figure(self.results[name], title))

    def _collect_from(self, trainer: Trainer, domains: Domains, number: int) -> None:
        self._collectors = {
            place: DomainCollector(trainer, domains, is_target, number)
            for place, is_target in ((0, False), (domains.target, True))
        }

    def _gather(self) -> tuple[DomainRows, DomainRows]:
        """What was collected of source and target. A collective."""
        found, self._collectors = list(self._collectors.values()), {}
        source, target = (collector.gather() for collector in found)
        return source, target

    def _from_logits(self, source: DomainRows, target: DomainRows) -> dict[str, float]:
        finite = source.logits.isfinite().all()
        accuracy = validators.source_accuracy(source.logits, source.labels) if finite else math.nan
        information = validators.information_maximisation(target.logits)
        probabilities = evenly(target.logits, self.max_samples).double().softmax(1)
        figures = {
            "source_accuracy": accuracy,
            "accuracy_and_information": accuracy + information / math.log(target.logits.shape[1]),
            "information_maximisation": information,
            "entropy": validators.entropy_score(target.logits),
            "diversity": validators.diversity_score(target.logits),
            "snd": validators.soft_neighbourhood_density(probabilities),
        }
        return {f"validator/{name}": value for name, value in figures.items()}

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
