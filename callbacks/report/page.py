"""The page: run records in, one self-contained HTML document out."""

from collections.abc import Sequence
from html import escape
from typing import Any

from ..adaptation.report import adaptation_section
from ..calibration.report import calibration_section
from ..disentanglement.report import disentanglement_section
from ..ood.report import best_score, ood_section
from ..regression.report import regression_section
from ..shared.html import Figures, Record, Runs, details, document, duration, gallery, number, per_run, section, table
from ..similarity.report import similarity_section
from .curves import curve_groups, learning_curves_figure
from .summary import SUMMARY, names, summary
from .words import verdict


def render(records: Sequence[Record]) -> str:
    """Write the page for one run, or for several side by side.

    A pure function: no clock, no files, no network, and the page needs neither network nor scripts.

    Args:
        records: Of `Report`, as `load_record` reads them.

    Returns:
        HTML with its style, figures (SVG) and pictures inside; every text of a record is escaped.

    Raises:
        ValueError: There is no record.
    """
    if not records:
        raise ValueError("expected at least one run record, got none")
    runs = dict(zip(names(records), records, strict=True))
    draw = Figures()
    title = " and ".join(runs) if len(runs) < 4 else f"{len(runs)} runs"
    sections = (
        _summary(runs),
        _in_words(records),
        _learning_curves(runs, draw),
        calibration_section(runs, draw),
        adaptation_section(runs, draw),
        regression_section(runs, draw),
        disentanglement_section(runs, draw),
        ood_section(runs, draw),
        similarity_section(runs),
        _samples(runs),
        _configuration(runs),
    )
    return document(title, _meta(runs), sections)


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
    columns = [key for key in SUMMARY if any(key in values for values in values_of.values())]
    if not columns:
        return ""
    best = {}
    for key in columns:
        larger = SUMMARY[key].larger_is_better
        shown = [values[key].value for values in values_of.values() if key in values]
        if larger is not None and len(shown) > 1:
            best[key] = number(max(shown) if larger else min(shown), SUMMARY[key].digits)
    rows = []
    for name, values in values_of.items():
        cells = []
        for key in columns:
            text = number(values[key].value if key in values else None, SUMMARY[key].digits)
            mark = ' class="best"' if best.get(key) == text else ""
            ood = runs[name].get("ood")
            score = best_score(ood) if key in ("near", "far") and ood else None
            cells.append(f"<td{mark}>{text}{f'<small>{escape(score)}</small>' if score else ''}</td>")
        rows.append(f"<th>{escape(name)}</th>{''.join(cells)}")
    notes = []
    if any(key in columns for key in ("accuracy", "near", "far")):
        notes.append(
            "NLL in nats; Brier summed over classes; ECE in equal-width bins of the top confidence; T is the "
            "temperature fitted on validation data, and “after T” is with it. AUROC of the score that is best on "
            "average over all OOD sets, a choice made with hindsight."
        )
    if "target_accuracy" in columns:
        notes.append("Target: the shifted test set, or the mean over several, with the temperature of the source.")
    if "rmse" in columns:
        notes.append(
            "RMSE, MAE and CRPS in the units of the label; NLL of the predicted density in nats; QCE is the quantile "
            "calibration error, mean |coverage &minus; level|; “after R” is recalibrated on validation data."
        )
    if any(key in columns for key in ("mig", "dci_disentanglement", "factor_vae", "sap")):
        notes.append("MIG, DCI, FactorVAE score and SAP are those of the posterior means, official settings.")
    if len(runs) > 1:
        notes.append("The best figure of a column is marked.")
    kind = "many" if "target_accuracy" in columns else ""
    return section("Summary", " ".join(notes), table(["", *(SUMMARY[key].heading for key in columns)], rows, kind))


def _learning_curves(runs: Runs, draw: Figures) -> str:
    def curves(record: Record) -> str:
        history = record.get("history") or []
        return gallery(
            draw(learning_curves_figure(history, [group]), f"learning curve of {group}")
            for group in curve_groups(history)
        )

    return section("Learning curves", "", per_run(runs, curves))


def _samples(runs: Runs) -> str:
    figures = []
    for name, record in runs.items():
        if record.get("samples"):
            caption = f"<figcaption>{escape(name)}</figcaption>" if len(runs) > 1 else ""
            source = f"data:image/png;base64,{escape(record['samples'])}"
            figures.append(f'<figure>{caption}<img alt="samples of {escape(name)}" src="{source}"></figure>')
    return section("Samples", "Drawn by the model itself.", gallery(figures))


def _configuration(runs: Runs) -> str:
    parts = []
    for name, record in runs.items():
        arguments = record.get("arguments") or {}
        rows: dict[str, Any] = dict(record.get("notes") or {})
        rows |= {f"{kind}.{key}": value for kind in arguments for key, value in arguments[kind].items()}
        rows |= {key: record[key] for key in ("seed", "device", "processes", "precision") if record.get(key)}
        rows |= record.get("versions") or {}
        cells = [f"<th>{escape(key)}</th><td><code>{escape(str(value))}</code></td>" for key, value in rows.items()]
        notes = "; ".join(f"{key}: {value}" for key, value in (record.get("notes") or {}).items())
        if notes:
            parts.append(f"<p>{escape(f'{name}: {notes}' if len(runs) > 1 else notes)}</p>")
        parts.append(details(f"Configuration of {name}", table([], cells, "plain")))
    return section("Configuration", "", *parts)
