"""What a shift of the test data did to a run, in plain words, by the same 95% intervals as in `words`."""

import math
from collections.abc import Mapping
from typing import Any

from ..calibration.report import accuracy_value, ece_value
from ..ood.report import best_on_set, best_score, interval
from ..shared.html import Value
from .summary import cell_value

Results = Mapping[str, Any]


def shift_sentences(calibration: Results, ood: Results) -> list[str]:
    """For each test set named ``target/…`` what became of accuracy, of confidences and of OOD detection.

    Args:
        calibration: Of `CalibrationEvaluation`; may be empty.
        ood: Of `OODEvaluation`; may be empty.
    """
    judged, sets, shifted = calibration.get("shifted") or {}, ood.get("sets") or {}, ood.get("shifted") or {}
    targets = [name for name in sets if name.startswith("target/")]
    sentences = []
    for name in dict.fromkeys([*judged, *targets]):
        if name in judged:
            sentences.append(_calibration(name, calibration, judged[name]))
        if name in targets and (best := best_on_set(sets[name], ood["scores"])):
            sentences.append(_detected(name, *best))
        if name in shifted and (score := best_score(ood)):
            sentences.append(_detection(name, score, ood, shifted[name]))
    return sentences


def _calibration(name: str, source: Results, target: Results) -> str:
    accuracy = _change("accuracy", ".1%", accuracy_value(source), accuracy_value(target))
    ece = _change("ECE", ".4f", ece_value(source["before"]), ece_value(target["before"]))
    text = f"From the source to {name}, {accuracy} and {ece}"
    if not target.get("after"):
        return f"{text}."
    after = target["after"]["ece"]
    change = "still helps there, ECE" if after < target["before"]["ece"] else "does not help there: ECE becomes"
    return f"{text}; the source's temperature {change} {after:.4f}."


def _change(figure: str, digits: str, before: Value, after: Value) -> str:
    one, other = format(before.value, digits), format(after.value, digits)
    if abs(after.value - before.value) <= 1.96 * math.hypot(before.error, after.error):
        return f"{figure} is a tie ({one} and {other})"
    return f"{figure} {'rises' if after.value > before.value else 'falls'} from {one} to {other}"


def _detected(name: str, score: str, figures: Mapping[str, float]) -> str:
    low, high = interval(figures)
    if low <= 0.5:
        return f"No score reliably tells {name} from the source (best {score}, AUROC {figures['auroc']:.3f})."
    found = f"{figures['auroc']:.3f}" + (f" ({low:.3f} to {high:.3f})" if low < high else "")
    return f"The shift to {name} is detected with AUROC {found} by the best score for it, {score}."


def _detection(name: str, score: str, source: Results, target: Results) -> str:
    """OOD detection with the target as in-distribution, by the score that is best with the source."""
    pairs = [
        (interval(source["sets"][of][score]), interval(figures[score]))
        for of, figures in target["sets"].items()
        if figures.get(score)
    ]
    worse = sum(after[1] < before[0] for before, after in pairs)
    better = sum(after[0] > before[1] for before, after in pairs)
    counts = [f"{verb} on {number}" for verb, number in (("worse", worse), ("better", better)) if number]
    tendency = f"{' and '.join(counts)} of {len(pairs)} sets" if counts else f"a tie on all {len(pairs)} sets"
    means = []
    for kind in ("near", "far"):
        one, other = (cell_value(ood.get(f"{kind}_mean") or {}, score) for ood in (source, target))
        if not math.isnan(other):
            means.append(f"{kind} {one:.3f} to {other:.3f}")
    text = f"With {name} as in-distribution instead of the source, OOD detection by {score} is {tendency}"
    return f"{text}; mean AUROC {', '.join(means)}." if means else f"{text}."
