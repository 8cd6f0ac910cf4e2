"""The section on calibration, before and after temperature, and before and after a shift."""

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from ..shared.html import Figures, Record, Runs, Value, details, gallery, number, per_run, section, table
from .figures import reliability_figure

FIGURES = {
    "accuracy": "Accuracy",
    "mean_confidence": "Mean confidence",
    "nll": "NLL",
    "brier": "Brier (sum over classes)",
    "ece": "ECE (equal-width bins)",
    "ace": "ECE (equal-count bins)",
    "rmsce": "RMSCE (root mean square over bins)",
    "mce": "MCE",
    "classwise_ece": "Class-wise ECE",
    "aurc": "AURC (risk-coverage curve)",
}


def calibration_section(runs: Runs, draw: Figures) -> str:
    """Reliability diagrams of the source, and of shifted test sets beside it, and a table of all figures."""
    note = (
        "Blue: accuracy of the images in a confidence bin. Hatched: its gap to their mean confidence. The "
        "dashed diagonal is perfect calibration; an empty bin draws nothing. Below: share of images by "
        "confidence, with the accuracy (solid) and the mean confidence (dotted) of all."
    )
    shifted = any((record.get("calibration") or {}).get("shifted") for record in runs.values())
    if shifted:
        note += (
            " Source: the test set of the labelled training data, before the shift. Target: test sets after it. "
            "The one temperature is fitted on validation data of the source, and no label of a target is used."
        )
    figures = per_run(runs, _table)
    figures = figures if shifted else details("All calibration figures", figures)
    return section("Calibration", note, per_run(runs, lambda record: _diagrams(record, draw)), figures)


def _diagrams(record: Record, draw: Figures) -> str:
    results = record.get("calibration") or {}
    shifted = results.get("shifted") or {}
    judged = {"": results} | shifted
    kind = "pairs" if len(judged) < 3 else ""

    def figures(part: str) -> Iterator[str]:
        for name, found in judged.items():
            if found.get(part):
                label = f"reliability diagram {part} temperature{f', {name}' if name else ''}"
                caption = f"{name or 'source'}, {part} temperature" if shifted else ""
                yield draw(reliability_figure({**results, **found}, [part]), label, caption)

    if not shifted:
        return gallery([figure for part in ("before", "after") for figure in figures(part)], "pairs")
    # source and targets beside one another, a row for each part
    return "\n".join(gallery(figures(part), kind) for part in ("before", "after") if results.get(part))


def _table(record: Record) -> str:
    results = record.get("calibration") or {}
    shifted: dict[str, Any] = results.get("shifted") or {}
    columns: dict[str, Mapping[str, Any]] = {}
    for name, found in ({"source": results} | shifted).items():
        start = f"{name}, " if shifted else ""
        columns |= {f"{start}{part}": found[part] for part in ("before", "after") if found.get(part)}
    if not columns:
        return ""
    first = next(iter(columns.values()))
    rows = [
        f"<th>{escape(label)}</th>" + "".join(f"<td>{number(part.get(key), 4)}</td>" for part in columns.values())
        for key, label in FIGURES.items()
        if first.get(key) is not None
    ]
    return table(["", *columns], rows, "many" if shifted else "")


def accuracy_value(judged: Mapping[str, Any]) -> Value:
    """Accuracy on a set, before temperature, with its standard error smoothed by Laplace's rule."""
    accuracy, samples = judged["before"]["accuracy"], judged["samples"]
    smoothed = (accuracy * samples + 1) / (samples + 2)
    return Value(accuracy, math.sqrt(smoothed * (1 - smoothed) / samples))


def ece_value(part: Mapping[str, Any]) -> Value:
    """ECE before or after temperature, with its standard error."""
    return Value(part["ece"], ece_error(part["diagram"]))


def ece_error(diagram: Mapping[str, Any]) -> float:
    """Standard error of ECE, to first order and for given bins.

    The root of sum_m n_m a_m (1 - a_m) / N^2 with a_m the accuracy of a bin, smoothed by Laplace's rule so that
    a bin without a mistake is not taken for certain.
    """
    total = sum(diagram["count"])
    variance = 0.0
    for count, accuracy in zip(diagram["count"], diagram["accuracy"], strict=True):
        if count:
            smoothed = (accuracy * count + 1) / (count + 2)
            variance += count * smoothed * (1 - smoothed)
    return math.sqrt(variance) / total


def calibration_sentence(calibration: Mapping[str, Any], values: Mapping[str, Value]) -> str:
    """What temperature scaling changed, in one sentence."""
    before, ece = calibration["before"], values["ece"]
    gap = before["mean_confidence"] - before["accuracy"]
    if abs(gap) <= 1.96 * values["accuracy"].error:
        tendency = "confidence matches accuracy on average"
    else:
        tendency = "over-confident" if gap > 0 else "under-confident"
    text = f"{tendency} before temperature (confidence {before['mean_confidence']:.3f}, accuracy "
    text += f"{before['accuracy']:.3f}, ECE {ece.value:.4f})"
    if "ece_after" not in values:
        return f"{text[0].upper()}{text[1:]}; no temperature was fitted."
    after = values["ece_after"].value
    change = "lowers ECE to" if after < ece.value else "does not help: ECE becomes"
    return f"{text[0].upper()}{text[1:]}; T\u00a0=\u00a0{calibration['temperature']:.2f} {change} {after:.4f}."
