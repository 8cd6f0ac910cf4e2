"""The metrics that runs are compared by, and their table for a terminal."""

import math
from collections import Counter
from collections.abc import Sequence

from ..shared.html import Record, Runs, number
from ..shared.sections import Column, Value, sections, sections_of


def named_runs(records: Sequence[Record]) -> Runs:
    """Records by their titles; equal titles are numbered."""
    counts, seen, runs = Counter(record["title"] for record in records), Counter[str](), {}
    for record in records:
        title = record["title"]
        seen[title] += 1
        runs[f"{title} ({seen[title]})" if counts[title] > 1 else title] = record
    return runs


def summary(record: Record) -> dict[str, Value]:
    """The values of the summary table; absent ones are left out."""
    return {key: value for section, results in sections_of(record) for key, value in section.values(results).items()}


def shown_columns(runs: Runs) -> dict[str, Column]:
    """The columns of the summary table in which a run has a value."""
    known = {key for record in runs.values() for key in summary(record)}
    return {key: column for section in sections() for key, column in section.columns.items() if key in known}


def text_table(records: Sequence[Record]) -> str:
    """The summary and the sections' own tables, for a terminal."""
    runs = named_runs(records)
    columns = shown_columns(runs)
    rows = [["", *(column.heading for column in columns.values())]]
    for label, record in runs.items():
        values = summary(record)
        shown = {key: values.get(key, Value(math.nan)).value for key in columns}
        rows.append([label, *(number(shown[key], column.digits, "-") for key, column in columns.items())])
    tables = [rows, *(section.text_rows(runs) for section in sections())]
    return "\n\n".join(_aligned(rows) for rows in tables if rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    columns = []
    for column in zip(*rows, strict=True):
        width, is_text = max(map(len, column)), all(cell[:1].isalpha() for cell in column[1:])
        columns.append([cell.ljust(width) if is_text else cell.rjust(width) for cell in column])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))
