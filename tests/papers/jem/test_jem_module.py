"""JEM trains: every variant against hand-written steps, recovery, checkpoints, sampling, scores, bad input."""

import copy
import math
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo import JEM
from zoo.shared.batches import check_labelled_batch


def close(actual: Any, expected: Any, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        atol=tolerance,
        rtol=0,
    )


def tiny_jem(**arguments: Any) -> JEM:
    defaults: dict[str, Any] = {
        "image_shape": (1, 8, 8), "num_classes": 3, "network": "SmallConvNet", "network_args": {"width": 4},
        "memory_size": 60, "sgld_steps": 3, "lr": 1e-2, "warmup_steps": 0, "snapshot_every_n_steps": 2,
    }  # fmt: skip
    L.seed_everything(0, verbose=False)
    return JEM(**(defaults | arguments))


def images(count: int = 48) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    x = torch.rand(count, 1, 8, 8, generator=generator) - 1 + y[:, None, None, None] / 2
    return TensorDataset(x.clamp(-1, 1), y)


def fit(model: JEM, steps: int = 6, **arguments: Any) -> L.Trainer:
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, **arguments,
    )  # fmt: skip
    trainer.fit(model, DataLoader(images(), batch_size=12, shuffle=True, drop_last=True))
    return trainer


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"shared_batch": True},
        {"class_conditional": True},
        {"weight_px": 0.0, "weight_pyx": 0.0, "weight_pxy": 1.0},
        {"weight_pxy": 0.5, "class_conditional": True},
        {"memory_size": 0},
        {"initialisation": "informative", "gradient_clip": 1.0, "clamp_samples": True, "noise_std": 0.0},
        {"penalty": 0.1, "optimizer": "sgd"},
        {"chain_precision": "bfloat16"},
        {
            "initialisation": "informative",
            "network": "WideResNet",
            "network_args": {"depth": 10, "width": 1, "norm": "batch"},
        },
    ],
)
def test_every_variant_trains(arguments):
    model = tiny_jem(**arguments)
    before = copy.deepcopy(model.state_dict())
    trainer = fit(model, 3)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert model.sample(4).shape == (4, 1, 8, 8)
    by_class = model.sample(5, label=2)
    assert by_class.min() >= 0
    assert by_class.max() <= 1


def test_the_training_step_is_the_hand_written_one():
    """One SGD step against plain PyTorch: chains, three separate passes, one backward."""
    model = tiny_jem(noise_std=0.0, dequantisation_std=0.0, reinit_probability=0.0, optimizer="sgd", lr=0.1)
    network = copy.deepcopy(model.network)
    seen: dict[str, Tensor] = {}
    draw = model.chains.draw

    def spy(*arguments: Any) -> Any:
        seen["memory"] = model.chains.memory.images.clone()
        samples, slots = draw(*arguments)
        seen["samples"], seen["slots"] = samples.clone(), slots.clone()
        return samples, slots

    model.chains.draw = spy
    x, y = images(12)[:]
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=12))

    chain = seen["memory"][seen["slots"]]
    for _ in range(3):
        chain = chain.detach().requires_grad_()
        (slope,) = torch.autograd.grad(network(chain).logsumexp(1).sum(), chain)
        chain = chain + slope
    torch.testing.assert_close(seen["samples"], chain.detach(), atol=1e-6, rtol=0)
    x_p, x_l, y_l = x[:6], x[6:], y[6:]
    loss = network(chain.detach()).logsumexp(1).mean() - network(x_p).logsumexp(1).mean()
    loss = loss + nn.functional.cross_entropy(network(x_l), y_l)
    loss.backward()
    for parameter, trained in zip(network.parameters(), model.network.parameters(), strict=True):
        torch.testing.assert_close(trained, parameter - 0.1 * parameter.grad, atol=1e-6, rtol=0)
    assert torch.equal(model.chains.memory.images[seen["slots"]], seen["samples"])


def test_forced_divergence_recovers_and_training_ends_well():
    """At step 3 the weights are blown up: the memory must not see it, and the run must end finite and lower."""

    class Saboteur(L.Callback):
        before: Tensor | None = None

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 3 and self.before is None:
                self.before = module.chains.memory.images.clone()
                with torch.no_grad():
                    for parameter in module.network.parameters():
                        parameter.mul_(1e4)

    model, saboteur, memories = tiny_jem(shared_batch=True), Saboteur(), []
    go_back = model.recovery.go_back

    def spy(*arguments):
        memories.append(model.chains.memory.images.clone())  # before anything is restored
        go_back(*arguments)

    model.recovery.go_back = spy
    with pytest.warns(UserWarning, match=r"diverged at step 3.*recovery 1 of at most 5"):
        trainer = fit(model, 40, callbacks=[saboteur])
    assert torch.equal(memories[0], saboteur.before), "divergence is detected before the memory is written"
    assert model.recovery.count == 1
    assert model.recovery.escalation.learning_rate == 0.5
    assert trainer.callback_metrics["train/recoveries"] == 1
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.005)
    assert trainer.callback_metrics["train/pyx"] < 0.9, "below log 3 = 1.1: it still learns"
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.report_notes()["recoveries from divergence"] == 1


def test_too_many_divergences_end_with_advice():
    model = tiny_jem(max_energy_gap=-1.0, max_recoveries=3)  # every step counts as diverged
    with pytest.warns(UserWarning, match="recovery"), pytest.raises(RuntimeError, match=r"3 times already.*penalty"):
        fit(model, 5)


def test_a_checkpoint_keeps_memory_and_recoveries(tmp_path):
    model = tiny_jem()
    trainer = fit(model)
    model.recovery.count = 2
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["jem"]["memory"].shape == (60, 1, 8, 8)
    loaded = JEM.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert loaded.report_notes()["recoveries from divergence"] == 2
    torch.testing.assert_close(loaded._restored["memory"], model.chains.memory.images)
    samples = loaded.sample(3, steps=0)
    inside = (model.chains.memory.images + 1) / 2
    assert all((inside.clamp(0, 1) - image).abs().flatten(1).amax(1).min() < 1e-6 for image in samples)


def test_sampling_changes_neither_memory_nor_training():
    runs = []
    for look in (False, True):

        class Look(L.Callback):
            look_now = look

            def on_train_batch_end(self, trainer, module, *_):
                if self.look_now:
                    with torch.random.fork_rng(devices=[]):
                        module.sample(4)

        model = tiny_jem()
        fit(model, 4, callbacks=[Look()])
        runs.append((model.state_dict(), model.chains.memory.images))
    assert all(torch.equal(runs[0][0][key], runs[1][0][key]) for key in runs[0][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_scores_are_the_papers_and_work_in_a_test_run():
    model = tiny_jem()
    fit(model, 2)
    x, y = images(9)[:]
    model.eval()
    expected = model.ood_scores(x)
    gathered: dict[str, Tensor] = {}

    class Score(L.Callback):
        def on_test_batch_end(self, trainer, module, outputs, batch, *_):
            assert torch.is_inference_mode_enabled()
            gathered.update(module.ood_scores(batch[0]))

    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[Score()])
    trainer.test(model, DataLoader(TensorDataset(x, y), batch_size=9), verbose=False)
    variable = x.clone().requires_grad_()
    logits = model(variable)
    (slope,) = torch.autograd.grad(logits.logsumexp(1).sum(), variable)
    for scores in (expected, gathered):
        close(scores["log_density"], -logits.detach().logsumexp(1), 1e-5)
        close(scores["approximate_mass"], slope.flatten(1).norm(dim=1), 1e-5)
        assert scores["max_probability"].argsort().equal((-logits.softmax(1).amax(1)).argsort())
    assert all(parameter.grad is None or not parameter.grad.isnan().any() for parameter in model.parameters())


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight_px": 0.0, "weight_pyx": 0.0, "weight_pxy": 1.0},
        {"class_conditional": True},
        {"class_conditional": True, "weight_pxy": 0.5, "penalty": 0.1},
    ],
)
def test_every_objective_is_the_hand_written_one(arguments):
    model = tiny_jem(dequantisation_std=0.0, **arguments)
    model.chains.fill_memory(60, torch.device("cpu"))
    x, y = images(12)[:]
    x_p, x_l, y_l = model._minibatches((x, y))
    calls, draw = [], model.chains.draw

    def spy(network, count, labels, steps):
        samples, slots = draw(network, count, labels, steps)
        calls.append((samples, labels))
        return samples, slots

    model.chains.draw = spy
    loss, gaps, _, drawn = model._losses(x_p, x_l, y_l)
    h, f = model.hparams, model.network
    px, pyx, pxy = h["weight_px"], h["weight_pyx"], h["weight_pxy"]
    if px == 0:
        assert len(x_l) == 12, "the whole batch is labelled data"
    else:
        samples, labels = calls[0]
        assert labels is not None
        assert not torch.equal(x_p, x_l)
    expected = pyx * nn.functional.cross_entropy(f(x_l), y_l)
    pairs = []
    if px > 0:
        expected = expected + px * (f(calls[0][0]).logsumexp(1).mean() - f(x_p).logsumexp(1).mean())
        pairs.append((x_p, calls[0][0]))
    if pxy > 0:
        samples, labels = calls[-1]
        assert torch.equal(labels, y_l), "chains of p(x|y) have the labels of the data"
        rows = torch.arange(len(y_l))
        expected = expected + pxy * (f(samples)[rows, y_l].mean() - f(x_l)[rows, y_l].mean())
        pairs.append((x_l, samples))
    for real, fake in pairs:
        squares = f(real).logsumexp(1).square().mean() + f(fake).logsumexp(1).square().mean()
        expected = expected + h["penalty"] * squares
    close(loss.detach(), expected.detach(), 1e-5)
    assert len(gaps) == len(drawn) == (px > 0) + (pxy > 0)


def test_the_frozen_copy_follows_parameters_and_buffers():
    class Spectral(JEM):
        def build_network(self) -> nn.Module:
            network = super().build_network()
            nn.utils.parametrizations.spectral_norm(network.head)
            return network

    small = {"network": "SmallConvNet", "network_args": {"width": 4}, "image_shape": (1, 8, 8), "num_classes": 3}
    model = Spectral(**small, memory_size=60, sgld_steps=2, lr=1e-2, warmup_steps=0)
    fit(model, 4)
    model.eval()
    x = images(5)[:][0]
    torch.testing.assert_close(model.chains._freeze(model.network)(x), model(x))


def test_sampling_leaves_running_statistics_alone():
    model = tiny_jem(
        initialisation="informative", network="WideResNet", network_args={"depth": 10, "width": 1, "norm": "batch"}
    )
    fit(model, 2)
    model.train()
    before = copy.deepcopy(model.state_dict())
    model.sample(3)
    model.sample(3, label=1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_loaded_informative_model_starts_from_its_gaussians(tmp_path):
    model = tiny_jem(initialisation="informative", memory_size=0)
    fit(model, 2).save_checkpoint(tmp_path / "a.ckpt")
    loaded = JEM.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(loaded.chains.gaussians.mean, model.chains.gaussians.mean)
    assert loaded.sample(4, steps=0).shape == (4, 1, 8, 8)


def test_samples_after_loading_an_older_checkpoint_are_of_its_memory(tmp_path):
    model = tiny_jem()
    trainer = fit(model, 2)
    trainer.save_checkpoint(tmp_path / "old.ckpt")
    old = torch.load(tmp_path / "old.ckpt", weights_only=True)
    model.chains.memory.images.fill_(0.5)
    model.recovery.count = 3
    model.on_load_checkpoint(old)
    assert not (model.sample(5, steps=0) == 0.75).all(), "the checkpoint's images, not the live ones"
    assert model.report_notes()["recoveries from divergence"] == 3, "the run's own count"


def test_semi_supervised_batches_use_two_different_minibatches():
    model = tiny_jem(dequantisation_std=0.0)
    x, y = images(12)[:]
    x_p, x_l, y_l = model._minibatches({"labelled": (x[:5], y[:5]), "unlabelled": x[5:]})
    assert torch.equal(x_p, x[5:])
    assert torch.equal(x_l, x[:5])
    assert torch.equal(y_l, y[:5])
    x_p, x_l, y_l = model._minibatches((x, y))
    assert torch.equal(torch.cat([x_p, x_l]), x)
    assert torch.equal(y_l, y[6:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "WideResNet", "network_args": {"depth": 10, "width": 1, "norm": "batch"}}, "informative"),
        ({"weight_pxy": 1.0}, "weight_pxy=1.0 mix"),
        ({"optimizer": "sdg"}, "optimizer is 'sdg'; expected one of adam, sgd"),
        ({"chain_precision": "bf16"}, "chain_precision is 'bf16'"),
        ({"initialisation": "informed"}, "initialisation is 'informed'"),
        ({"snapshot_every_n_steps": 0}, "snapshot_every_n_steps is 0; expected a number of at least 1"),
        ({"reinit_probability": 1.5}, "reinit_probability is 1.5"),
        ({"noise_std": -0.1}, "noise_std is -0.1"),
        ({"gradient_clip": 0.0}, "gradient_clip is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"weight_px": 0.0}, "both 0"),
        ({"network": "Nothing"}, "network is 'Nothing'.*SmallConvNet"),
        ({"network_args": {"depth": 3}}, "depth.*SmallConvNet"),
        ({"num_classes": 1}, "at least 2"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_jem(**arguments)


def test_a_memory_that_does_not_divide_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"memory_size is 50.*3 classes x 1 processes"):
        fit(tiny_jem(memory_size=50))


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_label_out_of_range_is_refused_before_the_class_gaussians_are_fitted(wrong):
    model = tiny_jem(initialisation="informative")
    x, y = images(12)[:]
    y[5] = wrong
    trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=rf"labels from .*{wrong}.* built for classes 0 to 2"):
        trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=12))
    assert model.chains.gaussians is None


def test_white_images_in_half_precision_are_no_infinity():
    white = torch.ones(64, 3, 32, 32, dtype=torch.float16)
    check_labelled_batch(white, torch.zeros(64, dtype=torch.long), (3, 32, 32), 10)
    white[5, 0, 0, 0] = math.inf
    with pytest.raises(ValueError, match=r"1 of 64 images of a batch: rows \[5\]"):
        check_labelled_batch(white, torch.zeros(64, dtype=torch.long), (3, 32, 32), 10)


def test_nan_pixels_are_refused_and_not_taken_for_divergence():
    model = tiny_jem(shared_batch=True)
    x, y = images(12)[:]
    x[3] = math.nan
    trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"NaN or infinite pixels in 1 of 12 images.*rows \[3\]"):
        trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=12))
    assert model.recovery.count == 0
