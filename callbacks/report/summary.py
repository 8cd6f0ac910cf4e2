"""The figures that runs are compared by, and their table for a terminal."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..calibration.report import accuracy_value, ece_value
from ..ood.figures import cell_value, ood_columns
from ..ood.report import best_score
from ..shared.html import Record, Value, formatted


class Column(NamedTuple):
    """One column of the summary: heading, direction and how it is printed."""

    heading: str
    larger_is_better: bool | None
    digits: int | None = 3  # None: four significant ones, for figures in the units of the data


SUMMARY = {
    "accuracy": Column("Accuracy", True, 4),
    "nll": Column("NLL", False),
    "nll_after": Column("NLL after T", False),
    "brier": Column("Brier", False),
    "ece": Column("ECE", False, 4),
    "ece_after": Column("ECE after T", False, 4),
    "temperature": Column("T", None, 2),
    "target_accuracy": Column("Target accuracy", True, 4),
    "target_ece": Column("Target ECE", False, 4),
    "target_ece_after": Column("Target ECE after T", False, 4),
    "rmse": Column("RMSE", False, None),
    "mae": Column("MAE", False, None),
    "crps": Column("CRPS", False, None),
    "crps_after": Column("CRPS after R", False, None),
    "density_nll": Column("NLL of density", False),
    "qce": Column("QCE", False, 4),
    "qce_after": Column("QCE after R", False, 4),
    "mig": Column("MIG", True),
    "dci_disentanglement": Column("DCI disentanglement", True),
    "factor_vae": Column("FactorVAE score", True),
    "sap": Column("SAP", True),
    "near": Column("AUROC near", True),
    "far": Column("AUROC far", True),
}


def names(records: Sequence[Record]) -> list[str]:
    """A name for each run; equal titles are numbered."""
    counts, seen, result = Counter(record["title"] for record in records), Counter[str](), []
    for record in records:
        title = record["title"]
        seen[title] += 1
        result.append(f"{title} ({seen[title]})" if counts[title] > 1 else title)
    return result


def summary(record: Record) -> dict[str, Value]:
    """The figures of the summary table; absent ones are left out."""
    values: dict[str, Value] = {}
    if calibration := record.get("calibration"):
        before, after = calibration["before"], calibration.get("after")
        values["accuracy"] = accuracy_value(calibration)
        for part, suffix in ((before, ""), (after, "_after")):
            if part:
                values["nll" + suffix] = Value(part["nll"])
                values["ece" + suffix] = ece_value(part)
        values["brier"] = Value(before["brier"])
        if after:
            values["temperature"] = Value(calibration["temperature"])
        if shifted := list((calibration.get("shifted") or {}).values()):
            values["target_accuracy"] = _mean([accuracy_value(found) for found in shifted])
            values["target_ece"] = _mean([ece_value(found["before"]) for found in shifted])
            if after:
                values["target_ece_after"] = _mean([ece_value(found["after"]) for found in shifted])
    if regression := record.get("regression"):
        before, after = regression["before"], regression.get("after")
        for key, name in (("rmse", "rmse"), ("mae", "mae"), ("crps", "crps"), ("density_nll", "nll")):
            values |= _with_error(key, before, name)
        values["qce"] = Value(before["qce"])
        if after:
            values |= _with_error("crps_after", after, "crps")
            values["qce_after"] = Value(after["qce"])
    scores = ((record.get("disentanglement") or {}).get("scores") or {}).get("mean") or {}
    for key in ("mig", "dci_disentanglement", "factor_vae", "sap"):
        if scores.get(key) is not None:
            values[key] = Value(scores[key])
    if ood := record.get("ood"):
        score = best_score(ood)
        for kind in ("near", "far"):
            if score and not math.isnan(mean := cell_value(ood.get(f"{kind}_mean") or {}, score)):
                values[kind] = Value(mean)
    return values


def _mean(values: Sequence[Value]) -> Value:
    """The mean of figures of different samples."""
    error = math.hypot(*(value.error for value in values)) / len(values)
    return Value(sum(value.value for value in values) / len(values), error)


def _with_error(key: str, part: Mapping[str, Any], name: str) -> dict[str, Value]:
    """A figure and its standard error; nothing where it is infinite, which a record has as None."""
    value, error = part[name], part.get(f"{name}_error")
    return {} if value is None else {key: Value(value, math.nan if error is None else error)}


def text_table(records: Sequence[Record]) -> str:
    """The summary and AUROC by set and score, for a terminal."""
    labels = names(records)
    found = [summary(record) for record in records]
    columns = {key: column for key, column in SUMMARY.items() if any(key in values for values in found)}
    rows = [["", *(column.heading for column in columns.values())]]
    for label, values in zip(labels, found, strict=True):
        shown = {key: values.get(key, Value(math.nan)).value for key in columns}
        rows.append([label, *(_number(shown[key], column.digits) for key, column in columns.items())])
    blocks = [_aligned(rows)]
    tested = [(label, record["ood"]) for label, record in zip(labels, records, strict=True) if record.get("ood")]
    sets = list(dict.fromkeys(name for _, ood in tested for name in ood_columns(ood)))
    rows = [["AUROC", "", *sets]]
    for run, source in tested:
        shifted = {f"{run}, {target} as ID": found for target, found in (source.get("shifted") or {}).items()}
        for label, ood in ({run: source} | shifted).items():
            figures = ood_columns(ood)
            for score in ood["scores"]:
                shown_figures = [cell_value(figures.get(name, {}), score) for name in sets]
                rows.append([label, score, *(_number(value, 3) for value in shown_figures)])
    return "\n\n".join([*blocks, _aligned(rows)] if tested else blocks)


def _number(value: float, digits: int | None) -> str:
    return "-" if math.isnan(value) else formatted(value, digits)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    texts = sum(all(row[index][:1].isalpha() for row in rows[1:]) for index in range(len(rows[0])))
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
