"""The section on out-of-distribution detection."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..shared.html import Figures, Record, Runs, details, gallery, listed, number, per_run, section, table
from ..shared.sections import NOTE_ON_CLASSIFIERS, Column, Section, Value, add_section
from .figures import roc_figure, score_histogram_figure
from .results import cell_value, ood_columns


def ood_section(runs: Runs, draw: Figures) -> str:
    """Tables of AUROC with a heat map, all other metrics, histograms and ROC curves."""
    tested = {name: record for name, record in runs.items() if record.get("ood")}
    if not tested:
        return ""
    note = (
        "AUROC of each score against the in-distribution test set, with the 95% bootstrap interval: the chance "
        "that an OOD image scores higher than an in-distribution one, 0.5 = guessing. Every score is oriented so "
        "that larger means more OOD. Near sets resemble the training data, far sets do not; means are "
        "unweighted, nothing is pooled."
    )
    if any(name.startswith("target/") for record in tested.values() for name in record["ood"]["sets"]):
        note += (
            " A set called target/… holds the same classes after a shift: its AUROC says how far the shift is "
            "detected, and it is in no mean."
        )
    if any(record["ood"].get("shifted") for record in tested.values()):
        note += " With the target as in-distribution, OOD images are told from shifted ones, by the same scores."
    if len(tested) > 1:
        note += " First each run with the score that is its best on the set; one is better if the intervals are apart."
    return section(
        "Out-of-distribution detection",
        note,
        _duel(tested) if len(tested) > 1 else "",
        per_run(tested, _heat_tables),
        details("FPR at 95% and average precision", per_run(tested, _ood_details)),
        per_run(tested, lambda record: _score_figures(record["ood"], draw)),
    )


def _duel(runs: Runs) -> str:
    rows = []
    for name, (best, winner) in head_to_head(runs).items():
        cells = ""
        for label, (score, metrics) in best.items():
            mark = ' class="best"' if winner == label else ""
            cells += f"<td{mark}>{number(metrics['auroc'])}{_interval(metrics)}<small>{escape(score)}</small></td>"
        rows.append(f'<th>{escape(name)}</th>{cells}<td class="text">{escape(winner or "tie")}</td>')
    return table(["set", *runs, "better"], rows) if rows else ""


def _interval(metrics: Mapping[str, Any]) -> str:
    low, high = metrics.get("auroc_low"), metrics.get("auroc_high")
    return "" if low is None else f"<small>{number(low)}&ndash;{number(high)}</small>"


def _heat_tables(record: Record) -> str:
    """With the source as in-distribution, and with each shifted test set."""
    shifted = (record["ood"].get("shifted") or {}).items()
    tables = (f"<h4>{escape(name)} as in-distribution</h4>\n{_heat_table(ood)}" for name, ood in shifted)
    return "\n".join([_heat_table(record["ood"]), *tables])


def _heat_table(ood: Mapping[str, Any]) -> str:
    columns = ood_columns(ood)
    rows = []
    for score in ood["scores"]:
        cells = []
        for metrics in columns.values():
            value = cell_value(metrics, score)
            cells.append(f'<td style="{_heat(value)}">{number(value)}{_interval(metrics.get(score) or {})}</td>')
        rows.append(f"<th>{escape(score)}</th>{''.join(cells)}")
    skipped = ood.get("skipped") or {}
    reasons = {why: ", ".join(score for score in skipped if skipped[score] == why) for why in skipped.values()}
    left_out = "; ".join(f"{scores}: {why}" for why, scores in reasons.items())
    note = f'<p class="note">Left out: {escape(left_out)}.</p>' if left_out else ""
    if not any(name.startswith("target/") for name in (ood["id"], *ood["sets"])):
        return table(["score", *columns], rows, "heat") + note
    # one column more, and the means must not leave the page: names may break after the slash
    head = [name.replace("/", "/\N{ZERO WIDTH SPACE}") for name in columns]
    return table(["score", *head], rows, "heat many") + note


def _heat(auroc: float) -> str:
    if math.isnan(auroc):
        return ""
    colour = "--good" if auroc > 0.5 else "--bad"
    return f"background:rgb(var({colour}) / {0.06 + 0.5 * (2 * auroc - 1) ** 2:.2f})"


def _ood_details(record: Record) -> str:
    keys = {
        "auroc": "AUROC",
        "fpr95_ood_positive": "FPR95, OOD positive",
        "fpr95_id_positive": "FPR95, ID positive",
        "ap_ood": "AP, OOD",
        "ap_id": "AP, ID",
    }
    shifted = (record["ood"].get("shifted") or {}).items()
    rows = [
        f"<th>{escape(name)}{against}</th>"
        f'<td>{metrics["samples"]:,}</td><td class="text">{escape(score)}</td>'
        + "".join(f"<td>{number(cell_value(metrics, score, key))}</td>" for key in keys)
        for against, ood in [("", record["ood"]), *((f" against {escape(target)}", ood) for target, ood in shifted)]
        for name, metrics in ood["sets"].items()
        for score in ood["scores"]
        if metrics.get(score)
    ]
    return table(["set", "images", "score", *keys.values()], rows)


def _score_figures(ood: Mapping[str, Any], draw: Figures) -> str:
    def both(score: str) -> Iterator[str]:
        if score in ood["histograms"]:
            yield draw(score_histogram_figure(ood, score), f"histogram of {score}", f"{score}: distribution")
        if score in ood["roc"]:
            yield draw(roc_figure(ood, score), f"ROC curves of {score}", f"{score}: ROC")

    best = best_score(ood)
    rest = [score for score in ood["scores"] if score != best]
    shown = gallery(both(best), "pairs") if best else ""
    others = gallery((figure for score in rest for figure in both(score)), "pairs")
    return shown + details(f"Distributions and ROC curves of {len(rest)} more scores", others)


def ood_sets(ood: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Metrics by OOD set: a shifted test set is none."""
    return {name: metrics for name, metrics in ood["sets"].items() if not name.startswith("target/")}


def best_score(ood: Mapping[str, Any]) -> str | None:
    """The score with the largest AUROC on average over the OOD sets, else over the shifted ones, with hindsight."""
    sets = ood_sets(ood) or ood["sets"]

    def mean(score: str) -> float:
        return sum(cell_value(metrics, score) for metrics in sets.values())

    known = [score for score in ood["scores"] if sets and not math.isnan(mean(score))]
    return max(known, key=mean, default=None)


def best_on_set(metrics: Mapping[str, Any], scores: Sequence[str]) -> tuple[str, Mapping[str, float]] | None:
    """The score with the largest AUROC on one set, and its metrics."""
    known = [(score, metrics[score]) for score in scores if (metrics.get(score) or {}).get("auroc") is not None]
    return max(known, key=lambda item: item[1]["auroc"], default=None)


def interval(metrics: Mapping[str, Any]) -> tuple[float, float]:
    """The bootstrap interval of an AUROC, or the AUROC itself where none was drawn."""
    low, high = metrics.get("auroc_low"), metrics.get("auroc_high")
    return (metrics["auroc"], metrics["auroc"]) if low is None or high is None else (low, high)


def head_to_head(records: Mapping[str, Record]) -> dict[str, tuple[dict[str, tuple[str, Any]], str | None]]:
    """For each OOD set that all runs have: each run's best score, and the run that wins (``None``: a tie)."""
    oods = {label: record["ood"] for label, record in records.items() if record.get("ood")}
    table: dict[str, tuple[dict[str, tuple[str, Any]], str | None]] = {}
    if not oods or len(oods) < len(records):
        return table
    for name in ood_sets(next(iter(oods.values()))):
        entries = {label: best_on_set(ood["sets"].get(name) or {}, ood["scores"]) for label, ood in oods.items()}
        best = {label: entry for label, entry in entries.items() if entry}
        if len(best) == len(oods):
            first, *others = sorted(best, key=lambda label: best[label][1]["auroc"], reverse=True)
            ahead = all(interval(best[first][1])[0] > interval(best[label][1])[1] for label in others)
            table[name] = (best, first if ahead else None)
    return table


def ood_warnings(ood: Mapping[str, Any]) -> list[str]:
    """What a reader must know before he believes the scores."""
    chance, inverted = [], []
    for name, metrics in ood_sets(ood).items():
        best = best_on_set(metrics, ood["scores"])
        if best and interval(best[1])[0] <= 0.5:
            chance.append(f"{name} (best {best[0]}, {best[1]['auroc']:.3f})")
            continue
        inverted += [
            (metrics[score]["auroc"], f"{score} on {name} ({metrics[score]['auroc']:.2f})")
            for score in ood["scores"]
            if metrics.get(score) and interval(metrics[score])[1] < 0.5
        ]
    sentences = [f"No score is reliably better than chance on {listed(chance)}."] if chance else []
    if inverted:
        worst = [text for _, text in sorted(inverted)]
        more = [f"{len(worst) - 3} more"] if len(worst) > 3 else []
        sentences.append(f"Below chance, OOD images look more familiar: {listed(worst[:3] + more)}.")
    return sentences


def ood_values(ood: Mapping[str, Any]) -> dict[str, Value]:
    """The columns of the summary table: mean AUROCs of the score that is best over all sets."""
    score = best_score(ood)
    means = {kind: cell_value(ood.get(f"{kind}_mean") or {}, score) for kind in ("near", "far") if score}
    return {kind: Value(mean, remark=score) for kind, mean in means.items() if score and not math.isnan(mean)}


def ood_sentences(ood: Mapping[str, Any], alone: bool) -> list[str]:
    """The strongest score of a run that is alone, and warnings."""
    sentences = []
    if alone and ood_sets(ood) and (score := best_score(ood)):
        means = [f"{kind} mean {value.value:.3f}" for kind, value in ood_values(ood).items()]
        sentences.append(f"The strongest score over all OOD sets is {score}: AUROC {', '.join(means)}.")
    return sentences + ood_warnings(ood)


def ood_shift_sentences(ood: Mapping[str, Any]) -> dict[str, list[str]]:
    """How far each shift is detected, and how well OOD data are told from shifted ones."""
    sentences: dict[str, list[str]] = {}
    score, shifted = best_score(ood), ood.get("shifted") or {}
    for name in [name for name in ood["sets"] if name.startswith("target/")]:
        best = best_on_set(ood["sets"][name], ood["scores"])
        sentences[name] = [_shift_detected(name, *best)] if best else []
        if name in shifted and score:
            sentences[name].append(_detection_after_shift(name, score, ood, shifted[name]))
    return sentences


def _shift_detected(name: str, score: str, metrics: Mapping[str, float]) -> str:
    low, high = interval(metrics)
    if low <= 0.5:
        return f"No score reliably tells {name} from the source (best {score}, AUROC {metrics['auroc']:.3f})."
    auroc = f"{metrics['auroc']:.3f}" + (f" ({low:.3f} to {high:.3f})" if low < high else "")
    return f"The shift to {name} is detected with AUROC {auroc} by the best score for it, {score}."


def _detection_after_shift(name: str, score: str, source: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    """OOD detection with the target as in-distribution, by the score that is best with the source."""
    pairs = [
        (interval(source["sets"][of][score]), interval(metrics[score]))
        for of, metrics in target["sets"].items()
        if metrics.get(score)
    ]
    worse = sum(after[1] < before[0] for before, after in pairs)
    better = sum(after[0] > before[1] for before, after in pairs)
    counts = [f"{verb} on {times}" for verb, times in (("worse", worse), ("better", better)) if times]
    tendency = f"{' and '.join(counts)} of {len(pairs)} sets" if counts else f"a tie on all {len(pairs)} sets"
    means = []
    for kind in ("near", "far"):
        one, other = (cell_value(ood.get(f"{kind}_mean") or {}, score) for ood in (source, target))
        if not math.isnan(other):
            means.append(f"{kind} {one:.3f} to {other:.3f}")
    text = f"With {name} as in-distribution instead of the source, OOD detection by {score} is {tendency}"
    return f"{text}; mean AUROC {', '.join(means)}." if means else f"{text}."


def ood_comparison(runs: Runs) -> list[str]:
    """On which sets each run is better, and the means of each run's best score."""
    sentences = []
    if table := head_to_head(runs):
        parts = []
        for label in runs:
            won = [name for name, (_, winner) in table.items() if winner == label]
            where = f" ({listed(won)})" if won else ""
            parts.append(f"{label} is better on {len(won)} of {len(table)} sets{where}")
        level = [name for name, (_, winner) in table.items() if winner is None]
        ties = f"; a tie on {listed(level)}" if level else ""
        sentences.append(f"OOD detection, each model with its best score on each set: {'; '.join(parts)}{ties}.")
    single = []
    for label, record in runs.items():
        score = best_score(record["ood"]) if record.get("ood") and ood_sets(record["ood"]) else None
        if score:
            means = [f"{kind} {value.value:.3f}" for kind, value in ood_values(record["ood"]).items()]
            single.append(f"{label} ({score}) {', '.join(means)}")
    if len(single) > 1:
        sentences.append(f"OOD detection, one score for all sets, mean AUROC: {'; '.join(single)}.")
    return sentences


def ood_text_rows(runs: Runs) -> list[list[str]]:
    """AUROC by set and score, for a terminal."""
    tested = {name: record["ood"] for name, record in runs.items() if record.get("ood")}
    sets = list(dict.fromkeys(name for ood in tested.values() for name in ood_columns(ood)))
    rows = [["AUROC", "", *sets]]
    for run, source in tested.items():
        shifted = {f"{run}, {target} as ID": ood for target, ood in (source.get("shifted") or {}).items()}
        for label, ood in ({run: source} | shifted).items():
            columns = ood_columns(ood)
            for score in ood["scores"]:
                values = (cell_value(columns.get(name, {}), score) for name in sets)
                rows.append([label, score, *(number(value, dash="-") for value in values)])
    return rows if tested else []


COLUMNS = {
    "near": Column("AUROC near", True, note=NOTE_ON_CLASSIFIERS),
    "far": Column("AUROC far", True, note=NOTE_ON_CLASSIFIERS),
}
add_section(
    Section(
        50,
        ("ood",),
        ood_section,
        columns=COLUMNS,
        values=ood_values,
        sentences=ood_sentences,
        shift_sentences=ood_shift_sentences,
        comparison=ood_comparison,
        text_rows=ood_text_rows,
    )
)
