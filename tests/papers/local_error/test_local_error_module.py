"""Local error signals: locality, updates in the sweep against the sum, what the trainer counts, learning."""

import weakref
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from local_error_toys import LOSSES, SMALL_VGG, batches, fit
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from zoo import LocalErrorSignals
from zoo.local_error import Block

# ---------------------------------------------------------------- locality


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_a_block_reaches_that_block_alone(loss):
    module = LocalErrorSignals(3, **SMALL_VGG, loss=loss, dropout=0.2, training="summed")
    x, y = next(iter(batches()))
    for name, parameter in module.named_parameters():
        if name.endswith("linear.weight"):
            nn.init.normal_(parameter)  # else a classifier teaches its block nothing yet
    _, losses = module._sweep(x, y)
    for number, local in enumerate(losses[:-1]):
        module.zero_grad()
        local.backward(retain_graph=True)
        reached = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
        own = {
            name for name, _ in module.named_parameters() if f"blocks.{number}." in name or f"heads.{number}." in name
        }
        assert reached == own
    module.zero_grad()
    losses[-1].backward()
    reached = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert reached == {"network.output.weight", "network.output.bias"}


def test_a_later_head_changes_nothing_in_an_earlier_block():
    gradients = []
    for seed in (0, 1):
        torch.manual_seed(0)
        module = LocalErrorSignals(3, **SMALL_VGG, training="summed")
        torch.manual_seed(seed)
        nn.init.normal_(module.network.heads[1].similarity.weight)
        torch.stack(module._sweep(*next(iter(batches())))[1]).sum().backward()
        gradients.append([parameter.grad for parameter in module.network.blocks[:2].parameters()])
    first, second = zip(*((a[:4], a[4:]) for a in gradients), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(*first, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(*second, strict=True))


def test_the_local_loss_sees_the_features_before_dropout_and_pooling():
    module = LocalErrorSignals(3, **SMALL_VGG, dropout=0.5, training="summed")
    seen: list[torch.Tensor] = []
    for head in module.network.heads:
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module._sweep(*next(iter(batches())))
    assert [tuple(hidden.shape[1:]) for hidden in seen] == [(4, 8, 8), (6, 4, 4), (8,)]
    assert (seen[0].flatten(2).abs().sum(2) > 0).all(), "no channel was dropped"


# ---------------------------------------------------------------- updates in the sweep


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("loss", ["predsim", "predsim-bpf"])
def test_updates_in_the_sweep_and_the_summed_loss_give_the_same_weights_to_the_last_bit(loss, precision):
    states = []
    for training in ("blockwise", "summed"):
        torch.manual_seed(0)
        module = LocalErrorSignals(3, **SMALL_VGG, loss=loss, dropout=0.2, lr=1e-2, milestones=[2], training=training)
        torch.manual_seed(1)
        trainer = fit(module, batches(10), max_epochs=3, precision=precision)
        assert trainer.global_step == 30
        states.append({**module.state_dict(), "loss": trainer.callback_metrics["train/loss"]})
        optimiser = trainer.optimizers[0].state_dict()
        states[-1] |= {f"{i}/{key}": value for i, found in optimiser["state"].items() for key, value in found.items()}
    assert states[0].keys() == states[1].keys()
    assert [key for key in states[0] if not torch.equal(states[0][key], states[1][key])] == []


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_every_loss_learns_with_weights_of_another_precision(loss, precision):
    module = LocalErrorSignals(3, **SMALL_VGG, loss=loss)
    trainer = fit(module, batches(2), precision=precision)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert all(value.isfinite().all() for value in module.parameters())


def test_float16_with_a_scaled_loss_gives_the_same_weights_too_and_skips_a_block_that_overflows():
    states = []
    for training in ("blockwise", "summed"):
        torch.manual_seed(0)
        module = LocalErrorSignals(3, **SMALL_VGG, training=training, lr=1e-2)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        plugin = L.pytorch.plugins.MixedPrecision("16-mixed", "cpu", scaler)
        fit(module, batches(8), plugins=[plugin])
        assert scaler.get_scale() == 2**10, "no overflow"
        states.append(module.state_dict())
    assert [key for key in states[0] if not torch.equal(states[0][key], states[1][key])] == []

    module = LocalErrorSignals(3, **SMALL_VGG, loss="sim")
    before = {name: value.clone() for name, value in module.named_parameters()}
    module.network.blocks[1].body[0].weight.register_hook(lambda gradient: gradient * torch.inf)
    plugin = L.pytorch.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    fit(module, batches(1), plugins=[plugin])
    same = {name for name, value in module.named_parameters() if torch.equal(value, before[name])}
    assert same == {name for name in before if ".blocks.1." in name or ".heads.1." in name}


class Held:
    """Bytes that autograd holds, and the most that it held at any moment."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        size = tensor.numel() * tensor.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        packed = tensor.detach()
        weakref.finalize(packed, self.release, size)
        return packed

    def release(self, size: int) -> None:
        self.now -= size


def test_updates_in_the_sweep_hold_the_graph_of_one_block_at_a_time():
    most = {}
    for depth in (2, 8):
        for training in ("blockwise", "summed", "global"):
            module = LocalErrorSignals(
                3, network="MLP", network_args={"hidden": [64] * depth}, training=training, loss="predsim"
            )
            held = Held()
            with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda tensor: tensor):
                fit(module, batches(1, 48))
            assert held.now == 0
            most[training, depth] = held.most
    assert most["blockwise", 8] < 1.05 * most["blockwise", 2]
    assert most["summed", 8] > 3 * most["summed", 2]
    assert most["global", 8] > 3 * most["global", 2]


class Steps(L.Callback):
    """What the trainer's counter said after each batch, and how often an optimiser stepped."""

    def __init__(self) -> None:
        self.counted: list[int] = []
        self.stepped = 0

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.stepped += 1

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.counted.append(trainer.global_step)


def test_the_trainer_counts_batches_and_logs_every_nth_though_each_block_steps(tmp_path: Path):
    module, steps = LocalErrorSignals(3, **SMALL_VGG), Steps()
    logger = L.pytorch.loggers.CSVLogger(tmp_path, "", "")
    keep = L.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    arguments = {"logger": logger, "enable_checkpointing": True, "log_every_n_steps": 2, "max_steps": 7}
    fit(module, batches(10), [steps, keep], **arguments)
    assert steps.counted == [1, 2, 3, 4, 5, 6, 7]
    assert steps.stepped == 7 * 4  # three blocks and the output layer
    assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == ["step=3", "step=6"]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    assert [line.split(",")[names.index("step")] for line in lines[1:]] == ["1", "3", "5"]
    assert {"train/block_0", "train/block_1", "train/block_2", "train/output", "train/loss", "train/acc"} <= set(names)
    for line in lines[1:]:
        row = {name: float(value) for name, value in zip(names, line.split(","), strict=True)}
        parts = sum(row[f"train/{part}"] for part in ("block_0", "block_1", "block_2", "output"))
        assert row["train/loss"] == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("training", ["blockwise", "summed"])
def test_the_learning_rate_falls_at_the_milestones(training):
    rates = []

    class Keep(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(LocalErrorSignals(3, **SMALL_VGG, milestones=[2, 3, 5], training=training), batches(1), [Keep()], max_epochs=7)
    expected = [5e-4 * 0.25 ** sum(milestone <= epoch for milestone in (2, 3, 5)) for epoch in range(7)]
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("loss", "beta"), [("predsim", 0.99), ("predsim-bpf", 0.01)])
def test_the_papers_weights_are_the_defaults_and_scale_the_output_layers_loss_too(loss, beta):
    module = LocalErrorSignals(3, **SMALL_VGG, loss=loss, training="summed")
    x, y = next(iter(batches()))
    logits, losses = module._sweep(x, y)
    assert [head.beta for head in module.network.heads] == [beta] * 3
    torch.testing.assert_close(losses[-1], (1 - beta) * functional.cross_entropy(logits, y))


@pytest.mark.parametrize(
    ("loss", "training", "kind"),
    [
        ("pred", "blockwise", nn.ReLU), ("pred-bpf", "summed", nn.ReLU), ("predsim", "global", nn.ReLU),
        ("sim", "blockwise", nn.LeakyReLU), ("predsim", "blockwise", nn.LeakyReLU),
        ("sim-bpf", "blockwise", nn.LeakyReLU), ("predsim-bpf", "blockwise", nn.LeakyReLU),
    ],
)  # fmt: skip
def test_the_non_linearity_is_that_of_the_papers_run(loss, training, kind):
    module = LocalErrorSignals(3, **SMALL_VGG, loss=loss, training=training)
    found = [layer for layer in module.modules() if isinstance(layer, nn.ReLU | nn.LeakyReLU)]
    assert {type(layer) for layer in found} == {kind}


# ---------------------------------------------------------------- blocks of one's own


class Mine(LocalErrorSignals):
    def build_blocks(self) -> list[nn.Module]:
        return [
            nn.Sequential(nn.Conv2d(1, 5, 3, stride=2), nn.GroupNorm(1, 5), nn.GELU()),
            Block(nn.Sequential(nn.Conv2d(5, 7, 2), nn.Tanh()), after=nn.MaxPool2d(2)),
            nn.Sequential(nn.Flatten(), nn.Linear(7, 11), nn.ReLU()),
        ]


def test_any_modules_become_a_local_network_with_heads_of_their_shapes():
    module = Mine(num_classes=3)
    assert [tuple(head.similarity.weight.shape) for head in module.network.heads] == [
        (5, 5, 3, 3), (7, 7, 3, 3), (11, 11),
    ]  # fmt: skip
    before = {name: value.clone() for name, value in module.named_parameters()}
    fit(module, batches(2))
    assert [name for name, value in module.named_parameters() if torch.equal(value, before[name])] == []
    assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert module.features(torch.zeros(2, 1, 8, 8)).shape == (2, 11)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "Nothing"}, "network is 'Nothing'; expected one of MLP, VGG, VGG8B"),
        ({"network_args": {"width": 2}}, r"\['width'\], which MLP does not take; it takes \['hidden'\]"),
        ({"network": "VGG8B"}, "4 poolings need 16 pixels a side"),
        ({"network": "WideResNet", "network_args": {"depth": 27}}, "depth is 27"),
        ({"loss": "cos"}, "loss is 'cos'; expected one of pred, sim"),
        ({"training": "layerwise"}, "training is 'layerwise'; expected one of blockwise"),
        ({"similarity_pairs": "some"}, "similarity_pairs is 'some'"),
        ({"num_classes": 1}, "num_classes is 1"),
        ({"image_shape": (1, 8)}, r"image_shape is \(1, 8\)"),
        ({"beta": 2.0}, r"beta is 2.0"),
        ({"dropout": 1.0}, r"dropout is 1.0"),
        ({"network_args": {"hidden": []}}, "at least one block"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LocalErrorSignals(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient_clip_val": 1.0}, "gradient_clip_val with training='blockwise': the norm over all blocks"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches with training='blockwise'"),
    ],
)
def test_what_needs_all_gradients_at_once_is_refused_in_the_sweep_and_works_in_the_sum(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(LocalErrorSignals(3, **SMALL_VGG), batches(2), **arguments)
    fit(LocalErrorSignals(3, **SMALL_VGG, training="summed"), batches(2), **arguments)


# ---------------------------------------------------------------- learning


class Frozen(LocalErrorSignals):
    """Only the output layer learns, on random blocks."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.output.parameters(), self.hparams["lr"])


@pytest.mark.long
def test_local_losses_learn_more_than_frozen_blocks():
    def accuracy(kind: type[LocalErrorSignals], loss: str) -> float:
        torch.manual_seed(0)
        first, second = torch.randn(10, 20), torch.randn(20, 5)
        x = torch.randn(4000, 10)
        y = ((x @ first).tanh() @ second).argmax(1)
        x = x.view(-1, 10, 1, 1)
        module = kind(5, (10, 1, 1), network_args={"hidden": [64] * 3}, loss=loss, lr=2e-3)
        data = DataLoader(TensorDataset(x[:2000], y[:2000]), 125, shuffle=True)
        fit(module, data, max_epochs=10, log_every_n_steps=0)
        return (module.eval()(x[2000:]).argmax(1) == y[2000:]).float().mean().item()

    frozen = accuracy(Frozen, "predsim")
    for loss in ("predsim", "predsim-bpf"):
        assert accuracy(LocalErrorSignals, loss) >= frozen + 0.05


def test_block_features_are_what_the_local_losses_see():
    module = LocalErrorSignals(3, (1, 8, 8), **SMALL_VGG)
    loader = batches(count=1)
    shown = module.train().block_features(next(iter(loader))[0])
    seen: list[torch.Tensor] = []
    for head in module.network.heads:
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    fit(module, loader)
    assert [tuple(features.shape[1:]) for features in shown] == [(4, 8, 8), (6, 4, 4), (8,)]
    assert not any(features.requires_grad for features in shown)
    for expected, features in zip(seen, shown, strict=True):
        torch.testing.assert_close(features, expected)
