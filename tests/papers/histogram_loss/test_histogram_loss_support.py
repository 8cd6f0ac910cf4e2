"""The support of histogram regression and its baselines, and the targets on it."""

import math
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from regression_toys import ALL, SMALL, fit, labelled_rows, quiet
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from datamodules import UCIRegressionDataModule
from zoo import HistogramRegression
from zoo.histogram_loss.loss import truncated_gaussian_target
from zoo.histogram_loss.support import TargetTable, training_labels


def test_the_support_comes_from_the_labels_of_any_loader_and_goes_with_the_checkpoint(tmp_path):
    module = HistogramRegression(**SMALL, padding_sigmas=0, bins=10)
    assert module.edges.isnan().all()
    data = labelled_rows()
    labels = data.tensors[1]
    trainer = fit(module, data)
    torch.testing.assert_close(module.edges[[0, -1]], torch.stack([labels.min(), labels.max()]))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    loaded = HistogramRegression.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    x = data.tensors[0]
    assert torch.equal(loaded.eval()(x), module.eval()(x))
    fit(loaded, labelled_rows(scale=100.0))
    assert torch.equal(loaded.edges, module.edges), "the bins stay with the weights that were learnt for them"


def test_a_pass_over_the_loader_and_the_data_modules_labels_find_the_same_and_draw_nothing():
    data = UCIRegressionDataModule(batch_size=50)
    found = []

    class Look(L.Callback):
        def on_fit_start(self, trainer: Any, module: Any) -> None:
            before = torch.get_rng_state()
            found.append(training_labels(trainer))
            assert torch.equal(torch.get_rng_state(), before)

    for given in ({"datamodule": data}, {"train_dataloaders": data.train_dataloader()}):
        quiet(max_steps=1, callbacks=[Look()], limit_val_batches=0).fit(HistogramRegression(hidden=[4]), **given)
    assert torch.equal(found[0].sort().values, found[1].sort().values)
    assert len(found[0]) > 300


class Gathered(L.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Any, module: Any) -> None:
        torch.save(module.edges, self.folder / f"{trainer.global_rank}")


def test_two_processes_take_the_support_from_the_rows_of_both(tmp_path):
    data = labelled_rows(40)
    module = HistogramRegression(**SMALL, padding_sigmas=0)
    fit(module, data, callbacks=[Gathered(tmp_path)], devices=2, strategy="ddp_fork", max_steps=1)
    first, second = (torch.load(tmp_path / f"{rank}", weights_only=True) for rank in (0, 1))
    assert torch.equal(first, second)
    torch.testing.assert_close(first[[0, -1]], torch.stack(data.tensors[1].aminmax()))


def test_given_ends_are_used_and_a_share_of_labels_outside_them_is_reported_once():
    inside = HistogramRegression(**SMALL, low=-1000, high=1000)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*outside the support.*")
        fit(inside)
    narrow = HistogramRegression(**SMALL, low=45, high=55, padding_sigmas=0)
    labels = labelled_rows().tensors[1]
    outside = int(((labels < 45) | (labels > 55)).sum())
    with pytest.warns(UserWarning, match=rf"{outside} of 64 training labels .* outside the support \[45, 55\]") as seen:
        fit(narrow, max_epochs=3)
    assert len([one for one in seen if "outside the support" in str(one.message)]) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*outside the support.*")
        fit(HistogramRegression(**SMALL, low=45, high=55, clamp_warning=1.0))
    x = labelled_rows().tensors[0]
    assert (narrow(x) >= 45).all()
    assert (narrow(x) <= 55).all()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([5.0] * 8, "all 8 training labels are 5: a support needs two different ends"),
        ([5.0], "all 1 training labels are 5"),
        ([1.0, math.nan, 3.0], r"NaN or infinite labels in 1 of 3 training rows: rows \[1\]"),
        ([1.0, math.inf], "NaN or infinite labels in 1 of 2"),
        ([[1.0], [2.0]], r"labels of shape \(2, 1\); expected \(N,\)"),
    ],
)
def test_labels_that_leave_no_support_are_refused(kind, labels, message):
    y = torch.tensor(labels)
    with pytest.raises(ValueError, match=message):
        fit(kind(**SMALL), TensorDataset(torch.zeros(len(y), 3), y))


@pytest.mark.parametrize("kind", ALL)
def test_one_row_trains_where_the_ends_are_given(kind):
    module = kind(**SMALL, low=0, high=10)
    fit(module, TensorDataset(torch.zeros(1, 3), torch.tensor([5.0])), max_epochs=2)
    assert all(value.isfinite().all() for value in module.parameters())


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(3), torch.tensor(1.0)


def test_a_loader_without_end_needs_given_ends():
    with pytest.raises(ValueError, match=r"has no length.*give low and high"):
        quiet(max_steps=2).fit(HistogramRegression(**SMALL), DataLoader(Endless(), 4))
    quiet(max_steps=2).fit(HistogramRegression(**SMALL, low=0, high=2), DataLoader(Endless(), 4))


def test_bins_that_float32_cannot_tell_apart_and_half_precision_are_refused():
    y = 1e8 + 8 * torch.arange(8.0)
    with pytest.raises(ValueError, match=r"too narrow for 100 bins in torch\.float32"):
        fit(HistogramRegression(**SMALL), TensorDataset(torch.zeros(8, 3), y))
    with pytest.raises(ValueError, match="use a -mixed precision"):
        fit(HistogramRegression(**SMALL), precision="bf16-true")


@pytest.mark.parametrize("kind", ALL)
def test_without_a_support_nothing_is_predicted(kind):
    for use in (kind(**SMALL), kind(**SMALL).predictive):
        with pytest.raises(ValueError, match=f"{kind.__name__} has no support yet"):
            use(torch.zeros(2, 3))


# ---------------------------------------------------------------- targets


def test_targets_that_were_looked_up_are_those_that_are_computed_and_unknown_labels_are_computed():
    labels = torch.randn(500)
    edges = torch.linspace(-4, 4, 51)
    table = TargetTable(labels, lambda y: truncated_gaussian_target(y, edges, 0.2))
    y = labels[torch.randperm(500)[:64]]
    found = table.find(y)
    assert found is not None
    assert torch.equal(found, truncated_gaussian_target(y, edges, 0.2))
    for other in (torch.cat([y, torch.tensor([0.123])]), torch.tensor([99.0]), y.double(), torch.tensor([math.nan])):
        assert table.find(other) is None
    assert TargetTable.fits(torch.randn(1000), 100)
    assert not TargetTable.fits(torch.arange(200_000.0), 100)


def test_a_run_with_and_without_the_table_is_the_same():
    class Direct(HistogramRegression):
        def on_training_labels(self, labels: Tensor) -> None:
            self.learnt = labels

    ends = []
    for kind in (HistogramRegression, Direct):
        torch.manual_seed(0)
        module = kind(**SMALL)
        fit(module, max_epochs=2)
        ends.append(torch.cat([value.detach().flatten() for value in module.parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"target": "gaussian"}, "gaussian"),
        ({"target": "dirac"}, "dirac"),
        ({"target": "gaussian", "sigma_ratio": 0.0}, "dirac"),
        ({"target": "uniform", "uniform_mass": 0.002}, "uniform"),
        ({"target": "projected"}, "projected"),
    ],
)
def test_the_target_is_the_one_that_was_asked_for(arguments, name):
    module = HistogramRegression(**SMALL, **arguments, padding_sigmas=0, low=0, high=1)
    c = module.target(torch.tensor([0.503]))[0]
    expected = {"gaussian": 0.3817, "dirac": 1.0, "uniform": 1 - 99 * 0.002, "projected": 0.8}[name]
    assert c[50].item() == pytest.approx(expected, abs=2e-2)
    assert (c > 1e-9).sum() == {"dirac": 1, "uniform": 100, "projected": 2}.get(name, (c > 1e-9).sum())


def test_a_target_of_ones_own_is_one_method():
    class Mine(HistogramRegression):
        def target(self, y: Tensor) -> Tensor:
            return truncated_gaussian_target(y, self.edges, sigma=2.5)

    fit(Mine(**SMALL))
