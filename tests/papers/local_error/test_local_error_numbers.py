"""Local losses on any features and targets: against numpy in float64, or refused, or NaN where squares overflow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from loss_inputs import check, dtypes, exact, numbers, one_line, seeds, size, tensors
from torch import Tensor, nn
from torch.nn import functional

from zoo.local_error.deviation import ChannelDeviation
from zoo.local_error.feedback import FeedbackLinear
from zoo.local_error.heads import average_pooling, pooling
from zoo.local_error.loss import (
    EPSILON,
    backprop_free_prediction_loss,
    compared_by_deviation,
    feature_rows,
    local_loss,
    similarity_matching_loss,
    similarity_matrix,
)
from zoo.local_error.recompute import AveragePooling


def draw_features(data: st.DataObject, limit: float, maps: bool | None = None) -> Tensor:
    maps = data.draw(st.booleans()) if maps is None else maps
    sides = st.integers(1, 4)
    further = (data.draw(st.integers(1, 6)), data.draw(sides), data.draw(sides)) if maps else (data.draw(sides) + 1,)
    return data.draw(tensors((data.draw(st.integers(0, 5)), *further), numbers(limit), data.draw(dtypes)))


def naive_rows(x: Tensor) -> np.ndarray:
    values = exact(x)
    if x.dim() == 4 and x.shape[1] > 3 and x.shape[2] > 1:
        return values.std((2, 3), ddof=1)
    return values.reshape(len(values), math.prod(values.shape[1:]))


def naive_similarity(rows: np.ndarray, eps: float) -> tuple[np.ndarray, float]:
    """Correlations, and how many units in the last place the centring costs them; assumes no doubtful row."""
    centred = rows - rows.mean(1, keepdims=True)
    norms = np.sqrt(np.square(centred).sum(1, keepdims=True))
    constant = norms <= math.sqrt(rows.shape[1]) * abs(rows).max(1, keepdims=True, initial=0) * 8 * eps
    sizes = abs(rows).max(1, keepdims=True, initial=0)
    ratio = np.divide(math.sqrt(rows.shape[1]) * sizes, norms, out=np.zeros_like(norms), where=~constant)
    exactly = norms == 0
    assume(bool((exactly | (ratio.clip(0, 1 / eps) < 0.01 / eps) & ~constant).all()))
    units = np.where(constant, 0, centred / np.sqrt(np.square(norms) + EPSILON**2))
    return units @ units.T, float(ratio.max(initial=1.0))


# ---------------------------------------------------------------- features and their similarity


@given(st.data())
def test_rows_are_the_features_or_the_deviations_of_their_channels(data):
    x = draw_features(data, 1e4)
    check(feature_rows(x), naive_rows(x), x.dtype, size(x))
    assert compared_by_deviation(x) == (x.dim() == 4 and x.shape[1] > 3 and x.shape[2] > 1)


@given(st.data())
def test_similarities_are_correlations_between_minus_one_and_one(data):
    x = draw_features(data, 1e4, maps=False)
    eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    expected, cost = naive_similarity(naive_rows(x), eps)
    found = similarity_matrix(x)
    check(found, expected, x.dtype, cost)
    assert (found.abs() <= 1).all()
    torch.testing.assert_close(found, found.T, rtol=0, atol=4 * eps)
    order = torch.tensor(data.draw(st.permutations(range(len(x)))), dtype=torch.int64)
    torch.testing.assert_close(similarity_matrix(x[order]), found[order][:, order], rtol=0, atol=64 * eps * cost)


@given(st.data())
def test_matching_is_the_mean_of_squared_differences_for_features_of_any_kind(data):
    x = draw_features(data, 100, maps=data.draw(st.booleans()))
    eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(x), max_size=len(x))), dtype=torch.int64)
    targets = functional.one_hot(labels, 3)
    rows = naive_rows(x)
    # Deviations are rounded already: what is left of a row of nearly equal ones may be that rounding.
    assume(x.dim() == 2 or not len(x) or (rows.std(1) > 1e-3 * (1 + abs(exact(x)).max())).all())
    (found, cost), (wanted, _) = naive_similarity(rows, eps), naive_similarity(targets.double().numpy(), eps)
    expected = np.square(found - wanted).mean() if len(x) else math.nan
    loss = similarity_matching_loss(x, targets)
    check(loss, expected, x.dtype, cost * 100 if x.dim() == 4 else cost)
    assert loss.isnan() or 0 <= loss <= 4
    if len(x):
        same = (
            similarity_matching_loss(x, x.flatten(1)) if x.dim() == 2 else similarity_matching_loss(x, feature_rows(x))
        )
        assert same.item() == pytest.approx(0, abs=1e-9)


@given(st.data())
def test_each_gradient_of_matching_is_finite_and_that_of_a_constant_row_zero(data):
    x = draw_features(data, 1e4).clone()
    assume(len(x) > 1)
    x[0] = data.draw(st.sampled_from([0.0, 1.0, -1e4, 1e-20]))
    x.requires_grad_()
    similarity_matching_loss(x, torch.eye(len(x))).backward()
    assert x.grad is not None
    assert x.grad.dtype == x.dtype
    assert x.grad.isfinite().all()
    assert (x.grad[0] == 0).all()


@given(st.data(), st.integers(0, 3))
def test_a_row_whose_squares_overflow_is_nan_and_not_called_constant(data, row):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    x[row] *= data.draw(st.sampled_from([1e20, 1e30, math.inf, math.nan]))
    found = similarity_matrix(x)
    touched = (torch.arange(4) == row)[:, None] | (torch.arange(4) == row)
    assert torch.equal(found.isnan(), touched)
    assert similarity_matrix(x.double()[[row] * 2]).isfinite().all() or not x[row].isfinite().all()


@pytest.mark.parametrize(
    ("features", "targets"), [((4, 3), (1, 3)), ((1, 3), (4, 3)), ((4, 3), (5, 3)), ((4,), (4, 3)), ((4, 3), (4,))]
)
def test_samples_without_a_target_are_refused_and_not_broadcast(features, targets):
    with pytest.raises(ValueError, match=r"expected one row \(n, k\) for each sample") as caught:
        similarity_matching_loss(torch.rand(features), torch.rand(targets))
    assert one_line(caught.value)


# ---------------------------------------------------------------- deviations


@given(st.data())
def test_deviations_and_their_gradients_are_those_of_float64_also_of_constant_channels(data):
    shape = tuple(data.draw(st.integers(0 if place == 0 else 1, 9 if place == 0 else 3)) for place in range(4))
    assume(shape[2] * shape[3] > 1)
    x = data.draw(tensors(shape, numbers(100), data.draw(dtypes)))
    if data.draw(st.booleans()) and x.numel():
        x = x.clone()
        x[0, 0] = 3.0
    values, x = exact(x), x.requires_grad_()
    found = ChannelDeviation.apply(x)
    check(found, values.std((2, 3), ddof=1), x.dtype, size(x))
    incoming = torch.ones_like(found)
    (gradient,) = torch.autograd.grad(found, x, incoming)
    centred = values - values.mean((2, 3), keepdims=True)
    deviation = values.std((2, 3), ddof=1, keepdims=True)
    flat = np.broadcast_to(deviation < 1e-3 * size(x), values.shape)
    expected = np.divide(centred, deviation * (shape[2] * shape[3] - 1), out=np.zeros_like(values), where=~flat)
    off = 1e-2 if x.dtype in (torch.float16, torch.bfloat16) else 1e-3 if x.dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(exact(gradient)[~flat], expected[~flat], rtol=0, atol=off)
    assert gradient.isfinite().all()
    constant = (values == values[:, :, :1, :1]).all((2, 3)) if x.numel() else np.zeros(shape[:2], bool)
    assert (exact(found)[constant] <= 1e-5 * size(x)).all()


# ---------------------------------------------------------------- prediction without backpropagation


@given(st.data())
def test_the_loss_of_bits_is_that_of_float64_and_feedback_carries_its_gradient(data):
    dtype, batch = data.draw(dtypes), data.draw(st.integers(0, 4))
    width, bits = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    features = data.draw(tensors((batch, width), numbers(100), dtype)).requires_grad_()
    weight, feedback = (data.draw(tensors((bits, width), numbers(10), dtype)) for _ in range(2))
    bias, codes = data.draw(tensors((bits,), numbers(10), dtype)), data.draw(tensors((batch, bits), numbers(1), dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=data.draw(st.booleans())):
        loss = backprop_free_prediction_loss(features, weight, bias, feedback, codes)
    logits = exact(features) @ exact(weight).T + exact(bias)
    targets = exact(codes) > 0
    expected = (np.logaddexp(0, logits) - targets * logits).mean() if batch else math.nan
    check(loss, expected, dtype, 1 + abs(logits).max(initial=0) + 1e4 * 1)
    if batch:
        (gradient,) = torch.autograd.grad(loss, features)
        assert gradient.dtype == dtype
        probabilities = 1 / (1 + np.exp(-logits.clip(-700, 700)))
        wanted = (probabilities - targets) @ exact(feedback) / targets.size
        off = 1e-2 if dtype != torch.float64 else 1e-9
        np.testing.assert_allclose(exact(gradient), wanted, rtol=off, atol=off)


@pytest.mark.parametrize("name", ["features", "weight", "bias", "feedback", "codes"])
def test_matrices_that_do_not_fit_are_refused_and_not_broadcast(name):
    shapes = {"features": (3, 4), "weight": (2, 4), "bias": (2,), "feedback": (2, 4), "codes": (3, 2)}
    wrong = shapes | {name: (1, *shapes[name][1:])}
    with pytest.raises(ValueError, match="expected") as caught:
        backprop_free_prediction_loss(*(torch.zeros(shape) for shape in wrong.values()))
    assert one_line(caught.value)


@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_with_its_own_weight_as_feedback_it_is_a_linear_layer(seed, batch, width, bits):
    draw = torch.Generator().manual_seed(seed)
    inputs = [
        torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((batch, width), (bits, width), (bits,))
    ]
    features, weight, bias = (part.requires_grad_() for part in inputs)
    found = FeedbackLinear.apply(features, weight, bias, weight.detach())
    expected = functional.linear(features, weight, bias)
    torch.testing.assert_close(found, expected)
    incoming = torch.randn(found.shape, generator=draw, dtype=torch.float64)
    gradients = [torch.autograd.grad(out, [features, weight, bias], incoming) for out in (found, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


# ---------------------------------------------------------------- mixing, pooling


@given(st.floats(0, 1e6), st.floats(0, 4), st.floats())
def test_beta_mixes_or_is_refused(prediction, similarity, beta):
    parts = torch.tensor(prediction, dtype=torch.float64), torch.tensor(similarity, dtype=torch.float64)
    if not 0 <= beta <= 1:
        with pytest.raises(ValueError, match=r"beta is .*; expected a share in \[0, 1\]"):
            local_loss(*parts, beta)
        return
    found = local_loss(*parts, beta).item()
    assert min(prediction, similarity) * (1 - 1e-9) <= found <= max(prediction, similarity) * (1 + 1e-9)


@given(st.integers(1, 600), st.integers(1, 40), st.integers(1, 40), st.integers(1, 5000))
def test_pooled_maps_are_as_small_as_asked_for_or_one_pixel(channels, height, width, largest):
    kernel, padding = average_pooling((channels, height, width), largest)
    x = torch.ones(1, channels, height, width, device="meta")
    pooled = nn.AvgPool2d(kernel, padding=padding)(x)  # torch refuses a padding of more than half the kernel
    assert pooled.shape[2:] == (math.ceil(height / kernel[0]), math.ceil(width / kernel[1]))
    assert pooled.numel() <= largest or pooled.shape[2:] == (1, 1)
    halves = [(kernel[0] // 2, kernel[1]), (kernel[0], kernel[1] // 2)]
    smaller = [channels * math.ceil(height / max(a, 1)) * math.ceil(width / max(b, 1)) for a, b in halves]
    assert kernel == (1, 1) or max(smaller) > largest, "no larger than needed"


@given(st.data())
def test_pooling_that_holds_nothing_is_average_pooling_with_its_gradient(data):
    x = data.draw(tensors((2, *(data.draw(st.integers(1, 6)) for _ in range(3))), numbers(100), torch.float64))
    mine = pooling(tuple(x.shape[1:]), data.draw(st.integers(1, 60)))
    assume(isinstance(mine, AveragePooling))
    theirs = nn.AvgPool2d(mine.kernel_size, padding=mine.padding)
    x = x.clone().requires_grad_()
    found, expected = mine(x), theirs(x)
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients)
