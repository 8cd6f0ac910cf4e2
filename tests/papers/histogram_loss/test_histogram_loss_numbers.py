"""Targets, losses and points of histograms on any numbers: against float64, or refused, or NaN where a label is."""

import math

import numpy as np
import pytest
import torch
from examples import examples
from hypothesis import assume, example, given
from hypothesis import strategies as st
from loss_inputs import check, dtypes, exact, numbers, one_line, seeds, size, tensors
from scipy.special import entr, log_softmax, logsumexp, ndtr, softmax
from scipy.stats import norm
from torch import Tensor

from zoo.histogram_loss.loss import (
    bin_centres,
    bin_edges,
    bin_index,
    dirac_target,
    gaussian_loss,
    histogram_loss,
    histogram_mean,
    histogram_median,
    histogram_mode,
    mixture_loss,
    projected_target,
    target_entropy,
    truncated_gaussian_target,
    uniform_mix_target,
)

widths = st.lists(st.sampled_from([1.0, 0.5, 3.0]) | st.floats(0.05, 10), min_size=2, max_size=9)
TARGETS = {
    "gaussian": lambda y, edges: truncated_gaussian_target(y, edges, 0.7),
    "dirac": dirac_target,
    "mix": lambda y, edges: uniform_mix_target(y, edges, 1e-2),
    "projected": projected_target,
}


def draw_edges(data: st.DataObject) -> Tensor:
    steps = torch.tensor([0.0, *data.draw(widths)], dtype=torch.float64)
    edges = (steps.cumsum(0) + data.draw(st.sampled_from([0.0, -7.0, 100.0]))).to(
        data.draw(st.sampled_from([torch.float32, torch.float64]))
    )
    assume(bool((edges.diff() > 0).all()))
    return edges


def draw_labels(data: st.DataObject, edges: Tensor, dtype: torch.dtype) -> Tensor:
    """Inside, on the edges, far outside, infinite or NaN; in any shape."""
    low, high = edges[0].item(), edges[-1].item()
    values = st.sampled_from([*edges.tolist(), -1e30, 1e30]) | st.floats(low, high)
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    y = data.draw(tensors(shape, values, dtype)).clone()
    strange = data.draw(tensors(shape, st.sampled_from([0.0] * 9 + [1.0, 2.0, 3.0]), torch.float32))
    for number, value in ((1, math.nan), (2, math.inf), (3, -math.inf)):
        y[strange == number] = value
    return y


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("name", TARGETS)
@given(st.data())
def test_targets_are_masses_that_sum_to_one_and_labels_beyond_the_ends_count_as_these(name, data):
    edges, dtype = draw_edges(data), data.draw(dtypes)
    y = draw_labels(data, edges, dtype)
    found = TARGETS[name](y, edges)
    wanted = torch.promote_types(torch.promote_types(dtype, edges.dtype), torch.float32)
    assert found.dtype == wanted
    assert found.shape == (*y.shape, len(edges) - 1)
    lost = y.isnan()
    assert torch.equal(found.isnan().any(-1), lost), "a label that is NaN has no target, and no other is NaN"
    known = found[~lost]
    assert (known >= 0).all()
    torch.testing.assert_close(known.sum(-1), torch.ones_like(known[..., 0]), rtol=0, atol=64 * torch.finfo(wanted).eps)
    ends = TARGETS[name](y.to(wanted).clamp(edges[0], edges[-1]), edges)
    torch.testing.assert_close(found, ends, rtol=0, atol=0, equal_nan=True)


@given(st.data(), st.sampled_from([1e-30, 1e30]) | st.floats(0.01, 1e4))
def test_the_gaussian_target_is_the_integral_for_any_sigma_and_precision(data, sigma):
    edges, dtype = draw_edges(data), data.draw(dtypes)
    y = draw_labels(data, edges, dtype)
    y = y[~y.isnan()]
    if sigma == 1e-30:  # a label on an edge is half in each bin; at sigma 0 it is in the upper one
        y = y[~torch.isin(y.double(), edges.double())]
    found = truncated_gaussian_target(y, edges, sigma)
    e = exact(edges)
    below = (e - exact(y).clip(e[0], e[-1])[..., None]) / sigma
    if sigma > 1e5:
        expected = np.broadcast_to(np.diff(e) / (e[-1] - e[0]), found.shape)  # where ndtr itself has no digits left
    else:
        expected = np.diff(ndtr(below)) / (ndtr(below[..., -1:]) - ndtr(below[..., :1]))
    wanted = torch.promote_types(dtype, edges.dtype)
    np.testing.assert_allclose(exact(found), expected, rtol=0, atol=1e-9 if wanted == torch.float64 else 1e-6)
    torch.testing.assert_close(truncated_gaussian_target(y, edges, torch.tensor(sigma, dtype=found.dtype)), found)


@given(st.data())
def test_the_label_is_in_its_bin_and_the_mean_of_the_projected_target_is_the_label(data):
    edges, dtype = draw_edges(data), data.draw(dtypes)
    y = draw_labels(data, edges, dtype)
    y = y[~y.isnan()]
    e = exact(edges)
    index = (np.searchsorted(e, exact(y), side="right") - 1).clip(0, len(e) - 2)
    assert bin_index(y, edges).tolist() == index.tolist()
    assert torch.equal(dirac_target(y, edges).argmax(-1), torch.as_tensor(index))
    centres = (e[1:] + e[:-1]) / 2
    expected = exact(y).clip(centres[0], centres[-1])
    off = 64 * torch.finfo(torch.promote_types(dtype, edges.dtype)).eps * size(edges)
    if dtype in (torch.float16, torch.bfloat16):
        off = 64 * torch.finfo(torch.float32).eps * size(edges)
    np.testing.assert_allclose(exact(projected_target(y, edges)) @ centres, expected, rtol=0, atol=off)


@given(st.data())
def test_the_entropy_is_that_of_float64_and_largest_for_equal_masses(data):
    masses = data.draw(tensors((3, 5), numbers(1e4), torch.float64)).softmax(-1).to(data.draw(dtypes))
    found = target_entropy(masses)
    check(found, entr(exact(masses)).sum(-1), masses.dtype)
    slack = 1e-6 + 5 * torch.finfo(masses.dtype).eps
    assert (found >= 0).all()
    assert (found <= math.log(5) + slack).all()


ends = st.sampled_from([0.0, 1.0, -1.7e308, 1.7e308, math.nan, math.inf, 5e-324]) | st.floats()
shares = st.just(0.0) | st.floats(-1, 40) | st.sampled_from([math.nan, math.inf, 1e308])


@example(1.0, 1.0 + 2**-52, 10, 0.0, 0.0, 0.0)
@example(-1.7e308, 1.7e308, 10, 0.0, 0.0, 0.0)
@example(0.0, 1.0, 10, 0.0, 0.0, 1.7e308)
@given(ends, ends, st.integers(-1, 40), shares, shares, shares)
def test_a_support_rises_in_finite_steps_or_is_refused_in_one_line(low, high, bins, sigmas, ratio, share):
    try:
        edges = bin_edges(low, high, bins, sigmas, ratio, share)
    except ValueError as error:
        assert one_line(error)  # noqa: PT017  most numbers are none, some are: both are right
        return
    assert edges.shape == (bins + 1,)
    assert edges.isfinite().all()
    assert (edges.diff() > 0).all()
    slack = 1e-15 * max(abs(low), abs(high))
    assert edges[0] <= low + slack
    assert edges[-1] >= high - slack


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2,), (3, 3)])
def test_what_is_no_support_is_refused(make, shape):
    with pytest.raises(ValueError, match=r"expected \(k \+ 1,\) with 2 bins at least") as caught:
        TARGETS[make](torch.zeros(2), torch.zeros(shape))
    assert one_line(caught.value)


@pytest.mark.parametrize("sigma", [1e39, 1e300])
def test_a_sigma_that_float32_does_not_know_is_refused_instead_of_nan(sigma):
    with pytest.raises(ValueError, match=r"sigma is .*; expected a number in \[0, 1e30\]"):
        truncated_gaussian_target(torch.zeros(1), torch.arange(4.0), sigma)


# ---------------------------------------------------------------- losses


@given(st.data())
def test_the_loss_is_that_of_float64_and_its_gradient_bounded(data):
    dtype, batch, bins = data.draw(dtypes), data.draw(st.integers(0, 5)), data.draw(st.integers(1, 6))
    logits = data.draw(tensors((batch, bins), numbers(1e4), dtype)).requires_grad_()
    target = data.draw(tensors((batch, bins), numbers(1e3), torch.float32)).softmax(-1)
    expected = -(exact(target) * log_softmax(exact(logits), axis=1)).sum(1).mean() if batch else math.nan
    found = histogram_loss(logits, target)
    check(found, expected, dtype, size(logits))
    if batch:
        (gradient,) = torch.autograd.grad(found, logits)
        off = 1e-6 + torch.finfo(dtype).eps
        wanted = (softmax(exact(logits), axis=1) - exact(target)) / batch
        np.testing.assert_allclose(exact(gradient), wanted, rtol=0, atol=off)


@given(st.data())
def test_the_baselines_are_log_densities_in_every_precision(data):
    dtype, batch, parts = data.draw(dtypes), data.draw(st.integers(0, 5)), data.draw(st.integers(1, 4))
    y, mean = (data.draw(tensors((batch,), numbers(100), dtype)) for _ in range(2))
    scale = data.draw(tensors((batch,), st.floats(0.05, 50), dtype))
    densities = norm.logpdf(exact(y), exact(mean), exact(scale))
    check(
        gaussian_loss(y, mean, scale),
        -densities.mean() if batch else math.nan,
        dtype,
        1 + abs(densities).max(initial=0),
    )
    logits, means = (data.draw(tensors((batch, parts), numbers(100), dtype)) for _ in range(2))
    scales = data.draw(tensors((batch, parts), st.floats(0.05, 50), dtype))
    each = log_softmax(exact(logits), axis=1) + norm.logpdf(exact(y)[:, None], exact(means), exact(scales))
    expected = -logsumexp(each, axis=1).mean() if batch else math.nan
    check(mixture_loss(y, logits, means, scales), expected, dtype, 1 + abs(each).max(initial=0))


@examples(10)
@given(seeds)
def test_the_gradients_of_the_losses_are_those_of_finite_differences(seed):
    draw = torch.Generator().manual_seed(seed)
    y, mean, raw = (part.requires_grad_() for part in torch.randn(3, 4, generator=draw, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda m, s: gaussian_loss(y, m, s.exp()), (mean, raw))
    a, b, c = (part.requires_grad_() for part in torch.randn(3, 4, 3, generator=draw, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda *parts: mixture_loss(y, *parts[:2], parts[2].exp()), (a, b, c))
    assert torch.autograd.gradcheck(lambda z: histogram_loss(z, b.detach().softmax(-1)), (a,))


@given(st.data())
def test_losses_refuse_shapes_that_would_be_broadcast(data):
    batch = data.draw(st.integers(1, 4))
    y, column, longer = torch.ones(batch), torch.ones(batch, 1), torch.ones(batch + 1)
    rows, short = torch.ones(batch, 3), torch.ones(1 if batch > 1 else 2, 3)
    wrong = [
        lambda: gaussian_loss(y, column, column), lambda: gaussian_loss(y, y, longer),
        lambda: gaussian_loss(y, y, torch.tensor(1.0)), lambda: mixture_loss(column, rows, rows, rows),
        lambda: mixture_loss(y, rows, rows, column), lambda: mixture_loss(longer, rows, rows, rows),
        lambda: histogram_loss(rows, short), lambda: histogram_loss(rows[0], rows[0]), lambda: histogram_loss(rows, y),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="expected") as caught:
        data.draw(st.sampled_from(wrong))()
    assert one_line(caught.value)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_scale_that_is_none_never_gives_a_finite_loss(scale):
    y, scales = torch.tensor([1.0, 2.0]), torch.tensor([1.0, scale])
    assert not gaussian_loss(y, torch.zeros(2), scales).isfinite()
    assert not mixture_loss(y, torch.zeros(2, 1), torch.zeros(2, 1), scales[:, None]).isfinite()


# ---------------------------------------------------------------- points


@given(st.data(), st.booleans())
def test_mean_median_and_mode_are_those_of_float64_in_every_precision_and_under_autocast(data, autocast):
    edges, dtype = draw_edges(data), data.draw(dtypes)
    bins = len(edges) - 1
    shape = (*data.draw(st.lists(st.integers(0, 3), max_size=2)), bins)
    masses = data.draw(tensors(shape, numbers(1e3), torch.float64)).softmax(-1).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mean, median, mode = (find(masses, edges) for find in (histogram_mean, histogram_median, histogram_mode))
    e, h = exact(edges), exact(masses)
    centres, steps = exact(bin_centres(edges)), np.diff(e)
    np.testing.assert_allclose(centres, (e[1:] + e[:-1]) / 2, rtol=1e-6)
    check(mean, h @ centres, dtype, size(edges))
    check(mode, centres[(h / steps).argmax(-1)], dtype, size(edges)) if dtype == torch.float64 else None
    assert mode.dtype == median.dtype == mean.dtype
    below = (h * ((exact(median)[..., None] - e[:-1]) / steps).clip(0, 1)).sum(-1)
    off = 64 * torch.finfo(mean.dtype).eps * size(edges) / min(1.0, steps.min()) * h.max(initial=0)
    np.testing.assert_allclose(below, h.sum(-1) / 2, rtol=0, atol=off)
    densities = np.take_along_axis(h / steps, abs(centres - exact(mode)[..., None]).argmin(-1)[..., None], -1)[..., 0]
    np.testing.assert_allclose(densities, (h / steps).max(-1, initial=0), rtol=1e-6)


@given(st.integers(0, 4), st.integers(0, 2))
def test_a_mass_that_is_nan_makes_every_point_nan_and_no_other_row(place, row):
    masses, edges = torch.full((3, 5), 0.2), torch.linspace(0, 1, 6)
    masses[row, place] = math.nan
    for find in (histogram_mean, histogram_median, histogram_mode):
        assert torch.equal(find(masses, edges).isnan(), torch.arange(3) == row)


def test_ties_go_to_the_first_bin_and_other_shapes_are_refused():
    assert histogram_mode(torch.full((1, 4), 0.25), torch.arange(5.0)).item() == 0.5
    assert torch.equal(bin_centres(torch.tensor([0.0, 1.0, 4.0])), torch.tensor([0.5, 2.5]))
    for find in (histogram_mean, histogram_median, histogram_mode):
        with pytest.raises(ValueError, match=r"masses \(2, 4\) with edges \(4,\): expected"):
            find(torch.zeros(2, 4), torch.arange(4.0))
