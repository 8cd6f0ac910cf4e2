"""Local losses: the sheet's exact numbers, a naive form in float64, invariants, gradients, and half precision."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from zoo.local_error.deviation import ChannelDeviation
from zoo.local_error.heads import Classifier, LocalHead
from zoo.local_error.loss import (
    backprop_free_prediction_loss,
    feature_rows,
    local_loss,
    prediction_loss,
    similarity_matching_loss,
    similarity_matrix,
)

HIDDEN = torch.tensor([[1.0, 2, 3, 4], [2, 4, 6, 8], [4, 3, 2, 1], [1, 0, 0, 1]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 2])
ONE_HOT = functional.one_hot(LABELS, 3).double()
PROJECTION = torch.tensor(
    [[0.3, -0.1, 0.2], [-0.2, 0.1, 0.05], [0.1, 0.3, -0.3], [-0.05, -0.2, 0.1]], dtype=torch.float64
)
CODES = PROJECTION.t()[LABELS]


def naive_similarity(rows: list[list[float]]) -> list[list[float]]:
    """Pearson correlation with loops; a constant row correlates with nothing."""
    units = []
    for row in rows:
        mean = math.fsum(row) / len(row)
        centred = [value - mean for value in row]
        norm = math.sqrt(math.fsum(value * value for value in centred) + 1e-16)
        units.append([value / norm for value in centred])
    return [[math.fsum(a * b for a, b in zip(one, two, strict=True)) for two in units] for one in units]


def naive_matching(rows: list[list[float]], targets: list[list[float]]) -> float:
    found, wanted = naive_similarity(rows), naive_similarity(targets)
    pairs = [(a - b) ** 2 for one, two in zip(found, wanted, strict=True) for a, b in zip(one, two, strict=True)]
    return math.fsum(pairs) / len(pairs)


# ---------------------------------------------------------------- the sheet's numbers


def test_similarities_are_correlations_of_centred_rows():
    expected = [[1, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(similarity_matrix(HIDDEN), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("classes", "other"), [(2, -1.0), (3, -0.5), (10, -1 / 9), (100, -1 / 99)])
def test_labels_of_one_class_have_similarity_one_and_others_minus_one_over_the_other_classes(classes, other):
    matrix = similarity_matrix(functional.one_hot(torch.tensor([0, 0, 1]), classes).double())
    expected = torch.tensor([[1, 1, other], [1, 1, other], [other, other, 1]], dtype=torch.float64)
    torch.testing.assert_close(matrix, expected)


def test_similarity_matching_is_the_mean_over_all_pairs():
    assert similarity_matching_loss(HIDDEN, ONE_HOT).item() == pytest.approx(0.15625, abs=1e-12)


def test_prediction_is_softmax_cross_entropy():
    weight = torch.tensor([[0.1, 0, 0, 0.2], [0, 0.1, -0.1, 0], [0, 0, 0, 0.1]], dtype=torch.float64)
    assert prediction_loss(HIDDEN @ weight.t(), LABELS).item() == pytest.approx(0.880521, abs=1e-6)
    assert prediction_loss(HIDDEN @ weight.t() * 0, LABELS).item() == pytest.approx(math.log(3), abs=1e-12)


@pytest.mark.parametrize(("beta", "expected"), [(0.99, 0.163493), (0.01, 0.873278)])
def test_beta_weighs_the_similarity(beta, expected):
    loss = local_loss(torch.tensor(0.880521), torch.tensor(0.15625), beta)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_maps_are_reduced_to_the_deviation_of_each_channel():
    one = torch.zeros(4, 2, 2, dtype=torch.float64)
    one[0], one[1], one[2, 0, 1] = torch.tensor([[0.0, 2], [0, 2]]), 1.0, 4.0
    other = torch.zeros(4, 2, 2, dtype=torch.float64)
    other[2, 0, 1], other[3] = 1.0, torch.tensor([[0.0, 2], [0, 2]])
    maps = torch.stack([one, 3 * one + 5, other])
    deviation = 2 / math.sqrt(3)
    expected = [[deviation, 0, 2, 0], [3 * deviation, 0, 6, 0], [0, 0, 0.5, deviation]]
    torch.testing.assert_close(feature_rows(maps), torch.tensor(expected, dtype=torch.float64))
    matrix = similarity_matrix(maps)
    assert matrix[0, 1].item() == pytest.approx(1, abs=1e-9)
    assert matrix[0, 2].item() == pytest.approx(-0.190734, abs=1e-6)
    assert matrix[1, 2].item() == pytest.approx(-0.190734, abs=1e-6)
    assert similarity_matrix(maps.flatten(1))[0, 2].item() == pytest.approx(0.021031, abs=1e-6)


def test_maps_of_few_channels_or_of_one_pixel_of_height_are_flattened():
    assert feature_rows(torch.rand(2, 3, 5, 5)).shape == (2, 75)
    assert feature_rows(torch.rand(2, 4, 1, 5)).shape == (2, 20)
    assert feature_rows(torch.rand(2, 4, 2, 5)).shape == (2, 4)


def test_backprop_free_targets_are_random_codes_of_the_classes_and_their_signs():
    matrix = similarity_matrix(PROJECTION.t())
    assert matrix[0, 1].item() == pytest.approx(-0.096771, abs=1e-6)
    assert matrix[0, 2].item() == pytest.approx(0.094186, abs=1e-6)
    assert matrix[1, 2].item() == pytest.approx(-0.872735, abs=1e-6)
    similarity = similarity_matching_loss(HIDDEN, CODES)
    assert similarity.item() == pytest.approx(0.301382, abs=1e-6)
    weight = torch.diag(torch.tensor([0.1, 0.1, 0.1, -0.1], dtype=torch.float64))
    bias = torch.zeros(4, dtype=torch.float64)
    prediction = backprop_free_prediction_loss(HIDDEN, weight, bias, weight, CODES)
    assert prediction.item() == pytest.approx(0.644665, abs=1e-6)
    zero = backprop_free_prediction_loss(HIDDEN, weight * 0, bias, weight, CODES)
    assert zero.item() == pytest.approx(math.log(2), abs=1e-12)
    assert local_loss(prediction, similarity, 0.01).item() == pytest.approx(0.641232, abs=1e-6)


def test_feedback_replaces_the_weight_in_the_gradient_of_the_features_only():
    weight = torch.diag(torch.tensor([0.1, 0.1, 0.1, -0.1], dtype=torch.float64)).requires_grad_()
    feedback = torch.diag(torch.tensor([1.0, -1, 2, 0.5], dtype=torch.float64)).requires_grad_()
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    hidden = HIDDEN.clone().requires_grad_()
    backprop_free_prediction_loss(hidden, weight, bias, feedback, CODES).backward()
    expected = torch.tensor([-0.029689, -0.034365, -0.053195, 0.012541], dtype=torch.float64)
    torch.testing.assert_close(hidden.grad[0], expected, atol=1e-6, rtol=0)
    assert feedback.grad is None
    true = functional.binary_cross_entropy_with_logits(HIDDEN @ weight.t() + bias, (CODES > 0).double())
    for gradient, wanted in zip((weight.grad, bias.grad), torch.autograd.grad(true, (weight, bias)), strict=True):
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize(("classes", "apart", "collapsed"), [(10, 0.1102, 1.1024), (100, 0.0100, 1.0022)])
def test_similarity_matching_of_uncorrelated_and_of_collapsed_features(classes, apart, collapsed):
    eye = torch.eye(128, dtype=torch.float64)
    rows = torch.cat([eye, -eye], dim=1)  # orthogonal, each with mean 0
    torch.testing.assert_close(similarity_matrix(rows), eye)
    same = HIDDEN[:1].expand(128, -1)
    draws = torch.randint(classes, (100, 128), generator=torch.Generator().manual_seed(0))
    targets = [functional.one_hot(labels, classes) for labels in draws]
    found = [[similarity_matching_loss(features, one).item() for one in targets] for features in (rows, same)]
    assert sum(found[0]) / 100 == pytest.approx(apart, rel=0.02)
    assert sum(found[1]) / 100 == pytest.approx(collapsed, rel=0.002)


# ---------------------------------------------------------------- a naive form, invariants, gradients


@given(st.integers(1, 7), st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**31))
def test_similarity_matching_is_the_naive_sum(batch, width, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    targets = functional.one_hot(torch.randint(classes, (batch,), generator=generator), classes).double()
    expected = naive_matching(rows.tolist(), targets.tolist())
    assert similarity_matching_loss(rows, targets).item() == pytest.approx(expected, abs=1e-9)


@given(st.integers(2, 5), st.integers(2, 6), st.integers(0, 2**31))
def test_backprop_free_prediction_is_the_naive_sum(batch, width, seed):
    generator = torch.Generator().manual_seed(seed)
    features, weight, codes, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((batch, width), (4, width), (batch, 4), (4,))
    )
    total = 0.0
    for row, code in zip(features.tolist(), codes.tolist(), strict=True):
        for w, b, bit in zip(weight.tolist(), bias.tolist(), code, strict=True):
            logit = math.fsum(x * y for x, y in zip(row, w, strict=True)) + b
            total -= math.log(1 / (1 + math.exp(-logit if bit > 0 else logit)))
    loss = backprop_free_prediction_loss(features, weight, bias, weight, codes)
    assert loss.item() == pytest.approx(total / (4 * batch), abs=1e-9)


@given(st.integers(2, 6), st.booleans(), st.integers(0, 2**31))
def test_a_factor_and_a_shift_of_each_sample_change_nothing(batch, maps, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 5, 3, 3) if maps else (batch, 9)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    ones = [1] * (len(shape) - 1)
    factor = torch.rand(batch, *ones, generator=generator, dtype=torch.float64) * 10 + 0.1
    shift = torch.randn(batch, *ones, generator=generator, dtype=torch.float64) * 10
    targets = torch.randn(batch, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        similarity_matching_loss(factor * x + shift, targets), similarity_matching_loss(x, targets)
    )


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_the_order_of_the_samples_does_not_matter(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 5, 3, 3, generator=generator, dtype=torch.float64)
    targets = torch.randn(batch, 4, generator=generator, dtype=torch.float64)
    order = torch.randperm(batch, generator=generator)
    matrix = similarity_matrix(x)
    torch.testing.assert_close(similarity_matrix(x[order]), matrix[order][:, order])
    torch.testing.assert_close(similarity_matching_loss(x[order], targets[order]), similarity_matching_loss(x, targets))


@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 3, 2), (5, 4, 1, 2), (5, 2, 3, 3)])
def test_the_gradient_of_similarity_matching_is_that_of_finite_differences(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    targets = functional.one_hot(torch.arange(5) % 3, 3).double()
    assert torch.autograd.gradcheck(lambda x: similarity_matching_loss(x, targets), (x,))


def test_the_gradients_of_weight_and_bias_in_the_backprop_free_loss_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    weight, feedback = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    bias = torch.randn(4, generator=generator, dtype=torch.float64)

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return backprop_free_prediction_loss(HIDDEN, weight, bias, feedback, CODES)

    assert torch.autograd.gradcheck(loss, (weight.requires_grad_(), bias.requires_grad_()))


# ---------------------------------------------------------------- constant rows and half precision


@pytest.mark.parametrize("value", [0.0, 2.0, 0.1, -1e4, 1e-20])
@pytest.mark.parametrize("shape", [(257,), (5, 3, 3)])
def test_a_constant_row_has_no_similarity_and_no_gradient(value, shape):
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    x[1] = value
    x.requires_grad_()
    matrix = similarity_matrix(x)
    assert torch.equal(matrix[1], torch.zeros(4))
    similarity_matching_loss(x, functional.one_hot(torch.arange(4))).backward()
    assert x.grad.isfinite().all()
    assert torch.equal(x.grad[1], torch.zeros(shape))
    assert (x.grad[0] != 0).any()
    assert x.grad.abs().max() < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 40), (8, 6, 4, 4)])
def test_half_precision_inputs_are_computed_in_float32_also_under_autocast(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator) * 1e-3).to(dtype)  # their squares underflow in float16
    labels = torch.arange(8) % 3
    weight, feedback = (torch.randn(128, x[0].numel(), generator=generator) for _ in range(2))
    codes = torch.randn(8, 128, generator=generator)

    def losses(x: torch.Tensor) -> list[torch.Tensor]:
        return [
            similarity_matching_loss(x, functional.one_hot(labels)),
            prediction_loss(x.flatten(1), labels),
            backprop_free_prediction_loss(x.flatten(1), weight, weight[:, 0], feedback, codes),
        ]

    expected = losses(x.float())
    with torch.autocast("cpu", dtype=dtype):
        found = losses(x)
    for loss, wanted in zip(found, expected, strict=True):
        assert loss.dtype == torch.float32
        assert torch.equal(loss, wanted)


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("shape", [(24,), (6, 5, 5)])
def test_local_heads_give_the_losses_of_their_layers(shape):
    hidden = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7) % 3
    head = LocalHead(shape, 3, "predsim", 0.7, max_dim=30)
    torch.nn.init.normal_(head.prediction.linear.weight)
    logits, features = head.prediction(hidden), head.similarity(hidden)
    rows = features.flatten(2).std(2) if len(shape) == 3 else features
    expected = 0.3 * functional.cross_entropy(logits, labels).double() + 0.7 * naive_matching(
        rows.tolist(), functional.one_hot(labels).tolist()
    )
    assert head(hidden, labels).item() == pytest.approx(expected.item(), abs=1e-5)
    only = {name: LocalHead(shape, 3, name) for name in ("pred", "sim")}
    only["pred"].prediction, only["sim"].similarity = head.prediction, head.similarity
    parts = only["pred"](hidden, labels), only["sim"](hidden, labels)
    torch.testing.assert_close(head(hidden, labels), local_loss(*parts, 0.7))


@pytest.mark.parametrize("loss", ["pred-bpf", "sim-bpf", "predsim-bpf"])
def test_backprop_free_heads_keep_their_random_matrices_in_the_checkpoint_and_out_of_the_optimiser(loss):
    head = LocalHead((6, 5, 5), 3, loss, 0.01, max_dim=30)
    buffers = dict(head.named_buffers())
    assert set(buffers) == {"projection"} | ({"prediction.feedback"} if "pred" in loss else set())
    assert set(buffers) <= set(head.state_dict())
    assert buffers["projection"].shape == (128, 3)
    assert buffers["projection"].abs().max() <= 3**-0.5
    assert buffers["projection"].abs().max() > 0.9 * 3**-0.5
    other = LocalHead((6, 5, 5), 3, loss, 0.01, max_dim=30)
    assert not torch.equal(buffers["projection"], other.projection), "each block draws its own"
    assert {name for name, _ in head.named_parameters()} == (
        {"prediction.linear.weight", "prediction.linear.bias"} if "pred" in loss else set()
    )
    hidden = torch.randn(4, 6, 5, 5, requires_grad=True)
    head(hidden, torch.tensor([0, 1, 2, 0])).backward()
    assert (hidden.grad != 0).any(), "the encoder learns from the first step on"


def test_a_local_classifier_starts_at_zero_so_that_its_block_learns_nothing_from_it_in_the_first_step():
    head = LocalHead((6, 5, 5), 3, "pred")
    hidden = torch.randn(4, 6, 5, 5, requires_grad=True)
    loss = head(hidden, torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))
    assert (head.prediction.linear.weight.grad != 0).any()
    assert isinstance(head.prediction, Classifier)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 4), 3, "pred"), r"a block gives \(3, 4\) for each sample"),
        (((3,), 3, "cosine"), "loss is 'cosine'; expected one of pred, sim, predsim"),
    ],
)
def test_impossible_heads_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LocalHead(*arguments)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_channel_deviation_and_its_gradient_are_those_of_std(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    maps = (100 + torch.randn(20, 6, 7, 8)).to(dtype).to(memory_format=layout).requires_grad_()
    exact = maps.detach().double().requires_grad_()
    weights = torch.randn(20, 6)
    found, wanted = ChannelDeviation.apply(maps), exact.std(dim=(2, 3))
    found.backward(weights)
    wanted.backward(weights.double())
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=1e-5)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(maps.grad.double(), exact.grad, rtol=0, atol=tolerance)
    assert maps.grad.is_contiguous(memory_format=layout)
