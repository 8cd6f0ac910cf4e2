"""The reliability diagram."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..shared.style import IN_DISTRIBUTION, INK, PALETTE, Results, panels, tidy


def reliability_figure(results: Results, parts: Sequence[str] = ("before", "after")) -> Figure:
    """Accuracy against confidence, with the histogram of confidences below.

    A bar is the accuracy of a bin, a hatched box its gap to the mean confidence of the bin; an empty bin
    draws nothing. From the results of `CalibrationEvaluation` a column for each part, ``before`` and ``after`` the
    temperature; one that was not evaluated is left out.
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
    bars = zip(edges[:-1], np.diff(edges), diagram["accuracy"], diagram["confidence"], strict=True)
    for low, width, accuracy, confidence in bars:
        if accuracy is not None and confidence is not None:
            upper.bar(low, accuracy, width, align="edge", color=IN_DISTRIBUTION, alpha=0.75, linewidth=0)
            gap: dict[str, Any] = {"facecolor": "none", "edgecolor": PALETTE[0], "hatch": "////", "linewidth": 0.8}
            upper.bar(low, confidence - accuracy, width, accuracy, align="edge", **gap)
    lines = (
        f"ECE {part['ece']:.4f}",
        f"accuracy {part['accuracy']:.4f}",
        f"confidence {part['mean_confidence']:.4f}",
        f"N = {samples:,}, M = {len(counts)}",
    )
    look: dict[str, Any] = {"va": "top", "fontsize": 8.5, "linespacing": 1.45, "color": INK}
    upper.text(0.04, 0.96, "\n".join(lines), transform=upper.transAxes, **look)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
    lower.bar(edges[:-1], counts / max(1, counts.sum()), np.diff(edges), align="edge", color=INK, alpha=0.35)
    for value, style in ((part["accuracy"], "-"), (part["mean_confidence"], ":")):
        lower.axvline(value, color=INK, linewidth=1.1, linestyle=style)
    lower.set(ylim=(0, 1), xlabel="confidence", ylabel="share")
    lower.yaxis.set_major_formatter(PercentFormatter(1))
    lower.set_yticks([0, 0.5, 1])
    tidy(upper, lower)
