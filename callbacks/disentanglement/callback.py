"""`DisentanglementEvaluation`: the metrics of disentanglement of any module that encodes images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only
from torch import distributed
from tqdm import tqdm

from ..shared.batches import data_module
from ..shared.checks import check_at_least
from ..shared.collect import log_identical
from ..shared.loggers import log_table
from ..shared.random_state import preserved_random_state
from .metrics.boosting import fit_boosted, fit_exact
from .metrics.checks import varying
from .metrics.downstream import FOLDS, SIZES
from .metrics.encoding import Encoding, Representations
from .metrics.information import BINS
from .metrics.pairs import Points, pair_differences, vote_variances
from .metrics.scores import SCORES, Material, Split
from .metrics.unsupervised import kl_per_latent

NAME = "DisentanglementEvaluation"
DEFAULT = tuple(name for name in SCORES if name != "downstream")
PURPOSES = ("sample", "points", "votes", "downstream")  # each has draws of its own


class DisentanglementEvaluation(Callback):
    """Scores the codes of images with known factors, in ``trainer.test``.

    The test batches are not used: the callback draws its own images. The data module needs ``factor_names``,
    ``factor_sizes``, ``deterministic_images``, ``sample_factors(n, generator) -> (n, K)`` and ``images_of(factors,
    generator) -> (n, C, H, W)``. The module needs ``encode(x) -> (B, L)`` or ``posterior(x)``, a ``Normal`` or
    ``Independent(Normal)`` distribution of shape (B, L). A factor with one value is left out.

    It logs official metrics, and beside some of them a corrected form without their known faults, named
    ``…_corrected``:

    * ``beta_vae``, ``factor_vae`` (and the number of active latents);
    * ``mig``, ``modularity``, ``explicitness``;
    * ``dci``: disentanglement, completeness and informativeness (an accuracy) of boosted trees;
    * ``sap``, also for ordered factors (``sap_continuous``), and ``irs``;
    * ``unsupervised``: total correlation, Wasserstein correlation, mutual information of the latents;
    * ``downstream``: accuracy of logistic regression and boosted trees from few and from many codes, and the
      efficiency: the accuracy with 100 training samples divided by that with 10,000.

    Each is computed for the mean representation (``posterior(x).mean``, or ``encode(x)`` without a posterior) and, with
    a posterior, for the sampled one: ``disentanglement/mean/mig``, ``disentanglement/sampled/mig``. With a posterior,
    the results also have the KL divergence of each latent from the standard normal prior.

    The defaults are the sample sizes of the study (Locatello et al. 2019), all but the downstream tasks. Each
    combination of factors is encoded once for all metrics, which for all of dSprites are 700,000 images; where images
    do not follow from the factors alone, ``beta_vae`` and ``factor_vae`` need 2.9 million. Fewer votes are cheaper.

    The metrics are the same on any number of processes, which share the work. All draws follow from ``seed``, so that
    models are judged by the same images; the global random state is not changed.

    Attributes:
        results: After a test run: "latents", "factor_names" and "factor_sizes" (of those that vary), "samples" (by
            purpose), "images" (number encoded), "kl" (of each latent, or None), "scores" (by representation and name),
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
            num_train: Number of samples for all metrics but those of the next arguments, at least 20 and as many as a
                factor has values.
            num_test: Number of samples for accuracies.
            num_train_votes: Number of points and votes, of 64 images each, for the BetaVAE and FactorVAE score.
            num_test_votes: Number of points and votes that these are tested on.
            downstream_sizes: Numbers of training samples of the downstream tasks, each at least 5.
            sampled: Whether the sampled representation is judged too, where the module has a posterior.
            exact_trees: Whether DCI and downstream tasks use scikit-learn's boosted trees instead of our faster ones,
                which are the same up to the choice between equal splits. Many minutes with the default sizes.
            batch_size: Largest number of images in one forward pass.
            seed: Seed of all draws.

        Raises:
            ValueError: An unknown metric, or a number out of range.
        """
        if unknown := [name for name in metrics if name not in SCORES]:
            raise ValueError(f"expected metrics among {', '.join(SCORES)}, got {unknown}")
        if not metrics:
            raise ValueError(f"expected a metric among {', '.join(SCORES)}, got none")
        check_at_least(BINS, num_train=num_train)
        check_at_least(2, num_train_votes=num_train_votes)
        check_at_least(1, num_test=num_test, num_test_votes=num_test_votes, batch_size=batch_size)
        for size in downstream_sizes:
            check_at_least(FOLDS, downstream_sizes=size)
        self.metrics = tuple(dict.fromkeys(metrics))
        self.num_train, self.num_test = num_train, num_test
        self.num_train_votes, self.num_test_votes = num_train_votes, num_test_votes
        self.downstream_sizes = tuple(sorted(set(downstream_sizes)))
        self.sampled, self.exact_trees = sampled, exact_trees
        self.batch_size, self.seed = batch_size, seed
        self.results: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what the module and the data module offer."""
        if stage != "test":
            return
        if not any(callable(getattr(pl_module, name, None)) for name in ("encode", "posterior")):
            raise TypeError(f"{NAME} needs encode(x) -> (B, L) or posterior(x): {type(pl_module).__name__} has neither")
        data: Any = data_module(trainer)
        needed = ("factor_names", "factor_sizes", "deterministic_images", "sample_factors", "images_of")
        if missing := [name for name in needed if not hasattr(data, name)]:
            actual = "no data module" if data is None else f"{type(data).__name__} without {', '.join(missing)}"
            raise TypeError(f"{NAME} needs a data module with {', '.join(needed)}; got {actual}")
        sizes = tuple(data.factor_sizes)
        if sum(size > 1 for size in sizes) < 2:
            raise ValueError(f"{NAME} expects two factors with more than one value, got factor_sizes={sizes}")
        if self.num_train < max(sizes):
            raise ValueError(
                f"{NAME} expects num_train of at least {max(sizes)} for sizes {sizes}, got {self.num_train}"
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode, compute and log. A collective."""
        data: Any = data_module(trainer)
        with preserved_random_state(trainer.strategy.root_device):
            encoding = Encoding(trainer, pl_module, data, self.batch_size)
            try:
                materials, columns, kl = self._collect(encoding, data)
            finally:
                encoding.close()
            rank_zero_info(f"{NAME}: {encoding.encoded} images encoded; computing {', '.join(self.metrics)}")
            scores, matrices = self._score(trainer, materials)
        names = ("train", "test", "train_votes", "test_votes")
        self.results = {
            "latents": encoding.num_latents,
            "factor_names": [str(data.factor_names[column]) for column in columns],
            "factor_sizes": [int(data.factor_sizes[column]) for column in columns],
            "samples": {name: getattr(self, f"num_{name}") for name in names},
            "images": encoding.encoded,
            "kl": kl,
            "scores": scores,
            "matrices": matrices,
        }
        metrics = {
            f"disentanglement/{representation}/{name}": score
            for representation, by_name in scores.items()
            for name, score in by_name.items()
        }
        log_identical(pl_module, metrics)

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report."""
        return self.results

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the table of scores to the loggers."""
        if not self.results or not trainer.loggers:
            return
        scores = self.results["scores"]
        rows = [[name, *(by_name[name] for by_name in scores.values())] for name in scores["mean"]]
        log_table(trainer, "disentanglement/scores", ["metric", *scores], rows)

    def _collect(self, encoding: Encoding, data: Any) -> tuple[dict[str, Material], np.ndarray, list[float] | None]:
        """Draw factors and encode their images.

        Returns:
            Material of each representation, positions of the factors that vary, and the KL divergence of each latent.
        """
        draws = {
            name: torch.Generator().manual_seed(len(PURPOSES) * self.seed + index)
            for index, name in enumerate(PURPOSES)
        }

        def drawn(number: int, purpose: str) -> tuple[Representations, np.ndarray]:
            factors = np.asarray(data.sample_factors(number, draws[purpose]))
            return encoding.representations(factors, draws[purpose]), factors

        train = drawn(self.num_train, "sample")
        sample, columns = train[0], varying(train[1])
        kl = None if sample.deviation is None else kl_per_latent(sample.mean, sample.deviation).tolist()

        def split(train: tuple[Representations, np.ndarray], test: tuple[Representations, np.ndarray]) -> Split:
            return Split(train[0].codes, train[1][:, columns], test[0].codes, test[1][:, columns])

        def pairs(metric: str, purpose: str, draw: Callable[..., Points]) -> tuple[Points, ...]:
            numbers = (self.num_train_votes, self.num_test_votes) if metric in self.metrics else ()
            arguments = (data.sample_factors, encoding.codes, data.factor_sizes)
            return tuple(draw(*arguments, number, draws[purpose]) for number in numbers)

        sizes = self.downstream_sizes if "downstream" in self.metrics else ()
        both = Material(
            split(train, drawn(self.num_test, "sample")),
            pairs("beta_vae", "points", pair_differences),
            pairs("factor_vae", "votes", vote_variances),
            {size: split(drawn(size, "downstream"), drawn(self.num_test, "downstream")) for size in sizes},
            fit_exact if self.exact_trees else fit_boosted,
            self.seed,
        )
        materials = {"mean": both.columns(slice(0, encoding.num_latents))}
        if encoding.has_posterior and self.sampled:
            materials["sampled"] = both.columns(slice(encoding.num_latents, None))
        return materials, columns, kl

    def _score(
        self, trainer: Trainer, materials: dict[str, Material]
    ) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
        """Scores and matrices of each representation. A collective: each process computes some of the metrics."""
        tasks = [(metric, name) for metric in self.metrics for name in materials]
        mine = tasks[trainer.global_rank :: trainer.world_size]
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        outcomes: dict[tuple[str, str], Any] = {}
        for metric, name in tqdm(mine, "metrics", disable=not shown, leave=False):
            try:
                outcomes[metric, name] = SCORES[metric](materials[name])
            except Exception as error:
                # other processes would wait for this one for ever: tell them
                if trainer.world_size == 1:
                    raise
                outcomes[metric, name] = f"{type(error).__name__}: {error}"
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(parts, outcomes)
            outcomes = {key: value for part in parts for key, value in part.items()}
        if failed := {key: value for key, value in outcomes.items() if isinstance(value, str)}:
            raise RuntimeError(f"{NAME} failed: {failed}")
        scores: dict[str, dict[str, float]] = {name: {} for name in materials}
        matrices: dict[str, dict[str, Any]] = {name: {} for name in materials}
        for metric, name in tasks:
            by_name, more = outcomes[metric, name]
            scores[name] |= by_name
            matrices[name] |= {
                key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in more.items()
            }
        return scores, matrices
