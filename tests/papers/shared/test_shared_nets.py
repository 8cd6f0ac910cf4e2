"""The memory format of networks: the fast one, unless torch would corrupt memory with it."""

from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import nn

from zoo import LocalErrorSignals
from zoo.shared.nets import channels_last


def train_the_narrowest() -> None:
    torch.set_num_threads(1)
    args = {"network": "ResNet", "network_args": {"width": 2, "depths": [1, 1, 1]}, "image_shape": (3, 16, 16)}
    module: Any = LocalErrorSignals(**args)
    for _ in range(30):
        x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
        for block, head in zip(module.network.blocks, module.network.heads, strict=True):
            hidden = block(x)
            x = block.hand_on(hidden, x)
            head(hidden, y).backward(retain_graph=True)
        module.network.classify(x).sum().backward()


def is_channels_last(network: nn.Module) -> bool:
    return all(p.is_contiguous(memory_format=torch.channels_last) for p in network.parameters() if p.dim() == 4)


@pytest.mark.parametrize(
    ("shortcut", "expected"),
    [
        ({"in_channels": 4, "stride": 2}, False),  # what corrupts memory
        ({"in_channels": 8, "stride": 2}, True),
        ({"in_channels": 4, "stride": 1}, True),
        ({"in_channels": 4, "stride": 2, "kernel_size": 3}, True),
    ],
)
def test_a_network_is_channels_last_unless_a_narrow_convolution_skips_pixels(shortcut, expected):
    layer = nn.Conv2d(**{"out_channels": 8, "kernel_size": 1} | shortcut)
    network = nn.Sequential(nn.Conv2d(3, layer.in_channels, 3), nn.Sequential(layer))
    assert channels_last(network) is network
    assert is_channels_last(network) == expected


def test_local_errors_are_channels_last_but_for_the_narrowest_residual_networks():
    def network(width: int) -> Any:
        return LocalErrorSignals(network="ResNet", network_args={"width": width, "depths": [1, 1]}).network

    assert is_channels_last(network(8))
    assert not is_channels_last(network(4))


def test_the_backward_passes_of_the_narrowest_residual_network_leave_memory_alone():
    child = get_context("fork").Process(target=train_the_narrowest)  # what is corrupt would end the tests, too
    child.start()
    child.join()
    assert child.exitcode == 0
