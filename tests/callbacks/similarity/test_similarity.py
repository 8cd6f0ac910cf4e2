"""`SimilarityMatrices`: its matrices are those of the module's blocks, whatever runs the test."""

import json

import numpy as np
import pytest
import torch
from evaluation_toys import CLASSES, QUIET, Blocks, Data, Foreign, run_test
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from callbacks import SimilarityMatrices
from callbacks.report.record import plain
from callbacks.similarity import feature_rows, similarity_matrix, target_similarity
from zoo.local_error import loss as paper

H = torch.tensor([[1.0, 2, 3, 4], [2, 4, 6, 8], [4, 3, 2, 1], [1, 0, 0, 1]])
MAPS = torch.tensor(
    [
        [[[0.0, 2], [0, 2]], [[1, 1], [1, 1]], [[0, 4], [0, 0]], [[0, 0], [0, 0]]],
        [[[5.0, 11], [5, 11]], [[8, 8], [8, 8]], [[5, 17], [5, 5]], [[5, 5], [5, 5]]],
        [[[0.0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 2], [0, 2]]],
    ]
)


class Labelled(LightningDataModule):
    """One test set with given labels, in batches of 5; each input holds its position."""

    def __init__(self, labels):
        super().__init__()
        self.y = torch.tensor(labels)

    def test_dataloader(self):
        x = torch.zeros(len(self.y), 6)
        x[:, 0] = torch.arange(len(self.y))
        return DataLoader(TensorDataset(x, self.y), batch_size=5)


class Recorder(Blocks):
    """Keeps the inputs that its blocks see."""

    def block_features(self, x):
        self.seen = [*getattr(self, "seen", []), x[:, 0].tolist()]
        return super().block_features(x)


def test_the_matrix_is_the_correlation_between_samples():
    # sheet, T1: a cosine without centring would have 0.6667 and 0.6455
    expected = torch.tensor([[1.0, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]]).double()
    torch.testing.assert_close(similarity_matrix(feature_rows(H)), expected, atol=1e-12, rtol=0)
    x = torch.randn(7, 20, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(similarity_matrix(x).numpy(), np.corrcoef(x.double().numpy()), atol=1e-12)


def test_maps_are_compared_by_the_standard_deviations_of_their_channels():
    # sheet, T6: flattened maps would have 0.021031
    found = feature_rows(MAPS)
    expected = torch.tensor([[1.154701, 0, 2, 0], [3.464102, 0, 6, 0], [0, 0, 0.5, 1.154701]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    matrix = similarity_matrix(found)
    torch.testing.assert_close(matrix[0], torch.tensor([1, 1, -0.190734]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("x", [H, MAPS, torch.ones(2, 5)], ids=["rows", "maps", "constant"])
def test_the_matrix_is_that_of_the_papers_loss(x):
    torch.testing.assert_close(similarity_matrix(feature_rows(x)).float(), paper.similarity_matrix(x))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 6, 1, 4), (2, 6), (2, 5, 7)])
def test_what_is_no_map_is_flattened(shape):
    x = torch.rand(shape)
    assert torch.equal(feature_rows(x), x.flatten(1))


@pytest.mark.parametrize("value", [0.0, 0.1, 3e4])
def test_a_sample_that_is_constant_up_to_rounding_correlates_with_none_and_gives_no_nan(value):
    rows = torch.cat([torch.full((2, 30), value), torch.randn(1, 30)])
    rows[0, ::2] *= 1 + 2**-23
    expected = torch.zeros(3, 3).double()
    expected[2, 2] = 1
    torch.testing.assert_close(similarity_matrix(rows), expected)


@pytest.mark.parametrize(("classes", "other"), [(2, -1.0), (3, -0.5), (10, -1 / 9)])
def test_the_target_is_the_correlation_of_one_hot_labels(classes, other):
    labels = torch.tensor([0, 1, 1, 0])
    target = target_similarity(labels, classes)
    one_hot = torch.nn.functional.one_hot(labels, classes)
    torch.testing.assert_close(target, similarity_matrix(one_hot.float()))
    assert target[0, 1].item() == pytest.approx(other)


def test_results_of_a_test_run_are_the_matrices_of_the_modules_blocks():
    callback = SimilarityMatrices(number=24)
    module, data = Blocks(), Data(sizes=(30, 7))
    trainer = run_test([callback], module, data)
    x, y = data.tests[0].tensors
    rows = torch.cat([(y == label).nonzero().flatten()[:8] for label in range(CLASSES)])
    x = x[rows].float() - 3
    target = target_similarity(y[rows], CLASSES).numpy()
    results = callback.results
    assert results["samples"] == len(rows)
    assert results["classes"] == CLASSES
    np.testing.assert_array_equal(results["target"], target)
    assert results["uncorrelated"] == pytest.approx(((np.eye(len(rows)) - target) ** 2).mean())
    with torch.no_grad():
        features = module.block_features(x)
    assert list(results["blocks"]) == ["block_0", "block_1"]
    for block, expected in zip(results["blocks"].values(), features, strict=True):
        matrix = similarity_matrix(expected).numpy()
        np.testing.assert_allclose(block["matrix"], matrix, atol=1e-12)
        assert block["difference"] == pytest.approx(((matrix - target) ** 2).mean())
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    expected = {f"similarity/{name}": block["difference"] for name, block in results["blocks"].items()}
    assert logged == pytest.approx(expected, abs=1e-6)


def test_the_images_are_the_first_of_each_class_sorted_by_class():
    module = Recorder()
    # an image folder is sorted by class: its first images would all be of one
    labels = [2] * 11 + [0] * 4 + [1] * 20 + [0] * 9
    run_test([callback := SimilarityMatrices(number=24)], module, Labelled(labels))
    of = {label: [i for i, found in enumerate(labels) if found == label][:8] for label in range(3)}
    assert module.seen == [[*of[0], *of[1], *of[2]]]
    assert callback.results["samples"] == 24


def test_at_least_eight_images_of_a_class_are_shown_so_not_all_of_many_classes():
    module = Recorder()
    module.head = torch.nn.Linear(8, 50)
    labels = [49, *range(50)] * 10
    run_test([callback := SimilarityMatrices(number=20)], module, Labelled(labels))
    assert len(module.seen[0]) == 16
    assert [labels[int(i)] for i in module.seen[0]] == [0] * 8 + [1] * 8
    assert callback.results["target"][0, -1] == pytest.approx(-1 / 49)


def test_images_pass_in_small_groups_because_the_maps_of_all_blocks_are_held():
    module = Recorder()
    run_test([callback := SimilarityMatrices(number=120)], module, Labelled([0, 1, 2] * 50))
    assert [len(group) for group in module.seen] == [32, 32, 32, 24]
    assert callback.results["blocks"]["block_0"]["matrix"].shape == (120, 120)


def test_a_second_test_run_starts_anew():
    callback = SimilarityMatrices(number=24)
    run_test([callback], Blocks(), Labelled([0, 1, 2] * 9))
    first = callback.results
    run_test([callback], Blocks(), Labelled([0, 1] * 9))
    assert first["samples"] == 24
    assert callback.results["samples"] == 16


def test_a_test_set_without_known_labels_is_a_warning_and_no_picture():
    callback = SimilarityMatrices()
    with pytest.warns(UserWarning, match="SimilarityMatrices found no labelled test image"):
        run_test([callback], Blocks(), Labelled([-1] * 9))
    assert callback.results == {}


class Trainable(Foreign):
    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx): ...

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_module_that_does_not_show_its_blocks_is_refused_by_name(stage):
    trainer = Trainer(**QUIET, accelerator="cpu", max_epochs=1, callbacks=[SimilarityMatrices()])
    message = r"SimilarityMatrices needs .* block_features\(x\) .*Trainable has no method 'block_features'"
    with pytest.raises(TypeError, match=message):
        getattr(trainer, stage)(Trainable(), Data())


def test_a_module_without_a_forward_is_refused_by_name():
    class Headless(LightningModule):
        def block_features(self, x):
            return [x]

        def test_step(self, batch, batch_idx): ...

    with pytest.raises(TypeError, match=r"SimilarityMatrices needs forward\(x\) .*: Headless has none"):
        run_test([SimilarityMatrices()], Headless(), Labelled([0, 1]))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.ones(16, 3), r"expected a list of features from Strange\.block_features\(x\), got Tensor"),
        ([], r"expected a list of features .* got list"),
        ([torch.ones(16, 3), torch.ones(4, 3)], r"block_features\(x\)\[1\] of shape \(16, \.\.\.\), got \(4, 3\)"),
        ([torch.ones(16)], r"\[0\] of shape .* got \(16,\)"),
        ([None], r"\[0\] of shape .* got NoneType"),
    ],
)
def test_features_of_another_kind_are_refused_by_name(found, message):
    class Strange(Foreign):
        def block_features(self, x):
            return found

    with pytest.raises(ValueError, match=message):
        run_test([SimilarityMatrices()], Strange(), Labelled([0, 1] * 8))


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="expected number of at least 16, got 15"):
        SimilarityMatrices(15)


class Share(Callback):
    """Writes what each process found."""

    def __init__(self, folder):
        self.folder = folder

    def on_test_end(self, trainer, pl_module):
        (found,) = [callback.results for callback in trainer.callbacks if isinstance(callback, SimilarityMatrices)]
        text = json.dumps([pl_module.seen, plain(found)])
        (self.folder / f"{trainer.global_rank}.json").write_text(text)


@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.long)])
def test_several_processes_show_the_images_of_one_to_the_last_digit(tmp_path, monkeypatch, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # many of one class come late, on one process more than on another
    data = Labelled([0, 1, 2, 1, 2] * 3 + [0, 1] * 16 + [0])
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder, options in ((alone, {}), (together, {"strategy": "ddp_fork", "devices": devices})):
        folder.mkdir()
        run_test([SimilarityMatrices(number=24), Share(folder)], Recorder(), data, **options)
    expected = (alone / "0.json").read_text()
    assert json.loads(expected)[1]["samples"] == 8 + 8 + 6
    for rank in range(devices):
        assert (together / f"{rank}.json").read_text() == expected


def test_no_more_images_are_held_than_are_shown():
    class Held(Callback):
        def on_test_epoch_end(self, trainer, pl_module):
            self.number = len(callback._images)

    callback, held = SimilarityMatrices(number=24), Held()
    run_test([held, callback], Blocks(), Labelled([0, 1, 2] * 50))
    assert held.number == 24


def test_other_test_sets_are_left_alone():
    class Two(Labelled):
        def test_dataloader(self):
            return [
                super().test_dataloader(),
                DataLoader(TensorDataset(torch.full((9, 6), 77.0), torch.ones(9).long())),
            ]

    module = Recorder()
    run_test([SimilarityMatrices(number=24)], module, Two([0, 1, 2] * 2))
    assert module.seen == [[0, 3, 1, 4, 2, 5]]


def test_a_test_run_that_broke_off_leaves_nothing_behind():
    class Broken(Recorder):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            if batch_idx:
                raise RuntimeError("broken")

    callback, module = SimilarityMatrices(number=24), Recorder()
    with pytest.raises(RuntimeError, match="broken"):
        run_test([callback], Broken(), Labelled([2] * 10))
    run_test([callback], module, Labelled([0, 1, 2] * 2))
    assert module.seen == [[0, 3, 1, 4, 2, 5]]


def test_the_blocks_run_at_the_trainers_precision_and_the_matrices_hardly_change():
    class Precise(Blocks):
        def block_features(self, x):
            self.inside = self.body(x).dtype
            return super().block_features(x)

    found = []
    for precision, dtype in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        callback, module = SimilarityMatrices(number=24), Precise()
        run_test([callback], module, Data(sizes=(30, 7)), precision=precision)
        assert module.inside == dtype
        found.append(callback.results["blocks"]["block_1"])
    np.testing.assert_allclose(found[0]["matrix"], found[1]["matrix"], atol=0.02)
