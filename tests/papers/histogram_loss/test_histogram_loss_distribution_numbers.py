"""The piecewise-uniform distribution for any bins, masses and values: against numpy in float64, NaN for NaN."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from loss_inputs import FLOATS, check, dtypes, exact, numbers, one_line, size, tensors
from scipy.special import entr, log_softmax
from torch import Tensor

from zoo.histogram_loss import PiecewiseUniform

widths = st.lists(st.sampled_from([1.0, 0.5, 3.0]) | st.floats(0.05, 10), min_size=1, max_size=8)


def draw_distribution(data: st.DataObject) -> PiecewiseUniform:
    steps = torch.tensor([0.0, *data.draw(widths)], dtype=torch.float64)
    edges = (steps.cumsum(0) + data.draw(st.sampled_from([0.0, -7.0, 40.0]))).to(
        data.draw(st.sampled_from([torch.float32, torch.float64]))
    )
    assume(bool((edges.diff() > 0).all()))
    shape = (*data.draw(st.lists(st.integers(0, 3), max_size=2)), len(edges) - 1)
    logits = data.draw(tensors(shape, numbers(1e4), data.draw(dtypes)))
    return PiecewiseUniform(edges, logits, validate_args=True)


def parts(p: PiecewiseUniform) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges, widths and masses in float64."""
    edges = exact(p.edges)
    return edges, np.diff(edges), np.exp(log_softmax(exact(p.logits), axis=-1))


@given(st.data())
def test_moments_and_entropy_are_those_of_float64(data):
    p = draw_distribution(data)
    edges, steps, h = parts(p)
    centres, dtype, scale = (edges[1:] + edges[:-1]) / 2, p.edges.dtype, size(p.edges)
    mean = h @ centres
    check(p.mean, mean, dtype, scale)
    variance = (h * (np.square(centres - mean[..., None]) + steps**2 / 12)).sum(-1)
    check(p.variance, variance, dtype, scale**2)
    check(p.entropy(), (entr(h) + h * np.log(steps)).sum(-1), dtype, 10)
    assert ((p.mode >= p.edges[0]) & (p.mode <= p.edges[-1])).all()
    assert p.batch_shape == p.median.shape == h.shape[:-1]


@given(st.data())
def test_density_and_cdf_are_those_of_float64_wherever_the_value_lies(data):
    p = draw_distribution(data)
    edges, steps, h = parts(p)
    dtype = p.edges.dtype
    places = st.sampled_from([*edges.tolist(), -1e30, 1e30, -math.inf, math.inf]) | st.floats(edges[0], edges[-1])
    values = torch.tensor(data.draw(st.lists(places, min_size=1, max_size=5)), dtype=dtype)
    t = exact(values)
    index = (np.searchsorted(edges, t, side="right") - 1).clip(0, len(steps) - 1)
    outside = (t < edges[0]) | (t > edges[-1])
    found = p.log_prob(values.view(-1, *[1] * len(p.batch_shape)))
    log_density = np.moveaxis(log_softmax(exact(p.logits), axis=-1) - np.log(steps), -1, 0)[index]
    log_density[outside] = -math.inf
    check(found, log_density, dtype, size(p.logits))
    below = np.concatenate([np.zeros((*h.shape[:-1], 1)), h.cumsum(-1)], -1)
    share = ((t - edges[index]) / steps[index]).clip(0, 1).reshape(-1, *[1] * (h.ndim - 1))
    cdf = np.moveaxis(below, -1, 0)[index] + share * np.moveaxis(h, -1, 0)[index]
    found = p.cdf(values.view(-1, *[1] * len(p.batch_shape)))
    check(found, cdf, dtype, 1 / min(1.0, steps.min()) * size(p.edges))
    assert ((found >= 0) & (found <= 1)).all()


@given(st.data(), st.lists(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_rise_stay_in_the_support_and_are_inverted_by_the_cdf(data, levels):
    p = draw_distribution(data)
    q = torch.tensor(sorted(levels), dtype=p.edges.dtype).view(-1, *[1] * len(p.batch_shape))
    t = p.icdf(q)
    assert ((t >= p.edges[0]) & (t <= p.edges[-1] * (1 + 1e-6 * p.edges[-1].sign()))).all()
    steepest = (p.probs / p.edges.diff()).max().item() if p.probs.numel() else 0.0
    off = 64 * torch.finfo(t.dtype).eps * (1 + steepest * size(p.edges))
    torch.testing.assert_close(p.cdf(t), q.expand_as(t), rtol=0, atol=off)
    assert (t.diff(dim=0) >= -1e-6 * size(p.edges)).all()


@given(st.data(), st.floats(width=32).filter(lambda level: not 0 <= level <= 1))
def test_nan_is_nan_and_no_quantile_of_what_is_no_probability(data, level):
    p = draw_distribution(data)
    lost = torch.tensor(math.nan)
    for found in (p.log_prob(lost), p.cdf(lost), p.icdf(lost), p.icdf(torch.tensor(level))):
        assert found.shape == p.batch_shape
        assert found.isnan().all()
    if not p.probs.numel():
        return
    mixed = p.cdf(torch.cat([p.edges[-1:], lost.view(1).to(p.edges.dtype)]).view(2, *[1] * len(p.batch_shape)))
    assert (mixed[0] == 1).all()
    assert mixed[1].isnan().all()


@given(st.data(), st.integers(0, 5))
def test_samples_lie_in_the_support_and_certain_ones_in_their_bin(data, count):
    p = draw_distribution(data)
    x = p.sample((count,))
    assert x.shape == (count, *p.batch_shape)
    assert ((x >= p.edges[0]) & (x <= p.edges[-1])).all()
    bins = len(p.edges) - 1
    place = data.draw(st.integers(0, bins - 1))
    logits = torch.full((bins,), -math.inf, dtype=p.edges.dtype)
    logits[place] = 1e4
    sure = PiecewiseUniform(p.edges, logits, validate_args=True)
    drawn = sure.sample((7,))
    assert ((drawn >= p.edges[place]) & (drawn <= p.edges[place + 1])).all()
    assert sure.mean.item() == pytest.approx(((p.edges[place] + p.edges[place + 1]) / 2).item(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("edges", [[0.0, math.nan, 2.0], [0.0, 1.0, math.inf], [-math.inf, 0.0, 1.0], [0.0, 0.0, 1.0]])
def test_edges_that_are_none_are_refused_in_every_precision(dtype: torch.dtype, edges: list[float]) -> None:
    support: Tensor = torch.tensor(edges, dtype=dtype)
    with pytest.raises(ValueError, match="the edges of a histogram must rise and be finite") as caught:
        PiecewiseUniform(support, torch.zeros(2), validate_args=True)
    assert one_line(caught.value)
