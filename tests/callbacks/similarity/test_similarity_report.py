"""The figure of `SimilarityMatrices` in loggers and in the report."""

import base64
import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_toys import Blocks, Data, run_test
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from callbacks import Report, SimilarityMatrices
from callbacks.report import load_record
from callbacks.report.record import plain
from callbacks.shared.html import Figures
from callbacks.similarity import similarity_matrix, target_similarity
from callbacks.similarity.figures import SCALE, similarity_figure, similarity_png
from callbacks.similarity.report import similarity_pictures, similarity_section

H = torch.tensor([[1.0, 2, 3, 4], [2, 4, 6, 8], [4, 3, 2, 1], [1, 0, 0, 1]])


def results_of(labels=(0, 0, 1, 2), blocks=2):
    matrix = similarity_matrix(H)
    target = target_similarity(torch.tensor(labels), 3).numpy()
    return {
        "samples": 4,
        "classes": 3,
        "uncorrelated": 0.2,
        "target": target,
        "blocks": {f"block_{i}": {"difference": 0.125 + i, "matrix": matrix.numpy()} for i in range(blocks)},
    }


def test_the_figure_shows_the_target_and_each_block_with_its_difference_on_one_scale():
    results = results_of(blocks=7)
    results["blocks"]["block_2"]["matrix"] = results["blocks"]["block_2"]["matrix"] / 2
    figure = similarity_figure(results)
    panels = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title() for axes in panels]
    assert titles[0] == "target\nuncorrelated 0.200"
    assert titles[1:] == [f"block_{i}\nMSE {0.125 + i:.3f}" for i in range(7)]
    assert {axes.images[0].get_clim() for axes in panels} == {(-1, 1)}
    np.testing.assert_array_equal(panels[0].images[0].get_array(), results["target"])
    np.testing.assert_array_equal(panels[3].images[0].get_array(), results["blocks"]["block_2"]["matrix"])
    assert len(figure.axes) == len(panels) + 1, "one colour bar"


@pytest.mark.parametrize("blocks", [1, 5, 24])
def test_nothing_in_the_figure_is_cut_off_or_drawn_over_another_thing(blocks):
    figure = similarity_figure(results_of(blocks=blocks))
    canvas = FigureCanvasAgg(figure)
    boxes = [axes.get_tightbbox(canvas.get_renderer()) for axes in figure.axes]
    boxes += [text.get_window_extent(canvas.get_renderer()) for text in figure.texts]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_a_matrix_as_a_picture_has_the_scales_colours_and_zero_is_white():
    pixels = np.asarray(Image.open(BytesIO(similarity_png(np.array([[-1, -0.5, 0, 0.5, 1, np.nan]])))).convert("RGB"))
    expected = SCALE((np.array([-1, -0.5, 0, 0.5, 1, 0]) + 1) / 2, bytes=True)[None, :, :3]
    np.testing.assert_array_equal(pixels, expected)
    assert pixels[0, 2].min() > 240
    assert pixels[0, 0, 2] > pixels[0, 0, 0], "negative is blue"
    assert pixels[0, 4, 0] > pixels[0, 4, 2], "positive is red"


def test_csv_logger_gets_the_picture_and_the_differences(tmp_path):
    callback, logger = SimilarityMatrices(number=24), CSVLogger(tmp_path, "run")
    run_test([callback], Blocks(), Data(sizes=(30, 7)), logger=logger, default_root_dir=tmp_path)
    picture = np.asarray(Image.open(Path(logger.log_dir, "images/similarity/matrices.png")))
    assert picture.ndim == 3
    dark_red = np.array(SCALE(1.0, bytes=True)[:3])
    assert (np.abs(picture.astype(int) - dark_red).sum(-1) < 6).mean() > 0.05, "the squares of the target"
    with Path(logger.log_dir, "metrics.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    for name, block in callback.results["blocks"].items():
        assert float(row[f"similarity/{name}"]) == pytest.approx(block["difference"], abs=1e-6)


@pytest.mark.long
def test_offline_wandb_run_holds_the_picture(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    for kind in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{kind}", str(tmp_path / "wandb" / kind))
    wandb.finish()
    logger = WandbLogger(save_dir=tmp_path, project="zoo")
    callback = SimilarityMatrices(number=24)
    run_test([callback], Blocks(), Data(sizes=(30, 7)), logger=logger, default_root_dir=tmp_path)
    wandb.finish()
    (picture,) = (tmp_path / "wandb").glob("offline-run-*/files/media/images/similarity/matrices_*.png")
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape[1] > pixels.shape[0] > 200
    assert pixels.std() > 10


def test_the_report_shows_the_matrices_and_its_record_keeps_them(tmp_path):
    callback, logger = SimilarityMatrices(number=24), CSVLogger(tmp_path, "run")
    run_test([Report(), callback], Blocks(), Data(sizes=(30, 7)), logger=logger, default_root_dir=tmp_path)
    record = load_record(logger.log_dir)
    found = record["similarity"]
    assert found["uncorrelated"] == pytest.approx(callback.results["uncorrelated"])
    picture = Image.open(BytesIO(base64.b64decode(found["target"])))
    assert picture.size == callback.results["target"].shape
    page = Path(logger.log_dir, "report.html").read_text(encoding="utf-8")
    assert "Similarity of the blocks" in page
    for name, block in callback.results["blocks"].items():
        assert found["blocks"][name]["difference"] == pytest.approx(block["difference"])
        assert found["blocks"][name]["picture"] == base64.b64encode(similarity_png(block["matrix"])).decode()
        assert f"{name} <small>{block['difference']:.3f}</small>" in page
        assert f'src="data:image/png;base64,{found["blocks"][name]["picture"]}"' in page
    assert not [name for name in record["metrics"] if name.startswith("similarity/")], "they are in the results"


def test_the_report_of_several_runs_shows_those_that_have_matrices():
    assert similarity_section({"a": {}, "b": {"similarity": None}}, Figures()) == ""
    record = {"similarity": plain(similarity_pictures(results_of()))}
    page = similarity_section({"a": record, "b": {"similarity": None}}, Figures())
    assert page.count('alt="similarity matrix of target"') == 1


def test_a_record_cannot_smuggle_html_or_an_address_into_the_page():
    hostile = '"><script>'
    found = plain(similarity_pictures(results_of(blocks=1)))
    record = found | {"target": "https://example.org", "blocks": {hostile: found["blocks"]["block_0"]}}
    page = similarity_section({"a": {"similarity": record}}, Figures())
    assert "<script" not in page
    assert 'src="https' not in page
