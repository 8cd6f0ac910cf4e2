"""Learning curves of one or several runs."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..shared.style import IN_DISTRIBUTION, INK, PALETTE, SEQUENCE, Results, panels, tidy

NUMBERED = re.compile(r"(.+)_(\d+)")


def curve_groups(history: Sequence[Results]) -> dict[str, list[str]]:
    """Group the logged keys that share a panel.

    ``train/loss`` and ``val/loss`` share ``loss``; names that end in different numbers share, say, ``block 0 … 7``.
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
            keys = [key for number in sorted(members) for key in groups.pop(members[number])]
            groups[f"{stem} {min(members)} … {max(members)}"] = keys
    return dict(sorted(groups.items(), key=lambda item: (item[0] not in ("loss", "acc"), item[0])))


def _quantity(key: str) -> str:
    """The key without the stage before and the "epoch" behind it."""
    return key.partition("/")[2].removesuffix("_epoch") or key


def learning_curves_figure(history: Sequence[Results], groups: Sequence[str] | None = None) -> Figure:
    """What was logged, over epochs (over steps if there are several rows in an epoch).

    Rows of the history have ``epoch``, ``step`` and the logged keys. Groups are those of `curve_groups` to draw, each
    in a panel; all by default.
    """
    chosen = {name: keys for name, keys in curve_groups(history).items() if groups is None or name in groups}
    columns = min(3, max(1, len(chosen)))
    figure, grid = panels(math.ceil(len(chosen) / columns) or 1, columns, 2.7)
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
    matches = [NUMBERED.fullmatch(_quantity(key)) for key in keys]
    numbers = [int(match[2]) for match in matches if match]
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
