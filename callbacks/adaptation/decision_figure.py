"""The figure of `DecisionRegions`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ..shared.style import INK, PALETTE, tidy
from .figures import DOMAIN_COLOURS, NAME

SIDE = 2.7  # inches
CLASS_COLOURS = PALETTE[1:]  # none is a domain's colour
TITLES = ("label regions", "PCA of the features", "domain regions", "hidden units = 1/2")


def decision_regions_figure(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw label regions, principal components, domain regions and hidden units of one or several models, one a row.

    A row has the ``results`` of `DecisionRegions` by the model's name.
    """
    left, right, top, bottom, across, down = 0.55, 0.12, 0.62, 0.3, 0.42, 0.34
    width = 4 * SIDE + 3 * across + left + right
    height = len(rows) * SIDE + (len(rows) - 1) * down + top + bottom
    figure = Figure(figsize=(width, height))
    for number, (name, row) in enumerate(rows.items()):
        low = bottom + (len(rows) - 1 - number) * (SIDE + down)
        panels = [
            figure.add_axes(((left + column * (SIDE + across)) / width, low / height, SIDE / width, SIDE / height))
            for column in range(4)
        ]
        plane = np.concatenate([row["source"], row["target"]])
        _regions(panels[0], row, row["classes"], CLASS_COLOURS)
        _regions(panels[2], row, (row["domain"] >= 0).astype(int), DOMAIN_COLOURS)
        for unit in row["units"]:
            if unit.min() < 0.5 < unit.max():
                panels[3].contour(row["x"], row["y"], unit, [0.5], colors=[INK], linewidths=0.8, alpha=0.8)
        for axes, points, alpha in zip(panels, (plane, row["components"], plane, plane), (1, 1, 1, 0.35), strict=True):
            _points(axes, points, row, alpha)
        for axes, title in zip(panels, TITLES, strict=True):
            tidy(axes)
            axes.grid(False)
            axes.tick_params(labelsize=7.5)
            axes.set_title(title if number == 0 else "", fontsize=9.5, color=INK, loc="left")
        for axes in (panels[0], panels[2], panels[3]):
            axes.set(xlim=(row["x"][0], row["x"][-1]), ylim=(row["y"][0], row["y"][-1]))
        figure.text(0.13 / width, (low + SIDE / 2) / height, name, rotation=90, va="center", fontsize=10, color=INK)
    _legend(figure, next(iter(rows.values())), (left / width, 1 - 0.02 / height))
    return figure


def _regions(axes: Axes, row: Mapping[str, Any], values: NDArray, colours: tuple[str, ...]) -> None:
    number = int(values.max()) + 1
    colours = tuple(colours[index % len(colours)] for index in range(max(2, number)))
    look: dict[str, Any] = {"cmap": ListedColormap(colours), "vmin": -0.5, "vmax": len(colours) - 0.5, "alpha": 0.25}
    axes.pcolormesh(row["x"], row["y"], values, shading="nearest", rasterized=True, **look)
    for value in range(number - 1):  # crisp edges
        axes.contour(row["x"], row["y"], values <= value, [0.5], colors=[INK], linewidths=0.7)


def _points(axes: Axes, points: NDArray, row: Mapping[str, Any], alpha: float) -> None:
    """Draw points (N, 2), those of the source first, and mark the tips."""
    source, target = points[: len(row["source"])], points[len(row["source"]) :]
    axes.plot(*target.T, ".", color="black", markersize=2.6, alpha=alpha)
    for label in np.unique(row["label"]):
        x, y = source[row["label"] == label].T
        colour = CLASS_COLOURS[label % len(CLASS_COLOURS)]
        axes.plot(x, y, _marker(row["label"], label), color=colour, markersize=5, markeredgewidth=1.1, alpha=alpha)
    for name, index in row["tips"].items():
        axes.plot(*points[index], "o", markerfacecolor="none", markeredgecolor="black", markersize=7)
        axes.annotate(name, points[index], (5, 4), textcoords="offset points", **NAME)


def _marker(labels: NDArray, label: int) -> str:
    """Marker of a class: minus and plus for two classes, as in the paper; crosses for more."""
    return ("_", "+")[label] if labels.max() < 2 else "x"


def _legend(figure: Figure, row: Mapping[str, Any], place: tuple[float, float]) -> None:
    looks = [
        (_marker(row["label"], label), CLASS_COLOURS[label % len(CLASS_COLOURS)], f"source, class {label}")
        for label in np.unique(row["label"])
    ]
    handles: list[Any] = [
        Line2D([], [], linestyle="", marker=marker, color=colour, label=name)
        for marker, colour, name in (*looks, (".", "black", "target"))
    ]
    taken_for = zip(DOMAIN_COLOURS, ("source", "target"), strict=True)
    handles += [Patch(facecolor=colour, alpha=0.25, label=f"taken for {name}") for colour, name in taken_for]
    look: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": INK, "borderpad": 0}
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=len(handles), **look)
