"""Pictures of out-of-distribution detection: AUROC by set and score, histograms, ROC curves."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..shared.style import IN_DISTRIBUTION, INK, PALETTE, PANEL, Results, legend_above, panels, tidy
from .results import cell_value, ood_columns


def auroc_heatmap_figure(results: Results) -> Figure:
    """AUROC of every score on every OOD set, means last, from the results of `OODEvaluation`."""
    scores, columns = results["scores"], ood_columns(results)
    table = np.array([[cell_value(by_score, score) for by_score in columns.values()] for score in scores])
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


def score_histogram_figure(results: Results, score: str) -> Figure:
    """Share of images by one of the scores: the in-distribution set filled, every OOD set a line, at most 30 bins."""
    histogram = results["histograms"][score]
    edges, step = np.asarray(histogram["edges"]), math.ceil((len(histogram["edges"]) - 1) / 30)
    starts = np.arange(0, len(edges) - 1, step)
    edges = np.append(edges[starts], edges[-1])
    counts = {name: np.add.reduceat(values, starts) for name, values in histogram["counts"].items()}
    figure, ((axes,),) = panels(1, 1, PANEL[1], top=0.2 + 0.17 * math.ceil((1 + len(results["sets"])) / 2))
    for name, style in set_styles(results).items():
        if name in counts and counts[name].sum():
            share, inside = 100 * counts[name] / counts[name].sum(), name == results["id"]
            axes.stairs(share, edges, fill=inside, alpha=0.45 if inside else 1.0, label=name, **style)
    axes.set(xlabel=f"{score}  (larger = more OOD)", ylabel="% of images", ylim=(0, None))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    tidy(axes)
    legend_above(axes)
    return figure


def roc_figure(results: Results, score: str) -> Figure:
    """ROC curves of one of the scores, one for each OOD set; OOD is the positive class."""
    figure, ((axes,),) = panels(1, 1, PANEL[1], top=0.2 + 0.17 * math.ceil((1 + len(results["sets"])) / 2))
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.55, linewidth=0.9, linestyle=(0, (4, 3)))
    for name, style in set_styles(results).items():
        if name in results["roc"].get(score, {}):
            curve = results["roc"][score][name]
            axes.plot(curve["fpr"], curve["tpr"], label=name, **style)
    axes.set(xlabel=f"share of {results['id']} flagged", ylabel="share of OOD flagged", xlim=(0, 1), ylim=(0, 1.01))
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
