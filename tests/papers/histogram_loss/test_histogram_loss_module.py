"""Histogram regression and its baselines: predictions, logs, network, what is refused."""

import math
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from regression_toys import ALL, SMALL, fit, labelled_rows, quiet
from torch.utils.data import DataLoader, TensorDataset

import zoo
from datamodules import SineDataModule
from zoo import GaussianRegression, HistogramRegression, MixtureDensityNetwork, PointRegression
from zoo.histogram_loss import PiecewiseUniform
from zoo.histogram_loss.net import RegressionNetwork
from zoo.shared.nets.dropout import Dropout
from zoo.shared.processes import own_draw


@pytest.mark.parametrize("kind", ALL)
def test_predictions_are_in_the_units_of_the_labels_and_follow_a_change_of_units(kind):
    torch.manual_seed(0)
    ends = []
    for offset, scale in ((0.0, 1.0), (1000.0, 64.0)):
        torch.manual_seed(0)
        module = kind(**SMALL)
        data = labelled_rows(offset=offset, scale=scale)
        fit(module, data, data, max_epochs=5)
        x, y = data.tensors
        with torch.no_grad():
            p = module.eval().predictive(x)
            assert module(x).shape == p.mean.shape == p.variance.shape == p.batch_shape == y.shape
            torch.testing.assert_close(p.mean, module(x))
            assert p.cdf(y).min() >= 0
            assert p.log_prob(y).isfinite().all()
            ends.append(((module(x) - offset) / scale, p.log_prob(y) + math.log(scale), p.variance.sqrt() / scale))
    for first, second in zip(*ends, strict=True):
        torch.testing.assert_close(first, second, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kind", ["mean", "median", "mode"])
def test_the_point_is_the_one_that_was_asked_for(kind):
    module = HistogramRegression(**SMALL, prediction=kind, low=0, high=1)
    x = torch.randn(5, 3)
    torch.testing.assert_close(module(x), getattr(module.predictive(x), kind))
    assert isinstance(module.predictive(x), PiecewiseUniform)


@pytest.mark.parametrize("loss", ["l2", "l1", "huber"])
def test_the_width_of_a_point_regressors_distribution_is_its_validation_residuals(loss):
    module = PointRegression(**SMALL, loss=loss)
    val = labelled_rows(40, seed=1)
    fit(module)
    y = labelled_rows().tensors[1]
    constant = (y - y.median()).abs().mean() if loss == "l1" else y.std(correction=0)
    torch.testing.assert_close(module.predictive(val.tensors[0]).scale, constant.expand(40))
    with pytest.raises(ValueError, match="no residuals yet: fit it, or run a validation epoch"):
        PointRegression(**SMALL, low=0, high=1).predictive(val.tensors[0])
    fit(module, val=val)
    module.eval()
    residuals = (module(val.tensors[0]) - val.tensors[1]).detach()
    expected = residuals.abs().mean() if loss == "l1" else residuals.square().mean().sqrt()
    p = module.predictive(val.tensors[0])
    torch.testing.assert_close(p.scale, expected.expand(40))
    assert type(p).__name__ == ("Laplace" if loss == "l1" else "Normal")
    assert "residual_scale" in module.state_dict()


def test_the_mixture_starts_spread_over_the_range():
    module = MixtureDensityNetwork(**SMALL, components=4, low=0, high=8)
    torch.nn.init.zeros_(module.network.head.weight)
    p = module.predictive(torch.zeros(1, 3))
    torch.testing.assert_close(p.component_distribution.mean[0], torch.tensor([1.0, 3, 5, 7]))


@pytest.mark.parametrize("kind", ALL)
def test_every_module_learns_a_line(kind):
    torch.manual_seed(0)
    module = kind(num_features=3, hidden=[32], lr=1e-2)
    trainer = quiet(max_epochs=40)
    trainer.fit(module, DataLoader(labelled_rows(256), 64), DataLoader(labelled_rows(100, seed=1), 50))
    assert trainer.callback_metrics["val/rmse"] < 5  # of a deviation of 10; the mixture is the slowest


# ---------------------------------------------------------------- what is logged


def test_the_errors_are_those_of_all_rows_and_the_divergence_is_the_loss_above_its_floor():
    module = HistogramRegression(**SMALL)
    val = labelled_rows(50, seed=1)
    trainer = fit(module, val=val)
    x, y = val.tensors
    module.eval()
    errors = (module(x) - y).detach()
    logged = trainer.callback_metrics
    assert logged["val/rmse"].item() == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-5)
    assert logged["val/mae"].item() == pytest.approx(errors.abs().mean().item(), rel=1e-5)
    floor = 0.5 * math.log(2 * math.pi * math.e)  # sigma is one bin
    assert (logged["val/loss"] - logged["val/kl"]).item() == pytest.approx(floor, abs=0.1)
    assert (logged["train/loss"] - logged["train/kl"]).item() == pytest.approx(floor, abs=0.1)
    assert logged["train/kl"] > 0


class Logged(L.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        found = {"metrics": dict(trainer.callback_metrics), "state": module.state_dict()}
        torch.save(found, self.folder / f"{trainer.global_rank}")


def test_two_processes_log_the_errors_of_the_rows_of_both(tmp_path):
    module, val = PointRegression(**SMALL), labelled_rows(40, seed=1)
    fit(module, val=val, callbacks=[Logged(tmp_path)], devices=2, strategy="ddp_fork")
    first, second = (torch.load(tmp_path / f"{rank}", weights_only=True) for rank in (0, 1))
    module.load_state_dict(first["state"])
    with torch.no_grad():
        errors = module.eval()(val.tensors[0]) - val.tensors[1]
    for found in (first, second):
        torch.testing.assert_close(found["metrics"]["val/rmse"], errors.square().mean().sqrt())
        torch.testing.assert_close(found["metrics"]["val/mae"], errors.abs().mean())
        torch.testing.assert_close(found["state"]["residual_scale"], errors.square().mean().sqrt())


@pytest.mark.parametrize("kind", ALL)
def test_the_logged_gradient_norm_is_that_of_the_loss_before_clipping(kind):
    arguments = {"gradient_clip": 1e-3} if kind is PointRegression else {}
    module = kind(**SMALL, low=0, high=100, **arguments)
    x, y = labelled_rows(16).tensors
    losses = module.losses(module.network(x), y, False)["loss"]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(losses, list(module.parameters()))]).norm()
    clip = {} if arguments else {"gradient_clip_val": 1e-3}
    trainer = fit(module, labelled_rows(16), **clip)
    torch.testing.assert_close(trainer.callback_metrics["train/gradient_norm"], expected, rtol=1e-4, atol=1e-6)


def test_clipping_limits_the_step_and_two_limits_are_one_too_many():
    seen = []

    class Norm(L.Callback):
        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            if gradients:
                seen.append(torch.nn.utils.get_total_norm(gradients).item())

    fit(PointRegression(**SMALL, gradient_clip=0.01), callbacks=[Norm()])
    assert max(seen) == pytest.approx(0.01, rel=1e-3)
    seen.clear()
    fit(PointRegression(**SMALL), callbacks=[Norm()], gradient_clip_val=0.02)
    assert max(seen) == pytest.approx(0.02, rel=1e-3)
    with pytest.raises(ValueError, match=r"gradient_clip=0\.01 and the trainer's gradient_clip_val=1: use one"):
        fit(PointRegression(**SMALL, gradient_clip=0.01), gradient_clip_val=1)


def test_output_noise_is_drawn_in_training_only():
    module = PointRegression(**SMALL, output_noise=1.0, low=0, high=1)
    x, y = labelled_rows(200, offset=0, scale=1).tensors
    outputs = module.network(x)
    noisy = [module.losses(outputs, y, False)["loss"].item() for _ in range(2)]
    module.eval()
    calm = module.losses(outputs, y, False)["loss"].item()
    assert noisy[0] != noisy[1]
    assert sum(noisy) / 2 == pytest.approx(calm + 1, rel=0.3)


def test_epochs_of_steps_without_a_log_compute_no_further_figures(monkeypatch):
    calls = []
    module = HistogramRegression(**SMALL)
    original = module.losses
    monkeypatch.setattr(module, "losses", lambda a, b, c: calls.append(c) or original(a, b, c))
    fit(module, log_every_n_steps=3)
    assert calls == [False, False, True, False]


# ---------------------------------------------------------------- network


def test_the_network_has_the_papers_initialisation_and_optimiser():
    torch.manual_seed(0)
    net = RegressionNetwork(384, [192] * 4, 100)
    assert sum(p.numel() for p in net.parameters()) == 384 * 192 + 3 * 192 * 192 + 4 * 192 + 192 * 100 + 100
    for layer in net.modules():
        if isinstance(layer, torch.nn.Linear):
            bound = math.sqrt(3 / layer.in_features)
            assert bound * 0.99 < layer.weight.abs().max() <= bound
            assert not layer.bias.any()
    x = torch.randn(2, 384)
    torch.testing.assert_close(net(x), net.head(net.features(x)))
    (group,) = HistogramRegression(**SMALL).configure_optimizers().param_groups
    assert (group["lr"], group["eps"], group["betas"]) == (1e-3, 1e-7, (0.9, 0.999))


def test_dropout_drops_features_of_the_input_keeps_the_mean_and_rests_in_evaluation():
    torch.manual_seed(0)
    drop = Dropout(0.25)
    x = drop(torch.ones(400, 50))
    torch.testing.assert_close(x.unique(), torch.tensor([0, 4 / 3]))
    assert x.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(torch.ones(2, 3)), torch.ones(2, 3))


class Draws(L.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Any, module: Any) -> None:
        torch.manual_seed(0)
        torch.save(own_draw(torch.rand, torch.empty(20)), self.folder / f"{trainer.global_rank}")


def test_two_processes_draw_different_numbers_though_their_generators_are_alike(tmp_path):
    fit(HistogramRegression(**SMALL), callbacks=[Draws(tmp_path)], devices=2, strategy="ddp_fork")
    first, second = (torch.load(tmp_path / f"{rank}", weights_only=True) for rank in (0, 1))
    assert not torch.isclose(first, second).any()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (HistogramRegression, {"target": "gauss"}, "target is 'gauss'; expected one of gaussian, dirac"),
        (HistogramRegression, {"prediction": "middle"}, "prediction is 'middle'"),
        (HistogramRegression, {"bins": 1}, "bins is 1"),
        (HistogramRegression, {"sigma_ratio": -1.0}, "sigma_ratio is -1"),
        (HistogramRegression, {"bins": 6}, "takes 6 of 6 bins"),
        (HistogramRegression, {"target": "uniform", "uniform_mass": 0.2}, "epsilon is 0.2"),
        (HistogramRegression, {"low": 3.0, "high": 3.0}, "expected finite numbers with low < high"),
        (HistogramRegression, {"hidden": [8, 0]}, "hidden[1] is 0; expected a number of at least 1"),
        (HistogramRegression, {"num_features": 0}, "num_features is 0"),
        (HistogramRegression, {"input_dropout": 1.0}, "input_dropout is 1.0"),
        (PointRegression, {"loss": "l3"}, "loss is 'l3'; expected one of l2, l1, huber"),
        (PointRegression, {"huber_delta": 0.0}, "huber_delta is 0.0; expected a number above 0"),
        (PointRegression, {"output_noise": -1.0}, "output_noise is -1.0; expected a number of at least 0"),
        (PointRegression, {"gradient_clip": 0.0}, "gradient_clip is 0.0"),
        (PointRegression, {"low": 3.0, "high": 1.0}, "low < high"),
        (GaussianRegression, {"low": -math.inf, "high": 1.0}, "expected finite numbers"),
        (GaussianRegression, {"smallest_scale": 0.0}, "smallest_scale is 0.0"),
        (GaussianRegression, {"smallest_scale": 2.0}, "smallest_scale is 2.0"),
        (MixtureDensityNetwork, {"smallest_scale": 2.0}, "smallest_scale is 2.0"),
        (MixtureDensityNetwork, {"components": 0}, "components is 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(kind, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**arguments)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(4, 5), torch.zeros(4), r"features of shape \(4, 5\) arrived.*\(B, 3\).*num_features"),
        (torch.zeros(4, 3, 1), torch.zeros(4), r"features of shape \(4, 3, 1\)"),
        (torch.zeros(4, 3), torch.zeros(4, 1), r"labels of shape \(4, 1\) arrived; expected \(4,\)"),
        (torch.full((4, 3), math.nan), torch.zeros(4), "NaN or infinite features in 4 of 4 rows"),
        (torch.zeros(4, 3), torch.tensor([0, 1, math.inf, 3]), r"labels in 1 of 4 rows of a batch: rows \[2\]"),
    ],
)
def test_bad_batches_are_refused_in_training_and_in_evaluation(x, y, message, monkeypatch):
    batch = [DataLoader(TensorDataset(x, y), batch_size=4)]
    module = HistogramRegression(**SMALL, low=0, high=1)
    with pytest.raises(ValueError, match=message):
        quiet().validate(module, batch, verbose=False)
    monkeypatch.setattr(module, "on_fit_start", lambda: None)  # which would have refused the labels before
    with pytest.raises(ValueError, match=message):
        quiet().fit(module, batch[0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_whole_numbers_and_double_precision_as_labels_train(dtype):
    data = TensorDataset(torch.randn(32, 3), (torch.arange(32) % 7).to(dtype))
    for kind in ALL:
        module = kind(**SMALL)
        fit(module, data, data)
        assert all(value.isfinite().all() for value in module.parameters())


# ---------------------------------------------------------------- the sheet's study, in small


def test_an_offset_slows_the_squared_loss_and_not_the_histogram_loss():
    """The sheet's smoke test: f = 4, 100 points, width 128, support [-1.5, 11.5]."""
    ends = {}
    narrow = {"sigma_ratio": 2.0, "padding_sigmas": 0.0, "low": -1.5, "high": 11.5}
    # l2 learns the labels as they are; scaled to [0, 1] they slow it less
    for name, kind, own in (("hl", HistogramRegression, narrow), ("l2", PointRegression, {"low": 0, "high": 1})):
        torch.manual_seed(0)
        module = kind(num_features=1, hidden=[128, 128], initialisation="torch", **own)
        data = SineDataModule(frequency=4, offset=10, points=100, batch_size=100)
        x, y = next(iter(data.train_dataloader()))
        optimizer = module.configure_optimizers()
        for _ in range(601):
            optimizer.zero_grad()
            module.losses(module.network(x), y, False)["loss"].backward()
            optimizer.step()
        ends[name] = (module.eval()(x) - y).square().mean().item()
    assert ends["hl"] < 0.05
    assert 5 * ends["hl"] < ends["l2"]


def test_every_module_of_the_folder_is_in_the_zoo():
    assert {kind.__name__ for kind in ALL} <= set(zoo.__all__)
