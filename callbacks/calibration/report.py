"""The section on calibration, before and after temperature, and before and after a shift."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..shared.html import Figures, Record, Runs, details, gallery, number, per_run, section, table
from ..shared.sections import NOTE_ON_CLASSIFIERS, Column, Section, Value, add_section
from .figures import reliability_figure

METRICS = {
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
    """Reliability diagrams of the source, and of shifted test sets beside it, and a table of all metrics."""
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
    tables, diagrams = per_run(runs, _table), per_run(runs, lambda record: _diagrams(record, draw))
    return section("Calibration", note, diagrams, tables if shifted else details("All calibration metrics", tables))


def _diagrams(record: Record, draw: Figures) -> str:
    results = record.get("calibration") or {}
    shifted = results.get("shifted") or {}
    judged = {"": results} | shifted

    def diagrams(part: str) -> Iterator[str]:
        for name, of_set in judged.items():
            if of_set.get(part):
                label = f"reliability diagram {part} temperature{f', {name}' if name else ''}"
                caption = f"{name or 'source'}, {part} temperature" if shifted else ""
                yield draw(reliability_figure({**results, **of_set}, [part]), label, caption)

    rows = [list(diagrams(part)) for part in ("before", "after")]
    if not shifted:
        return gallery(rows[0] + rows[1], "pairs")
    # source and targets beside one another, a row for each part
    return "\n".join(gallery(row, "pairs" if len(judged) < 3 else "") for row in rows if row)


def _table(record: Record) -> str:
    results = record.get("calibration") or {}
    shifted = results.get("shifted") or {}
    columns = {
        f"{name}, {part}" if shifted else part: of_set[part]
        for name, of_set in ({"source": results} | shifted).items()
        for part in ("before", "after")
        if of_set.get(part)
    }
    rows = [
        f"<th>{escape(label)}</th>" + "".join(f"<td>{number(part.get(key), 4)}</td>" for part in columns.values())
        for key, label in METRICS.items()
        if any(part.get(key) is not None for part in columns.values())
    ]
    return table(["", *columns], rows, "many" if shifted else "") if rows else ""


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
    variance = 0.0
    for count, accuracy in zip(diagram["count"], diagram["accuracy"], strict=True):
        if count:
            smoothed = (accuracy * count + 1) / (count + 2)
            variance += count * smoothed * (1 - smoothed)
    return math.sqrt(variance) / sum(diagram["count"])


def mean_value(values: Sequence[Value]) -> Value:
    """The mean of a metric over different samples."""
    error = math.hypot(*(value.error for value in values)) / len(values)
    return Value(sum(value.value for value in values) / len(values), error)


def calibration_values(calibration: Mapping[str, Any]) -> dict[str, Value]:
    """The columns of the summary table."""
    before, after = calibration["before"], calibration.get("after")
    values = {"accuracy": accuracy_value(calibration), "brier": Value(before["brier"])}
    for part, suffix in ((before, ""), (after, "_after")):
        if part:
            values |= {"nll" + suffix: Value(part["nll"]), "ece" + suffix: ece_value(part)}
    if after:
        values["temperature"] = Value(calibration["temperature"])
    if shifted := list((calibration.get("shifted") or {}).values()):
        values["target_accuracy"] = mean_value([accuracy_value(judged) for judged in shifted])
        values["target_ece"] = mean_value([ece_value(judged["before"]) for judged in shifted])
        if after:
            values["target_ece_after"] = mean_value([ece_value(judged["after"]) for judged in shifted])
    return values


def calibration_sentences(calibration: Mapping[str, Any], alone: bool) -> list[str]:
    """The accuracy of a run that is alone, and what temperature scaling changed."""
    before, values = calibration["before"], calibration_values(calibration)
    accuracy, ece = values["accuracy"], values["ece"]
    gap = before["mean_confidence"] - before["accuracy"]
    tendency = "Over-confident" if gap > 0 else "Under-confident"
    if abs(gap) <= 1.96 * accuracy.error:
        tendency = "Confidence matches accuracy on average"
    outcome = "no temperature was fitted"
    if "ece_after" in values:
        after = values["ece_after"].value
        change = "lowers ECE to" if after < ece.value else "does not help: ECE becomes"
        outcome = f"T\u00a0=\u00a0{calibration['temperature']:.2f} {change} {after:.4f}"
    share = (
        f"{accuracy.value:.1%} of {calibration['samples']:,} test samples are classified correctly "
        f"(± {196 * accuracy.error:.1f} points, 95% interval)."
    )
    text = (
        f"{tendency} before temperature (confidence {before['mean_confidence']:.3f}, accuracy "
        f"{before['accuracy']:.3f}, ECE {ece.value:.4f}); {outcome}."
    )
    return [share, text] if alone else [text]


def calibration_shift_sentences(source: Mapping[str, Any]) -> dict[str, list[str]]:
    """What each shift did to accuracy and confidences."""
    return {name: [_shift_sentence(name, source, target)] for name, target in (source.get("shifted") or {}).items()}


def _shift_sentence(name: str, source: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    accuracy = _change("accuracy", ".1%", accuracy_value(source), accuracy_value(target))
    ece = _change("ECE", ".4f", ece_value(source["before"]), ece_value(target["before"]))
    text = f"From the source to {name}, {accuracy} and {ece}"
    if not target.get("after"):
        return f"{text}."
    after = target["after"]["ece"]
    change = "still helps there, ECE" if after < target["before"]["ece"] else "does not help there: ECE becomes"
    return f"{text}; the source's temperature {change} {after:.4f}."


def _change(metric: str, digits: str, before: Value, after: Value) -> str:
    one, other = format(before.value, digits), format(after.value, digits)
    if abs(after.value - before.value) <= 1.96 * math.hypot(before.error, after.error):
        return f"{metric} is a tie ({one} and {other})"
    return f"{metric} {'rises' if after.value > before.value else 'falls'} from {one} to {other}"


COLUMNS = {
    "accuracy": Column("Accuracy", True, 4, "is more accurate", percent=True, note=NOTE_ON_CLASSIFIERS),
    "nll": Column(
        "NLL", False, wins="has the lower NLL before temperature (no interval)", subject="NLL before temperature"
    ),
    "nll_after": Column("NLL after T", False),
    "brier": Column("Brier", False),
    "ece": Column("ECE", False, 4, "is better calibrated before temperature: ECE", "ECE before temperature"),
    "ece_after": Column(
        "ECE after T", False, 4, "is better calibrated after temperature: ECE", "ECE after temperature"
    ),
    "temperature": Column("T", None, 2),
    "target_accuracy": Column(
        *("Target accuracy", True, 4, "is more accurate on the target", "Accuracy on the target", True),
        note="Target: the shifted test set, or the mean over several, with the temperature of the source.",
    ),
    "target_ece": Column("Target ECE", False, 4, "is better calibrated on the target: ECE", "ECE on the target"),
    "target_ece_after": Column(
        *("Target ECE after T", False, 4),
        wins="is better calibrated on the target with the source's temperature: ECE",
        subject="ECE on the target with the source's temperature",
    ),
}
add_section(
    Section(
        10,
        ("calibration",),
        calibration_section,
        columns=COLUMNS,
        values=calibration_values,
        sentences=calibration_sentences,
        shift_sentences=calibration_shift_sentences,
    )
)
