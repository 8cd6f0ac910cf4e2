"""What a callback or a room of callbacks adds to the report.

Every callback with `report_key` and `report_results` is in the report. A room that has more to show than a table and
pictures adds a `Section` when it is imported. Its functions read run records, which come from JSON files: a record may
lack any part.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .html import Figures, Record, Runs


@runtime_checkable
class Reported(Protocol):
    """A callback whose results are in the report.

    Its key is that of no callback of this package, except for a subclass, whose results the same section shows.
    """

    report_key: str

    def report_results(self) -> Any:
        """What the record keeps under ``report_key``.

        A dict of numbers, texts, matplotlib figures and PNG files (bytes), nested or not; or a single picture; or empty
        or None where there is nothing to report.
        """


class Value(NamedTuple):
    """A metric with its standard error (NaN where none is known), and a remark that is printed below it."""

    value: float
    error: float = math.nan
    remark: str = ""


class Column(NamedTuple):
    """A column of the summary table, and how runs are compared by it in words.

    Attributes:
        heading: Its title.
        larger_is_better: None where neither direction is.
        digits: Decimals; None for four significant digits, for metrics in the units of the data.
        wins: What the best run does, as in "is more accurate"; empty if there is no sentence about it.
        subject: The metric at the start of a sentence about a tie; the heading by default.
        percent: Whether sentences give percentages.
        note: Explanation in HTML above the table. Columns may share one, which is then shown once.
    """

    heading: str
    larger_is_better: bool | None
    digits: int | None = 3
    wins: str = ""
    subject: str = ""
    percent: bool = False
    note: str = ""

    def in_words(self, value: float) -> str:
        """A value as sentences give it."""
        return format(value, ".1%" if self.percent else "#.4g" if self.digits is None else f".{self.digits}f")


class Section(NamedTuple):
    """What a room adds to the report.

    Attributes:
        order: Sections are sorted by it, on the page and everywhere else.
        keys: Parts of the record that the section is about: the ``report_key`` of callbacks.
        html: From runs and the figures of the page to a section; empty where no run has anything.
        columns: Of the summary table, by name.
        values: From the results under the first of the keys to values in these columns; absent ones are left out.
        sentences: From these results, and whether there is only one run, to sentences on it.
        shift_sentences: From these results to sentences on each shifted test set, by the name of the set.
        comparison: Sentences on several runs, beside those by column.
        text_rows: A table for the terminal, heading first; empty for none.
    """

    order: int
    keys: tuple[str, ...]
    html: Callable[[Runs, Figures], str]
    columns: Mapping[str, Column] = {}
    values: Callable[[Any], dict[str, Value]] = lambda results: {}
    sentences: Callable[[Any, bool], list[str]] = lambda results, alone: []
    shift_sentences: Callable[[Any], dict[str, list[str]]] = lambda results: {}
    comparison: Callable[[Runs], list[str]] = lambda runs: []
    text_rows: Callable[[Runs], list[list[str]]] = lambda runs: []


# NLL and ECE are explained where only the AUROC is shown too, and the other way round
NOTE_ON_CLASSIFIERS = (
    "NLL in nats; Brier summed over classes; ECE in equal-width bins of the top confidence; T is the temperature "
    "fitted on validation data, and “after T” is with it. AUROC of the score that is best on average over all OOD "
    "sets, a choice made with hindsight."
)
_sections: list[Section] = []


def add_section(section: Section) -> None:
    """Make a section part of every report from now on."""
    _sections.append(section)


def sections() -> list[Section]:
    """All sections in the order of the page."""
    return sorted(_sections, key=lambda section: section.order)


def sections_of(record: Record) -> list[tuple[Section, Any]]:
    """The sections for which a record has results, and these results."""
    return [(section, record[section.keys[0]]) for section in sections() if record.get(section.keys[0])]
