"""What the records of `benchmarks.disentanglement.study` say together: pure functions, tables of text."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..shared.runs import Record, spread

Floats = NDArray[np.float64]

METRICS = {  # title and key of the six that the study compares, in its order
    "BetaVAE": "beta_vae",
    "FactorVAE": "factor_vae",
    "MIG": "mig",
    "DCI": "dci_disentanglement",
    "Modularity": "modularity",
    "SAP": "sap",
}

UNSUPERVISED = {  # what a run knows without labels
    "ELBO": "test/elbo",
    "Reconstruction": "test/reconstruction",
    "KL": "test/kl",
    "Total correlation, means": "mean/total_correlation",
    "Total correlation, samples": "sampled/total_correlation",
    "Information between latents": "mean/code_mutual_information",
    "Active latents": "latents/active",
    "UDR": "udr",
}


def score(record: Record, key: str) -> float:
    """A metric of a run, NaN where it has none.

    Args:
        record: One run.
        key: ``mean/mig``, ``test/elbo``, ... in its "metrics".
    """
    value = record["metrics"].get(key)
    return math.nan if value is None else float(value)


def setting(record: Record) -> tuple[str, float]:
    """Method and strength of a run."""
    return record["method"], record["strength"]


def variance_explained(values: Sequence[float], groups: Sequence[Hashable]) -> float:
    """Share of the variance of scores that the group of a run explains, in [0, 1].

    R² of ordinary least squares on one-hot groups, whose predictions are the means of the groups.

    Args:
        values: One score of each run; runs without one (NaN, infinite) are left out.
        groups: The group of each run: its method, or method and strength.

    Returns:
        NaN if all values are equal, or there are none.

    Raises:
        ValueError: There are not as many groups as values.
    """
    of_group: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if math.isfinite(value):
            of_group.setdefault(group, []).append(value)
    kept = [np.array(group) for group in of_group.values()]
    if not kept:
        return math.nan
    within = sum(float(np.square(group - group.mean()).sum()) for group in kept)
    joined = np.concatenate(kept)
    total = float(np.square(joined - joined.mean()).sum())
    return 1 - within / total if total > 1e-20 else math.nan  # scores that differ by rounding only are equal


def by_chance(groups: Sequence[Hashable]) -> float:
    """What `variance_explained` is on average if the groups have nothing to do with the scores: (G - 1) / (n - 1)."""
    return (len(set(groups)) - 1) / (len(groups) - 1) if len(groups) > 1 else math.nan


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def rank_correlations(table: ArrayLike) -> Floats:
    """Spearman's rank correlation between columns.

    Args:
        table: (n, M); rows with NaN in one of two columns are left out for that pair.

    Returns:
        (M, M), symmetric; NaN for a column whose values are all equal, and for less than three rows.
    """
    columns = np.asarray(table, dtype=np.float64).T
    correlations = np.full((len(columns), len(columns)), np.nan)
    for i, first in enumerate(columns):
        for j, second in enumerate(columns[: i + 1]):
            known = np.isfinite(first) & np.isfinite(second)
            if known.sum() > 2:
                a, b = (each - each.mean() for each in (ranks(first[known]), ranks(second[known])))
                scale = math.sqrt((a @ a) * (b @ b))
                correlations[i, j] = correlations[j, i] = a @ b / scale if scale else np.nan
    return correlations


def measured(records: Sequence[Record], representation: str = "mean") -> dict[str, str]:
    """Title and key of those of `METRICS` that any run has, on a representation."""
    keys = {title: f"{representation}/{key}" for title, key in METRICS.items()}
    return {title: key for title, key in keys.items() if any(key in record["metrics"] for record in records)}


def unsupervised_of(records: Sequence[Record]) -> dict[str, str]:
    """Title and key of those of `UNSUPERVISED` that any run has."""
    return {title: key for title, key in UNSUPERVISED.items() if any(key in each["metrics"] for each in records)}


def columns_of(records: Sequence[Record], keys: Mapping[str, str]) -> Floats:
    """Metrics (runs, keys) of all runs."""
    return np.array([[score(record, key) for key in keys.values()] for record in records])


def by_setting(records: Sequence[Record]) -> dict[tuple[str, float], list[Record]]:
    """The runs of each method and strength, in the order in which they come."""
    runs: dict[tuple[str, float], list[Record]] = {}
    for record in records:
        runs.setdefault(setting(record), []).append(record)
    return runs


def scores_table(records: Sequence[Record], keys: Mapping[str, str]) -> list[list[str]]:
    """Mean and standard deviation over seeds for each method and strength."""
    rows = [["method", "strength", "seeds", *keys]]
    for (method, _), runs in by_setting(records).items():
        cells = [spread(known(score(run, key) for run in runs), 3) for key in keys.values()]
        rows.append([method, runs[0]["argument"], str(len(runs)), *cells])
    return rows


def training_table(records: Sequence[Record]) -> list[list[str]]:
    """MIG of the posterior means of all images during training, from the untrained network on."""
    steps = [step for step, _ in records[0]["mig_during_training"]]
    rows = [["MIG after steps", "strength", *map(str, steps)]]
    for (method, _), runs in by_setting(records).items():
        curves = [dict(map(tuple, run["mig_during_training"])) for run in runs]
        rows.append([method, runs[0]["argument"], *(spread([c.get(step) for c in curves], 3) for step in steps)])
    return rows


def known(values: Any) -> list[float | None]:
    """Values with None for NaN, as `spread` takes them."""
    return [None if math.isnan(value) else value for value in values]


def agreement_table(records: Sequence[Record], keys: Mapping[str, str]) -> list[list[str]]:
    """Spearman's rank correlation of the metrics over all runs, times 100 as in the paper."""
    correlations = rank_correlations(columns_of(records, keys))
    cells = [[percent(value) for value in row] for row in correlations]
    return [["rank correlation x 100", *keys], *([title, *row] for title, row in zip(keys, cells, strict=True))]


def selection_correlations(records: Sequence[Record], keys: Mapping[str, str]) -> Floats:
    """Rank correlations (U, M) of what is known without labels with the metrics, over all runs."""
    unsupervised = unsupervised_of(records)
    return rank_correlations(columns_of(records, {**unsupervised, **keys}))[: len(unsupervised), len(unsupervised) :]


def selection_table(records: Sequence[Record], keys: Mapping[str, str]) -> list[list[str]]:
    """The same as text, times 100."""
    rows = zip(unsupervised_of(records), selection_correlations(records, keys), strict=True)
    return [["rank correlation x 100", *keys], *([title, *map(percent, row)] for title, row in rows)]


def percent(value: float) -> str:
    """A share or correlation times 100, without decimals."""
    return "-" if math.isnan(value) else str(round(100 * value))


def variance_table(records: Sequence[Record], keys: Mapping[str, str]) -> list[list[str]]:
    """Share of each metric's variance that the method explains, and method and strength; the rest is the seed."""
    rows = [["variance explained, %", *keys, "mean", "by chance"]]
    for title, groups in groupings(records).items():
        shares = [variance_explained(column, groups) for column in columns_of(records, keys).T]
        finite = [share for share in shares if not math.isnan(share)]
        mean = sum(finite) / len(finite) if finite else math.nan
        rows.append([title, *map(percent, (*shares, mean, by_chance(groups)))])
    return rows


def groupings(records: Sequence[Record]) -> dict[str, list[Hashable]]:
    """The group of each run, in two ways."""
    return {
        "by method": [record["method"] for record in records],
        "by method and strength": [setting(record) for record in records],
    }


def best_table(records: Sequence[Record], keys: Mapping[str, str]) -> list[list[str]]:
    """The run with the best score of each metric, and how it does without its luck: the mean of its setting."""
    rows = [["metric", "best run", "score", "mean of its seeds"]]
    settings = by_setting(records)
    for title, key in keys.items():
        rated = [record for record in records if not math.isnan(score(record, key))]
        if rated:
            best = max(rated, key=lambda record: score(record, key))
            seeds = [score(run, key) for run in settings[setting(best)]]
            name = f"{best['method']}, {best['argument']}, seed {best['seed']}"
            rows.append([title, name, f"{score(best, key):.3f}", f"{np.nanmean(seeds):.3f}"])
    return rows
