"""The networks of local errors: sizes, poolings, residual networks with a head for each convolution."""

import pytest
import torch
from local_error_toys import batches, fit
from torch import nn

from zoo import LocalErrorSignals
from zoo.local_error.heads import LocalHead, average_pooling, pooling
from zoo.local_error.net import LocalNetwork, make_blocks, output_shapes
from zoo.shared.nets import build_network


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


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
