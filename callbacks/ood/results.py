"""From scores to the results of `OODEvaluation`: metrics by set and score, means, histograms and ROC curves."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .metrics import Floats, bootstrap_aurocs, bootstrap_interval, detection_metrics, roc, roc_points

Scores = dict[str, dict[str, Floats]]  # score -> set -> (N,)

MEAN_METRICS = ("auroc", "ap_ood", "ap_id", "fpr95_ood_positive", "fpr95_id_positive")


def evaluate(scores: Scores, id_name: str, skipped: dict[str, str], resamples: int, seed: int) -> dict[str, Any]:
    """Judge each score on each OOD set against the in-distribution set.

    A set named ``target/…`` is one of the others, and in-distribution in its turn: against the sets that are neither.
    Without ``resamples`` the interval of an AUROC is None. The results are those of `OODEvaluation`, in plain numbers,
    strings, lists and dicts; "shifted" only where there are sets for it.
    """
    others = [name for name in next(iter(scores.values())) if name != id_name]
    targets = [name for name in others if name.startswith("target/")]
    outside = [name for name in others if name not in targets]
    results = {
        **_judge(scores, id_name, others, resamples, seed),
        "skipped": skipped,
        "histograms": {score: _histogram(values) for score, values in scores.items()},
        "roc": {
            score: {name: _curve(values[id_name], values[name]) for name in others} for score, values in scores.items()
        },
    }
    if targets and outside:
        results["shifted"] = {name: _judge(scores, name, outside, resamples, seed) for name in targets}
    return results


def _judge(scores: Scores, id_name: str, others: list[str], resamples: int, seed: int) -> dict[str, Any]:
    """Metrics of each score on each of the other sets, and their means."""
    sets = {name: _metrics(scores, id_name, name, resamples, seed) for name in others}
    return {
        "id": id_name,
        "samples": len(next(iter(scores.values()))[id_name]),
        "scores": list(scores),
        "sets": sets,
        "near_mean": _mean(sets, "near/", list(scores)),
        "far_mean": _mean(sets, "far/", list(scores)),
    }


def log_values(results: dict[str, Any], group: str = "ood") -> dict[str, float]:
    """All metrics under their log keys, ``ood/<set>/<score>/<metric>`` and ``ood/near_mean/<score>/<metric>``."""
    groups = {**results["sets"], "near_mean": results["near_mean"], "far_mean": results["far_mean"]}
    return {
        f"{group}/{name}/{score}/{metric}": value
        for name, by_score in groups.items()
        for score in results["scores"]
        for metric, value in by_score.get(score, {}).items()
        if value is not None
    }


def ood_columns(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The OOD sets and then the near and far means, each with its metrics by score."""
    means = {"near mean": results.get("near_mean"), "far mean": results.get("far_mean")}
    return dict(results["sets"]) | {name: by_score for name, by_score in means.items() if by_score}


def cell_value(by_score: Mapping[str, Any], score: str, metric: str = "auroc") -> float:
    """A metric of a set or mean; NaN where it is missing."""
    value = (by_score.get(score) or {}).get(metric)
    return math.nan if value is None else value


def auroc_table(results: dict[str, Any]) -> tuple[list[str], list[list[str | float | None]]]:
    """Headings and rows of a table of AUROCs: scores down, OOD sets and their means across."""
    columns = ood_columns(results)
    rows = [[score, *(cell_value(by_score, score) for by_score in columns.values())] for score in results["scores"]]
    return ["score", *columns], rows


def _metrics(scores: Scores, id_name: str, name: str, resamples: int, seed: int) -> dict[str, Any]:
    inside = [values[id_name] for values in scores.values()]
    outside = [values[name] for values in scores.values()]
    by_score: dict[str, Any] = {"samples": len(outside[0])}
    resampled = bootstrap_aurocs(inside, outside, resamples, seed) if resamples else None
    for row, score in enumerate(scores):
        low, high = (None, None) if resampled is None else bootstrap_interval(resampled[row])
        by_score[score] = detection_metrics(inside[row], outside[row]) | {"auroc_low": low, "auroc_high": high}
    return by_score


def _mean(sets: dict[str, Any], prefix: str, scores: list[str]) -> dict[str, dict[str, float]]:
    """Unweighted means over the sets of one kind; samples of different sets are never pooled."""
    kind = [by_score for name, by_score in sets.items() if name.startswith(prefix)]
    return {
        score: {metric: float(np.mean([by_score[score][metric] for by_score in kind])) for metric in MEAN_METRICS}
        for score in (scores if kind else ())
    }


def _histogram(values: dict[str, Floats], bins: int = 60) -> dict[str, Any]:
    """Counts over common edges. A few outliers must not squeeze all else into a bin: the end bins are open."""
    ends = np.array([np.quantile(scores, [0.005, 0.995]) for scores in values.values()])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not low < high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    counts = {name: np.histogram(scores.clip(low, high), edges)[0].tolist() for name, scores in values.items()}
    return {"edges": edges.tolist(), "counts": counts}


def _curve(id_scores: Floats, ood_scores: Floats) -> dict[str, list[float]]:
    fpr, tpr = roc_points(roc(id_scores, ood_scores))
    return {"fpr": fpr.round(5).tolist(), "tpr": tpr.round(5).tolist()}
