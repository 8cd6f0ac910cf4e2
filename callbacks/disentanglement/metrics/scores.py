"""All scores of one representation, by the name of the metric, from samples of codes and factors."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .boosting import FitTrees, fit_boosted
from .dci import dci
from .downstream import boosted_trees, efficiency, logistic_regression
from .explicitness import explicitness
from .information import code_mutual_information, discretise, enough_bins, mig, modularity, mutual_information_matrix
from .irs import irs
from .pairs import Points, beta_vae_score, factor_vae_score
from .sap import sap, sap_continuous
from .unsupervised import gaussian_correlation

Scores = tuple[dict[str, float], dict[str, Any]]
"""Scores by name, and matrices by name."""


class Split(NamedTuple):
    """A training and a test sample: codes (n, L) and factors (n, K) of each."""

    codes: np.ndarray
    factors: np.ndarray
    test_codes: np.ndarray
    test_factors: np.ndarray

    def columns(self, latents: slice) -> "Split":
        """Return the same samples with some of the latents."""
        return self._replace(codes=self.codes[:, latents], test_codes=self.test_codes[:, latents])


class Material(NamedTuple):
    """Samples that the metrics of a representation are computed from.

    Attributes:
        split: For all metrics but those of the next three attributes.
        points: Training and test points of the BetaVAE score; empty where it is not computed.
        votes: Training and test votes of the FactorVAE score; empty where it is not computed.
        tasks: Samples for downstream tasks, by the number of training samples.
        fit_trees: How boosted trees are fitted.
        seed: Seed of whatever is random in a classifier.
    """

    split: Split
    points: tuple[Points, ...]
    votes: tuple[Points, ...]
    tasks: Mapping[int, Split]
    fit_trees: FitTrees = fit_boosted
    seed: int = 0

    def columns(self, latents: slice) -> "Material":
        """Return the same samples, points and votes with some of the latents."""
        points, votes = (tuple(part.columns(latents) for part in pair) for pair in (self.points, self.votes))
        tasks = {size: split.columns(latents) for size, split in self.tasks.items()}
        return self._replace(split=self.split.columns(latents), points=points, votes=votes, tasks=tasks)


def _beta_vae(material: Material) -> Scores:
    return {"beta_vae": beta_vae_score(*material.points)}, {}


def _factor_vae(material: Material) -> Scores:
    train, test = material.votes
    votes = factor_vae_score(train, test, material.split.codes.var(0, ddof=1, dtype=np.float64))
    return {"factor_vae": votes.test, "factor_vae_active": float(votes.num_active)}, {}


def _mig(material: Material) -> Scores:
    codes, factors = material.split[:2]
    scores = {"mig": mig(codes, factors), "mig_corrected": mig(codes, factors, enough_bins(factors), True)}
    return scores, {"mutual_information": mutual_information_matrix(discretise(codes), factors)}


def _modularity(material: Material) -> Scores:
    codes, factors = material.split[:2]
    corrected = modularity(codes, factors, enough_bins(factors), True)
    return {"modularity": modularity(codes, factors), "modularity_corrected": corrected}, {}


def _explicitness(material: Material) -> Scores:
    return {"explicitness": explicitness(*material.split).test}, {}


def _dci(material: Material) -> Scores:
    parts = dci(*material.split, material.seed, material.fit_trees)
    names = ("disentanglement", "completeness", "informativeness", "informativeness_train")
    return {f"dci_{name}": getattr(parts, name) for name in names}, {"importance": parts.importance}


def _sap(material: Material) -> Scores:
    separation = sap(*material.split, material.seed)
    scores = {"sap": separation.score, "sap_continuous": sap_continuous(*material.split[:2]).score}
    return scores, {"sap": separation.matrix}


def _irs(material: Material) -> Scores:
    codes, factors = material.split[:2]
    return {"irs": irs(codes, factors).score, "irs_corrected": irs(codes, factors, bins=None).score}, {}


def _unsupervised(material: Material) -> Scores:
    codes = material.split.codes
    scores = {
        "code_mutual_information": code_mutual_information(codes),
        "code_mutual_information_corrected": code_mutual_information(codes, corrected=True),
    }
    return gaussian_correlation(codes)._asdict() | scores, {}


def _downstream(material: Material) -> Scores:
    scores: dict[str, float] = {}
    by_factor: dict[str, dict[int, list[float]]] = {}
    trees = partial(boosted_trees, seed=material.seed, fit=material.fit_trees)
    for name, task in (("logistic_regression", logistic_regression), ("boosted_trees", trees)):
        accuracies = {size: task(*split) for size, split in material.tasks.items()}
        for size, accuracy in accuracies.items():
            scores |= {f"{name}_{size}": accuracy.test.mean(), f"{name}_{size}_min": accuracy.test.min()}
        if len(accuracies) > 1:
            # 100 and 10,000 as in the paper where they are among the sizes
            few, many = (100, 10000) if {100, 10000} <= accuracies.keys() else (min(accuracies), max(accuracies))
            scores[f"{name}_efficiency"] = efficiency(accuracies, few, many)
        by_factor[name] = {size: accuracy.test.tolist() for size, accuracy in accuracies.items()}
    return {name: float(score) for name, score in scores.items()}, {"downstream": by_factor}


SCORES: dict[str, Callable[[Material], Scores]] = {
    "beta_vae": _beta_vae,
    "factor_vae": _factor_vae,
    "mig": _mig,
    "modularity": _modularity,
    "explicitness": _explicitness,
    "dci": _dci,
    "sap": _sap,
    "irs": _irs,
    "unsupervised": _unsupervised,
    "downstream": _downstream,
}
