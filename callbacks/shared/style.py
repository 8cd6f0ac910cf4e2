"""Style of all figures: colours, panels, axes, legends.

Figures use matplotlib's object interface only (no global state), and have text and axes in `INK`, which the report
replaces by the page's text colour.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK = "#1c2024"
# Okabe and Ito's colours, told apart with any colour vision; the in-distribution set is always the first
IN_DISTRIBUTION = "#0a7cc4"
PALETTE = ("#d55e00", "#009e73", "#b25f93", "#c48a00", "#4ba6d6", "#8a5a2b", "#7b7f86", "#6a51a3")
# from first to last; each colour has a contrast of 3 or more to light and to dark pages
SEQUENCE = LinearSegmentedColormap.from_list("sequence", ("#2a74dd", "#9463dc", "#cf4f8f", "#dd6a12"))
PANEL = (3.7, 3.4)  # inches; one panel stays readable at the width of a phone

Results = Mapping[str, Any]


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
    """Apply the common look: thin axes on two sides, a faint grid, text in `INK`."""
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
