"""The figures of `LatentPictures`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from ..shared.style import IN_DISTRIBUTION, INK, PALETTE, panels, tidy

GAP = 2  # white pixels between two pictures
DOTS = 100  # pixels of a traversal in an inch of the figure
SMALLEST = 48  # pixels of a picture's longer side; smaller pictures are enlarged to about this


def traversals_figure(results: Mapping[str, Any]) -> Figure:
    """Draw a grid for each start: a row for each latent, a column for each value, a frame at the start's own value.

    Args:
        results: ``results`` of `LatentPictures`.
    """
    grids = [mosaic(grid) for grid in results["traversals"]]
    starts, rows, columns, *_ = results["traversals"].shape
    high, wide = ((side + GAP) / count for side, count in zip(grids[0].shape[:2], (rows, columns), strict=True))
    height, width = (side / DOTS for side in grids[0].shape[:2])
    left, right, top, bottom, across = 1.05, 0.1, 0.3, 0.68, 0.14
    total = (max(4.2, left + starts * width + (starts - 1) * across + right), top + height + bottom)
    figure = Figure(figsize=total)
    for index, grid in enumerate(grids):
        axes = _axes(figure, left + index * (width + across), bottom, width, height)
        axes.imshow(grid.squeeze(-1) if grid.shape[-1] == 1 else grid, cmap="gray", vmin=0, vmax=255)
        for row, column in enumerate(results["nearest"][index]):
            corner = (column * wide - GAP, row * high - GAP)
            frame: dict[str, Any] = {"fill": False, "edgecolor": PALETTE[0], "linewidth": 1.1, "clip_on": False}
            axes.add_patch(Rectangle(corner, wide + GAP - 1, high + GAP - 1, **frame))
        shown = sorted({0, (columns - 1) // 2, columns - 1})
        steps = [results["steps"][column] for column in shown]
        labels = ["0" if abs(step) < 1e-9 else f"{step:+.3g} std" for step in steps]
        axes.set_xticks([(column + 0.5) * wide - GAP for column in shown], labels)
        names = latent_names(results)[:rows] if index == 0 else []
        axes.set_yticks([(row + 0.5) * high - GAP for row in range(len(names))], names)
        axes.set_title(f"from image {index + 1}", fontsize=9.5, color=INK, loc="left")
        axes.tick_params(length=0, labelsize=8.5, colors=INK)
        axes.spines[:].set_visible(False)
    text = "standard deviations around the mean of the aggregate posterior\nframed: nearest to the image's own value"
    figure.text(0.12 / total[0], 0.1 / total[1], text, fontsize=8.5, color=INK)
    return figure


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def latent_names(results: Mapping[str, Any]) -> list[str]:
    """Names of all latents in order, with their divergence in nats, or their standard deviation without a posterior."""
    values, unit = (results["std"], "std") if results["kl"] is None else (results["kl"], "KL")
    return [f"z{latent}  {unit} {values[latent]:.2f}" for latent in results["order"]]


def mosaic(pictures: NDArray) -> NDArray:
    """Lay (R, T, H, W, C) uint8 pictures out in R rows on white, `GAP` apart: (H', W', C). Small ones are enlarged."""
    rows, columns, height, width, channels = pictures.shape
    scale = max(1, SMALLEST // max(height, width))
    high, wide = scale * height + GAP, scale * width + GAP
    grid = np.full((rows, high, columns, wide, channels), 255, np.uint8)
    enlarged = pictures.repeat(scale, axis=2).repeat(scale, axis=3)
    grid[:, : high - GAP, :, : wide - GAP] = enlarged.transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * high, columns * wide, channels)[:-GAP, :-GAP]


def reconstruction_grid(results: Mapping[str, Any]) -> NDArray:
    """Lay out images above their reconstructions, (H', W', C) uint8, from the ``results`` of `LatentPictures`."""
    return mosaic(np.stack([results["input"], results["reconstruction"]]))


def kl_figure(results: Mapping[str, Any]) -> Figure:
    """Draw the divergence of each latent as a bar, the largest first, filled for active latents."""
    figure, ((axes,),) = panels(1, 1, 2.7)
    order, kl, active = (np.asarray(results[name]) for name in ("order", "kl", "active"))
    places = np.arange(len(order))
    for bar, filled in zip(axes.bar(places, kl[order], 0.75, color=IN_DISTRIBUTION), active[order], strict=True):
        bar.set(fill=bool(filled), edgecolor=IN_DISTRIBUTION, linewidth=0.9)
    axes.set_xticks(places, [f"z{latent}" for latent in order], rotation=90 if len(order) > 12 else 0)
    title = f"{kl.sum():.3g} nats in all, {int(active.sum())} of {len(order)} latents active"
    axes.set(ylabel="KL from N(0, 1), nats", title=title)
    tidy(axes)
    axes.grid(False, axis="x")
    axes.set_ylim(0, 1.05 * max(kl.max(), 1e-3))
    return figure


def information_shares(matrix: ArrayLike, sizes: Sequence[int]) -> NDArray:
    """Mutual information of each latent and factor as a share of the factor's entropy.

    Args:
        matrix: (L, K) mutual information in nats.
        sizes: (K,) numbers of values of the factors, all equally probable.

    Returns:
        (L, K) in [0, 1].
    """
    return np.clip(np.asarray(matrix, dtype=float) / np.log(sizes), 0, 1)


def mutual_information_figure(matrix: ArrayLike, factors: Sequence[str], order: Sequence[int] | None = None) -> Figure:
    """Draw the information that each latent has about each factor as a heat map.

    Args:
        matrix: (L, K), shares of each factor's entropy in [0, 1].
        factors: K names.
        order: (L,) latents from top to bottom; by default as they are numbered.
    """
    values = np.asarray(matrix, dtype=float)
    order = list(range(len(values))) if order is None else [int(latent) for latent in order]
    left, top, right, bottom, cell = 0.5, 0.35, 0.15, 0.95, (0.72, 0.27)
    width = max(3.4, left + cell[0] * len(factors) + right)
    figure = Figure(figsize=(width, top + cell[1] * len(order) + bottom))
    axes = _axes(figure, left, bottom, cell[0] * len(factors), cell[1] * len(order))
    axes.imshow(values[order], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, latent in enumerate(order):
        for column, value in enumerate(values[latent]):
            if np.isfinite(value):
                colour = "white" if value > 0.55 else INK
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(factors)), factors, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(order)), [f"z{latent}" for latent in order])
    axes.set_title("mutual information / entropy of the factor", fontsize=9.5, loc="left", color=INK, x=-0.1)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    axes.spines[:].set_visible(False)
    return figure
