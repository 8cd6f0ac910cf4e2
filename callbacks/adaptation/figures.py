"""Figures of the features of two domains in the plane, coloured by domain and by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from sklearn.manifold import TSNE
from torch import Tensor

from ..shared.style import IN_DISTRIBUTION, INK, PALETTE, SEQUENCE, tidy
from .domains import evenly

Floats = NDArray[np.float64]
COMPONENTS = 50  # the usual number of inputs of t-SNE
DOMAIN_COLOURS = (IN_DISTRIBUTION, PALETTE[0])
DOMAIN_MARKERS = ("o", "+")
TENTH = "#24384f"
SIDE = 2.9  # inches
OUTLINE = withStroke(linewidth=2.5, foreground="white")
NAME: dict[str, Any] = {"fontsize": 10, "weight": "bold", "path_effects": [OUTLINE]}  # of a class or a point


def principal_components(features: Tensor, components: int = COMPONENTS) -> tuple[Tensor, float]:
    """Coordinates of centred, unscaled features (N, D) along at most so many principal components.

    They are (N, C) float32 with C at most N and D, the largest absolute one of each component positive. With them comes
    the share of the variance in the first two components.
    """
    centred = features.double() - features.double().mean(0)
    # from the inner products of samples: there may be far more features than samples
    variances, vectors = torch.linalg.eigh(centred @ centred.T)
    variances, vectors = variances.flip(0).clamp(min=0), vectors.flip(1)
    number = min(components, *features.shape)
    scores = vectors[:, :number] * variances[:number].sqrt()
    largest = scores.abs().argmax(0, keepdim=True)
    scores = scores * torch.where(scores.gather(0, largest) < 0, -1.0, 1.0)
    total = variances.sum().item()
    return scores.float(), variances[:2].sum().item() / total if total else 1.0


def picture_of(features: Sequence[Tensor], labels: Sequence[Tensor], number: int) -> dict[str, Any]:
    """Points for `domains_figure`, in tensors and numbers only, so that checkpoints can hold them.

    Features are (N_s, D) of the source and (N_t, D) of the target, labels (N_s,) and (N_t,), -1 where unknown. At most
    ``number`` samples of each domain are taken, evenly spread.

    Returns:
        "points" (N, C) principal components of both domains together, "domain" (N,) with 0 source and 1 target, "label"
        (N,) and "explained", the share of the variance in the first two. Empty where a feature is not finite.
    """
    rows = [evenly(table, number) for table in features]
    if not all(table.isfinite().all() for table in rows):
        return {}
    points, explained = principal_components(torch.cat(rows))
    domain = torch.repeat_interleave(torch.arange(2), torch.tensor([len(table) for table in rows]))
    label = torch.cat([evenly(table, number) for table in labels])
    return {"points": points, "domain": domain, "label": label, "explained": explained}


def in_plane(picture: Mapping[str, Any], points: ArrayLike) -> dict[str, Any]:
    """Return a picture in lists and numbers, with these points (N, 2), the largest coordinate 1, to four decimals."""
    rows = np.asarray(points, np.float64)
    rows = (rows / max(np.abs(rows).max(), 1e-300)).round(4)
    plain = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in picture.items()}
    return plain | {"points": rows.tolist()}


def tsne(points: Tensor, seed: int = 0) -> Floats:
    """scikit-learn's t-SNE of N >= 4 points (N, C) to (N, 2), initialised with the first two principal components.

    The perplexity is 30, or a third of the number of samples where that is less.
    """
    start = np.zeros((len(points), 2))
    start[:, : points.shape[1]] = points[:, :2].double().numpy()
    start *= 1e-4 / max(start[:, 0].std(), 1e-12)
    model = TSNE(perplexity=min(30.0, (len(points) - 1) / 3), init=start, random_state=seed)
    return model.fit_transform(points.numpy()).astype(np.float64)


def domains_figure(pictures: Mapping[str, Any], title: str) -> Figure:
    """Draw the features of both domains, on the left coloured by domain, on the right by class; one picture a row.

    Args:
        pictures: By row name ("before", "after"): "points" (N, 2), "domain" (N,) with 0 source and 1 target, "label"
            (N,), -1 where unknown, and "names" of source and target.
        title: Name of the projection, such as "PCA".
    """
    rows = len(pictures)
    left, right, top, bottom, across, down = 0.12, 0.3, 0.62, 0.12, 0.2, 0.34
    width = 2 * SIDE + left + right + across
    height = rows * SIDE + (rows - 1) * down + top + bottom
    figure = Figure(figsize=(width, height))
    for row, (name, picture) in enumerate(pictures.items()):
        points, domain, label = (np.asarray(picture[key]) for key in ("points", "domain", "label"))
        low = bottom + (rows - 1 - row) * (SIDE + down)
        panels = [
            figure.add_axes(((left + column * (SIDE + across)) / width, low / height, SIDE / width, SIDE / height))
            for column in (0, 1)
        ]
        colours = class_colours(label)
        _scatter(panels[0], points, domain, np.array(DOMAIN_COLOURS)[domain])
        _scatter(panels[1], points, domain, np.array([colours[value] for value in label.tolist()]))
        for value in colours:
            inside = points[(label == value) & (domain == 0)]
            if value >= 0 and len(inside):
                x, y = np.median(inside, axis=0)
                panels[1].text(x, y, str(value), ha="center", va="center", color="black", **NAME)
        for axes, what in zip(panels, ("by domain", "by class"), strict=True):
            heading = f"{title} {name}, {what}" if len(pictures) > 1 or name != "after" else f"{title}, {what}"
            axes.set(xticks=[], yticks=[])
            tidy(axes)
            axes.set_title(heading, fontsize=9.5, color=INK, loc="left")
        if row == 0:
            _legend(panels[0], picture["names"], DOMAIN_COLOURS)
            _legend(panels[1], picture["names"], (INK, INK))
    return figure


def _scatter(axes: Axes, points: Floats, domain: NDArray, colours: NDArray) -> None:
    # both domains in turn, in random order, so that neither hides the other
    for rows in np.array_split(np.random.default_rng(0).permutation(len(points)), 10):
        for number, (marker, size, line) in enumerate(zip(DOMAIN_MARKERS, (9, 22), (0, 0.9), strict=True)):
            inside = rows[domain[rows] == number]
            look: dict[str, Any] = {"marker": marker, "s": size, "linewidths": line, "alpha": 0.7, "rasterized": True}
            axes.scatter(points[inside, 0], points[inside, 1], c=list(colours[inside]), **look)


def class_colours(label: NDArray) -> dict[int, str]:
    """A colour for each class: from a palette for up to ten, along a sequence for more; grey for the label -1."""
    classes = [int(value) for value in np.unique(label) if value >= 0]
    palette: tuple[str, ...] = (*PALETTE[1:], TENTH, *DOMAIN_COLOURS)  # the domains' colours last
    if len(classes) > len(palette):
        palette = tuple(to_hex(SEQUENCE(place)) for place in np.linspace(0, 1, len(classes)))
    return {-1: "#9a9ea4"} | dict(zip(classes, palette, strict=False))


def _legend(axes: Axes, names: Sequence[str], colours: Sequence[str]) -> None:
    handles = [
        Line2D([], [], linestyle="", marker=marker, markersize=size, color=colour, label=name)
        for marker, size, colour, name in zip(DOMAIN_MARKERS, (3.5, 6), colours, names, strict=True)
    ]
    look: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": INK, "handletextpad": 0.1}
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.03, 1.06), ncols=2, columnspacing=1.0, **look)
