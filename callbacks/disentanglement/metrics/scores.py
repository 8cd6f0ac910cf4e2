"""All scores of one representation, by the name of the metric, from codes that are there already."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import downstream
from .dci import dci, dci_exact
from .explicitness import explicitness
from .information import code_mutual_information, discretise, enough_bins, mig, modularity, mutual_information_matrix
from .irs import irs
from .pairs import Points, beta_vae_score, factor_vae_score
from .sap import sap, sap_continuous
from .unsupervised import gaussian_correlation

Found = tuple[dict[str, float], dict[str, Any]]
"""Scores by name, and matrices by name."""


class Split(NamedTuple):
    """A training and a test sample: codes (n, L) and factors (n, K) of each."""

    codes: np.ndarray
    factors: np.ndarray
    test_codes: np.ndarray
    test_factors: np.ndarray


class Material(NamedTuple):
    """What the metrics are computed from, of one representation.

    Attributes:
        split: For all metrics but the next three.
        points: Training and test points of the BetaVAE score.
        votes: Training and test votes of the FactorVAE score.
        tasks: Samples for downstream tasks, by the number of training samples.
        exact: scikit-learn's boosted trees in the place of our faster ones.
        seed: Of whatever is random in a classifier.
    """

    split: Split
    points: tuple[Points, Points] | None
    votes: tuple[Points, Points] | None
    tasks: Mapping[int, Split]
    exact: bool
    seed: int


def _beta_vae(material: Material) -> Found:
    assert material.points is not None  # made where this metric is asked for
    return {"beta_vae": beta_vae_score(*material.points)}, {}


def _factor_vae(material: Material) -> Found:
    assert material.votes is not None  # made where this metric is asked for
    found = factor_vae_score(*material.votes, material.split.codes.var(0, ddof=1, dtype=np.float64))
    return {"factor_vae": found.test, "factor_vae_active": float(found.num_active)}, {}


def _mig(material: Material) -> Found:
    codes, factors = material.split[:2]
    scores = {"mig": mig(codes, factors), "mig_corrected": mig(codes, factors, enough_bins(factors), True)}
    return scores, {"mutual_information": mutual_information_matrix(discretise(codes), factors)}


def _modularity(material: Material) -> Found:
    codes, factors = material.split[:2]
    corrected = modularity(codes, factors, enough_bins(factors), True)
    return {"modularity": modularity(codes, factors), "modularity_corrected": corrected}, {}


def _explicitness(material: Material) -> Found:
    return {"explicitness": explicitness(*material.split).test}, {}


def _dci(material: Material) -> Found:
    found = (dci_exact if material.exact else dci)(*material.split, seed=material.seed)
    scores = {
        "dci_disentanglement": found.disentanglement,
        "dci_completeness": found.completeness,
        "dci_informativeness": found.informativeness,
        "dci_informativeness_train": found.informativeness_train,
    }
    return scores, {"importance": found.importance}


def _sap(material: Material) -> Found:
    found = sap(*material.split, seed=material.seed)
    scores = {"sap": found.score, "sap_continuous": sap_continuous(*material.split[:2]).score}
    return scores, {"sap": found.matrix}


def _irs(material: Material) -> Found:
    codes, factors = material.split[:2]
    return {"irs": irs(codes, factors).score, "irs_corrected": irs(codes, factors, bins=None).score}, {}


def _unsupervised(material: Material) -> Found:
    codes = material.split.codes
    scores = {
        "code_mutual_information": code_mutual_information(codes),
        "code_mutual_information_corrected": code_mutual_information(codes, corrected=True),
    }
    return gaussian_correlation(codes)._asdict() | scores, {}


def _downstream(material: Material) -> Found:
    scores: dict[str, float] = {}
    by_factor: dict[str, dict[int, list[float]]] = {}
    for name in ("logistic_regression", "boosted_trees"):
        found = {}
        for size, split in material.tasks.items():
            if name == "logistic_regression":
                found[size] = downstream.logistic_regression(*split)
            else:
                fit = downstream.boosted_trees_exact if material.exact else downstream.boosted_trees
                found[size] = fit(*split, seed=material.seed)
            scores |= {f"{name}_{size}": found[size].test.mean(), f"{name}_{size}_min": found[size].test.min()}
        if len(found) > 1:
            scores[f"{name}_efficiency"] = downstream.efficiency(found, *_few_and_many(found))
        by_factor[name] = {size: accuracy.test.tolist() for size, accuracy in found.items()}
    return {name: float(score) for name, score in scores.items()}, {"downstream": by_factor}


def _few_and_many(sizes: Mapping[int, Any]) -> tuple[int, int]:
    """100 and 10,000 as in the paper where they are among the sizes, else the smallest and the largest."""
    return (100, 10000) if {100, 10000} <= sizes.keys() else (min(sizes), max(sizes))


SCORES: dict[str, Callable[[Material], Found]] = {
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
