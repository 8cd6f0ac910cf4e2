"""`DecisionRegions`: the plane as a module sees it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from adaptation_toys import points
from evaluation_toys import trainer_of
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.loggers import CSVLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from callbacks import DecisionRegions, Report
from callbacks.adaptation.decision_figure import TITLES, decision_regions_figure
from callbacks.adaptation.decision_regions import decision_regions, nearest
from callbacks.adaptation.figures import principal_components
from callbacks.report import load_record


class Plane(LightningModule):
    """Right of x = 0 is class 1, above y = 1 is the target; the units are 1/2 on x = 0, y = 1 and nowhere."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def domain_features(self, x):
        return torch.stack([(3 * x[:, 0]).sigmoid(), (x[:, 1] - 1).sigmoid(), torch.ones(len(x))], 1)

    def domain_logits(self, x):
        return x[:, 1] - 1

    def forward(self, x):
        return torch.stack([-x[:, 0], x[:, 0]], 1) * self.scale

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return {"logits": self(batch[0])}


class Points(LightningDataModule):
    image_shape = (2,)
    test_sets = ("a", "near/c", "target/b")
    tips = {"A": (-9, -9), "B": (0.5, 0.5)}  # noqa: RUF012  # a class attribute as a data module has it

    def __init__(self):
        super().__init__()
        self.sets = [points(30, 0), points(9, 1), points(25, 2, shift=0.5)]

    def test_dataloader(self):
        return [DataLoader(part, 8) for part in self.sets]


def results_of(data=None, module=None, **arguments):
    callback = DecisionRegions(resolution=41, **arguments)
    trainer_of(callback).test(module or Plane(), data or Points(), verbose=False)
    return callback.results


def test_the_regions_are_those_of_the_module_on_a_grid_around_all_points():
    data = Points()
    found = results_of(data)
    (source, labels), (target, _) = data.sets[0].tensors, data.sets[2].tensors
    np.testing.assert_array_equal(found["source"], source.numpy())
    np.testing.assert_array_equal(found["label"], labels.numpy())
    np.testing.assert_array_equal(found["target"], target.numpy())
    plane = torch.cat([source, target]).numpy()
    x, y = found["x"], found["y"]
    assert (x[0], y[0]) < tuple(plane.min(0))
    assert (x[-1], y[-1]) > tuple(plane.max(0))
    columns, rows = np.meshgrid(x, y)
    np.testing.assert_array_equal(found["classes"], columns > 0)
    np.testing.assert_allclose(found["domain"], rows - 1, atol=1e-6)
    np.testing.assert_allclose(found["units"][0], 1 / (1 + np.exp(-3 * columns)), atol=1e-6)
    np.testing.assert_allclose(found["units"][1], 1 / (1 + np.exp(1 - rows)), atol=1e-6)
    features = Plane().domain_features(torch.cat([source, target]))
    np.testing.assert_allclose(found["components"], principal_components(features, 2)[0], atol=1e-6)
    assert found["tips"] == {name: np.square(plane - place).sum(1).argmin() for name, place in data.tips.items()}


def test_data_that_name_no_tips_have_none_and_one_feature_is_enough():
    class Tipless(Points):
        tips = None

    class Narrow(Plane):
        def domain_features(self, x):
            return x[:, :1].sigmoid()

    found = results_of(Tipless(), Narrow())
    assert found["tips"] == {}
    assert found["components"].shape == (55, 2)
    decision_regions_figure({"Narrow": found})


def test_the_nearest_points_are_found():
    assert nearest(np.array([[0.0, 0], [1, 1], [2, 0]]), {"A": (0.9, 0.4), "B": (5, -5)}) == {"A": 1, "B": 2}


def figure_of(*names):
    (source, labels), (target, _) = points(30, 0).tensors, points(25, 2, shift=0.5).tensors
    row = decision_regions(Plane(), source, labels, target, {"A": (0, 0)}, resolution=41)
    return row, decision_regions_figure(dict.fromkeys(names, row))


def test_the_figure_has_four_plots_for_each_model():
    row, figure = figure_of("NN", "DANN")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [*TITLES, *[""] * 4]
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["NN", "DANN"]
    for start in (0, 4):
        labels, components, domains, units = figure.axes[start : start + 4]
        for axes, expected in ((labels, row["source"]), (components, row["components"]), (domains, row["source"])):
            drawn = np.concatenate([line.get_xydata() for line in axes.lines if line.get_marker() in "_+"])
            np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(map(tuple, expected[:30])), rtol=1e-6)
            (dots,) = [line for line in axes.lines if line.get_marker() == "."]
            assert len(dots.get_xydata()) == 25
            assert "A" in [text.get_text() for text in axes.texts]
        (mesh,) = [part for part in labels.collections if hasattr(part, "get_cmap") and part.get_array() is not None][
            :1
        ]
        np.testing.assert_array_equal(mesh.get_array(), row["classes"])
        # units: x = 0 and y = 1; the third is nowhere 1/2
        paths = [path for part in units.collections for path in part.get_paths() if len(path.vertices)]
        assert len(paths) == 2
        np.testing.assert_allclose(paths[0].vertices[:, 0], 0, atol=0.02)
        np.testing.assert_allclose(paths[1].vertices[:, 1], 1, atol=0.02)


def test_the_domain_regions_are_split_at_one_half():
    row, figure = figure_of("DANN")
    mesh = figure.axes[2].collections[0]
    np.testing.assert_array_equal(mesh.get_array(), row["y"][:, None] * np.ones(41) >= 1)
    legend = [text.get_text() for text in figure.legends[0].texts]
    assert legend == ["source, class 0", "source, class 1", "target", "taken for source", "taken for target"]


def test_nothing_in_the_figure_is_cut_off_or_drawn_over_another_thing():
    _, figure = figure_of("NN", "DANN")
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [figure.legends[0].get_window_extent(renderer)]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_loggers_and_report_get_the_picture(tmp_path):
    logger, callback = CSVLogger(tmp_path, "run"), DecisionRegions(resolution=41)
    trainer_of(callback, Report(), logger=logger, default_root_dir=tmp_path).test(Plane(), Points(), verbose=False)
    picture = np.asarray(Image.open(Path(logger.log_dir, "images/adaptation/decision_regions.png")))
    assert picture.std() > 10
    record, page = load_record(logger.log_dir), Path(logger.log_dir, "report.html").read_text(encoding="utf-8")
    assert f'src="data:image/png;base64,{record["decision_regions"]}"' in page


class Domainless(Plane):
    domain_logits = None


class Flat(Plane):
    def domain_logits(self, x):
        return x[:, 1:]


def test_a_module_without_a_domain_head_is_refused_by_name():
    with pytest.raises(TypeError, match=r"DecisionRegions needs .*domain_logits\(x\).* Domainless has no method"):
        results_of(module=Domainless())
    with pytest.raises(ValueError, match=r"expected Flat.domain_logits\(x\) of shape \(1681,\), got \(1681, 1\)"):
        results_of(module=Flat())


def test_images_are_refused():
    class Images(Points):
        image_shape = (3, 28, 28)

    class Wide(Points):
        def __init__(self):
            super().__init__()
            for part in self.sets:
                part.tensors = (part.tensors[0].repeat(1, 2), part.tensors[1])

    with pytest.raises(ValueError, match=r"inputs of shape \(2,\), points of a plane; the data have \(3, 28, 28\)"):
        results_of(Images())
    with pytest.raises(ValueError, match=r"inputs of shape \(B, 2\), points of a plane, got \(8, 4\)"):
        results_of(Wide())


def test_a_test_without_a_target_is_refused_and_so_is_too_coarse_a_grid():
    class Lone(Points):
        test_sets = ("a", "b", "c")

    with pytest.raises(ValueError, match=r"DecisionRegions needs a set named 'target/<name>' .* in test_sets"):
        results_of(Lone())
    with pytest.raises(ValueError, match="resolution of at least 2, got 1"):
        DecisionRegions(resolution=1)
