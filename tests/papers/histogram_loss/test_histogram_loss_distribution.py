"""The piecewise-uniform distribution against numerical integrals, the uniform distribution, and its own samples."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Uniform

from zoo.histogram_loss import PiecewiseUniform
from zoo.histogram_loss.loss import histogram_mean


def some(seed: int = 0, batch: tuple[int, ...] = (4,), bins: int = 6) -> PiecewiseUniform:
    """With bins of different widths."""
    draw = torch.Generator().manual_seed(seed)
    edges = (torch.rand(bins + 1, generator=draw, dtype=torch.float64) + 0.1).cumsum(0) - 3
    return PiecewiseUniform(edges, 2 * torch.randn(*batch, bins, generator=draw, dtype=torch.float64))


def grid(p: PiecewiseUniform, points: int = 200_001) -> torch.Tensor:
    return torch.linspace(p.edges[0].item() - 0.5, p.edges[-1].item() + 0.5, points, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_everything_is_the_integral_of_its_density(seed):
    p = some(seed)
    t = grid(p)[:, None]
    density = p.log_prob(t).exp()
    step = (t[1] - t[0]).item()

    def integral(values: torch.Tensor) -> torch.Tensor:
        return values.sum(0) * step

    torch.testing.assert_close(integral(density), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(integral(density * t), p.mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(integral(density * (t - p.mean).square()), p.variance, rtol=0, atol=1e-3)
    torch.testing.assert_close(-integral(torch.special.xlogy(density, density)), p.entropy(), rtol=0, atol=2e-3)
    torch.testing.assert_close(density.cumsum(0) * step, p.cdf(t), rtol=0, atol=1e-3)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_the_quantile_function_inverts_the_cdf(seed, level):
    p = some(seed)
    q = torch.tensor(level, dtype=torch.float64)
    t = p.icdf(q)
    assert t.shape == (4,)
    torch.testing.assert_close(p.cdf(t), q.expand(4), rtol=0, atol=1e-9)
    assert (t >= p.edges[0]).all()
    assert (t <= p.edges[-1]).all()


@given(st.integers(0, 2**31))
def test_the_cdf_rises_from_zero_to_one_and_the_density_is_minus_infinity_outside(seed):
    p = some(seed)
    inside = torch.rand(7, 4, dtype=torch.float64) * (p.edges[-1] - p.edges[0]) + p.edges[0]
    torch.testing.assert_close(p.icdf(p.cdf(inside)), inside, rtol=0, atol=1e-7)
    t = torch.cat([grid(p, 50), p.edges]).sort().values[:, None]
    assert (p.cdf(t).diff(dim=0) >= 0).all()
    assert (p.cdf(p.edges[0]) == 0).all()
    assert (p.cdf(p.edges[-1]) == 1).all()
    for outside in (p.edges[0] - 1e-6, p.edges[-1] + 1e-6):
        assert (p.log_prob(outside) == -math.inf).all()
    assert p.log_prob(p.edges[:, None]).isfinite().all()
    torch.testing.assert_close(p.cdf(p.median), torch.full((4,), 0.5, dtype=torch.float64))


def test_equal_masses_in_equal_bins_are_the_uniform_distribution():
    p = PiecewiseUniform(torch.linspace(-1, 3, 9, dtype=torch.float64), torch.zeros(3, 8, dtype=torch.float64))
    u = Uniform(-1.0, torch.tensor([3.0] * 3, dtype=torch.float64), validate_args=False)
    t = torch.linspace(-0.99, 2.99, 3, dtype=torch.float64)
    for name in ("mean", "variance"):
        torch.testing.assert_close(getattr(p, name), getattr(u, name))
    torch.testing.assert_close(p.entropy(), u.entropy())
    for name in ("cdf", "log_prob"):
        torch.testing.assert_close(getattr(p, name)(t), getattr(u, name)(t))
    torch.testing.assert_close(p.icdf(t.abs() / 3), u.icdf(t.abs() / 3))


def test_samples_have_its_moments_and_its_bins():
    torch.manual_seed(0)
    p = some(3)
    x = p.sample((40_000,))
    assert x.shape == (40_000, 4)
    torch.testing.assert_close(x.mean(0), p.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(x.var(0), p.variance, rtol=0.03, atol=0)
    shares = torch.stack(
        [((x >= a) & (x < b)).double().mean(0) for a, b in zip(p.edges[:-1], p.edges[1:], strict=True)]
    )
    torch.testing.assert_close(shares.T, p.probs, rtol=0, atol=0.012)
    assert not p.sample().requires_grad


def test_bins_without_mass_are_stepped_over():
    p = PiecewiseUniform(torch.arange(5.0), torch.tensor([[-math.inf, 0.0, -math.inf, 0.0]]), validate_args=False)
    assert p.icdf(torch.tensor([[0.0], [0.25], [0.5], [0.75], [1.0]])).flatten().tolist() == [0.0, 1.5, 2.0, 3.5, 4.0]
    assert p.log_prob(torch.tensor([2.5])).item() == -math.inf
    assert p.entropy().item() == pytest.approx(math.log(2))
    assert p.mean.item() == 2.5
    assert torch.isnan(p.icdf(torch.tensor([-0.1, 1.1]))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_in_float32_at_least_and_shapes_broadcast(dtype):
    p = PiecewiseUniform(torch.linspace(0, 1, 6), torch.randn(2, 3, 5).to(dtype))
    assert p.batch_shape == (2, 3)
    assert p.mean.dtype == p.cdf(torch.zeros(2, 3, dtype=dtype)).dtype == torch.float32
    assert p.cdf(torch.tensor(0.3)).shape == p.log_prob(torch.rand(3)).shape == (2, 3)
    assert p.icdf(torch.rand(7, 2, 3)).shape == p.sample((7,)).shape == (7, 2, 3)
    wide = p.expand((4, 2, 3))
    assert wide.mean.shape == (4, 2, 3)
    torch.testing.assert_close(wide.mean[1], p.mean)
    torch.testing.assert_close(p.mean, histogram_mean(p.probs, p.edges))


@pytest.mark.parametrize(
    ("edges", "logits", "message"),
    [
        ([0.0, 1.0, 2.0], [[0.0, 0.0, 0.0]], r"edges \(3,\) with logits \(1, 3\): expected k \+ 1 and k"),
        ([0.0, 2.0, 1.0], [[0.0, 0.0]], "must rise"),
        ([0.0, 2.0, math.inf], [[0.0, 0.0]], "must rise and be finite"),
        ([0.0, 1.0, 2.0], [[0.0, math.nan]], "logits"),
    ],
)
def test_what_is_no_histogram_is_refused(edges, logits, message):
    with pytest.raises(ValueError, match=message):
        PiecewiseUniform(torch.tensor(edges), torch.tensor(logits), validate_args=True)
