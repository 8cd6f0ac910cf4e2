"""Local error signals: networks, locality, updates in the sweep against the sum, what the trainer counts, learning."""

import weakref
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from zoo import LocalErrorSignals
from zoo.local_error import Block
from zoo.local_error.heads import LocalHead, average_pooling, pooling
from zoo.local_error.net import LocalNetwork, make_blocks, output_shapes
from zoo.shared.nets import build_network
from zoo.shared.nets.dropout import ChannelDropout

LOSSES = ("pred", "sim", "predsim", "pred-bpf", "sim-bpf", "predsim-bpf")
SMALL_VGG: dict[str, Any] = {"network": "VGG", "network_args": {"layers": [4, "M", 6], "hidden": [8]}, "max_dim": 64}


def batches(count: int = 4, size: int = 12, seed: int = 0) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count * size, 1, 8, 8, generator=generator) * 2 - 1
    return DataLoader(TensorDataset(x, torch.arange(count * size) % 3), size)


def fit(module: LocalErrorSignals, data: DataLoader, callbacks: Any = (), **arguments: Any) -> L.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "log_every_n_steps": 1, "max_epochs": 1,
    }  # fmt: skip
    trainer = L.Trainer(**quiet | arguments, callbacks=list(callbacks))
    trainer.fit(module, data)
    return trainer


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("network", "arguments", "shape", "classes", "parameters"),
    [
        ("VGG8B", {}, (1, 28, 28), 10, 7_328_266),
        ("VGG8B", {}, (3, 32, 32), 10, 8_903_434),
        ("VGG8B", {}, (3, 32, 32), 100, 8_995_684),
        ("VGG8B", {}, (3, 96, 96), 10, 11_540_234),
        ("VGG8B", {"width": 2}, (1, 28, 28), 10, 28_209_162),
        ("VGG11B", {}, (3, 32, 32), 10, 11_559_946),
        ("VGG11B", {}, (3, 32, 32), 100, 11_652_196),
        ("VGG11B", {"width": 2}, (3, 32, 32), 10, 41_980_938),
        ("VGG11B", {"width": 2}, (3, 32, 32), 100, 42_073_188),
        ("VGG11B", {"width": 3}, (3, 32, 32), 10, 91_276_298),
        ("VGG11B", {"width": 3}, (3, 32, 32), 100, 91_368_548),
        ("MLP", {}, (1, 28, 28), 10, 2_919_434),
        ("MLP", {"hidden": [3000, 3000, 3000]}, (3, 32, 32), 10, 27_273_010),
        ("MLP", {"hidden": [3000, 3000, 3000]}, (3, 32, 32), 100, 27_543_100),
        ("ResNet18", {}, (3, 32, 32), 10, 11_173_962),  # the usual counts with a 3x3 stem
        ("ResNet34", {}, (3, 32, 32), 10, 21_282_122),
        ("WideResNet", {}, (3, 32, 32), 10, 36_479_194),
    ],
)
def test_networks_have_their_size_without_heads(network, arguments, shape, classes, parameters):
    with torch.device("meta"):
        blocks = make_blocks(network, shape, 0.0, 0.0, **arguments)
        assert count(LocalNetwork(blocks, shape, classes)) == parameters


@pytest.mark.parametrize(("network", "parameters"), [("VGG8B", 18_490_192), ("VGG11B", 23_862_382)])
def test_networks_have_their_size_with_heads_and_an_output_layer_of_ten_thousand(network, parameters):
    with torch.device("meta"):
        blocks = make_blocks(network, (3, 32, 32), 0.0, 0.0)
        built = LocalNetwork(blocks, (3, 32, 32), 10, lambda shape: LocalHead(shape, 10, "predsim", max_dim=2048))
    assert count(built) == parameters
    assert count(built.output) == 10_250


VGG8B_32 = [(128, 32), (256, 32), (256, 16), (512, 16), (512, 8), (512, 4)]
VGG8B_28 = [(128, 28), (256, 28), (256, 14), (512, 14), (512, 7), (512, 3)]


@pytest.mark.parametrize(
    ("maps", "max_dim", "kernels", "paddings"),
    [
        (VGG8B_32, 2048, [(8, 8), (16, 8), (8, 4), (8, 8), (4, 4), (2, 2)], [(0, 0)] * 6),
        (VGG8B_32, 4096, [(8, 4), (8, 8), (4, 4), (8, 4), (4, 2), (2, 1)], [(0, 0)] * 6),
        (
            VGG8B_28, 1024, [(16, 8), (16, 16), (8, 8), (16, 8), (8, 4), (4, 2)],
            [(8, 4), (8, 8), (4, 4), (8, 4), (4, 2), (2, 1)],
        ),
        (
            [(2 * channels, side) for channels, side in VGG8B_28], 4096,
            [(8, 8), (16, 8), (8, 4), (8, 8), (4, 4), (2, 2)], [(4, 4), (8, 4), (4, 2), (4, 4), (2, 2), (1, 1)],
        ),
    ],
)  # fmt: skip
def test_maps_are_pooled_as_the_paper_pools_them(maps, max_dim, kernels, paddings):
    found = [average_pooling((channels, side, side), max_dim) for channels, side in maps]
    assert found == list(zip(kernels, paddings, strict=True))
    for channels, side in maps:
        pooled = pooling((channels, side, side), max_dim)(torch.zeros(1, channels, side, side))
        assert pooled.numel() == max_dim


def test_larger_images_begin_with_a_stride_and_pool_to_what_fits():
    with torch.device("meta"):
        shapes, features = output_shapes(make_blocks("VGG8B", (3, 96, 96), 0.0, 0.0), (3, 96, 96))
    assert [shape[1] for shape in shapes[:-1]] == [48, 48, 24, 24, 12, 6]
    assert features == 1024
    sizes = [LocalHead(shape, 10, "pred", max_dim=2048).prediction.linear.in_features for shape in shapes[:-1]]
    assert sizes == [1152, 1536, 1536, 2048, 2048, 2048]


def test_pooling_counts_its_padding_and_gives_up_when_the_channels_alone_are_too_many():
    pooled = pooling((1, 3, 3), 4)(torch.ones(1, 1, 3, 3))
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[0.25, 0.5], [0.5, 1.0]]))
    assert average_pooling((50, 6, 6), 40)[0] == (8, 8)
    assert isinstance(pooling((4, 6, 6), 144), nn.Identity)
    for height in range(1, 40):
        for width in (1, 5, 32):
            for max_dim in (1, 7, 40, 300):
                module = pooling((3, height, width), max_dim)
                assert module(torch.zeros(1, 3, height, width)).numel() <= max(max_dim, 3)


@pytest.mark.parametrize(
    ("network", "arguments", "blocks"),
    [("ResNet18", {"width": 4}, 17), ("ResNet34", {"width": 2}, 33), ("WideResNet", {"depth": 10, "width": 1}, 7)],
)
@pytest.mark.parametrize("loss", ["predsim", "predsim-bpf"])
def test_residual_networks_learn_in_every_convolution_and_shortcut(network, arguments, blocks, loss):
    module = LocalErrorSignals(3, (1, 8, 8), network, arguments, loss, max_dim=16)
    assert len(module.network.blocks) == blocks
    before = {name: value.clone() for name, value in module.named_parameters()}
    fit(module, batches(2))
    unchanged = [name for name, value in module.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []


def test_heads_take_no_part_in_the_features_of_a_residual_network():
    x = torch.rand(3, 1, 8, 8)
    for network in (("ResNet18", {"width": 4}), ("WideResNet", {"depth": 10, "width": 1})):
        local = LocalErrorSignals(3, (1, 8, 8), *network, loss="pred").eval()
        plain = LocalErrorSignals(3, (1, 8, 8), *network, training="global").eval()
        plain.load_state_dict(
            {key: value for key, value in local.state_dict().items() if "heads" not in key}, strict=True
        )
        assert torch.equal(local.features(x), plain.features(x))


def test_resnet18_computes_what_torchvisions_computes():
    torch.manual_seed(0)
    reference = build_network("ResNet18", (3, 12, 12), 7).eval()
    module = LocalErrorSignals(7, (3, 12, 12), "ResNet18", training="global").eval()
    for value in reference.state_dict().values():
        if value.dim() == 1:
            value.uniform_(0.5, 1.5)  # statistics of batch normalisation that would show a mistake
    ours, theirs = module.network.state_dict(), reference.state_dict()
    for value, given in zip(ours.values(), theirs.values(), strict=True):
        value.copy_(given)
    x = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(module(x), reference(x))


def test_dropout_drops_whole_channels_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(200, 50, 3, 3)
    dropped = ChannelDropout(0.25)(x)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert torch.equal(dropped.amax((2, 3)), dropped.amin((2, 3)))
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert ChannelDropout(0.25).eval()(x) is x


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
