"""The histogram loss: targets, losses and points against the sheet's numbers, naive forms, and invariants."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional

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

FIVE = torch.linspace(0, 1, 6, dtype=torch.float64)  # setting S of the sheet: w = 0.2


def label(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near(found: torch.Tensor, *expected: float, tolerance: float = 6e-7) -> None:
    assert found.flatten().tolist() == pytest.approx(list(expected), abs=tolerance)


def normal_cdf(t: float) -> float:
    return math.erfc(-t / math.sqrt(2)) / 2


def normal_density(t: float) -> float:
    return math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)


uneven = st.lists(st.floats(0.05, 3), min_size=2, max_size=12).map(
    lambda widths: torch.tensor([0.0, *np.cumsum(widths)], dtype=torch.float64)
)


# ---------------------------------------------------------------- the sheet's worked examples


def test_u1_a_label_in_the_middle():
    c = truncated_gaussian_target(label(0.5), FIVE, 0.2)
    near(c, 0.061360, 0.244770, 0.387740, 0.244770, 0.061360)
    near(histogram_mean(c, FIVE), 0.5, tolerance=1e-12)


def test_u2_a_label_elsewhere():
    c = truncated_gaussian_target(label(0.33), FIVE, 0.2)
    near(c, 0.219313, 0.398879, 0.289079, 0.083275, 0.009454)
    near(histogram_mean(c, FIVE), 0.352936)
    near(target_entropy(c), 1.309183)


def test_u3_labels_at_the_ends():
    c = truncated_gaussian_target(label(0.0, 1.0, 0.05), FIVE, 0.2)
    near(c[0], 0.682690, 0.271810, 0.042800, 0.002636, 0.000063)
    near(c[1].flip(0), *c[0].tolist(), tolerance=1e-12)
    near(histogram_mean(c, FIVE), 0.173114, 0.826886, 0.190111)


def test_u4_narrow_targets_are_biased_by_the_bins_and_wide_ones_by_the_ends():
    y = label(0.33)
    near(truncated_gaussian_target(y, FIVE, 0.05), 0.004661, 0.914582, 0.080757, 0, 0)
    means = [histogram_mean(truncated_gaussian_target(y, FIVE, sigma), FIVE) for sigma in (0.05, 0.1, 0.4)]
    near(torch.cat(means), 0.315219, 0.329837, 0.431375)


def test_u5_the_other_targets():
    y = label(0.33)
    near(projected_target(y, FIVE), 0, 0.85, 0.15, 0, 0)
    near(dirac_target(y, FIVE), 0, 1, 0, 0, 0)
    hundred = bin_edges(0, 1, 100)
    c = uniform_mix_target(label(0.005), hundred, 0.001)
    near(c[0, :2], 0.901, 0.001)
    near(target_entropy(c), 0.777797)
    near(histogram_mean(c, hundred), 0.0545)
    spread = label(*((torch.arange(1000) + 0.5) / 1000).tolist())
    errors = histogram_mean(dirac_target(spread, FIVE), FIVE) - spread
    assert errors.abs().mean().item() == pytest.approx(0.05, abs=1e-4)
    assert errors.square().mean().sqrt().item() == pytest.approx(0.057735, abs=1e-4)


def test_u6_the_loss_its_gradient_and_the_points():
    logits = label(0.2, 1, 0.5, -0.3, -1)[None].requires_grad_()
    c = truncated_gaussian_target(label(0.33), FIVE, 0.2)
    loss = histogram_loss(logits, c)
    near(loss.detach(), 1.348831)
    near(loss.detach() - target_entropy(c), 0.039648)
    (gradient,) = torch.autograd.grad(loss, logits)
    near(gradient, -0.036935, 0.007010, -0.042895, 0.027343, 0.045477)
    near(gradient.abs().sum(), 0.159661)
    near(gradient.norm(), 0.077905)
    h = logits.detach().softmax(-1)
    near(torch.stack([find(h, FIVE) for find in (histogram_mean, histogram_median, histogram_mode)]),
         0.389967, 0.356507, 0.3)  # fmt: skip


@given(uneven, st.floats(0.02, 5), st.floats(-0.2, 1.2), st.floats(-50, 50), st.floats(0.1, 20))
def test_u7_masses_are_the_naive_integrals_and_move_and_stretch_with_everything(edges, sigma, place, shift, stretch):
    y = edges[-1] * place
    c = truncated_gaussian_target(y[None], edges, sigma)[0]
    inside = min(max(y.item(), 0.0), edges[-1].item())
    below = [normal_cdf((edge - inside) / sigma) for edge in edges.tolist()]
    naive = [(b - a) / (below[-1] - below[0]) for a, b in pairwise(below)]
    assert c.tolist() == pytest.approx(naive, abs=1e-9)
    assert c.sum().item() == pytest.approx(1, abs=1e-12)
    assert (c >= 0).all()
    moved = truncated_gaussian_target(y[None] + shift, edges + shift, sigma)[0]
    torch.testing.assert_close(moved, c, rtol=0, atol=1e-9)
    stretched = truncated_gaussian_target(y[None] * stretch, edges * stretch, sigma * stretch)[0]
    torch.testing.assert_close(stretched, c, rtol=0, atol=1e-9)


@given(uneven, st.floats(0.01, 0.99))
def test_u7_a_narrow_gaussian_is_the_labels_bin_and_a_wide_one_is_uniform(edges, place):
    y = (edges[-1] * place)[None]
    assume((edges - y).abs().min() > 1e-3)
    one = dirac_target(y, edges)
    torch.testing.assert_close(truncated_gaussian_target(y, edges, 1e-5), one)
    assert torch.equal(truncated_gaussian_target(y, edges, 0.0), one)
    assert torch.equal(truncated_gaussian_target(y, edges, 1e-320), one)
    wide = truncated_gaussian_target(y, edges, 1e5)
    torch.testing.assert_close(wide[0], edges.diff() / edges[-1], rtol=0, atol=1e-6)


@given(st.integers(1, 5), st.integers(2, 9), st.integers(0, 2**31))
def test_u7_the_loss_is_cross_entropy_and_the_divergence_plus_its_floor(batch, bins, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, bins, generator=generator, dtype=torch.float64) * 4
    edges = bin_edges(0, 1, bins)
    y = torch.rand(batch, generator=generator, dtype=torch.float64)
    c = truncated_gaussian_target(y, edges, 0.7 / bins)
    naive = -(c * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(histogram_loss(logits, c), naive)
    above = functional.kl_div(logits.log_softmax(-1), c, reduction="batchmean")
    torch.testing.assert_close(histogram_loss(logits, c) - target_entropy(c).mean(), above)
    one = histogram_loss(logits, dirac_target(y, edges))
    torch.testing.assert_close(one, functional.cross_entropy(logits, bin_index(y, edges)))


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_u8_labels_far_outside_count_as_the_ends_in_every_precision(precision, autocast):
    edges = FIVE.float()
    y = torch.tensor([-2.0, -1e30, 0.0, 3.0, 1e30, 1.0]).to(precision)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        targets = [truncated_gaussian_target(y, edges, 0.2)]
        targets += [make(y, edges) for make in (dirac_target, uniform_mix_target, projected_target)]
        logits = torch.zeros(6, 5, dtype=torch.bfloat16 if autocast else torch.float32)
        losses = [histogram_loss(logits, c) for c in targets]
    for c, loss in zip(targets, losses, strict=True):
        assert c.dtype == (precision if precision == torch.float64 else torch.float32)
        assert loss.dtype == c.dtype
        torch.testing.assert_close(c.sum(-1), torch.ones_like(c[:, 0]))
        assert torch.equal(c[:3], c[2].expand(3, -1))
        assert torch.equal(c[3:], c[5].expand(3, -1))
        assert loss.item() == pytest.approx(math.log(5), abs=1e-5)
    near(targets[0][0], 0.682690, 0.271810, 0.042800, 0.002636, 0.000063, tolerance=1e-6)


def test_u9_both_paddings():
    edges = bin_edges(0, 1, 100, padding_sigmas=3, sigma_ratio=2)
    w = (edges[1] - edges[0]).item()
    near(torch.stack([edges[0], edges[-1]]), -0.0681818, 1.0681818, tolerance=1e-7)
    assert w == pytest.approx(0.0113636, abs=1e-7)
    assert (edges < -1e-9).sum() == 6
    bias = histogram_mean(truncated_gaussian_target(label(0.0), edges, 2 * w), edges).item() / (2 * w)
    # The sheet's bound holds for fine bins; coarse ones add a twelfth of width squared times the density at the end.
    assert bias == pytest.approx(4.438e-3 + normal_density(3) / 4 / 12, rel=1e-3)
    fine = bin_edges(0, 1, 4000, padding_sigmas=3, sigma_ratio=80)
    sigma = 80 * (fine[1] - fine[0]).item()
    assert 4.4e-3 < histogram_mean(truncated_gaussian_target(label(0.0), fine, sigma), fine).item() / sigma < 4.5e-3
    four = bin_edges(0, 1, 100, padding_sigmas=4, sigma_ratio=2)
    near(four[[0, 1, -1]], -0.0952381, -0.0952381 + 0.0119048, 1.0952381, tolerance=1e-7)
    share = bin_edges(0, 1, 100, padding_share=0.125)
    near(share[[0, 1, -1]], -0.125, -0.1125, 1.125, tolerance=1e-12)


def test_u10_the_support_of_stop_regressing():
    edges = bin_edges(-10, 10, 51)
    c = truncated_gaussian_target(label(3.3, -9.9, 10), edges, 0.75 * 20 / 51)
    near(histogram_mean(c, edges), 3.299999, -9.698372, 9.729354, tolerance=1e-6)
    near(bin_centres(edges)[[0, -1]], -9.803922, 9.803922, tolerance=1e-6)


@pytest.mark.parametrize(("ratio", "floor"), [(0.5, 0.86), (0.75, 1.20), (1.0, 1.459), (1.4, 1.776), (2.0, 2.1224)])
def test_the_floor_of_the_loss_is_the_targets_entropy(ratio, floor):
    edges = bin_edges(0, 1, 100)
    y = label(*(0.5 + torch.linspace(0, 0.01, 51)).tolist())
    entropy = target_entropy(truncated_gaussian_target(y, edges, ratio / 100)).mean().item()
    assert entropy == pytest.approx(floor, abs=1e-2)  # the sheet's digits; 0.8697 for 0.5


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_bias_of_the_bins_falls_as_the_sheet_says(ratio):
    edges = bin_edges(0, 1, 100)
    y = label(*(0.5 + torch.linspace(0, 0.01, 201)).tolist())
    bias = (histogram_mean(truncated_gaussian_target(y, edges, ratio / 100), edges) - y).abs().max().item()
    assert bias == pytest.approx(0.01 / math.pi * math.exp(-2 * math.pi**2 * ratio**2), rel=3e-2)


# ---------------------------------------------------------------- invariants of the targets


@given(uneven, st.floats(0, 1))
def test_the_projected_target_keeps_every_label_between_the_outermost_centres(edges, place):
    centres = bin_centres(edges)
    y = (centres[0] + place * (centres[-1] - centres[0]))[None]
    c = projected_target(y, edges)
    torch.testing.assert_close(histogram_mean(c, edges), y)
    assert (c > 0).sum() <= 2
    assert c.sum().item() == pytest.approx(1)


@given(uneven, st.data())
def test_bins_are_half_open_and_the_last_is_closed(edges, data):
    number = data.draw(st.integers(0, len(edges) - 1))
    last = len(edges) - 2
    assert bin_index(edges[number][None], edges).item() == min(number, last)
    before = torch.nextafter(edges[number], torch.tensor(-math.inf, dtype=torch.float64))
    assert bin_index(before[None], edges).item() == max(min(number - 1, last), 0)
    assert dirac_target(edges[-1][None], edges)[0].tolist() == [0.0] * last + [1.0]


def test_a_uniform_mix_is_label_smoothing():
    edges, y = bin_edges(0, 1, 4), label(0.1, 0.6)
    logits = torch.randn(2, 4, dtype=torch.float64)
    smoothed = functional.cross_entropy(logits, bin_index(y, edges), label_smoothing=4 * 0.05)
    torch.testing.assert_close(histogram_loss(logits, uniform_mix_target(y, edges, 0.05)), smoothed)


@pytest.mark.parametrize(
    "make", [dirac_target, projected_target, lambda y, edges: truncated_gaussian_target(y, edges, 1)]
)
def test_targets_keep_the_shape_of_the_labels(make):
    edges = bin_edges(-1, 4, 7)
    for shape in ((), (3,), (2, 3), (0,)):
        assert make(torch.zeros(shape), edges).shape == (*shape, 7)


# ---------------------------------------------------------------- points and losses


@given(uneven, st.integers(0, 2**31))
def test_the_median_halves_the_mass_and_the_mode_is_the_densest_bin(edges, seed):
    h = torch.rand(len(edges) - 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    h = (h / h.sum())[None]
    median = histogram_median(h, edges).item()
    widths = edges.diff()
    below = (h[0] * ((median - edges[:-1]) / widths).clamp(0, 1)).sum().item()
    assert below == pytest.approx(0.5, abs=1e-9)
    densest = max(range(len(widths)), key=lambda i: (h[0, i] / widths[i]).item())
    assert histogram_mode(h, edges).item() == pytest.approx(bin_centres(edges)[densest].item())


def test_the_median_of_a_mass_in_one_bin_is_its_middle_and_empty_bins_do_no_harm():
    near(histogram_median(dirac_target(label(0.33), FIVE), FIVE), 0.3, tolerance=1e-12)
    near(histogram_median(label(0.5, 0, 0, 0, 0.5)[None], FIVE), 0.2, tolerance=1e-12)


@given(st.integers(0, 2**31))
def test_the_losses_of_the_baselines_are_torchs_densities(seed):
    draw = torch.Generator().manual_seed(seed)
    y, mean = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    scale = torch.rand(6, generator=draw, dtype=torch.float64) + 0.1
    torch.testing.assert_close(
        gaussian_loss(y, mean, scale), -torch.distributions.Normal(mean, scale).log_prob(y).mean()
    )
    logits, means, raw = torch.randn(3, 6, 4, generator=draw, dtype=torch.float64)
    parts = torch.distributions.Categorical(logits=logits), torch.distributions.Normal(means, raw.exp())
    whole = torch.distributions.MixtureSameFamily(*parts)
    torch.testing.assert_close(mixture_loss(y, logits, means, raw.exp()), -whole.log_prob(y).mean())


def test_the_gradient_of_the_loss_is_bounded_whatever_the_label():
    edges = bin_edges(0, 1, 50)
    logits = (torch.randn(20, 50, dtype=torch.float64) * 100).requires_grad_()
    y = torch.linspace(-1e6, 1e6, 20, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(histogram_loss(logits, dirac_target(y, edges)) * 20, logits)
    assert gradient.sum(-1).abs().max() < 1e-12
    assert gradient.abs().sum(-1).max() <= 2 + 1e-12
    assert gradient.norm(dim=-1).max() <= math.sqrt(2) + 1e-12


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1), "bins is 1; expected a number of at least 2"),
        ((3, 3, 10), r"\[low, high\] = \[3, 3\]; expected finite numbers with low < high"),
        ((0, math.nan, 10), "expected finite numbers"),
        ((0, 1, 10, -1), "padding_sigmas is -1"),
        ((0, 1, 10, 3, math.inf), "sigma_ratio is inf"),
        ((0, 1, 10, 3, 1, 0.1), "padding_sigmas=3 and padding_share=0.1: expected at most one"),
        ((0, 1, 10, 3, 2), "padding_sigmas=3 with sigma_ratio=2 takes 12 of 10 bins"),
    ],
)
def test_a_support_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bin_edges(*arguments)


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_a_sigma_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match=f"sigma is {sigma}"):
        truncated_gaussian_target(label(0.5), FIVE, sigma)


@pytest.mark.parametrize("epsilon", [-0.1, 0.3, math.nan])
def test_a_mix_of_more_than_all_mass_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"expected a number in \[0, 0.25\] for 5 bins"):
        uniform_mix_target(label(0.5), FIVE, epsilon)
