"""The page of `benchmarks.disentanglement.study`, of the parts that the reports of runs are made of."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from callbacks.shared.html import Figures, document, gallery, section, table
from callbacks.shared.style import IN_DISTRIBUTION, INK, PALETTE, SEQUENCE, legend_above, panels, tidy

from .tables import (
    Record,
    best_table,
    by_chance,
    by_setting,
    columns_of,
    groupings,
    measured,
    percent,
    rank_correlations,
    score,
    scores_table,
    selection_correlations,
    unsupervised_of,
    variance_explained,
    variance_table,
)

TOTAL_CORRELATION = "total_correlation"
REPRESENTATIONS = {"mean": "means of the posteriors", "sampled": "samples of the posteriors"}


def study_page(records: Sequence[Record], about: Sequence[str]) -> str:
    """The whole page, one document without scripts, links or files beside it.

    Args:
        records: At least one run.
        about: Lines of plain text below the title: settings, machine.
    """
    draw = Figures()
    keys = measured(records)
    header = "\n".join(f'<p class="meta">{escape(line)}</p>' for line in about)
    return document(
        "Disentanglement: six methods, all metrics",
        header,
        [
            _scores(records, keys, draw),
            _training(records, draw),
            _variance(records, keys, draw),
            _agreement(records),
            _selection(records, keys),
            _total_correlation(records, draw),
            section("All runs", "Mean ± standard deviation over seeds.", *_all_runs(records)),
        ],
    )


def _scores(records: Sequence[Record], keys: Mapping[str, str], draw: Figures) -> str:
    note = (
        "A dot is a run. Of each method the strengths stand side by side, the weakest on the left; a bar is the mean "
        "over seeds. All scores are those of the posterior means."
    )
    figures = (
        draw(scores_figure(records, key, title), f"{title} by method, strength and seed") for title, key in keys.items()
    )
    best = "<h3>The best run of each metric, and what its setting gives on average</h3>" + html_table(
        best_table(records, keys)
    )
    return section("Scores by method, strength and seed", note, gallery(figures), best)


def _training(records: Sequence[Record], draw: Figures) -> str:
    note = (
        "MIG of the posterior means of all images, from the untrained network on. Each line is a run, its colour the "
        "strength."
    )
    methods = dict.fromkeys(record["method"] for record in records)
    figures = (draw(training_figure(records, method), f"MIG of {method} during training") for method in methods)
    return section("MIG during training", note, gallery(figures))


def _variance(records: Sequence[Record], keys: Mapping[str, str], draw: Figures) -> str:
    note = (
        "R² of least squares on one-hot groups, over all runs: what of a metric's variance the method alone explains, "
        "and method and strength together. The rest is the seed. With few seeds many groups fit by chance: the last "
        "column is what groups that mean nothing would explain on average, (groups &minus; 1) / (runs &minus; 1)."
    )
    figure = draw(variance_figure(records, keys), "variance explained by method and strength")
    return section("What explains a score", note, gallery([figure]), html_table(variance_table(records, keys)))


def _agreement(records: Sequence[Record]) -> str:
    note = "Spearman's rank correlation over all runs, times 100. A dash: a metric with one value for all runs."
    parts = []
    for name, words in REPRESENTATIONS.items():
        if keys := measured(records, name):
            correlations = rank_correlations(columns_of(records, keys))
            parts.append(f"<h3>{words[0].upper()}{words[1:]}</h3>{heat_table(list(keys), list(keys), correlations)}")
    return section("Do the metrics agree?", note, *parts)


def _selection(records: Sequence[Record], keys: Mapping[str, str]) -> str:
    titles = list(unsupervised_of(records))
    note = (
        "Rank correlation over all runs, times 100, of what is known without labels with the metrics that need them. "
        "A choice among models without labels would need a row of high values, of one sign."
    )
    shown = heat_table(titles, list(keys), selection_correlations(records, keys)) if titles else ""
    return section("Could one choose without labels?", note, shown)


def _total_correlation(records: Sequence[Record], draw: Figures) -> str:
    note = (
        "Total correlation of a normal distribution with the covariance of the codes, in nats. A regulariser acts on "
        "samples; whether the means become independent too is another question."
    )
    figures = [
        draw(scores_figure(records, f"{name}/{TOTAL_CORRELATION}", words), f"total correlation of {words}")
        for name, words in REPRESENTATIONS.items()
        if any(f"{name}/{TOTAL_CORRELATION}" in record["metrics"] for record in records)
    ]
    return section("Does the regulariser make the codes independent?", note, gallery(figures))


def _all_runs(records: Sequence[Record]) -> list[str]:
    parts = []
    for name, words in REPRESENTATIONS.items():
        if keys := measured(records, name):
            parts.append(f"<h3>{words[0].upper()}{words[1:]}</h3>{html_table(scores_table(records, keys))}")
    return parts


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of text as HTML; the first row is the head."""
    head, *body = rows
    cells = [
        f"<th>{escape(first)}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in rest) for first, *rest in body
    ]
    return table(head, cells, "many" if len(head) > 8 else "")


def heat_table(names: Sequence[str], head: Sequence[str], values: NDArray) -> str:
    """Correlations (rows, columns) in [-1, 1] times 100, coloured by sign and size."""
    rows = []
    for name, row in zip(names, values, strict=True):
        cells = [f'<td style="{_heat(value)}">{percent(value)}</td>' for value in row]
        rows.append(f"<th>{escape(name)}</th>{''.join(cells)}")
    return table(["", *head], rows, "heat")


def _heat(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"background:rgb(var({'--good' if value > 0 else '--bad'}) / {0.04 + 0.5 * value * value:.2f})"


def scores_figure(records: Sequence[Record], key: str, title: str) -> Figure:
    """A picture of one metric of every run by method, strength and seed.

    Args:
        records: The runs.
        key: Of their "metrics".
        title: Heading.
    """
    figure, ((axes,),) = panels(1, 1, 3.2)
    methods = list(dict.fromkeys(record["method"] for record in records))
    for (method, strength), runs in by_setting(records).items():
        strengths = sorted({record["strength"] for record in records if record["method"] == method})
        place = strengths.index(strength)
        step = 0.8 / len(strengths)
        x = methods.index(method) + (place - (len(strengths) - 1) / 2) * step
        values = [value for value in (score(run, key) for run in runs) if math.isfinite(value)]
        colour = to_hex(SEQUENCE(place / max(1, len(strengths) - 1)))
        if values:
            shift = np.linspace(-0.2, 0.2, len(values)) * step if len(values) > 1 else np.zeros(1)
            axes.plot(x + shift, values, "o", color=colour, markersize=3.6, alpha=0.85, markeredgewidth=0)
            mean = sum(values) / len(values)
            axes.plot([x - 0.36 * step, x + 0.36 * step], [mean, mean], color=colour, linewidth=1.6)
    axes.set(title=title, xlim=(-0.6, len(methods) - 0.4))
    tidy(axes)
    _method_axis(figure, axes, methods)
    return figure


def training_figure(records: Sequence[Record], method: str) -> Figure:
    """MIG of a method's runs against the steps, a line for each; the axis is the same for all methods."""
    figure, ((axes,),) = panels(1, 1, 3.2)
    runs = [record for record in records if record["method"] == method]
    strengths = sorted({run["strength"] for run in runs})
    for run in runs:
        place = strengths.index(run["strength"]) / max(1, len(strengths) - 1)
        first = run["seed"] == min(each["seed"] for each in runs if each["strength"] == run["strength"])
        steps, values = zip(*run["mig_during_training"], strict=True)
        label = run["argument"] if first else None
        axes.plot(steps, values, color=to_hex(SEQUENCE(place)), linewidth=1.2, label=label)
    top = max(value for record in records for _, value in record["mig_during_training"])
    axes.set(title=f"MIG of {method}", ylim=(0, 1.05 * top), xlabel="step")
    tidy(axes)
    axes.legend(frameon=False, fontsize="x-small", loc="upper left", labelcolor=INK)
    return figure


def _method_axis(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    axes.grid(False, axis="x")
    figure.subplots_adjust(bottom=0.24)


def variance_figure(records: Sequence[Record], keys: Mapping[str, str]) -> Figure:
    """Bars: what the method explains of each metric, and what its strength adds; lines: what is expected by chance."""
    figure, ((axes,),) = panels(1, 1, 3.2)
    columns = columns_of(records, keys).T
    groups = groupings(records)
    shares = [[variance_explained(column, each) for column in columns] for each in groups.values()]
    places = np.arange(len(keys))
    for index, (title, each) in enumerate(groups.items()):
        colour = (IN_DISTRIBUTION, PALETTE[0])[index]
        heights = np.nan_to_num(np.array(shares[index]))
        axes.bar(places + 0.4 * (index - 0.5), heights, 0.36, color=colour, alpha=0.8, label=title)
        axes.axhline(by_chance(each), color=colour, linewidth=1, linestyle=(0, (3, 2)))
    axes.set(ylim=(0, 1), ylabel="R² (dashed: by chance)")
    tidy(axes)
    legend_above(axes)
    _method_axis(figure, axes, list(keys))
    return figure
