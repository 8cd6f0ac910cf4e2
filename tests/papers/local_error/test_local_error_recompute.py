"""Local error signals: what the backward pass computes again gives the gradients of what is held."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import LocalErrorSignals
from zoo.local_error.blocks import convolution, residual
from zoo.local_error.heads import LocalHead, pooling
from zoo.local_error.recompute import AveragePooling, ConvolutionBody

SIZES = (1, 2, 4, 5, 11)


def learn(frugal: bool, size: int, slope: float, loss: Any, dtype: torch.dtype, autocast: bool = False) -> list[Tensor]:
    """Features, loss, running statistics and all gradients, the images' included."""
    torch.manual_seed(0)
    block = convolution(3, 6, slope).to(dtype, memory_format=torch.channels_last)
    block.body.frugal = frugal
    head = LocalHead((6, 7, 5), 4, loss, beta=0.5, max_dim=24).to(dtype, memory_format=torch.channels_last)
    for parameter in [*block.body[1].parameters(), *head.prediction.linear.parameters()]:
        nn.init.normal_(parameter)
    x = torch.randn(size, 3, 7, 5, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = block(x)
        found = head(hidden, torch.arange(size) % 4)
    assert hasattr(hidden, "made_from") is frugal
    found.backward()
    learnt = [value for part in (block, head) for value in part.parameters()]
    return [hidden.detach(), found.detach(), *block.buffers(), x.grad, *(value.grad for value in learnt)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("slope", [0.0, 0.01])
@pytest.mark.parametrize("loss", ["pred", "predsim", "predsim-bpf"])
def test_a_frugal_block_learns_what_another_learns(size, slope, loss):
    frugal, plain = (learn(frugal, size, slope, loss, torch.float64) for frugal in (True, False))
    assert all(torch.equal(*pair) for pair in zip(frugal[:5], plain[:5], strict=True)), "forward, to the last bit"
    for found, expected in zip(frugal, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_in_half_precision_too_within_its_rounding(dtype, autocast):
    frugal, plain = (learn(frugal, 11, 0.01, "predsim", dtype, autocast) for frugal in (True, False))
    tolerance = 1e-5 if dtype == torch.float32 and not autocast else 3e-2
    for found, expected in zip(frugal, plain, strict=True):
        assert found.dtype == expected.dtype
        assert (found - expected).float().norm() <= tolerance * expected.float().norm() + 1e-6


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    block, head = convolution(2, 4, 0.01).double(), LocalHead((4, 3, 3), 3, "predsim", 0.5, 8).double()
    block.body.frugal = True
    nn.init.normal_(head.prediction.linear.weight)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    x = torch.randn(6, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: head(block(x), labels), x)


def most_held(frugal: bool) -> float:
    """In maps of the block's output."""
    block, head = convolution(4, 8, 0.01), LocalHead((8, 16, 16), 4, "predsim", max_dim=32)
    block.body.frugal = frugal
    x = torch.randn(20, 4, 16, 16)
    held: dict[int, int] = {}

    def hold(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        head(block(x), torch.arange(20) % 4)
    return sum(held.values()) / (20 * 8 * 16 * 16 * 4)


def test_a_frugal_block_holds_its_features_no_more_and_the_similaritys_convolution_in_part():
    assert most_held(frugal=False) == pytest.approx(0.5 + 1 + 1 + 1, abs=0.1)
    assert most_held(frugal=True) == pytest.approx(0.5 + 1 + 0.8, abs=0.1)


def test_it_makes_the_features_again_with_the_same_bits():
    block = residual(4, 6, 2, 0.01, 0.0)[0]
    block.body.frugal = True
    hidden = block(torch.randn(5, 4, 8, 8))
    parts, make = hidden.made_from
    assert torch.equal(make(*parts), hidden)
    assert make(*parts).data_ptr() != hidden.data_ptr()


class Other(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize("case", ["evaluation", "no gradient", "another normalisation", "another activation"])
def test_the_layers_are_called_one_by_one_where_nothing_is_to_be_saved_or_they_are_others(case):
    body = convolution(2, 4, 0.01).body
    assert isinstance(body, ConvolutionBody)
    body.frugal = True
    if case == "another normalisation":
        body[1] = Other(4)
    if case == "another activation":
        body[2] = nn.Tanh()
    body.train(case != "evaluation")
    called = []
    for layer in body:
        layer.register_forward_hook(lambda layer, *_: called.append(layer))
    with torch.set_grad_enabled(case != "no gradient"):
        body(torch.randn(3, 2, 5, 5))
    assert called == list(body)


def frugal_blocks(network: str, shape: tuple[int, int, int], **arguments: Any) -> list[int]:
    module = LocalErrorSignals(10, shape, network, **arguments)
    return [number for number, block in enumerate(module.network.blocks) if getattr(block.body, "frugal", False)]


def test_of_a_network_only_the_blocks_with_the_largest_maps_are_frugal():
    with torch.device("meta"):
        assert frugal_blocks("VGG8B", (3, 32, 32)) == [1]
        assert frugal_blocks("VGG8B", (3, 32, 32), training="global") == []
        assert frugal_blocks("VGG", (3, 32, 32), network_args={"layers": [8, 8, "M", 16]}) == [0, 1]
        assert frugal_blocks("MLP", (1, 28, 28)) == []


@pytest.mark.parametrize(("shape", "max_dim"), [((4, 7, 5), 20), ((3, 8, 8), 12), ((2, 9, 3), 8)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_pooling_that_holds_nothing_has_the_gradient_of_torchs(shape, max_dim, layout):
    ours = pooling(shape, max_dim)
    assert isinstance(ours, AveragePooling)
    x = torch.randn(3, *shape, dtype=torch.float64).to(memory_format=layout)
    pairs = []
    for pool in (ours, lambda x: functional.avg_pool2d(x, ours.kernel_size, padding=ours.padding)):
        one = x.clone(memory_format=torch.preserve_format).requires_grad_()
        (pool(one) * torch.arange(ours(x).numel()).view_as(ours(x))).sum().backward()
        pairs.append((pool(one).detach(), one.grad))
    assert all(torch.equal(*pair) for pair in zip(*pairs, strict=True))
    assert pairs[0][1].stride() == x.stride(), "the layout goes on"
