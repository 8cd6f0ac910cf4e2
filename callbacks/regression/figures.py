"""Figures from the results of `RegressionCalibration`: calibration curve, PIT histogram and fan."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..shared.style import IN_DISTRIBUTION, INK, PALETTE, PANEL, Results, legend_above, panels, tidy

STYLES: dict[str, dict[str, Any]] = {
    "before": {"color": PALETTE[0], "linestyle": "-"},
    "after": {"color": IN_DISTRIBUTION, "linestyle": "-"},
}


def quantile_figure(results: Results) -> Figure:
    """Share of labels below each predicted quantile, before and after recalibration.

    The grey band holds 95 % of the points of a perfect forecaster (normal approximation, each level for itself).
    """
    figure, ((axes,),) = panels(1, 1, PANEL[1])
    levels = np.arange(101) / 100
    spread = 1.96 * np.sqrt(levels * (1 - levels) / results["samples"])
    axes.fill_between(levels, levels - spread, levels + spread, color=INK, alpha=0.12, linewidth=0)
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.55, linewidth=0.9, linestyle=(0, (4, 3)))
    for name, style in STYLES.items():
        if part := results.get(name):
            label = f"{name}, QCE {part['qce']:.4f}"
            axes.plot(levels, [0.0, *part["curve"], 1.0], linewidth=1.5, label=label, **style)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted quantile level", ylabel="share of labels below")
    tidy(axes)
    axes.legend(loc="upper left", frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def pit_figure(results: Results) -> Figure:
    """Histogram of PIT values, density 1 for a perfect forecaster; the grey band is its 95 % range of a bin.

    High ends: distributions too narrow. A high middle: too wide. A slope: they lie to one side.
    """
    figure, ((axes,),) = panels(1, 1, PANEL[1])
    bins, samples = len(results["before"]["pit"]), results["samples"]
    spread = 1.96 * np.sqrt((bins - 1) / samples)
    axes.axhspan(max(0, 1 - spread), 1 + spread, color=INK, alpha=0.12, linewidth=0)
    axes.axhline(1, color=INK, alpha=0.55, linewidth=0.9, linestyle=(0, (4, 3)))
    edges = np.arange(bins + 1) / bins
    for name, style in STYLES.items():
        if part := results.get(name):
            density = np.asarray(part["pit"]) * bins / samples
            fill = name == "before"
            axes.stairs(density, edges, fill=fill, alpha=0.45 if fill else 1, linewidth=1.4, label=name, **style)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="PIT, F(label)", ylabel="density")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    tidy(axes)
    legend_above(axes)
    return figure


def fan_figure(results: Results, parts: Sequence[str] = ("before", "after")) -> Figure:
    """Test rows sorted by prediction, with their intervals and labels.

    A column for each part, ``before`` and ``after`` the recalibration, on the scale of both; one that was not evaluated
    is left out.
    """
    parts = [part for part in parts if results.get(part)]
    figure, grid = panels(1, max(1, len(parts)), PANEL[1])
    fans = [results[name]["fan"] for name in STYLES if results.get(name)]
    shown = np.concatenate([np.r_[fan["label"], fan["low"][-1], fan["high"][-1]] for fan in fans])
    margin = 0.03 * (np.ptp(shown) or 1.0)
    for axes, name in zip(grid.flat, parts, strict=True):
        _draw_fan(axes, results[name]["fan"], results["levels"], STYLES[name]["color"])
        axes.set(xlim=(0, 1), ylim=(shown.min() - margin, shown.max() + margin))
        axes.set(xlabel=f"share of test rows, by prediction ({name})", ylabel=results.get("target") or "label")
        tidy(axes)
    return figure


def _draw_fan(axes: Axes, fan: Results, levels: Sequence[float], colour: str) -> None:
    place = (np.arange(len(fan["label"])) + 0.5) / len(fan["label"])
    for rank, index in enumerate(sorted({0, (len(levels) - 1) // 2, len(levels) - 1}, reverse=True)):
        look: dict[str, Any] = {"color": colour, "alpha": 0.2 + 0.1 * rank, "linewidth": 0, "step": "mid"}
        axes.fill_between(place, fan["low"][index], fan["high"][index], label=f"{100 * levels[index]:.3g} %", **look)
    axes.plot(place, fan["prediction"], color=INK, linewidth=1.1, label="prediction")
    size = 2.2 if len(place) > 60 else 3.5
    axes.plot(place, fan["label"], ".", color=INK, markersize=size, alpha=0.75, label="label")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    gaps: dict[str, Any] = {"handlelength": 1.0, "columnspacing": 0.8, "handletextpad": 0.4}
    place_above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.04, 1.0), "ncols": 5}
    axes.legend(**place_above, **gaps, frameon=False, fontsize=7.5, labelcolor=INK)
