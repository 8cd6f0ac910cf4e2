"""The section on calibration, before and after temperature, and before and after a shift."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..shared.html import Figures, Record, Runs, details, gallery, number, per_run, section, table
from ..shared.sections import NOTE_ON_CLASSIFIERS, Column, Contest, Section, Value, add_section
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
        for key, label in METRICS.items()
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


def mean_value(values: Sequence[Value]) -> Value:
    """The mean of a metric over different samples."""
    error = math.hypot(*(value.error for value in values)) / len(values)
    return Value(sum(value.value for value in values) / len(values), error)


def calibration_values(record: Record) -> dict[str, Value]:
    """The columns of the summary table."""
    calibration = record.get("calibration")
    if not calibration:
        return {}
    before, after = calibration["before"], calibration.get("after")
    values = {"accuracy": accuracy_value(calibration), "brier": Value(before["brier"])}
    for part, suffix in ((before, ""), (after, "_after")):
        if part:
            values["nll" + suffix] = Value(part["nll"])
            values["ece" + suffix] = ece_value(part)
    if after:
        values["temperature"] = Value(calibration["temperature"])
    if shifted := list((calibration.get("shifted") or {}).values()):
        values["target_accuracy"] = mean_value([accuracy_value(judged) for judged in shifted])
        values["target_ece"] = mean_value([ece_value(judged["before"]) for judged in shifted])
        if after:
            values["target_ece_after"] = mean_value([ece_value(judged["after"]) for judged in shifted])
    return values


def calibration_sentences(record: Record, alone: bool) -> list[str]:
    """The accuracy of a run that is alone, and what temperature scaling changed."""
    calibration, values = record.get("calibration"), calibration_values(record)
    if not calibration:
        return []
    before, accuracy, ece = calibration["before"], values["accuracy"], values["ece"]
    gap = before["mean_confidence"] - before["accuracy"]
    if abs(gap) <= 1.96 * accuracy.error:
        tendency = "Confidence matches accuracy on average"
    else:
        tendency = "Over-confident" if gap > 0 else "Under-confident"
    text = f"{tendency} before temperature (confidence {before['mean_confidence']:.3f}, accuracy "
    text += f"{before['accuracy']:.3f}, ECE {ece.value:.4f}); "
    if "ece_after" in values:
        after = values["ece_after"].value
        change = "lowers ECE to" if after < ece.value else "does not help: ECE becomes"
        text += f"T\u00a0=\u00a0{calibration['temperature']:.2f} {change} {after:.4f}."
    else:
        text += "no temperature was fitted."
    share = (
        f"{accuracy.value:.1%} of {calibration['samples']:,} test samples are classified correctly "
        f"(± {196 * accuracy.error:.1f} points, 95% interval)."
    )
    return [share, text] if alone else [text]


def calibration_shift_sentences(record: Record) -> dict[str, list[str]]:
    """What each shift did to accuracy and confidences."""
    source = record.get("calibration") or {}
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


NOTE_ON_TARGETS = "Target: the shifted test set, or the mean over several, with the temperature of the source."
COLUMNS = {
    "accuracy": Column("Accuracy", True, 4, Contest("is more accurate", "Accuracy", ".1%"), NOTE_ON_CLASSIFIERS),
    "nll": Column(
        "NLL",
        False,
        3,
        Contest("has the lower NLL before temperature (no interval)", "NLL before temperature", ".3f"),
    ),
    "nll_after": Column("NLL after T", False),
    "brier": Column("Brier", False),
    "ece": Column(
        "ECE",
        False,
        4,
        Contest("is better calibrated before temperature: ECE", "ECE before temperature", ".4f"),
    ),
    "ece_after": Column(
        "ECE after T",
        False,
        4,
        Contest("is better calibrated after temperature: ECE", "ECE after temperature", ".4f"),
    ),
    "temperature": Column("T", None, 2),
    "target_accuracy": Column(
        "Target accuracy",
        True,
        4,
        Contest("is more accurate on the target", "Accuracy on the target", ".1%"),
        NOTE_ON_TARGETS,
    ),
    "target_ece": Column(
        "Target ECE",
        False,
        4,
        Contest("is better calibrated on the target: ECE", "ECE on the target", ".4f"),
    ),
    "target_ece_after": Column(
        "Target ECE after T",
        False,
        4,
        Contest(
            "is better calibrated on the target with the source's temperature: ECE",
            "ECE on the target with the source's temperature",
            ".4f",
        ),
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
