"""Learning curves of metrics that differ in a number at the end: one panel, a line for each number."""

from importlib.resources import files

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from report_records import run_record

from callbacks.report import render
from callbacks.report.curves import curve_groups, learning_curves_figure
from callbacks.shared.style import INK


def block_history(blocks, epochs=3, stages=("train",)):
    return [
        {"epoch": epoch, "step": epoch, "train/loss": 1.0}
        | {f"{stage}/block_{i}": i / (epoch + 1) for stage in stages for i in reversed(range(blocks))}
        for epoch in range(epochs)
    ]


def test_keys_that_differ_in_a_number_at_the_end_share_a_panel_in_the_order_of_numbers():
    groups = curve_groups(block_history(12))
    assert groups == {"loss": ["train/loss"], "block 0 … 11": [f"train/block_{i}" for i in range(12)]}


def test_a_single_number_or_the_words_of_lightning_make_no_series():
    rows = [{"epoch": i, "step": i, "train/top_5": 1.0, "val/top_5": 1.0, "a_epoch": 1.0} for i in range(3)]
    assert curve_groups(rows) == {"top_5": ["train/top_5", "val/top_5"], "a_epoch": ["a_epoch"]}
    epochs = [
        {"epoch": i, "step": i} | {f"train/b_{n}_{k}": 1.0 for n in (0, 1) for k in ("step", "epoch")} for i in (0, 1)
    ]
    assert curve_groups(epochs) == {"b 0 … 1": ["train/b_0_epoch", "train/b_1_epoch"]}


def contrast(colour, background):
    def luminance(rgb):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(to_rgb(colour)), luminance(to_rgb(background))))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", ["#fdfdfc", "#14171a"], ids=["light", "dark"])
def test_every_line_of_a_series_can_be_seen_in_light_and_dark_mode(background):
    assert background in files("callbacks.shared").joinpath("page.css").read_text()
    figure = learning_curves_figure(block_history(34), ["block 0 … 33"])
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert len(set(colours)) == 34
    assert min(contrast(colour, background) for colour in colours) >= 3
    assert INK not in colours, "INK becomes the page's text colour"


@pytest.mark.parametrize(
    ("blocks", "labels"),
    [
        (2, ["0", "1"]),
        (9, [str(i) for i in range(9)]),
        (10, ["0", "2", "4", "7", "9"]),
        (33, ["0", "8", "16", "24", "32"]),
    ],
)
def test_a_series_has_a_line_for_each_number_and_a_legend_that_stays_short(blocks, labels):
    history = block_history(blocks)
    (axes,) = learning_curves_figure(history, [f"block 0 … {blocks - 1}"]).axes
    assert [line.get_ydata()[0] for line in axes.lines] == list(range(blocks))
    assert axes.get_title() == f"block 0 … {blocks - 1}"
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.texts] == labels
    assert len(legend.texts) <= 9


def test_stages_of_a_series_are_told_apart_by_dashes_that_the_legend_names():
    (axes,) = learning_curves_figure(block_history(3, stages=("train", "val")), ["block 0 … 2"]).axes
    assert [text.get_text() for text in axes.get_legend().texts] == ["0", "1", "2", "2, val"]
    assert [line.is_dashed() for line in axes.lines] == [False, True] * 3
    assert axes.lines[0].get_color() == axes.lines[1].get_color()


def test_curves_of_two_stages_of_one_quantity_keep_their_colours_and_names():
    rows = [{"epoch": i, "step": i, "train/top_5": 1.0, "val/top_5": 1.0} for i in range(3)]
    (axes,) = learning_curves_figure(rows).axes
    assert [text.get_text() for text in axes.get_legend().texts] == ["train/top_5", "val/top_5"]


def test_the_report_draws_the_series_in_one_chart():
    record = run_record("First")
    record["history"] = block_history(12, epochs=20)
    page = render([record])
    assert page.count("learning curve of block") == 1
    assert 'aria-label="learning curve of block 0 … 11"' in page
