"""The page: run records in, one self-contained HTML document out."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..shared.html import (
    Figures,
    Record,
    Runs,
    details,
    document,
    duration,
    gallery,
    number,
    per_run,
    picture,
    section,
    table,
)
from ..shared.sections import sections
from .curves import curve_groups, learning_curves_figure
from .summary import named_runs, shown_columns, summary
from .words import verdict

PNG_START = "iVBORw0KGgo"  # of a PNG file in base64


def render(records: Sequence[Record]) -> str:
    """Write the page for one run, or for several side by side, from records as `load_record` reads them.

    A pure function: no clock, no files, no network. The page is HTML with its style, figures (SVG) and pictures inside,
    and needs neither network nor scripts; every text of a record is escaped.

    Raises:
        ValueError: There is no record.
    """
    if not records:
        raise ValueError("expected at least one run record, got none")
    runs = named_runs(records)
    draw = Figures()
    title = " and ".join(runs) if len(runs) < 4 else f"{len(runs)} runs"
    parts = [_summary(runs), _in_words(records), _learning_curves(runs, draw)]
    parts += [part.html(runs, draw) for part in sections()]
    return document(title, _meta(runs), [*parts, *_own_results(runs), _configuration(runs)])


def _meta(runs: Runs) -> str:
    lines = []
    for name, record in runs.items():
        history, seconds = record.get("history") or [], record.get("seconds") or {}
        facts = [
            record["model"] if record["model"] != record["title"] else "",
            f"on {record['data']}" if record.get("data") else "",
            f"{record['parameters']:,} parameters" if record.get("parameters") else "",
            f"{history[-1]['epoch'] + 1} epochs, {history[-1]['step']:,} steps" if history else "",
            *(f"{stage} {duration(value)}" for stage, value in seconds.items()),
            record.get("device") or "",
            f"seed {record['seed']}" if record.get("seed") is not None else "",
            (record.get("written") or "")[:16].replace("T", " "),
        ]
        start = f"<b>{escape(name)}</b> · " if len(runs) > 1 else ""
        lines.append(f'<p class="meta">{start}{escape(" · ".join(fact for fact in facts if fact))}</p>')
    return "\n".join(lines)


def _in_words(records: Sequence[Record]) -> str:
    items = "\n".join(f"<li>{escape(sentence)}</li>" for sentence in verdict(records))
    return section("In words", "", f'<ul class="verdict">\n{items}\n</ul>' if items else "")


def _summary(runs: Runs) -> str:
    values_of = {name: summary(record) for name, record in runs.items()}
    columns = shown_columns(runs)
    if not columns:
        return ""
    best = {}
    for key, column in columns.items():
        shown = [values[key].value for values in values_of.values() if key in values]
        if column.larger_is_better is not None and len(shown) > 1:
            best[key] = number(max(shown) if column.larger_is_better else min(shown), column.digits)
    rows = []
    for name, values in values_of.items():
        cells = []
        for key, column in columns.items():
            value = values.get(key)
            text, remark = number(value and value.value, column.digits), value.remark if value else ""
            mark = ' class="best"' if best.get(key) == text else ""
            cells.append(f"<td{mark}>{text}{f'<small>{escape(remark)}</small>' if remark else ''}</td>")
        rows.append(f"<th>{escape(name)}</th>{''.join(cells)}")
    notes = list(dict.fromkeys(column.note for column in columns.values() if column.note))
    if len(runs) > 1:
        notes.append("The best value of a column is marked.")
    head = ["", *(column.heading for column in columns.values())]
    return section("Summary", " ".join(notes), table(head, rows, "many" if "target_accuracy" in columns else ""))


def _learning_curves(runs: Runs, draw: Figures) -> str:
    def curves(record: Record) -> str:
        rows = record.get("history") or []
        return gallery(draw(learning_curves_figure(rows, [of]), f"learning curve of {of}") for of in curve_groups(rows))

    return section("Learning curves", "", per_run(runs, curves))


def _own_results(runs: Runs) -> Iterator[str]:
    """A section for each callback that no room has a section for: a table of its values, and its pictures."""
    own = {name: record.get("results") or {} for name, record in runs.items()}
    for key in dict.fromkeys(key for results in own.values() for key in results):
        values = {name: _flat(results.get(key, {})) for name, results in own.items()}
        rows, pictures = [], []
        for label in dict.fromkeys(label for of_run in values.values() for label in of_run):
            of_runs = {name: of_run.get(label) for name, of_run in values.items()}
            drawn = {name: str(value) for name, value in of_runs.items() if str(value).startswith(PNG_START)}
            for name, png in drawn.items():
                caption = " ".join(part for part in (label, f"({name})" if len(runs) > 1 else "") if part)
                pictures.append(picture(png, caption or key, escape(caption), "wide"))
            if not drawn:
                cells = "".join(f"<td>{_cell(value)}</td>" for value in of_runs.values())
                rows.append(f"<th>{escape(label)}</th>{cells}")
        numbers = table(["", *runs] if len(runs) > 1 else [], rows) if rows else ""
        title = key[:1].upper() + key[1:].replace("_", " ")
        yield section(escape(title), "", numbers, gallery(pictures))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested results as one dict with names like "group/metric"."""
    if not isinstance(value, Mapping):
        return {path: value}
    parts = (_flat(part, f"{path}/{name}" if path else name) for name, part in value.items())
    return {name: leaf for part in parts for name, leaf in part.items()}


def _cell(value: Any) -> str:
    return number(value, None) if value is None or isinstance(value, float) else escape(str(value))


def _configuration(runs: Runs) -> str:
    parts = []
    for name, record in runs.items():
        arguments = record.get("arguments") or {}
        rows: dict[str, Any] = dict(record.get("notes") or {})
        rows |= {f"{kind}.{key}": value for kind in arguments for key, value in arguments[kind].items()}
        rows |= {key: record[key] for key in ("seed", "device", "processes", "precision") if record.get(key)}
        rows |= record.get("versions") or {}
        cells = [f"<th>{escape(key)}</th><td><code>{escape(str(value))}</code></td>" for key, value in rows.items()]
        if notes := "; ".join(f"{key}: {value}" for key, value in (record.get("notes") or {}).items()):
            parts.append(f"<p>{escape(f'{name}: {notes}' if len(runs) > 1 else notes)}</p>")
        parts.append(details(f"Configuration of {name}", table([], cells, "plain")))
    return section("Configuration", "", *parts)
