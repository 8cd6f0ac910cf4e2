"""`DisentanglementEvaluation`: the metrics of disentanglement of any module that encodes images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only
from torch import distributed
from tqdm import tqdm

from ..shared.batches import data_module
from ..shared.collect import log_identical
from ..shared.loggers import log_table
from ..shared.random_state import preserved_random_state
from .metrics.checks import varying
from .metrics.downstream import FOLDS, SIZES
from .metrics.encoding import Encoding
from .metrics.information import BINS
from .metrics.pairs import Points, pair_differences, vote_variances
from .metrics.scores import SCORES, Material, Split
from .metrics.unsupervised import kl_per_latent

NAME = "DisentanglementEvaluation"
DEFAULT = tuple(name for name in SCORES if name != "downstream")
PURPOSES = ("sample", "points", "votes", "downstream")  # each has draws of its own


class DisentanglementEvaluation(Callback):
    """Scores the codes of images with known factors, in ``trainer.test``. The test batches are not looked at.

    The metrics, official and, named ``…_corrected``, without what is known to be wrong with them:

    * ``beta_vae``, ``factor_vae`` (and the number of active latents);
    * ``mig``, ``modularity``, ``explicitness``;
    * ``dci``: disentanglement, completeness and informativeness (an accuracy) of boosted trees;
    * ``sap``, also for ordered factors (``sap_continuous``), and ``irs``;
    * ``unsupervised``: total correlation, Wasserstein correlation, mutual information of the latents;
    * ``downstream``: accuracy of logistic regression and boosted trees from few and from many codes, and the
      efficiency, that of 100 by that of 10,000 samples.

    Each for the mean representation (``posterior(x).mean``, or ``encode(x)`` where there is no posterior) and, with a
    posterior, for the sampled one: ``disentanglement/mean/mig``, ``disentanglement/sampled/mig``. With a posterior also
    the KL divergence of each latent from the standard normal prior.

    The defaults are the sample sizes of the study (Locatello et al. 2019), all but the downstream tasks. Each
    combination of factors is encoded once for all metrics, which for all of dSprites are 700,000 images; where images
    do not follow from the factors alone the two scores of pairs and votes need 2.9 million. Fewer votes are cheaper.

    The figures are the same on any number of processes: they share images and metrics. All that is drawn follows from
    ``seed``, so that models are judged by the same images; the global random state is left alone.

    The module needs ``encode(x) -> (B, L)`` or ``posterior(x)``, a distribution with a mean and a standard deviation of
    shape (B, L). The data module needs ``factor_names``, ``factor_sizes``, ``deterministic_images``,
    ``sample_factors(n, generator) -> (n, K)`` and ``images_of(factors, generator) -> (n, C, H, W)``. A factor with one
    value is left out.

    Attributes:
        results: After a test run: "latents", "factor_names" and "factor_sizes" (of those that vary), "samples" (by
            purpose), "images" (encoded), "kl" (of each latent, or None), "scores" (by representation and name) and
            "matrices" (by representation and name: "mutual_information", "importance" of DCI and "sap" are lists of L
            rows of one entry for each factor; "downstream" holds the accuracies by classifier, size and factor).
    """

    report_key = "disentanglement"

    def __init__(
        self,
        metrics: Sequence[str] = DEFAULT,
        num_train: int = 10_000,
        num_test: int = 5_000,
        num_train_votes: int = 10_000,
        num_test_votes: int = 5_000,
        downstream_sizes: Sequence[int] = SIZES,
        sampled: bool = True,
        exact_trees: bool = False,
        batch_size: int = 1024,
        seed: int = 0,
    ) -> None:
        """Check the arguments.

        Args:
            metrics: Any of beta_vae, factor_vae, mig, modularity, explicitness, dci, sap, irs, unsupervised,
                downstream.
            num_train: Samples for all metrics but the next, at least 20 and as many as a factor has values.
            num_test: Samples for accuracies.
            num_train_votes: Points and votes of 64 images that the BetaVAE and FactorVAE score learn from.
            num_test_votes: Those that they are tested on.
            downstream_sizes: Training samples of the downstream tasks, each at least 5.
            sampled: Whether the sampled representation is judged too, where the module has a posterior.
            exact_trees: scikit-learn's boosted trees in the place of our faster ones, which are the same up to draws
                between equal splits, for DCI and downstream tasks. Many minutes with the default sizes.
            batch_size: Images in one forward pass.
            seed: Of all draws.

        Raises:
            ValueError: An unknown metric, or a number out of range.
        """
        if unknown := [name for name in metrics if name not in SCORES]:
            raise ValueError(f"expected metrics among {', '.join(SCORES)}, got {unknown}")
        if not metrics:
            raise ValueError(f"expected a metric among {', '.join(SCORES)}, got none")
        for name, value, least in (
            ("num_train", num_train, BINS),
            ("num_test", num_test, 1),
            ("num_train_votes", num_train_votes, 2),
            ("num_test_votes", num_test_votes, 1),
            ("batch_size", batch_size, 1),
            *(("downstream_sizes", size, FOLDS) for size in downstream_sizes),
        ):
            if value < least:
                raise ValueError(f"expected {name} of at least {least}, got {value}")
        self.metrics = tuple(dict.fromkeys(metrics))
        self.num_train, self.num_test = num_train, num_test
        self.num_train_votes, self.num_test_votes = num_train_votes, num_test_votes
        self.downstream_sizes = tuple(sorted(set(downstream_sizes)))
        self.sampled, self.exact_trees = sampled, exact_trees
        self.batch_size, self.seed = batch_size, seed
        self.results: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what the module and the data module offer.

        Raises:
            TypeError: Something is missing.
            ValueError: The factors are too few, or one has more values than there are samples.
        """
        if stage != "test":
            return
        if not any(callable(getattr(pl_module, name, None)) for name in ("encode", "posterior")):
            raise TypeError(f"{NAME} needs encode(x) -> (B, L) or posterior(x): {type(pl_module).__name__} has neither")
        data: Any = data_module(trainer)
        needed = ("factor_names", "factor_sizes", "deterministic_images", "sample_factors", "images_of")
        if missing := [name for name in needed if not hasattr(data, name)]:
            found = "no data module" if data is None else f"{type(data).__name__} without {', '.join(missing)}"
            raise TypeError(f"{NAME} needs a data module with {', '.join(needed)}; got {found}")
        sizes = tuple(data.factor_sizes)
        if sum(size > 1 for size in sizes) < 2:
            raise ValueError(f"{NAME} expects two factors with more than one value, got factor_sizes={sizes}")
        if self.num_train < max(sizes):
            raise ValueError(
                f"{NAME} expects num_train of at least {max(sizes)} for sizes {sizes}, got {self.num_train}"
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode, compute and log. A collective.

        Raises:
            ValueError: Codes that are not finite or of another shape.
            RuntimeError: A metric failed, on whichever process.
        """
        data: Any = data_module(trainer)
        with preserved_random_state(trainer.strategy.root_device):
            encoding = Encoding(trainer, pl_module, data, self.batch_size)
            try:
                materials, kl, names, sizes = self._collect(encoding, data)
            finally:
                encoding.close()
            rank_zero_info(f"{NAME}: {encoding.encoded} images encoded; computing {', '.join(self.metrics)}")
            scores, matrices = self._score(trainer, materials)
        self.results = {
            "latents": encoding.num_latents,
            "factor_names": names,
            "factor_sizes": sizes,
            "samples": {
                "train": self.num_train,
                "test": self.num_test,
                "train_votes": self.num_train_votes,
                "test_votes": self.num_test_votes,
            },
            "images": encoding.encoded,
            "kl": kl,
            "scores": scores,
            "matrices": matrices,
        }
        figures = {
            f"disentanglement/{representation}/{name}": value
            for representation, of_it in scores.items()
            for name, value in of_it.items()
        }
        log_identical(pl_module, figures)

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report."""
        return self.results

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the table of scores to the loggers."""
        if not self.results or not trainer.loggers:
            return
        scores = self.results["scores"]
        rows = [[name, *(of_it[name] for of_it in scores.values())] for name in scores["mean"]]
        log_table(trainer, "disentanglement/scores", ["metric", *scores], rows)

    def _collect(
        self, encoding: Encoding, data: Any
    ) -> tuple[dict[str, Material], list[float] | None, list[str], list[int]]:
        """Draw factors and encode them: what each representation is judged by, KL, names and sizes of factors."""
        draws = {
            name: torch.Generator().manual_seed(len(PURPOSES) * self.seed + index)
            for index, name in enumerate(PURPOSES)
        }

        def drawn(number: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
            rows = np.asarray(data.sample_factors(number, generator))
            return rows, encoding.codes(rows, generator)

        factors = np.asarray(data.sample_factors(self.num_train, draws["sample"]))
        sample = encoding.representations(factors, draws["sample"])
        codes = sample.beside_each_other()
        kl = None if sample.deviation is None else kl_per_latent(sample.mean, sample.deviation).tolist()
        test_factors, test_codes = drawn(self.num_test, draws["sample"])
        columns = varying(factors)
        pairs: dict[str, tuple[Points, Points]] = {}
        for metric, purpose, make in (
            ("beta_vae", "points", pair_differences),
            ("factor_vae", "votes", vote_variances),
        ):
            if metric in self.metrics:
                numbers = (self.num_train_votes, self.num_test_votes)
                arguments = (data.sample_factors, encoding.codes, data.factor_sizes)
                train, test = (make(*arguments, number, draws[purpose]) for number in numbers)
                pairs[metric] = (train, test)
        tasks = {}
        for size in self.downstream_sizes if "downstream" in self.metrics else ():
            tasks[size] = (drawn(size, draws["downstream"]), drawn(self.num_test, draws["downstream"]))

        def of(latents: slice) -> Material:
            split = Split(codes[:, latents], factors[:, columns], test_codes[:, latents], test_factors[:, columns])
            chosen = {
                metric: (train.columns(latents), test.columns(latents)) for metric, (train, test) in pairs.items()
            }
            splits = {
                size: Split(train[1][:, latents], train[0][:, columns], test[1][:, latents], test[0][:, columns])
                for size, (train, test) in tasks.items()
            }
            points, votes = chosen.get("beta_vae"), chosen.get("factor_vae")
            return Material(split, points, votes, splits, self.exact_trees, self.seed)

        materials = {"mean": of(slice(0, encoding.num_latents))}
        if encoding.has_posterior and self.sampled:
            materials["sampled"] = of(slice(encoding.num_latents, None))
        names = [str(data.factor_names[column]) for column in columns]
        return materials, kl, names, [int(data.factor_sizes[column]) for column in columns]

    def _score(
        self, trainer: Trainer, materials: dict[str, Material]
    ) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
        """Scores and matrices of each representation. A collective: each process computes some of the metrics."""
        tasks = [(metric, name) for metric in self.metrics for name in materials]
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        found: dict[tuple[str, str], Any] = {}
        for metric, name in tqdm(
            tasks[trainer.global_rank :: trainer.world_size], "metrics", disable=not shown, leave=False
        ):
            try:
                found[metric, name] = SCORES[metric](materials[name])
            except Exception as error:
                # all processes must hear of it, or they wait for this one for ever
                if trainer.world_size == 1:
                    raise
                found[metric, name] = f"{type(error).__name__}: {error}"
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(parts, found)
            found = {key: value for part in parts for key, value in part.items()}
        if failed := {key: value for key, value in found.items() if isinstance(value, str)}:
            raise RuntimeError(f"{NAME} failed: {failed}")
        scores: dict[str, dict[str, float]] = {name: {} for name in materials}
        matrices: dict[str, dict[str, Any]] = {name: {} for name in materials}
        for metric, name in tasks:
            of_metric, more = found[metric, name]
            scores[name] |= of_metric
            matrices[name] |= {
                key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in more.items()
            }
        return scores, matrices
