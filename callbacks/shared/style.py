"""Figures of evaluation results: reliability, OOD detection and learning curves.

They take the ``results`` of `CalibrationEvaluation` and `OODEvaluation`, use matplotlib's object interface
only (no global state), and draw text and axes in `INK`, which the report replaces by the page's text colour.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK = "#1c2024"
# Okabe and Ito's colours, told apart with any colour vision; the in-distribution set is always the first
IN_DISTRIBUTION = "#0a7cc4"
PALETTE = ("#d55e00", "#009e73", "#b25f93", "#c48a00", "#4ba6d6", "#8a5a2b", "#7b7f86", "#6a51a3")
# from first to last; each colour has a contrast of 3 or more to light and to dark pages
SEQUENCE = LinearSegmentedColormap.from_list("sequence", ("#2a74dd", "#9463dc", "#cf4f8f", "#dd6a12"))
PANEL = (3.7, 3.4)  # inches; one panel stays readable at the width of a phone
NUMBERED = re.compile(r"(.+)_(\d+)")

Results = Mapping[str, Any]


def reliability_figure(results: Results, parts: Sequence[str] = ("before", "after")) -> Figure:
    """Accuracy against confidence, with the histogram of confidences below.

    A bar is the accuracy of a bin, a hatched box its gap to the mean confidence of the bin; an empty bin
    draws nothing.

    Args:
        results: Of `CalibrationEvaluation`.
        parts: ``before`` and/or ``after`` temperature; one that was not evaluated is left out.

    Returns:
        One column for each part.
    """
    parts = [part for part in parts if results.get(part)]
    figure, grid = panels(2, max(1, len(parts)), 2.25, sharex=True, height_ratios=(3, 1))
    for column, part in zip(grid.T, parts, strict=False):
        title = "before" if part == "before" else f"after, T = {results['temperature']:.3g}"
        _reliability(column[0], column[1], results[part], results["samples"], title)
    return figure


def _reliability(upper: Axes, lower: Axes, part: Results, samples: int, title: str) -> None:
    diagram = part["diagram"]
    edges, counts = np.asarray(diagram["edges"]), np.asarray(diagram["count"])
    upper.plot([0, 1], [0, 1], color=INK, alpha=0.55, linewidth=0.9, linestyle=(0, (4, 3)))
    for low, width, count, accuracy, confidence in zip(
        edges[:-1], np.diff(edges), counts, diagram["accuracy"], diagram["confidence"], strict=True
    ):
        if count and accuracy is not None and confidence is not None:
            upper.bar(low, accuracy, width, align="edge", color=IN_DISTRIBUTION, alpha=0.75, linewidth=0)
            gap: dict[str, Any] = {
                "facecolor": "none",
                "edgecolor": PALETTE[0],
                "hatch": "////",
                "linewidth": 0.8,
            }
            upper.bar(low, confidence - accuracy, width, accuracy, align="edge", **gap)
    lines = (
        f"ECE {part['ece']:.4f}",
        f"accuracy {part['accuracy']:.4f}",
        f"confidence {part['mean_confidence']:.4f}",
        f"N = {samples:,}, M = {len(counts)}",
    )
    place: dict[str, Any] = {
        "transform": upper.transAxes,
        "va": "top",
        "fontsize": 8.5,
        "linespacing": 1.45,
        "color": INK,
    }
    upper.text(0.04, 0.96, "\n".join(lines), **place)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
    lower.bar(edges[:-1], counts / max(1, counts.sum()), np.diff(edges), align="edge", color=INK, alpha=0.35)
    for value, style in ((part["accuracy"], "-"), (part["mean_confidence"], ":")):
        lower.axvline(value, color=INK, linewidth=1.1, linestyle=style)
    lower.set(ylim=(0, 1), xlabel="confidence", ylabel="share")
    lower.yaxis.set_major_formatter(PercentFormatter(1))
    lower.set_yticks([0, 0.5, 1])
    tidy(upper, lower)


def auroc_heatmap_figure(results: Results) -> Figure:
    """AUROC of every score on every OOD set, means last.

    Args:
        results: Of `OODEvaluation`.
    """
    scores, columns = results["scores"], ood_columns(results)
    table = np.array([[cell_value(figures, score) for figures in columns.values()] for score in scores])
    figure = Figure(figsize=(max(4.2, 1.9 + 0.82 * len(columns)), 1.5 + 0.3 * len(scores)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if not math.isnan(value):
            colour = "white" if abs(value - 0.5) > 0.3 else INK
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(columns)), list(columns), rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(scores)), scores)
    axes.set_title(f"AUROC against {results['id']} (0.5 = chance)", fontsize=9.5, loc="left", color=INK)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    axes.spines[:].set_visible(False)
    return figure


def ood_columns(results: Results) -> dict[str, Results]:
    """The OOD sets and then the near and far means, each with its figures by score."""
    columns = dict(results["sets"])
    means = {"near mean": results.get("near_mean"), "far mean": results.get("far_mean")}
    return columns | {name: figures for name, figures in means.items() if figures}


def cell_value(figures: Results, score: str, figure: str = "auroc") -> float:
    """One number of a set or mean; NaN where it is missing."""
    value = (figures.get(score) or {}).get(figure)
    return math.nan if value is None else value


def score_histogram_figure(results: Results, score: str) -> Figure:
    """Share of images by score: the in-distribution set filled, every OOD set a line, at most 30 bins.

    Args:
        results: Of `OODEvaluation`.
        score: One of its scores; larger = more out-of-distribution.
    """
    histogram = results["histograms"][score]
    edges, step = np.asarray(histogram["edges"]), math.ceil((len(histogram["edges"]) - 1) / 30)
    starts = np.arange(0, len(edges) - 1, step)
    edges = np.append(edges[starts], edges[-1])
    counts = {name: np.add.reduceat(values, starts) for name, values in histogram["counts"].items()}
    figure, ((axes,),) = panels(1, 1, PANEL[1], top=0.2 + 0.17 * math.ceil((1 + len(results["sets"])) / 2))
    for name, style in set_styles(results).items():
        if name in counts and counts[name].sum():
            share = 100 * counts[name] / counts[name].sum()
            inside = name == results["id"]
            axes.stairs(share, edges, fill=inside, alpha=0.45 if inside else 1.0, label=name, **style)
    axes.set(xlabel=f"{score}  (larger = more OOD)", ylabel="% of images", ylim=(0, None))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    tidy(axes)
    legend_above(axes)
    return figure


def roc_figure(results: Results, score: str) -> Figure:
    """ROC curves of a score, one for each OOD set; OOD is the positive class.

    Args:
        results: Of `OODEvaluation`.
        score: One of its scores.
    """
    figure, ((axes,),) = panels(1, 1, PANEL[1], top=0.2 + 0.17 * math.ceil((1 + len(results["sets"])) / 2))
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.55, linewidth=0.9, linestyle=(0, (4, 3)))
    for name, style in set_styles(results).items():
        if name in results["roc"].get(score, {}):
            curve = results["roc"][score][name]
            axes.plot(curve["fpr"], curve["tpr"], label=name, **style)
    axes.set(xlabel=f"share of {results['id']} flagged", ylabel="share of OOD flagged")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    tidy(axes)
    legend_above(axes)
    return figure


def set_styles(results: Results) -> dict[str, dict[str, Any]]:
    """Line style by set name: the in-distribution set first, near sets solid, far sets dashed, shifted ones dotted."""
    styles: dict[str, dict[str, Any]] = {results["id"]: {"color": IN_DISTRIBUTION, "linewidth": 1.2}}
    for index, name in enumerate(results["sets"]):
        kind = name.partition("/")[0]
        styles[name] = {
            "color": PALETTE[index % len(PALETTE)],
            "linewidth": 1.8 if kind == "target" else 1.2,
            "linestyle": {"far": (0, (3, 1)), "target": (0, (1, 1))}.get(kind, "-"),
        }
    return styles


def curve_groups(history: Sequence[Results]) -> dict[str, list[str]]:
    """Logged keys that belong into one panel.

    ``train/loss`` and ``val/loss`` share ``loss``; names that differ in a number at the end, as ``train/block_0`` to
    ``train/block_7``, share ``block 0 … 7``.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for key in dict.fromkeys(key for row in history for key in row):
        known = sum(row.get(key) is not None for row in history)
        if key not in ("epoch", "step") and not key.endswith("_step") and known > 1:
            groups[_quantity(key)].append(key)
    series: dict[str, dict[int, str]] = defaultdict(dict)
    for name in groups:
        if match := NUMBERED.fullmatch(name):
            series[match[1]][int(match[2])] = name
    for stem, members in series.items():
        if len(members) > 1:
            numbers = sorted(members)
            keys = [key for number in numbers for key in groups.pop(members[number])]
            groups[f"{stem} {numbers[0]} … {numbers[-1]}"] = keys
    return dict(sorted(groups.items(), key=lambda item: (item[0] not in ("loss", "acc"), item[0])))


def _quantity(key: str) -> str:
    """The key without the stage before and the "epoch" behind it."""
    return key.partition("/")[2].removesuffix("_epoch") or key


def learning_curves_figure(history: Sequence[Results], groups: Sequence[str] | None = None) -> Figure:
    """What was logged, over epochs (over steps if there are several rows in an epoch).

    Args:
        history: Of `Report`: rows with ``epoch``, ``step`` and the logged keys.
        groups: Panels to draw, from `curve_groups`; all of them by default.
    """
    chosen = {name: keys for name, keys in curve_groups(history).items() if groups is None or name in groups}
    columns = min(3, max(1, len(chosen)))
    rows = math.ceil(len(chosen) / columns) or 1
    figure, grid = panels(rows, columns, 2.7)
    epochs = [row["epoch"] for row in history]
    axis = "epoch" if len(set(epochs)) == len(epochs) else "step"
    for axes, (name, keys) in zip(grid.flat, chosen.items(), strict=False):
        series = _series_styles(keys)
        styles = series or _stage_styles(keys)
        for key, style in styles.items():
            points = [(row[axis], row[key]) for row in history if row.get(key) is not None]
            line = {"marker": "o" if len(points) < 12 else None, "markersize": 3, "linewidth": 1.5}
            axes.plot(*zip(*points, strict=True), **line | style)
        axes.set(xlabel=axis, title=name)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        tidy(axes)
        per_row = math.ceil(sum(style["label"] != "_" for style in series.values()) / 3)
        look: dict[str, Any] = {"ncols": per_row, "handlelength": 1.2, "columnspacing": 1.2} if series else {}
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, **look)
    for axes in list(grid.flat)[len(chosen) :]:
        axes.set_visible(False)
    return figure


def _stage_styles(keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line style by key, in the colours of training and validation."""
    known = {"train": PALETTE[0], "val": IN_DISTRIBUTION}
    return {
        key: {"label": key, "color": known.get(key.partition("/")[0], PALETTE[(index + 1) % len(PALETTE)])}
        for index, key in enumerate(keys)
    }


def _series_styles(keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line style by key for keys that end in a number; empty for others, and for one number only.

    The colour shows the number, dashes show any stage but the first. Of more than nine numbers, five have a label.
    """
    found = [NUMBERED.fullmatch(_quantity(key)) for key in keys]
    numbers = [int(match[2]) for match in found if match]
    distinct = sorted(set(numbers))
    last = len(distinct) - 1
    if len(numbers) < len(keys) or last < 1:
        return {}
    labelled = {distinct[round(place * last / 4)] for place in range(5)} if last > 8 else set(distinct)
    stages = ["/" in key and key.partition("/")[0] for key in keys]
    styles = {}
    for key, number, stage in zip(keys, numbers, stages, strict=True):
        label = str(number) if number in labelled else "_"
        if stage != stages[0]:
            label = f"{number}, {stage}" if number == distinct[-1] else "_"
        colour = to_hex(SEQUENCE(distinct.index(number) / last))
        styles[key] = {"label": label, "color": colour, "linestyle": "-" if stage == stages[0] else (0, (3, 1))}
    return styles


def panels(rows: int, columns: int, height: float, top: float = 0.34, **layout: Any) -> tuple[Figure, np.ndarray]:
    """Axes with margins in inches: matplotlib's own layout engines take twice as long to draw."""
    left, right, bottom, gap = 0.68, 0.14, 0.5, 0.34 if layout else 0.85
    width, height = PANEL[0] * columns, height * rows
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns, squeeze=False, **layout)
    across = (width - left - right - 0.8 * (columns - 1)) / columns
    down = (height - top - bottom - gap * (rows - 1)) / rows
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    figure.subplots_adjust(wspace=0.8 / across, hspace=gap / down)
    return figure, grid


def tidy(*all_axes: Axes) -> None:
    """The house's look: thin axes on two sides, a faint grid, text in `INK`."""
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.spines[["left", "bottom"]].set_alpha(0.5)
        axes.tick_params(colors=INK, labelsize=8.5, width=0.6, length=3)
        axes.grid(True, color=INK, alpha=0.1, linewidth=0.6)
        axes.set_axisbelow(True)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set(color=INK, fontsize=9.5)


def legend_above(axes: Axes) -> None:
    """A legend in two columns above the axes."""
    look = {"frameon": False, "fontsize": 8, "labelcolor": INK, "handlelength": 1.8, "columnspacing": 1.2}
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, **look)
