"""What the numbers say, in plain words.

Two models differ when 95% intervals say so, else it is a tie: for AUROC the bootstrap intervals must not overlap;
for accuracy, ECE, RMSE, MAE, CRPS and the NLL of densities the difference must exceed 1.96 standard errors of the
difference, taken as if the runs had been tested on different samples, which is the careful side. Where no error is
known (NLL of classifiers, QCE) the sentence says so.
"""

import math
from collections.abc import Mapping, Sequence

from ..calibration.report import calibration_sentence
from ..ood.report import best_score, head_to_head, ood_sets, warnings
from ..regression.report import regression_sentences
from ..shared.html import Record, Value, listed
from .summary import SUMMARY, names, summary
from .words_shift import shift_sentences


def verdict(records: Sequence[Record]) -> list[str]:
    """Sentences on one run, or on how several compare."""
    sentences = _comparison(records) if len(records) > 1 else []
    for name, record in zip(names(records), records, strict=True):
        subject = f"{name}: " if len(records) > 1 else ""
        sentences += [subject + sentence for sentence in _single(record, alone=len(records) == 1)]
    return sentences


def _single(record: Record, alone: bool) -> list[str]:
    sentences = []
    values, calibration, ood = summary(record), record.get("calibration"), record.get("ood")
    if calibration and alone:
        accuracy, error = values["accuracy"]
        sentences.append(
            f"{accuracy:.1%} of {calibration['samples']:,} test samples are classified correctly "
            f"(± {196 * error:.1f} points, 95% interval)."
        )
    if calibration:
        sentences.append(calibration_sentence(calibration, values))
    if regression := record.get("regression"):
        sentences += regression_sentences(regression, alone)
    if ood and alone and ood_sets(ood) and (score := best_score(ood)):
        means = [f"{kind} mean {values[kind].value:.3f}" for kind in ("near", "far") if kind in values]
        sentences.append(f"The strongest score over all OOD sets is {score}: AUROC {', '.join(means)}.")
    if ood:
        sentences += warnings(ood)
    return sentences + shift_sentences(calibration or {}, ood or {})


def _comparison(records: Sequence[Record]) -> list[str]:
    labels, values = names(records), [summary(record) for record in records]
    claims = (
        ("accuracy", "is more accurate", "Accuracy", ".1%"),
        ("nll", "has the lower NLL before temperature (no interval)", "NLL before temperature", ".3f"),
        ("ece", "is better calibrated before temperature: ECE", "ECE before temperature", ".4f"),
        ("ece_after", "is better calibrated after temperature: ECE", "ECE after temperature", ".4f"),
        ("target_accuracy", "is more accurate on the target", "Accuracy on the target", ".1%"),
        ("target_ece", "is better calibrated on the target: ECE", "ECE on the target", ".4f"),
        (
            "target_ece_after",
            "is better calibrated on the target with the source's temperature: ECE",
            "ECE on the target with the source's temperature",
            ".4f",
        ),
        ("rmse", "has the lower RMSE", "RMSE", "#.4g"),
        ("mae", "has the lower MAE", "MAE", "#.4g"),
        ("crps", "has the lower CRPS", "CRPS", "#.4g"),
        ("crps_after", "has the lower CRPS after recalibration", "CRPS after recalibration", "#.4g"),
        ("density_nll", "has the lower NLL", "NLL", ".3f"),
        ("mig", "has the larger MIG (no interval)", "MIG", ".3f"),
        ("dci_disentanglement", "has the larger DCI disentanglement (no interval)", "DCI disentanglement", ".3f"),
        ("qce", "has the lower quantile calibration error (no interval)", "Quantile calibration error", ".4f"),
    )
    sentences = []
    for key, win, subject, digits in claims:
        entries = {label: value[key] for label, value in zip(labels, values, strict=True) if key in value}
        if len(entries) > 1:
            sentences.append(_contest(entries, SUMMARY[key].larger_is_better is True, win, subject, digits))
    return sentences + _ood_comparison(dict(zip(labels, records, strict=True)))


def _contest(entries: Mapping[str, Value], larger: bool, win: str, subject: str, digits: str) -> str:
    order = sorted(entries, key=lambda name: entries[name].value, reverse=larger)
    best = entries[order[0]]

    def tied(name: str) -> bool:
        other = entries[name]
        spread = math.hypot(best.error, other.error)
        return abs(other.value - best.value) <= (0 if math.isnan(spread) else 1.96 * spread)

    level = [name for name in order if tied(name)]
    shown = {name: f"{format(entries[name].value, digits)} ({name})" for name in order}
    if len(level) == len(order):
        return f"{subject}: a tie, {' and '.join(shown.values())}."
    start = f"{order[0]} {win}{'' if win.endswith('ECE') else ','} {format(best.value, digits)}"
    if len(order) == 2:
        return f"{start} against {shown[order[1]]}."
    ties = f", tied with {listed([shown[name] for name in level[1:]])}" if len(level) > 1 else ""
    return f"{start}{ties}, against {listed([shown[name] for name in order if name not in level])}."


def _ood_comparison(records: Mapping[str, Record]) -> list[str]:
    table = head_to_head(records)
    sentences = []
    if table:
        parts = []
        for label in records:
            won = [name for name, (_, winner) in table.items() if winner == label]
            where = f" ({listed(won)})" if won else ""
            parts.append(f"{label} is better on {len(won)} of {len(table)} sets{where}")
        level = [name for name, (_, winner) in table.items() if winner is None]
        ties = f"; a tie on {listed(level)}" if level else ""
        sentences.append(f"OOD detection, each model with its best score on each set: {'; '.join(parts)}{ties}.")
    single = []
    for label, record in records.items():
        score = best_score(record["ood"]) if record.get("ood") and ood_sets(record["ood"]) else None
        if score:
            values = summary(record)
            means = [f"{kind} {values[kind].value:.3f}" for kind in ("near", "far") if kind in values]
            single.append(f"{label} ({score}) {', '.join(means)}")
    if len(single) > 1:
        sentences.append(f"OOD detection, one score for all sets, mean AUROC: {'; '.join(single)}.")
    return sentences
