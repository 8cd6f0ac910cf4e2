"""What the metrics say, in plain words.

Two models differ when 95% intervals say so, else it is a tie: for AUROC the bootstrap intervals must not overlap;
for accuracy, ECE, RMSE, MAE, CRPS and the NLL of densities the difference must exceed 1.96 standard errors of the
difference, taken as if the runs had been tested on different samples, which is the careful side. Where no error is
known (NLL of classifiers, QCE) the sentence says so.
"""

import math
from collections.abc import Mapping, Sequence

from ..shared.html import Record, Runs, listed
from ..shared.sections import Column, Value, sections, sections_of
from .summary import named_runs, shown_columns, summary


def verdict(records: Sequence[Record]) -> list[str]:
    """Sentences on one run, or on how several compare."""
    runs = named_runs(records)
    alone = len(runs) == 1
    sentences = [] if alone else _comparison(runs)
    for name, record in runs.items():
        on_run = [text for section, results in sections_of(record) for text in section.sentences(results, alone)]
        sentences += [text if alone else f"{name}: {text}" for text in on_run + _shift_sentences(record)]
    return sentences


def _shift_sentences(record: Record) -> list[str]:
    """What all sections say about the first shifted test set, then about the next."""
    by_section = [section.shift_sentences(results) for section, results in sections_of(record)]
    names = dict.fromkeys(name for by_set in by_section for name in by_set)
    return [sentence for name in names for by_set in by_section for sentence in by_set.get(name, [])]


def _comparison(runs: Runs) -> list[str]:
    values = {label: summary(record) for label, record in runs.items()}
    sentences = []
    for key, column in shown_columns(runs).items():
        entries = {label: of_run[key] for label, of_run in values.items() if key in of_run}
        if column.wins and len(entries) > 1:
            sentences.append(_decided(entries, column))
    return sentences + [sentence for section in sections() for sentence in section.comparison(runs)]


def _decided(entries: Mapping[str, Value], column: Column) -> str:
    order = sorted(entries, key=lambda name: entries[name].value, reverse=column.larger_is_better is True)
    best = entries[order[0]]

    def tied(name: str) -> bool:
        other = entries[name]
        spread = math.hypot(best.error, other.error)
        return abs(other.value - best.value) <= (0 if math.isnan(spread) else 1.96 * spread)

    level = [name for name in order if tied(name)]
    shown = {name: f"{column.in_words(entries[name].value)} ({name})" for name in order}
    if len(level) == len(order):
        return f"{column.subject or column.heading}: a tie, {' and '.join(shown.values())}."
    comma = "" if column.wins.endswith("ECE") else ","
    start = f"{order[0]} {column.wins}{comma} {column.in_words(best.value)}"
    if len(order) == 2:
        return f"{start} against {shown[order[1]]}."
    ties = f", tied with {listed([shown[name] for name in level[1:]])}" if len(level) > 1 else ""
    return f"{start}{ties}, against {listed([shown[name] for name in order if name not in level])}."
