"""The pictures of `AdaptationEvaluation`, its section of the report, and its figures on several processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from adaptation_toys import Adapting, Pair, fit
from evaluation_toys import Dump, trainer_of
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from sklearn.decomposition import PCA

from callbacks import AdaptationEvaluation, Report
from callbacks.adaptation.figures import class_colours, domains_figure, picture_of, principal_components, tsne
from callbacks.adaptation.report import adaptation_section
from callbacks.report import load_record
from callbacks.shared.html import Figures


@pytest.mark.parametrize("shape", [(30, 5), (12, 40)])
def test_principal_components_are_those_of_scikit_learn(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, shape[1] + 1)
    found, explained = principal_components(rows, 4)
    model = PCA(4).fit(rows.double().numpy())
    expected = model.transform(rows.double().numpy())
    np.testing.assert_allclose(np.abs(found.numpy()), np.abs(expected), atol=1e-3)
    assert explained == pytest.approx(model.explained_variance_ratio_[:2].sum(), rel=1e-3)
    assert torch.equal(found, principal_components(rows, 4)[0])
    assert (found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("rows", [torch.ones(6, 3), torch.arange(6.0)[:, None], torch.zeros(6, 1)])
def test_features_without_two_directions_can_be_drawn(rows):
    points, explained = principal_components(rows)
    assert explained == 1
    assert np.isfinite(tsne(points)).all()
    picture = picture_of([rows, rows], [torch.zeros(6).long()] * 2, 6)
    assert picture["points"].isfinite().all()


def test_features_that_are_not_finite_make_no_picture():
    assert picture_of([torch.ones(4, 2), torch.full((4, 2), torch.nan)], [torch.zeros(4)] * 2, 4) == {}


def test_tsne_has_one_answer_and_leaves_the_random_state_alone():
    points = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    state = np.random.get_state()[1].copy()  # noqa: NPY002  # the global generator is what must not move
    np.testing.assert_array_equal(tsne(points), tsne(points))
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002  # the same


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A fit, and a test in a fresh trainer from a checkpoint that is read with weights_only=True."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    logger, callback, fresh = CSVLogger(folder, "run"), *(AdaptationEvaluation(max_points=15) for _ in range(2))
    checkpoint = ModelCheckpoint(folder, monitor="validator/dev", mode="max")
    fit([callback, checkpoint], max_epochs=2, enable_checkpointing=True).save_checkpoint(folder / "last.ckpt")
    trainer = trainer_of(fresh, Report(), logger=logger, default_root_dir=folder)
    trainer.test(Adapting(), Pair(), ckpt_path=str(folder / "last.ckpt"), verbose=False, weights_only=True)
    return callback, fresh, Path(logger.log_dir)


def test_a_fresh_process_shows_the_features_before_and_after_training(run):
    callback, fresh, folder = run
    assert fresh.validation == callback.validation
    untrained, data = Adapting().eval(), Pair()
    parts = [part[1].tensors for part in (data.source, data.target)]
    chosen = [torch.arange(15) * len(y) // 15 for _, y in parts]
    with torch.no_grad():
        features = [untrained.domain_features(x[rows].float() - 3) for (x, _), rows in zip(parts, chosen, strict=True)]
    expected = principal_components(torch.cat(features))[0][:, :2].double().numpy()
    found = fresh.results["pca"]["before"]
    np.testing.assert_allclose(found["points"], expected / np.abs(expected).max(), atol=1e-4)
    assert found["domain"] == [0] * 15 + [1] * 15
    assert found["label"] == torch.cat([y[rows] for (_, y), rows in zip(parts, chosen, strict=True)]).tolist()
    assert list(fresh.results["pca"]) == list(fresh.results["tsne"]) == ["before", "after"]
    assert fresh.results["pca"]["after"]["points"] != found["points"]
    for name in ("pca", "tsne"):
        picture = np.asarray(Image.open(folder / f"images/adaptation/{name}.png"))
        assert picture.std() > 10


def test_the_report_shows_validators_oracle_and_pictures(run):
    _, fresh, folder = run
    page = (folder / "report.html").read_text(encoding="utf-8")
    section = page[page.index("<h2>Domain adaptation</h2>") :]
    section = section[: section.index("</section>")]
    assert section.count("<svg") == 2
    results = load_record(folder)["adaptation"]
    for shown in (
        f"<th>Source accuracy</th><td>{results['validation']['validator/source_accuracy']:.4f}</td>",
        f"<td>{results['test']['acc']:.4f}</td>",
        f"<th>Deep embedded validation</th><td>{results['validation']['validator/dev']:.4f}</td>",
        f"<th>Proxy A-distance</th><td>\N{EN DASH}</td><td>{fresh.results['proxy_a_distance']['value']:.3f}</td>",
        "Source a, target target/b; 21 and 17 test samples.",
        "The oracle was not used for any choice in the training, which went by validator/dev.",
    ):
        assert shown in section


def picture(samples=20, classes=3, seed=0):
    random = np.random.default_rng(seed)
    return {
        "points": random.uniform(-1, 1, size=(2 * samples, 2)).tolist(),
        "domain": [0] * samples + [1] * samples,
        "label": (np.arange(2 * samples) % classes).tolist(),
        "names": ("mnist", "target/mnist_m"),
    }


def adaptation_results(monitors=(), names=("mnist", "target/mnist_m")):
    shown = {"after": picture(3)}
    test = {"source_accuracy": 0.9, "acc": 0.5, "nll": 1.0}
    results = {"names": names, "samples": (21, 17), "validation": {}, "monitors": list(monitors), "test": test}
    return results | {"proxy_a_distance": None, "pca": shown}


def test_what_checkpoints_and_early_stopping_went_by_is_kept(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="oracle/val_acc", mode="max")
    stopping = EarlyStopping("validator/snd", mode="max")
    fit([callback := AdaptationEvaluation(), checkpoint, stopping], enable_checkpointing=True)
    held = torch.load(checkpoint.best_model_path, weights_only=True)["callbacks"]["AdaptationEvaluation"]
    assert held["monitors"] == callback.state_dict()["monitors"] == ["oracle/val_acc", "validator/snd"]


def test_the_report_says_so_where_the_oracle_chose():
    def shown(*monitors):
        return adaptation_section({"a": {"adaptation": adaptation_results(monitors) | {"pca": {}}}}, Figures())

    page = shown("oracle/val_acc", "validator/snd")
    assert "Careful: the training went by oracle/val_acc, so labels of the target were used for a choice." in page
    assert "The oracle was not used" not in page
    assert "The oracle was not used for any choice in the training.<" in shown()


def test_a_record_without_the_section_has_none_and_a_hostile_one_is_escaped():
    assert adaptation_section({"a": {}}, Figures()) == ""
    hostile = ("<script>", '"><script>')
    record = {"adaptation": adaptation_results(hostile, hostile), "decision_regions": hostile[1]}
    record["adaptation"]["pca"]["after"]["names"] = hostile
    assert "<script" not in adaptation_section({"a": record}, Figures())


@pytest.mark.parametrize("names", [("after",), ("before", "after")])
@pytest.mark.parametrize("classes", [2, 10, 31])
def test_the_figure_shows_every_point_twice_and_nothing_lies_outside(names, classes):
    shown = {name: picture(classes=classes, samples=2 * classes, seed=len(name)) for name in names}
    figure = domains_figure(shown, "PCA")
    assert len(figure.axes) == 2 * len(names)
    for row, name in enumerate(names):
        for axes in figure.axes[2 * row : 2 * row + 2]:
            drawn = np.concatenate([part.get_offsets() for part in axes.collections])
            assert sorted(map(tuple, drawn)) == sorted(map(tuple, shown[name]["points"]))
    titles = [axes.get_title(loc="left") for axes in figure.axes[:2]]
    stem = "PCA" if len(names) == 1 else "PCA before"
    assert titles == [f"{stem}, by domain", f"{stem}, by class"]
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["mnist", "target/mnist_m"]
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        box = axes.get_tightbbox(renderer)
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("classes", [2, 10, 31])
def test_classes_have_colours_of_their_own_and_unknown_ones_grey(classes):
    colours = class_colours(np.array([-1, *range(classes)]))
    assert len(set(colours.values())) == classes + 1
    assert list(colours) == [-1, *range(classes)]


class Keep(Callback):
    """Writes what each process found in a validation."""

    def __init__(self, folder):
        self.folder = folder

    def on_validation_end(self, trainer, pl_module):
        found = {name: value.item() for name, value in trainer.callback_metrics.items()}
        (self.folder / f"validation_{trainer.global_rank}.json").write_text(json.dumps(found))


def found_by(folder, devices):
    """Validation, sampled: 33 samples do not divide by the processes, and features are of 20."""
    folder.mkdir()
    options = {"strategy": "ddp_fork"} if devices > 1 else {}
    callbacks = [AdaptationEvaluation(max_samples=20, max_points=12), Keep(folder)]
    trainer_of(*callbacks, devices=devices, **options).validate(Adapting(), Pair(size=33), verbose=False)
    callbacks = [AdaptationEvaluation(max_samples=20, max_points=12), Untimed(), Dump(folder)]
    trainer_of(*callbacks, devices=devices, **options).test(Adapting(), Pair(size=33), verbose=False)
    names = [f"validation_{rank}.json" for rank in range(devices)], [f"{rank}.json" for rank in range(devices)]
    return [[json.loads((folder / name).read_text()) for name in part] for part in names]


class Untimed(Callback):
    """t-SNE is computed by the first process only, which alone draws it."""

    def on_test_end(self, trainer, pl_module):
        (callback,) = [callback for callback in trainer.callbacks if isinstance(callback, AdaptationEvaluation)]
        assert ("tsne" in callback.results) == trainer.is_global_zero
        callback.results.pop("tsne", None)


@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.long)])
def test_several_processes_give_the_figures_of_one_to_the_last_digit(tmp_path, monkeypatch, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    torch.set_num_threads(1)
    alone, together = found_by(tmp_path / "one", 1), found_by(tmp_path / "many", devices)
    assert alone[1][0][0][0]["samples"] == [33, 29]
    assert "validator/dev" in alone[0][0]
    for single, many in zip(alone, together, strict=True):
        assert many == single * devices
