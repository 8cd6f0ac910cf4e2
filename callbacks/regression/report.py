"""The section on the predictive distributions of a regressor."""

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from ..shared.html import Figures, Record, Runs, details, formatted, gallery, number, per_run, section, table
from ..shared.sections import Column, Section, Value, add_section
from .figures import fan_figure, pit_figure, quantile_figure

NOTE = (
    "In the units of the label. “After” is the distribution function R(F(y)), with R an isotonic regression of F at "
    "the labels of the validation data. Calibration: the share of labels below each predicted quantile, on the dashed "
    "diagonal for a calibrated forecaster. PIT: F at the labels, evenly spread for a calibrated forecaster; high ends "
    "mean too narrow, a high middle too wide. The grey bands hold 95% of what a perfect forecaster would show on so "
    "many labels. Intervals: test rows sorted by prediction (line), with their labels (dots) and central intervals, "
    "whose mean width and Winkler score stand in the table."
)
METRICS = {
    "rmse": "RMSE of the mean",
    "mae": "MAE of the mean",
    "crps": "CRPS",
    "nll": "NLL in nats",
    "qce": "QCE (mean absolute, 99 levels)",
    "qce_squared": "QCE (mean squared, 99 levels)",
    "sharpness": "Sharpness (mean standard deviation)",
}


def regression_section(runs: Runs, draw: Figures) -> str:
    """For each run the calibration curve, the PIT histogram, the fans, and tables of all metrics."""
    judged = {name: record for name, record in runs.items() if record.get("regression")}
    if not judged:
        return ""

    def judgement(record: Record) -> str:
        results = record["regression"]
        return _intervals(results) + _family(results) + gallery(_pictures(results, draw), "pairs")

    return section(
        "Predictive distributions",
        NOTE,
        per_run(judged, judgement),
        details("All metrics", per_run(judged, lambda record: _metrics(record["regression"]))),
    )


def _parts(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: results[name] for name in ("before", "after") if results.get(name)}


def _pictures(results: Mapping[str, Any], draw: Figures) -> Iterator[str]:
    yield draw(quantile_figure(results), "share of labels below predicted quantiles", "Calibration")
    yield draw(pit_figure(results), "histogram of the PIT", "PIT")
    for part in _parts(results):
        label = f"predictions, intervals and labels {part} recalibration"
        yield draw(fan_figure(results, [part]), label, f"Intervals {part} recalibration")


def _family(results: Mapping[str, Any]) -> str:
    text = f"Family of the predictive distributions: {results['law']}; {results['samples']:,} test labels"
    if fit := results.get("recalibration"):
        text += f"; recalibrated on {fit['samples']:,} validation labels"
    return f'<p class="note">{escape(text)}.</p>'


def _intervals(results: Mapping[str, Any]) -> str:
    parts = _parts(results)
    head = ["interval"]
    for what in ("coverage", "width", "Winkler"):
        head += [f"{what} {part}" if len(parts) > 1 else what for part in parts]
    rows = []
    for index, level in enumerate(results["levels"]):
        cells = f"<th>{100 * level:g}%</th>"
        for what in ("coverage", "width", "winkler"):
            for part in parts.values():
                value = part["intervals"][what][index]
                shown = f"{100 * value:.1f}%" if what == "coverage" else number(value, None)
                cells += f"<td>{shown}</td>"
        rows.append(cells)
    return table(head, rows)


def _metrics(results: Mapping[str, Any]) -> str:
    parts = _parts(results)
    rows = []
    for key, label in METRICS.items():
        cells = f"<th>{escape(label)}</th>"
        for part in parts.values():
            error = part.get(f"{key}_error")
            spread = "" if error is None else f"<small>± {number(error, None)}</small>"
            shown = number(part[key], None)
            if key == "nll" and part["zero_density"]:
                shown, spread = "∞", f"<small>density 0 at {part['zero_density']:,} labels</small>"
            cells += f"<td>{shown}{spread}</td>"
        rows.append(cells)
    chance = f"{number(results['qce_by_chance'], None)} by chance on {results['samples']:,} labels"
    if fit := results.get("recalibration"):
        chance += f", {number(fit['qce_by_chance'], None)} with a map fitted on {fit['samples']:,} more"
    note = f'<p class="note">± one standard error. A perfect forecaster would have a QCE of {escape(chance)}.</p>'
    return table(["", *parts], rows) + note


def regression_values(regression: Mapping[str, Any]) -> dict[str, Value]:
    """The columns of the summary table; infinite metrics, which a record has as None, are left out."""
    names = {"rmse": "rmse", "mae": "mae", "crps": "crps", "density_nll": "nll", "qce": "qce"}
    entries = {key: (regression["before"], name) for key, name in names.items()}
    if after := regression.get("after"):
        entries |= {"crps_after": (after, "crps"), "qce_after": (after, "qce")}
    values = {}
    for key, (part, name) in entries.items():
        if part[name] is not None:
            error = part.get(f"{name}_error")
            values[key] = Value(part[name], math.nan if error is None else error)
    return values


def regression_sentences(results: Mapping[str, Any], alone: bool) -> list[str]:
    """What the errors and the calibration of a regressor say."""
    before, after, samples = results["before"], results.get("after"), results["samples"]
    sentences = []
    if alone:
        error = "" if before["rmse_error"] is None else f" (± {1.96 * before['rmse_error']:.2g}, 95% interval)"
        sentences.append(
            f"RMSE {formatted(before['rmse'], None)}{error}, MAE {formatted(before['mae'], None)} and CRPS "
            f"{formatted(before['crps'], None)} on {samples:,} test labels, in their units."
        )
    index = min(range(len(results["levels"])), key=lambda index: abs(results["levels"][index] - 0.9))
    level, coverage = results["levels"][index], before["intervals"]["coverage"][index]
    if abs(coverage - level) <= 1.96 * math.sqrt(level * (1 - level) / samples):
        tendency = "what a perfect forecaster would show"
    else:
        tendency = "they are too narrow" if coverage < level else "they are too wide"
    text = f"The {100 * level:g}% intervals hold {coverage:.1%} of the labels: {tendency}"
    if after:
        recalibrated, fit = after["intervals"]["coverage"][index], results["recalibration"]["samples"]
        text += f"; recalibrated on {fit:,} validation labels they hold {recalibrated:.1%}"
    sentences.append(f"{text}.")
    text = f"Quantile calibration error {before['qce']:.4f} (by chance {results['qce_by_chance']:.4f})"
    if after:
        change = "lowers it to" if after["qce"] < before["qce"] else "does not help: it becomes"
        chance = results["recalibration"]["qce_by_chance"]
        text += f"; recalibration {change} {after['qce']:.4f} (by chance {chance:.4f})"
    sentences.append(f"{text}.")
    if none := before["zero_density"]:
        verb = "label has" if none == 1 else "labels have"
        sentences.append(f"{none:,} {verb} a predicted density of zero, so that the NLL is infinite.")
    return sentences


NOTE_ON_COLUMNS = (
    "RMSE, MAE and CRPS in the units of the label; NLL of the predicted density in nats; QCE is the quantile "
    "calibration error, mean |coverage &minus; level|; “after R” is recalibrated on validation data."
)
COLUMNS = {
    "rmse": Column("RMSE", False, None, "has the lower RMSE", note=NOTE_ON_COLUMNS),
    "mae": Column("MAE", False, None, "has the lower MAE"),
    "crps": Column("CRPS", False, None, "has the lower CRPS"),
    "crps_after": Column(
        "CRPS after R", False, None, "has the lower CRPS after recalibration", "CRPS after recalibration"
    ),
    "density_nll": Column("NLL of density", False, 3, "has the lower NLL", "NLL"),
    "qce": Column(
        "QCE", False, 4, "has the lower quantile calibration error (no interval)", "Quantile calibration error"
    ),
    "qce_after": Column("QCE after R", False, 4),
}
add_section(
    Section(
        30,
        ("regression",),
        regression_section,
        columns=COLUMNS,
        values=regression_values,
        sentences=regression_sentences,
    )
)
