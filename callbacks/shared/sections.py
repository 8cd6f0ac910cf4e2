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
    """A callback whose results are in the report."""

    report_key: str

    def report_results(self) -> Any:
        """What the record keeps under ``report_key``.

        Returns:
            A dict of numbers, texts, matplotlib figures and PNG files (bytes), nested or not; or a single picture.
            Empty or None where there is nothing to report.
        """


class Value(NamedTuple):
    """A metric with its standard error (NaN where none is known), and a remark that is printed below it."""

    value: float
    error: float = math.nan
    remark: str = ""


class Contest(NamedTuple):
    """How runs are compared by a metric in words.

    Attributes:
        wins: What the best run does, as in "is more accurate".
        subject: The metric, as the start of a sentence about a tie.
        digits: Format of its values.
    """

    wins: str
    subject: str
    digits: str


class Column(NamedTuple):
    """A column of the summary table.

    Attributes:
        heading: Its title.
        larger_is_better: None where neither direction is.
        digits: Decimals; None for four significant digits, for metrics in the units of the data.
        contest: How runs are compared by it in words, if they are.
        note: Explanation in HTML above the table. Columns may share one, which is then shown once.
    """

    heading: str
    larger_is_better: bool | None
    digits: int | None = 3
    contest: Contest | None = None
    note: str = ""


class Section(NamedTuple):
    """What a room adds to the report.

    Attributes:
        order: Sections are sorted by it, on the page and everywhere else.
        keys: Parts of the record that the section is about: the ``report_key`` of callbacks.
        html: From runs and the figures of the page to a section; empty where no run has anything.
        columns: Of the summary table, by name.
        values: A record's values in these columns; absent ones are left out.
        sentences: On one run. The second argument says whether it is the only one.
        shift_sentences: On one run and each of its shifted test sets, by the name of the set.
        comparison: Sentences on several runs, beside the contests of the columns.
        text_rows: A table for the terminal, heading first; empty for none.
    """

    order: int
    keys: tuple[str, ...]
    html: Callable[[Runs, Figures], str]
    columns: Mapping[str, Column] = {}
    values: Callable[[Record], dict[str, Value]] = lambda record: {}
    sentences: Callable[[Record, bool], list[str]] = lambda record, alone: []
    shift_sentences: Callable[[Record], dict[str, list[str]]] = lambda record: {}
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
