"""The classifier: its loss and its schedule against naive forms, its networks, what it refuses."""

import math
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from zoo import Classifier
from zoo.classifier.loss import classification_loss
from zoo.shared.nets import build_network


@given(st.integers(1, 6), st.integers(2, 7), st.floats(0, 0.5), st.integers(0, 2**31))
def test_loss_is_the_naive_sum(batch, classes, smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * 5
    labels = torch.randint(classes, (batch,), generator=generator)
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_z = math.log(sum(math.exp(value) for value in row))
        for k, value in enumerate(row):
            target = (1 - smoothing) * (k == label) + smoothing / classes
            total -= target * (value - log_z)
    assert classification_loss(logits, labels, smoothing).item() == pytest.approx(total / batch, abs=1e-9)


def test_loss_ignores_a_shift_of_all_logits_and_half_precision_gives_float32():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(classification_loss(logits + 100, labels), classification_loss(logits, labels))
    half = classification_loss(logits.bfloat16(), labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, classification_loss(logits.bfloat16().float(), labels))


def test_the_gradient_is_softmax_minus_label():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0])
    (gradient,) = torch.autograd.grad(classification_loss(logits, labels), logits)
    expected = (logits.softmax(1) - torch.nn.functional.one_hot(labels, 4)) / 5
    torch.testing.assert_close(gradient, expected.detach())


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "parameters"),
    [
        ("SmallConvNet", (1, 8, 8), {}, 134_730),
        ("LeNet", (1, 28, 28), {}, 258_314),
        ("MLP", (1, 28, 28), {"hidden": [800, 800]}, 1_276_810),
        ("ResNet18", (3, 32, 32), {}, 11_173_962),  # the usual count of ResNet-18 with a 3x3 stem
        ("WideResNet", (3, 32, 32), {"depth": 16, "width": 4, "norm": "batch"}, 2_751_146),
    ],
)
def test_networks_have_their_size_and_a_head_on_their_features(name, shape, arguments, parameters):
    network = build_network(name, shape, 10, **arguments).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    x = torch.rand(3, *shape) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(network(x), network.head(network.features(x)))


@pytest.mark.parametrize("norm", ["none", "batch", "instance", "layer"])
def test_wide_resnet_takes_every_normalisation_and_a_stride_on_the_second_convolution(norm):
    network = build_network("WideResNet", (3, 16, 16), 5, depth=10, width=1, norm=norm)
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    strides = [module.stride for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert strides.count((2, 2)) == 4  # second convolution and shortcut of two stages
    assert network.body[2].residual[2].stride == (1, 1)
    assert network.body[2].residual[6].stride == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"network": "Nothing"},
            "network is 'Nothing'; expected one of LeNet, MLP, ResNet18, SmallConvNet, WideResNet",
        ),
        ({"network_args": {"wdth": 3}}, r"\['wdth'\], which SmallConvNet does not take; it takes \['width'\]"),
        ({"num_classes": 1}, "num_classes is 1"),
        ({"image_shape": (1, 8)}, r"image_shape is \(1, 8\)"),
        ({"network": "LeNet"}, "at least 12x12, got 8x8"),
        ({"network": "MLP", "network_args": {"hidden": []}}, r"hidden is \[\]; expected the widths"),
        ({"network": "MLP", "network_args": {"dropout": 1.0}}, r"dropout is 1.0; expected a probability in \[0, 1\)"),
        ({"network": "WideResNet", "network_args": {"depth": 27}}, "depth is 27"),
        ({"network": "WideResNet", "network_args": {"depth": 10, "norm": "bach"}}, "norm is 'bach'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Classifier(**arguments)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 10]), "labels from 0 to 10.*classes 0 to 9"),
        (torch.zeros(4, 1, 8, 8), torch.tensor([0, -1, 2, 1]), "labels from -1 to 2"),
        (torch.full((4, 1, 8, 8), math.nan), torch.tensor([0, 1, 2, 3]), "NaN or infinite pixels in 4 of 4"),
        (torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]), r"\(3, 8, 8\) arrived.*\(1, 8, 8\).*image_shape"),
    ],
)
def test_bad_batches_are_refused(x, y, message):
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(ValueError, match=message):
        trainer.fit(Classifier(), DataLoader(TensorDataset(x, y), batch_size=4))


def test_an_endless_run_is_refused_before_it_begins():
    data = DataLoader(TensorDataset(torch.zeros(4, 1, 8, 8), torch.arange(4)), batch_size=4)
    trainer = L.Trainer(max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="max_epochs is -1"):
        trainer.fit(Classifier(), data)


def test_the_wide_resnet_averages_its_whole_last_map_and_its_gradient_keeps_the_layout():
    network: Any = build_network("WideResNet", (3, 20, 28), 10, depth=10, width=1)
    x = torch.randn(2, 3, 20, 28).contiguous(memory_format=torch.channels_last)
    maps = network.body(x).detach().requires_grad_()
    network.body = torch.nn.Identity()
    torch.testing.assert_close(network.features(maps), maps.mean((2, 3)))
    (gradient,) = torch.autograd.grad(network(maps).sum(), maps)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_the_mlp_drops_pixels_to_black_and_units_in_training_only():
    network: Any = build_network("MLP", (1, 20, 20), 3, hidden=[500], dropout=0.4, input_dropout=0.2)
    x = torch.rand(4, 1, 20, 20) * 2 - 1
    with torch.no_grad():
        dropped = network.pixels(x + 1) - 1
        assert (dropped == -1).float().mean() == pytest.approx(0.2, abs=0.05)
        kept = dropped != -1
        torch.testing.assert_close(dropped[kept], (x[kept] + 1) / 0.8 - 1)
        hidden = torch.ones(50, 500)
        assert (network.body[3](hidden) == 0).float().mean() == pytest.approx(0.4, abs=0.02)
        assert network.body[3](hidden).mean() == pytest.approx(1, abs=0.05)
        expected = network.head((x.flatten(1) @ network.body[1].weight.T + network.body[1].bias).relu())
        torch.testing.assert_close(network.eval()(x), expected)


def test_two_processes_of_one_seed_drop_different_units(monkeypatch):
    network: Any = build_network("MLP", (1, 4, 4), 3, hidden=[100], dropout=0.5)
    masks = []
    for rank in (0, 1, 1):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        torch.manual_seed(0)
        masks.append(network.body[3](torch.ones(8, 100)))
    assert torch.equal(masks[1], masks[2])
    assert not torch.equal(masks[0], masks[1])
