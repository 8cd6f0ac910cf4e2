"""Every term of the six objectives on any numbers: against numpy in float64, or refused."""

import math

import numpy as np
import pytest
import torch
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from loss_inputs import check, dtypes, exact, numbers, one_line, seeds, size, tensors
from scipy.special import entr, expit, log_softmax, logsumexp
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, Uniform

from zoo.disentanglement import loss
from zoo.disentanglement.theorem import entangle, householder

pixels = st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0, 1)


def draw_posterior(data: st.DataObject, smallest: int = 0, spread: float = 20.0) -> tuple[Tensor, Tensor, Tensor]:
    """Draws, means and logarithms of variances, of one dtype."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    shape = data.draw(st.integers(smallest, 5)), data.draw(st.integers(1, 4))
    z, mean = (data.draw(tensors(shape, numbers(10), dtype)) for _ in range(2))
    return z, mean, data.draw(tensors(shape, st.sampled_from([0.0, 1.0]) | st.floats(-spread, 3), dtype))


# ---------------------------------------------------------------- reconstruction


@given(st.data())
def test_reconstructions_are_negative_log_densities_for_any_logits_and_images(data):
    shape = (data.draw(st.integers(0, 4)), *data.draw(st.lists(st.integers(1, 4), max_size=3)))
    dtype = data.draw(dtypes)
    logits = data.draw(tensors(shape, numbers(1e30), dtype))
    x = data.draw(tensors(shape, pixels, data.draw(dtypes)))
    if data.draw(st.booleans()):
        x = (x > 0.5).byte()
    flat = len(x), math.prod(shape[1:])
    rows, values = exact(logits).reshape(flat), x.double().numpy().reshape(flat)
    bernoulli = (np.logaddexp(0, rows) - values * rows).sum(1)
    scale = size(logits) * max(rows.shape[1], 1)
    check(loss.bernoulli_reconstruction(x, logits), bernoulli.mean() if len(x) else math.nan, dtype, scale)
    gaussian = (np.square(values - expit(rows)) + math.log(math.pi) / 2).sum(1)
    check(loss.gaussian_reconstruction(x, logits), gaussian.mean() if len(x) else math.nan, dtype, rows.shape[1] + 1)
    floor = (entr(values) + entr(1 - values)).sum(1)
    check(loss.bernoulli_entropy(x), floor.mean() if len(x) else math.nan, x.dtype, rows.shape[1] + 1)
    if len(x):
        found = loss.bernoulli_reconstruction(x, logits.double())
        assert found >= loss.bernoulli_entropy(x.double()) - 1e-6 - 1e-12 * scale


@given(seeds)
def test_the_gradients_of_the_reconstructions_are_those_of_finite_differences(seed):
    draw = torch.Generator().manual_seed(seed)
    x, logits = torch.rand(2, 3, generator=draw).double(), 3 * torch.randn(2, 3, generator=draw, dtype=torch.float64)
    for term in (loss.bernoulli_reconstruction, loss.gaussian_reconstruction):
        assert torch.autograd.gradcheck(lambda z, term=term: term(x, z), (logits.requires_grad_(),))


@pytest.mark.parametrize("shapes", [((2, 1, 4, 4), (1, 1, 4, 4)), ((2, 3), (2, 1)), ((2, 1, 3), (2, 3)), ((2,), (3,))])
def test_images_and_logits_of_two_shapes_are_refused_and_not_broadcast(shapes):
    x, logits = (torch.zeros(shape) for shape in shapes)
    for term in (loss.bernoulli_reconstruction, loss.gaussian_reconstruction):
        with pytest.raises(ValueError, match="expected the same shape") as caught:
            term(x, logits)
        assert one_line(caught.value)


# ---------------------------------------------------------------- divergence and capacity


@given(st.data())
def test_the_divergence_is_that_of_float64_in_every_precision_and_no_less_than_nothing(data):
    dtype = data.draw(dtypes)
    shape = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 5))
    mean = data.draw(tensors(shape, numbers(1e4), dtype))
    logvar = data.draw(tensors(shape, numbers(1.0) | st.floats(-1e4, 80), dtype))
    m, v = exact(mean), exact(logvar)
    each = (m**2 + np.expm1(v) - v) / 2
    check(loss.kl_per_latent(mean, logvar), each, dtype)
    check(loss.kl_divergence(mean, logvar), each.sum(1).mean() if len(m) else math.nan, dtype, 1 + each.max(initial=0))
    assert (loss.kl_per_latent(mean, logvar) >= -1e-6).all()


@examples(10)
@given(seeds)
def test_the_gradients_of_all_densities_are_those_of_finite_differences(seed):
    z, mean, logvar = (
        part.requires_grad_()
        for part in torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    assert torch.autograd.gradcheck(loss.kl_divergence, (mean, logvar))
    for estimate in (loss.mixture_tc, lambda *p: loss.weighted_tc(*p, 90), lambda *p: loss.stratified_tc(*p, 90)):
        assert torch.autograd.gradcheck(estimate, (z, mean, logvar))

    def dip(mean: Tensor, logvar: Tensor) -> Tensor:
        return loss.dip_penalty(loss.covariance_of_codes(mean, logvar), 2.0, 3.0)

    assert torch.autograd.gradcheck(dip, (mean, logvar))


@given(st.integers(0, 10**7), st.floats(0, 1e6), st.integers(1, 10**6))
def test_the_capacity_rises_to_its_end_and_stays(step, capacity, steps):
    found, later = (loss.annealed_capacity(torch.tensor(t), capacity, steps).item() for t in (step, step + 1))
    assert 0 <= found <= later <= capacity * (1 + 1e-6)
    assert found == pytest.approx(capacity * min(1, step / steps), rel=1e-5)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e4))
def test_the_penalty_is_symmetric_around_the_capacity(kl, capacity, gamma):
    found = loss.capacity_penalty(torch.tensor(kl, dtype=torch.float64), capacity, gamma).item()
    assert found == pytest.approx(gamma * abs(kl - capacity), rel=1e-12)
    assert found == loss.capacity_penalty(torch.tensor(capacity, dtype=torch.float64), kl, gamma).item()


@pytest.mark.parametrize(
    "call",
    [
        lambda: loss.annealed_capacity(torch.tensor(0), -1.0, 10),
        lambda: loss.annealed_capacity(torch.tensor(0), math.nan, 10),
        lambda: loss.annealed_capacity(torch.tensor(0), 1.0, 0),
        lambda: loss.capacity_penalty(torch.tensor(1.0), 0.0, -1.0),
        lambda: loss.capacity_penalty(torch.tensor(1.0), 0.0, math.nan),
        lambda: loss.dip_penalty(torch.zeros(2, 3), 1.0, 1.0),
        lambda: loss.dip_penalty(torch.zeros(1, 3), 1.0, 1.0),
        lambda: loss.dip_penalty(torch.zeros(3), 1.0, 1.0),
        lambda: loss.weighted_tc(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 2), 0),
        lambda: loss.kl_divergence(torch.zeros(4, 2), torch.zeros(1, 2)),
        lambda: loss.kl_divergence(torch.zeros(4), torch.zeros(4)),
        lambda: loss.covariance_of_codes(torch.zeros(4, 2), torch.zeros(4, 1)),
        lambda: loss.covariance_of_means(torch.zeros(4)),
        lambda: loss.mixture_tc(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(4, 2)),
        lambda: loss.mixture_tc(torch.zeros(4, 1), torch.zeros(4, 2), torch.zeros(4, 2)),
        lambda: loss.mixture_tc(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, 2)),
        lambda: loss.unnormalised_tc(torch.zeros(3, 2), torch.zeros(4, 1), torch.zeros(4, 1)),
        lambda: loss.unnormalised_tc(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 3)),
        lambda: loss.permute_latents(torch.zeros(4)),
        lambda: loss.density_ratio_tc(torch.zeros(4, 3)),
        lambda: loss.density_ratio_tc(torch.zeros(2)),
        lambda: loss.discriminator_loss(torch.zeros(4, 2), torch.zeros(4, 1)),
    ],
)
def test_what_would_be_broadcast_or_divided_by_nothing_is_refused_in_one_line(call):
    with pytest.raises(ValueError, match=r"expected|weights \(4, 3\)") as caught:
        call()
    assert one_line(caught.value)


# ---------------------------------------------------------------- DIP-VAE


@given(st.data())
def test_covariances_and_their_penalty_are_numpys_in_every_precision_and_under_autocast(data):
    dtype, batch, latents = data.draw(dtypes), data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    mean = data.draw(tensors((batch, latents), numbers(100), dtype))
    logvar = data.draw(tensors((batch, latents), st.floats(-20, 3), dtype))
    expected = np.cov(exact(mean), rowvar=False, ddof=0).reshape(latents, latents)
    with torch.autocast("cpu", torch.bfloat16, enabled=data.draw(st.booleans())):
        means, codes = loss.covariance_of_means(mean), loss.covariance_of_codes(mean, logvar)
        penalty = loss.dip_penalty(codes, 2.0, 3.0)
    check(means, expected, dtype, size(mean) ** 2)
    expected = expected + np.diag(np.exp(exact(logvar)).mean(0))
    check(codes, expected, dtype, size(mean) ** 2)
    diagonal = np.diag(expected)
    wanted = 2 * (np.square(expected).sum() - np.square(diagonal).sum()) + 3 * np.square(diagonal - 1).sum()
    check(penalty, wanted, dtype, size(codes) ** 2)
    order = torch.tensor(data.draw(st.permutations(range(latents))))
    same = loss.dip_penalty(loss.covariance_of_codes(mean[:, order], logvar[:, order]), 2.0, 3.0)
    check(same, wanted, dtype, size(codes) ** 2)
    assert loss.covariance_of_means(mean[:0]).isnan().all()


# ---------------------------------------------------------------- total correlation


def naive(z: Tensor, mean: Tensor, logvar: Tensor, log_weights: np.ndarray) -> float:
    densities = norm.logpdf(exact(z)[:, None], exact(mean)[None], np.exp(exact(logvar)[None] / 2))
    joint = logsumexp(densities.sum(2) + log_weights, axis=1)
    return float((joint - logsumexp(densities + log_weights[:, :, None], axis=1).sum(1)).mean())


@given(st.data())
def test_log_densities_are_those_of_float64_however_narrow(data):
    z, mean, logvar = draw_posterior(data, spread=80)
    found = loss.gaussian_log_density(z[:, None], mean[None], logvar[None])
    expected = norm.logpdf(exact(z)[:, None], exact(mean)[None], np.exp(exact(logvar)[None] / 2))
    tolerance = 64 * torch.finfo(z.dtype).eps
    np.testing.assert_allclose(exact(found), expected, rtol=100 * tolerance, atol=100 * tolerance)


@given(st.data(), st.integers(5, 10**6))
def test_every_estimate_is_the_naive_one_however_narrow_the_posteriors_are(data, images):
    z, mean, logvar = draw_posterior(data, smallest=2)
    z, mean, logvar = z.double(), mean.double(), logvar.double()
    count, latents = z.shape
    none, constant = np.zeros((count, count)), (latents - 1) * math.log(count)
    exact_one = naive(z, mean, logvar, none)
    scale = 1e-9 * (1 + abs(exact_one)) + 1e-13 * float((z[:, None] - mean).square().max() * (-logvar).exp().max())
    assert loss.unnormalised_tc(z, mean, logvar).item() == pytest.approx(exact_one, abs=scale)
    assert loss.mixture_tc(z, mean, logvar).item() == pytest.approx(exact_one + constant, abs=scale)
    more = (latents - 1) * math.log(count * images)
    assert loss.weighted_tc(z, mean, logvar, images).item() == pytest.approx(exact_one + more, abs=scale)
    weights = loss.stratified_log_weights(count, images).numpy()
    expected = naive(z, mean, logvar, weights)
    assert loss.stratified_tc(z, mean, logvar, images).item() == pytest.approx(expected, abs=scale)
    order = torch.tensor(data.draw(st.permutations(range(latents))))
    found = loss.mixture_tc(z[:, order], mean[:, order], logvar[:, order]).item()
    assert found == pytest.approx(exact_one + constant, abs=scale)
    if latents == 1:
        assert loss.mixture_tc(z, mean, logvar).item() == pytest.approx(0, abs=scale)


@given(st.integers(-1, 12), st.integers(-1, 40))
def test_each_row_of_stratified_weights_sums_to_one_or_there_are_none(batch, images):
    if 2 <= batch <= images:
        weights = loss.stratified_log_weights(batch, images).exp()
        torch.testing.assert_close(weights.sum(1), torch.ones(batch, dtype=torch.float64))
        return
    with pytest.raises(ValueError, match=f"a batch of {batch} of a data set of {images}"):
        loss.stratified_log_weights(batch, images)


@given(st.data(), seeds)
def test_permuting_keeps_the_numbers_of_each_latent_in_any_layout(data, seed):
    z = data.draw(tensors((data.draw(st.integers(0, 6)), data.draw(st.integers(1, 4))), numbers(10), data.draw(dtypes)))
    found = loss.permute_latents(z, torch.Generator().manual_seed(seed))
    assert found.dtype == z.dtype
    assert torch.equal(found.sort(0).values, z.sort(0).values)


@given(st.data())
def test_the_discriminators_figures_are_those_of_float64_for_any_logits(data):
    dtype, count, others = data.draw(dtypes), data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    logits, permuted = (data.draw(tensors((n, 2), numbers(1e30), dtype)) for n in (count, others))
    rows, mixed = log_softmax(exact(logits), axis=1)[:, 0], log_softmax(exact(permuted), axis=1)[:, 1]
    apart = exact(logits)[:, 0] - exact(logits)[:, 1]
    check(loss.density_ratio_tc(logits), apart.mean() if count else math.nan, dtype, size(logits))
    expected = -(rows.mean() + mixed.mean()) / 2 if count and others else math.nan
    found = loss.discriminator_loss(logits, permuted)
    check(found, expected, dtype, size(logits, permuted))
    assert found.isnan() or found >= 0


# ---------------------------------------------------------------- the theorem

sizes = st.sampled_from([0.0, 1.0, -1.0, 1e200, -1e300, 1e-200, 5e-324, math.nan, math.inf]) | st.floats(-10, 10)


@given(st.lists(sizes, max_size=5))
def test_every_vector_gives_a_reflection_or_is_refused(values):
    v = torch.tensor(values, dtype=torch.float64)
    if not any(values) or not all(map(math.isfinite, values)):
        with pytest.raises(ValueError, match="expected finite numbers that are not all 0") as caught:
            householder(v)
        assert one_line(caught.value)
        return
    matrix = householder(v)
    identity = torch.eye(len(v), dtype=torch.float64)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=0)
    torch.testing.assert_close(matrix @ matrix, identity, rtol=0, atol=1e-12)
    assert torch.linalg.det(matrix).item() == pytest.approx(-1)


@given(st.data(), seeds, st.booleans())
def test_entangling_can_be_undone(data, seed, normal):
    draw, latents = torch.Generator().manual_seed(seed), data.draw(st.integers(1, 4))
    v = torch.randn(latents, generator=draw, dtype=torch.float64) + 0.1
    marginal = Normal(torch.tensor(2.0).double(), 3.0) if normal else Uniform(torch.tensor(-1.0).double(), 4.0)
    z = marginal.icdf(0.02 + 0.96 * torch.rand(6, latents, generator=draw, dtype=torch.float64))
    matrix = householder(v)
    torch.testing.assert_close(entangle(entangle(z, matrix, marginal), matrix.T, marginal), z, rtol=1e-6, atol=1e-6)
