"""The figure of `SimilarityMatrices`, and its matrices as small pictures."""

import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from ..shared.style import INK

SCALE = colormaps["RdBu_r"].resampled(65)  # from -1 to 1, white is 0; few levels make small files


def similarity_figure(results: Mapping[str, Any]) -> Figure:
    """Draw the target's similarity matrix and that of each block, side by side, on one scale from -1 to 1.

    Below a block's name stands the mean squared difference (MSE) of its matrix from the target; below "target" that of
    features without any correlation.

    Args:
        results: ``results`` of `SimilarityMatrices`.
    """
    panels = [(f"target\nuncorrelated {results['uncorrelated']:.3f}", results["target"])]
    panels += [(f"{name}\nMSE {block['difference']:.3f}", block["matrix"]) for name, block in results["blocks"].items()]
    columns = min(6, len(panels))
    rows = math.ceil(len(panels) / columns)
    # in inches: a panel, the gaps between panels, and room for titles above, the scale on the right and a line below
    side, across, down, top, right, bottom = 1.65, 0.12, 0.52, 0.48, 0.55, 0.4
    width = side * columns + across * columns + right
    height = side * rows + down * (rows - 1) + top + bottom
    figure = Figure(figsize=(width, height))
    for index, (title, matrix) in enumerate(panels):
        left = across + (side + across) * (index % columns)
        above = top + (side + down) * (index // columns)
        axes = figure.add_axes((left / width, 1 - (above + side) / height, side / width, side / height))
        picture = axes.imshow(matrix, cmap=SCALE, vmin=-1, vmax=1)
        axes.set_title(title, fontsize=8.5, color=INK)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=INK, alpha=0.3, linewidth=0.6)
    scale = figure.add_axes((1 - 0.42 / width, 1 - (top + side) / height, 0.1 / width, side / height))
    bar = figure.colorbar(picture, scale, ticks=[-1, 0, 1])
    bar.ax.tick_params(colors=INK, labelsize=8.5, width=0.6, length=3)
    bar.outline.set_visible(False)
    text = f"correlation between {results['samples']} test images, sorted by class"
    figure.text(across / width, 0.13 / height, text, fontsize=8.5, color=INK)
    return figure


def similarity_png(matrix: np.ndarray) -> bytes:
    """Encode a matrix as a picture with one pixel for each entry, in the colours of `similarity_figure`.

    Args:
        matrix: (n, m) with values in [-1, 1]; NaN becomes white, like 0.

    Returns:
        A PNG file.
    """
    levels = ((np.nan_to_num(matrix) + 1) / 2 * SCALE.N).clip(0, SCALE.N - 1).astype(np.uint8)
    picture = Image.fromarray(levels)
    picture.putpalette(SCALE(np.arange(SCALE.N), bytes=True)[:, :3].tobytes())
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
