"""Distillation of histogram regressors: other bins, the three kinds of teacher, the student inside."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo import GaussianRegression, HistogramDistillation, HistogramRegression, PointRegression
from zoo.distillation import rebin
from zoo.histogram_loss.loss import histogram_mean, truncated_gaussian_target

SMALL: dict[str, Any] = {"num_features": 3, "hidden": [16], "bins": 12, "lr": 0.01}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def rows(count: int = 64, size: int = 16) -> DataLoader:
    """A smooth function of three features, in units of its own."""
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, 100 + 20 * torch.tanh(x[:, 0] + x[:, 1] / 2)), size)


def fit(module: L.LightningModule, data: Any = None, callbacks: Any = (), **arguments: Any) -> Any:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "log_every_n_steps": 1, "max_epochs": 1, "num_sanity_val_steps": 0,
    }  # fmt: skip
    trainer = L.Trainer(**quiet | arguments, callbacks=list(callbacks))
    trainer.fit(module, rows() if data is None else data, weights_only=True)
    return trainer


def teacher_file(module: L.LightningModule, **arguments: Any) -> Any:
    fit(module, **arguments).save_checkpoint("teacher.ckpt")
    return type(module).load_from_checkpoint("teacher.ckpt", weights_only=True).eval()


def student(kind: str = "zoo.HistogramRegression", **arguments: Any) -> HistogramDistillation:
    own = {key: value for key, value in SMALL.items() if key != "num_features"}
    given: dict[str, Any] = {"teacher": "teacher.ckpt", "teacher_class": kind, "student_args": own, "num_features": 3}
    return HistogramDistillation(**given | arguments)


# ---------------------------------------------------------------- other bins


def edges_of(widths: list[float], start: float) -> Tensor:
    return start + torch.tensor([0.0, *widths], dtype=torch.float64).cumsum(0)


def naive_cdf(masses: list[float], edges: list[float], at: float) -> float:
    total = 0.0
    for mass, left, right in zip(masses, edges, edges[1:], strict=False):
        total += mass * min(max((at - left) / (right - left), 0.0), 1.0)
    return total


widths = st.lists(st.floats(0.05, 3), min_size=2, max_size=8)


@examples(100)
@given(widths, widths, st.floats(-5, 5), st.floats(-5, 5), st.integers(0, 2**31))
def test_new_masses_are_differences_of_the_cdf_and_keep_their_sum(old, new, start, new_start, seed):
    edges, new_edges = edges_of(old, start), edges_of(new, new_start)
    masses = torch.randn(3, len(old), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(1)
    found = rebin(masses, edges, new_edges)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.float64))
    for row, result in zip(masses.tolist(), found.tolist(), strict=True):
        cdf = [naive_cdf(row, edges.tolist(), at) for at in new_edges.tolist()]
        cdf[0], cdf[-1] = 0.0, 1.0  # the outermost bins take what lies beyond them
        assert result == pytest.approx([b - a for a, b in pairwise(cdf)], abs=1e-12)


def test_same_bins_change_nothing_coarser_ones_add_up_and_finer_ones_split_evenly():
    masses = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    edges = torch.arange(5.0)
    assert torch.equal(rebin(masses, edges, edges), masses)
    torch.testing.assert_close(rebin(masses, edges, edges[::2]), torch.tensor([[0.3, 0.7]]))
    fine = rebin(masses, edges, torch.arange(9) / 2)
    torch.testing.assert_close(fine, masses.repeat_interleave(2, 1) / 2)
    torch.testing.assert_close(rebin(fine, torch.arange(9) / 2, edges), masses)
    torch.testing.assert_close(rebin(masses, edges, edges + 100), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(rebin(masses, edges, torch.tensor([1.5, 2.0, 2.5])), torch.tensor([[0.3, 0.7]]))


def test_small_masses_in_the_tail_keep_their_digits_and_autocast_changes_nothing():
    masses = torch.tensor([[1.0 - 1e-20, 1e-20, 1e-25]])
    edges = torch.arange(4.0)
    expected = torch.tensor([[1.0, 1e-20, 1e-25]])
    torch.testing.assert_close(rebin(masses, edges, edges), expected, rtol=1e-6, atol=0)
    spread, others = (
        torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).softmax(1),
        torch.tensor([0.3, 1.1, 2.6]),
    )
    with torch.autocast("cpu", torch.bfloat16):
        low = rebin(spread, edges, others)
    assert torch.equal(low, rebin(spread, edges, others))
    assert rebin(spread.bfloat16(), edges, others).dtype == torch.float32


@pytest.mark.parametrize(
    ("temperature", "mean", "deviation"),
    [(1, 0.437, 0.02), (2, 0.437, 0.0284), (4, 0.437, 0.0403), (9, 0.436917, 0.0594)],
)
def test_a_temperature_widens_a_gaussian_histogram_by_its_root_and_keeps_the_mean(temperature, mean, deviation):
    """The sheet, section 10."""
    edges = torch.linspace(0, 1, 101, dtype=torch.float64)
    masses = truncated_gaussian_target(torch.tensor(0.437, dtype=torch.float64), edges, 0.02)
    soft = (masses.log() / temperature).softmax(-1)
    found = histogram_mean(soft, edges)
    assert found.item() == pytest.approx(mean, abs=2e-6)
    centres = (edges[1:] + edges[:-1]) / 2
    variance = (soft * (centres - found).square()).sum() - 0.01**2 / 12  # Sheppard's correction
    assert variance.sqrt().item() == pytest.approx(deviation, abs=1e-4)


@pytest.mark.parametrize(("temperature", "mean"), [(1, 0.0328), (4, 0.0459)])
def test_near_an_edge_a_temperature_moves_the_mean(temperature, mean):
    edges = torch.linspace(0, 1, 101, dtype=torch.float64)
    masses = truncated_gaussian_target(torch.tensor(0.03, dtype=torch.float64), edges, 0.02)
    assert histogram_mean((masses.log() / temperature).softmax(-1), edges).item() == pytest.approx(mean, abs=1e-4)


# ---------------------------------------------------------------- the three kinds of teacher


def first_step(model: HistogramDistillation) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """What the first step logs, with its batch and the student's log-masses before it."""
    before: list[Tensor] = []

    class Before(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            with torch.no_grad():
                before.append(pl_module.predictive(batch[0]).logits)

    metrics = fit(model, callbacks=[Before()], max_steps=1).callback_metrics
    x, y = next(iter(rows()))
    return metrics, x, y, before[0]


def naive_kl(wanted: Tensor, log_masses: Tensor, temperature: float) -> float:
    p = (wanted.double() ** (1 / temperature)).clamp(min=1e-300)
    p = p / p.sum(1, keepdim=True)
    q = (log_masses.double() / temperature).exp()
    q = q / q.sum(1, keepdim=True)
    return temperature**2 * (p * (p.log() - q.log())).sum(1).mean().item()


def test_a_teacher_with_the_same_bins_gives_its_masses_at_the_temperature():
    teacher = teacher_file(HistogramRegression(**SMALL))
    model = student(temperature=3.0, alpha=0.25)
    metrics, x, y, log_masses = first_step(model)
    assert torch.equal(model.student.edges, teacher.edges)
    with torch.no_grad():
        expected = naive_kl(teacher.predictive(x).probs, log_masses, 3.0)
        hard = -(model.student.target(y) * log_masses).sum(1).mean().item()
    assert metrics["train/soft"].item() == pytest.approx(expected, rel=1e-4)
    assert metrics["train/hard"].item() == pytest.approx(hard, rel=1e-5)
    assert metrics["train/loss"].item() == pytest.approx(0.75 * hard + 0.25 * expected, rel=1e-4)


def test_a_teacher_with_other_bins_is_translated():
    teacher = teacher_file(HistogramRegression(**SMALL | {"bins": 30, "padding_sigmas": 1.0}))
    model = student(temperature=2.0)
    metrics, x, _, log_masses = first_step(model)
    with torch.no_grad():
        masses = rebin(teacher.predictive(x).probs, teacher.edges, model.student.edges)
    assert masses.shape == (16, 12)
    assert metrics["train/soft"].item() == pytest.approx(naive_kl(masses, log_masses, 2.0), rel=1e-4)


@pytest.mark.parametrize("kind", [PointRegression, GaussianRegression])
def test_a_teacher_of_points_gives_the_students_own_target_around_them(kind):
    teacher = teacher_file(
        kind(num_features=3, hidden=[16])
    )  # PointRegression: without a validation set, no predictive
    model = student(f"zoo.{kind.__name__}", temperature=5.0)
    metrics, x, _, log_masses = first_step(model)
    with torch.no_grad():
        masses = model.student.target(teacher(x))
    assert metrics["train/soft"].item() == pytest.approx(naive_kl(masses, log_masses, 1.0), rel=1e-4, abs=1e-5)


def test_a_student_learns_its_teachers_function_without_labels():
    teacher_file(HistogramRegression(**SMALL | {"hidden": [32]}), max_epochs=40)
    x, y = rows().dataset.tensors
    wrong = DataLoader(TensorDataset(x, y.flip(0)), 16)
    model = student(alpha=1.0)
    fit(model, wrong, max_epochs=60)
    with torch.no_grad():
        teacher = HistogramRegression.load_from_checkpoint("teacher.ckpt", weights_only=True).eval()
        apart = (model.eval()(x) - teacher(x)).square().mean().sqrt()
        assert apart < 0.3 * teacher(x).std()


# ---------------------------------------------------------------- the student inside


def test_the_teacher_is_neither_saved_nor_trained_and_the_student_works_without_it():
    teacher_file(HistogramRegression(**SMALL))
    model = student()
    trainer = fit(model)
    trainer.save_checkpoint("student.ckpt")
    Path("teacher.ckpt").unlink()
    saved = torch.load("student.ckpt", weights_only=True)
    assert {key.partition(".")[0] for key in saved["state_dict"]} == {"student"}
    assert saved["hyper_parameters"]["student_args"] == {"hidden": [16], "bins": 12, "lr": 0.01}
    trained = {id(each) for group in trainer.optimizers[0].param_groups for each in group["params"]}
    assert trained == {id(each) for each in model.student.parameters()}
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.01
    loaded = HistogramDistillation.load_from_checkpoint("student.ckpt", weights_only=True).eval()
    x, y = next(iter(rows()))
    assert torch.equal(loaded(x), model.eval()(x))
    found = loaded.predictive(x)
    assert torch.equal(found.edges, model.student.edges)
    assert found.batch_shape == (16,)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    metrics = L.Trainer(**quiet, accelerator="cpu").test(loaded, rows(), verbose=False)[0]
    with torch.no_grad():
        x, y = rows().dataset.tensors
        error = loaded(x) - y
    assert metrics["test/rmse"] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-5)
    assert metrics["test/mae"] == pytest.approx(error.abs().mean().item(), rel=1e-5)
    assert metrics["test/loss"] > 0


class Mine(HistogramRegression):
    """A user's target: all mass in the label's bin."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)

    def target(self, y: Tensor) -> Tensor:
        index = (torch.bucketize(y, self.edges) - 1).clamp(0, len(self.edges) - 2)
        return nn.functional.one_hot(index, len(self.edges) - 1).to(self.edges.dtype)


def test_a_users_own_student_brings_its_own_target():
    model = student(student=f"{__name__}.Mine", alpha=0.0, teacher=None)
    metrics, _, y, log_masses = first_step(model)
    assert isinstance(model.student, Mine)
    assert model.student.hparams["bins"] == 12
    expected = -(model.student.target(y) * log_masses).sum(1).mean()
    torch.testing.assert_close(metrics["train/loss"], expected)


class Flat(L.LightningModule):
    """A teacher whose predictions have one column too many."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self(batch[0])[:, 0] - batch[1]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-4)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (None, {"teacher": None}, "there is no teacher: train one first.*fit --model HistogramRegression"),
        (None, {}, "teacher=teacher.ckpt: no such file"),
        (Flat, {"teacher_class": f"{__name__}.Flat"}, r"\(Flat\) gives \(2, 1\) for a batch of 2; expected \(2,\)"),
        (
            lambda: HistogramRegression(**SMALL),
            {"num_features": 4},
            "teacher.ckpt was trained with num_features=3, but the student has 4",
        ),
        (
            Flat,
            {"teacher_class": f"{__name__}.Flat", "num_features": 4},
            r"does not take inputs of shape \(4,\)",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_the_first_step(module, arguments, message):
    if module is not None:
        fit(module(), max_steps=1).save_checkpoint("teacher.ckpt")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(student(**arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"alpha": 2.0}, "alpha is 2.0"),
        ({"student": "zoo.Nothing"}, "student is 'zoo.Nothing'; expected a class"),
        ({"student": "zoo.Classifier"}, "student is 'zoo.Classifier', which has no predictive and no target"),
        ({"student": "zoo.PointRegression"}, "student is 'zoo.PointRegression', which has no target"),
        ({"student_args": {"bin": 3}}, r"student_args has \['bin'\], which zoo.HistogramRegression does not take"),
        ({"student_args": {"num_features": 3}}, r"student_args has \['num_features'\]"),
        ({"student_args": {"bins": 1}}, "bins is 1; expected a number of at least 2"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HistogramDistillation(**arguments)
