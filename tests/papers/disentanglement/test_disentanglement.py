"""The losses of the six methods: naive float64 forms, the sheet's exact numbers, invariants."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from zoo.disentanglement import loss


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def codes(batch: int, latents: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    mean, logvar = random(batch, latents, seed=seed), random(batch, latents, seed=seed + 1) - 1
    return mean + (logvar / 2).exp() * random(batch, latents, seed=seed + 2), mean, logvar


def value(result: Tensor) -> float:
    assert result.shape == ()
    return result.item()


seeds = st.integers(0, 2**31)


# ---------------------------------------------------------------- reconstruction


@pytest.mark.parametrize(("channels", "expected"), [(1, 2839.1309), (3, 8517.3926)])
def test_zero_logits_cost_log_2_in_each_pixel(channels, expected):
    x = torch.rand(3, channels, 64, 64)
    assert value(loss.bernoulli_reconstruction(x, torch.zeros_like(x))) == pytest.approx(expected, rel=1e-6)


def test_the_sheets_three_pixels():
    x, logits = torch.tensor([[1.0, 0.0, 0.5]]).double(), torch.tensor([[2.0, -1.0, 0.0]]).double()
    bernoulli = value(loss.bernoulli_reconstruction(x, logits))
    assert bernoulli == pytest.approx(1.133337, abs=1e-6)
    above = bernoulli - value(loss.bernoulli_entropy(x))
    assert above == pytest.approx(
        0.440190, abs=1e-6
    )  # .440160 in the study, whose pixels are clipped to [1e-6, 1 - 1e-6]
    squared = value(loss.gaussian_reconstruction(x, logits)) - 3 * math.log(math.pi) / 2
    assert squared == pytest.approx(0.086539, abs=1e-6)


@given(st.integers(1, 4), st.integers(1, 5), st.floats(0.1, 30), seeds)
def test_both_likelihoods_are_log_densities_summed_over_pixels(batch, side, scale, seed):
    x, logits = random(batch, 1, side, side, seed=seed).sigmoid(), random(batch, 1, side, side, seed=seed + 1) * scale
    naive = -(x * torch.nn.functional.logsigmoid(logits) + (1 - x) * torch.nn.functional.logsigmoid(-logits))
    torch.testing.assert_close(loss.bernoulli_reconstruction(x, logits), naive.flatten(1).sum(1).mean())
    density = Normal(logits.sigmoid(), math.sqrt(0.5)).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(loss.gaussian_reconstruction(x, logits), -density.mean())
    assert value(loss.bernoulli_reconstruction(x, logits)) >= value(loss.bernoulli_entropy(x)) - 1e-9


def test_the_entropy_is_the_floor_and_black_and_white_have_none():
    x = torch.rand(2, 1, 8, 8).double()
    best = loss.bernoulli_reconstruction(x, x.logit())
    torch.testing.assert_close(best, loss.bernoulli_entropy(x))
    assert value(loss.bernoulli_entropy(torch.tensor([[-1e-6, 0.0, 1.0, 1 + 1e-6]]))) == 0


def test_half_precision_logits_are_summed_in_float32():
    x = torch.rand(4, 1, 64, 64)
    result = loss.bernoulli_reconstruction(x, torch.zeros_like(x).bfloat16())
    assert result.dtype == torch.float32
    assert value(result) == pytest.approx(2839.1309, abs=1e-2)


# ---------------------------------------------------------------- KL and capacity


@pytest.mark.parametrize(
    ("mean", "logvar", "expected"),
    [(0.0, 0.0, 0.0), (1.0, 0.0, 5.0), (1.0, 1.0, 8.591409)],
)
def test_the_kl_of_ten_latents_has_the_sheets_values(mean, logvar, expected):
    ten = torch.ones(10, 10, dtype=torch.float64)
    assert value(loss.kl_divergence(mean * ten, logvar * ten)) == pytest.approx(expected, abs=1e-6)


def test_the_kl_of_one_posterior_by_hand():
    mean, logvar = torch.tensor([[1.0, -2.0]]).double(), torch.tensor([[0.0, math.log(4)]]).double()
    assert value(loss.kl_divergence(mean, logvar)) == pytest.approx(3.306853, abs=1e-6)


@given(st.integers(1, 5), st.integers(1, 6), seeds)
def test_the_kl_is_torchs_and_its_latents_add_up(batch, latents, seed):
    _, mean, logvar = codes(batch, latents, seed)
    prior = Independent(Normal(torch.zeros(latents).double(), 1.0), 1)
    expected = kl_divergence(Independent(Normal(mean, (logvar / 2).exp()), 1), prior)
    torch.testing.assert_close(loss.kl_per_latent(mean, logvar).sum(1), expected)
    torch.testing.assert_close(loss.kl_divergence(mean, logvar), expected.mean())


@pytest.mark.parametrize(("step", "capacity"), [(0, 0), (25_000, 6.25), (50_000, 12.5), (100_000, 25), (300_000, 25)])
def test_the_capacity_grows_and_stays(step, capacity):
    assert value(loss.annealed_capacity(torch.tensor(step), 25.0, 100_000)) == capacity


def test_the_capacity_is_compared_with_the_mean_kl_not_with_each():
    kl = torch.tensor([10.0, 40.0], requires_grad=True)
    penalty = loss.capacity_penalty(kl.mean(), 25.0, 1000.0)
    assert value(penalty) == 0
    assert value(loss.capacity_penalty(torch.tensor(20.0), 25.0, 1000.0)) == 5000
    (gradient,) = torch.autograd.grad(loss.capacity_penalty(kl.mean(), 20.0, 1000.0), kl)
    assert gradient.tolist() == [500, 500]


# ---------------------------------------------------------------- DIP-VAE


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (torch.ones(10, 10), 90),
        (torch.zeros(10, 10), 10),
        (torch.eye(10), 0),
        (2 * torch.eye(10), 10),
    ],
)
def test_the_dip_penalty_of_simple_matrices(matrix, expected):
    assert value(loss.dip_penalty(matrix, 1.0, 1.0)) == expected


def test_the_dip_penalty_counts_each_pair_twice():
    assert value(loss.dip_penalty(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), 2.0, 20.0)) == 1


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_both_variants_on_four_codes_wherever_their_centre_is(shift):
    mean = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [2.0, 0.0], [-2.0, 0.0]]).double() + shift
    logvar = torch.tensor([0.5, 1.0]).double().log().expand(4, 2)
    torch.testing.assert_close(loss.covariance_of_means(mean), torch.tensor([[2.5, 0.5], [0.5, 0.5]]).double())
    assert value(loss.dip_penalty(loss.covariance_of_means(mean), 2.0, 20.0)) == pytest.approx(51)
    torch.testing.assert_close(loss.covariance_of_codes(mean, logvar), torch.tensor([[3, 0.5], [0.5, 1.5]]).double())
    assert value(loss.dip_penalty(loss.covariance_of_codes(mean, logvar), 2.0, 2.0)) == pytest.approx(9.5)


@given(st.integers(2, 8), st.integers(1, 5), seeds)
def test_the_covariances_are_the_naive_ones_and_those_of_codes_are_larger_on_the_diagonal_only(batch, latents, seed):
    _, mean, logvar = codes(batch, latents, seed)
    first, second = loss.covariance_of_means(mean), loss.covariance_of_codes(mean, logvar)
    naive = sum(torch.outer(row, row) for row in mean) / batch - torch.outer(mean.mean(0), mean.mean(0))
    torch.testing.assert_close(first, naive)
    difference = second - first
    torch.testing.assert_close(difference, logvar.exp().mean(0).diag())
    assert (torch.linalg.eigvalsh(difference) > 0).all()


# ---------------------------------------------------------------- total correlation, from densities


@pytest.mark.parametrize(
    ("z", "mean", "variance", "expected"), [(1, 0, 1, -1.418939), (1, 1, 1, -0.918939), (0, 1, 4, -1.737086)]
)
def test_the_log_density_has_the_sheets_values(z, mean, variance, expected):
    z, mean, variance = (torch.tensor(float(v)).double() for v in (z, mean, variance))
    assert value(loss.gaussian_log_density(z, mean, variance.log())) == pytest.approx(expected, abs=1e-6)


def naive_tc(z: Tensor, mean: Tensor, logvar: Tensor, weights: Tensor) -> Tensor:
    """Sample by sample, with torch's own densities and probabilities instead of logarithms."""
    total = torch.zeros((), dtype=z.dtype)
    for j in range(len(z)):
        density = Normal(mean, (logvar / 2).exp()).log_prob(z[j]).exp()
        joint = (weights[j] * density.prod(1)).sum()
        total = total + joint.log() - (weights[j, :, None] * density).sum(0).log().sum()
    return total / len(z)


@given(st.integers(2, 6), st.integers(1, 4), seeds)
def test_every_estimate_is_the_naive_one_with_its_weights(batch, latents, seed):
    z, mean, logvar = codes(batch, latents, seed)
    ones, size = torch.ones(batch, batch).double(), 1000
    torch.testing.assert_close(loss.unnormalised_tc(z, mean, logvar), naive_tc(z, mean, logvar, ones))
    torch.testing.assert_close(loss.mixture_tc(z, mean, logvar), naive_tc(z, mean, logvar, ones / batch))
    weighted = naive_tc(z, mean, logvar, ones / (batch * size))
    torch.testing.assert_close(loss.weighted_tc(z, mean, logvar, size), weighted)
    stratified = naive_tc(z, mean, logvar, loss.stratified_log_weights(batch, size).exp())
    torch.testing.assert_close(loss.stratified_tc(z, mean, logvar, size), stratified)


@pytest.mark.parametrize(("latents", "expected"), [(1, 0), (2, -4.158883), (10, -37.429948)])
def test_equal_posteriors_leave_the_constant_and_no_total_correlation(latents, expected):
    z = random(64, latents)
    mean, logvar = torch.full_like(z, 0.3), torch.full_like(z, -0.7)
    assert value(loss.unnormalised_tc(z, mean, logvar)) == pytest.approx(expected, abs=1e-6)
    assert value(loss.mixture_tc(z, mean, logvar)) == pytest.approx(0, abs=1e-9)
    shift = (latents - 1) * math.log(64 * 737_280)
    assert value(loss.weighted_tc(z, mean, logvar, 737_280)) == pytest.approx(expected + shift, abs=1e-6)
    assert value(loss.stratified_tc(z, mean, logvar, 737_280)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("points", "variance", "unnormalised", "mixture"),
    [
        ([(0, 0), (1, 1)], 1.0, -0.634892, -0.634892 + math.log(2)),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], 0.01, -1.386294, 0),
        ([(0, 0), (1, 1), (0, 0), (1, 1)], 0.01, -0.693147, math.log(2)),
        ([(0, 0), (1, 1)], 0.01, 0, math.log(2)),
    ],
)
def test_the_sheets_points_on_a_square(points, variance, unnormalised, mixture):
    mean = torch.tensor(points).double()
    logvar = torch.full_like(mean, math.log(variance))
    assert value(loss.unnormalised_tc(mean, mean, logvar)) == pytest.approx(unnormalised, abs=1e-6)
    assert value(loss.mixture_tc(mean, mean, logvar)) == pytest.approx(mixture, abs=1e-6)


@pytest.mark.parametrize(
    ("batch", "latents", "variance", "expected", "within"),
    [(64, 10, 0.5, 0.58, 0.25), (64, 10, 0.1, 7.0, 0.6), (64, 10, 0.01, 17.6, 1.0), (1000, 2, 0.1, 0.011, 0.03)],
)
def test_the_estimate_is_far_too_high_for_many_narrow_latents_as_documented(batch, latents, variance, expected, within):
    found = []
    for seed in range(8):
        mean = math.sqrt(1 - variance) * random(batch, latents, seed=2 * seed)
        z = mean + math.sqrt(variance) * random(batch, latents, seed=2 * seed + 1)
        found.append(value(loss.mixture_tc(z, mean, torch.full_like(mean, math.log(variance)))))
    assert sum(found) / len(found) == pytest.approx(expected, abs=within)  # the truth is 0


def test_the_estimate_finds_the_total_correlation_of_two_correlated_latents():
    correlation, variance = 0.9, 0.1
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]]).double()
    noise = variance * torch.eye(2).double()
    total = covariance * (1 - variance) + noise
    truth = (total.diagonal().log().sum() - torch.logdet(total)).item() / 2
    assert truth == pytest.approx(0.534, abs=1e-3)
    torch.manual_seed(0)
    mean = MultivariateNormal(torch.zeros(2).double(), covariance * (1 - variance)).sample((1000,))
    z = mean + math.sqrt(variance) * random(1000, 2, seed=1)
    assert value(loss.mixture_tc(z, mean, torch.full_like(mean, math.log(variance)))) == pytest.approx(truth, abs=0.06)


def test_constants_change_no_gradient_and_all_three_arguments_receive_one():
    found = {}
    for name, estimate in (
        ("unnormalised", loss.unnormalised_tc),
        ("mixture", loss.mixture_tc),
        ("weighted", lambda *c: loss.weighted_tc(*c, 1000)),
    ):
        inputs = [part.clone().requires_grad_() for part in codes(8, 3)]
        found[name] = torch.autograd.grad(estimate(*inputs), inputs)
        assert all(gradient.abs().sum() > 0 for gradient in found[name])
    assert all(torch.equal(*pair) for pair in zip(found["unnormalised"], found["mixture"], strict=True))
    assert all(torch.equal(*pair) for pair in zip(found["unnormalised"], found["weighted"], strict=True))


def test_each_row_of_the_stratified_weights_sums_to_one_with_one_nth_on_the_diagonal():
    weights = loss.stratified_log_weights(4, 100).exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(4).double())
    torch.testing.assert_close(weights.diagonal(), torch.full((4,), 0.01).double())
    torch.testing.assert_close(weights[[0, 1, 2, 3], [1, 2, 3, 0]], torch.full((4,), 97 / 300).double())
    assert weights[0, 2] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("batch", "size"), [(1, 100), (8, 7)])
def test_stratified_weights_that_cannot_be_are_refused(batch, size):
    with pytest.raises(ValueError, match=f"a batch of {batch} of a data set of {size}"):
        loss.stratified_log_weights(batch, size)


def test_narrow_posteriors_stay_exact_in_float32():
    # 1e-3 wide and 3 away from 0: squares of 3e3, where a product of matrices would lose three digits
    mean, logvar = random(64, 10) * 3, torch.full((64, 10), math.log(1e-6)).double()
    z = mean + 1e-3 * random(64, 10, seed=1)
    exact = value(loss.unnormalised_tc(z, mean, logvar))
    assert value(loss.unnormalised_tc(z.float(), mean.float(), logvar.float())) == pytest.approx(exact, abs=2e-2)


# ---------------------------------------------------------------- total correlation, by a discriminator


def test_the_sheets_logits():
    logits, permuted = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    assert value(loss.density_ratio_tc(logits)) == 0.5
    assert value(loss.discriminator_loss(logits, permuted)) == pytest.approx(0.565066, abs=1e-6)
    assert value(loss.discriminator_loss(0 * logits, 0 * permuted)) == pytest.approx(math.log(2), abs=1e-6)


def test_the_discriminators_loss_is_cross_entropy_over_both_halves_and_confident_errors_keep_their_gradient():
    logits, permuted = random(5, 2), random(5, 2, seed=1)
    labels = torch.tensor([0] * 5 + [1] * 5)
    joint = torch.nn.functional.cross_entropy(torch.cat([logits, permuted]), labels)
    torch.testing.assert_close(loss.discriminator_loss(logits, permuted), joint)
    wrong = torch.tensor([[-40.0, 40.0]], requires_grad=True)  # p_0 is 1e-35: the study's code would clip it
    (gradient,) = torch.autograd.grad(loss.discriminator_loss(wrong, torch.zeros(1, 2)), wrong)
    assert gradient[0, 0].item() == pytest.approx(-0.5)


@given(st.integers(1, 20), st.integers(1, 5), seeds)
def test_permuting_keeps_the_values_of_each_latent(batch, latents, seed):
    z = random(batch, latents, seed=seed)
    permuted = loss.permute_latents(z, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(permuted.sort(0).values, z.sort(0).values, rtol=0, atol=0)
    assert torch.equal(permuted, loss.permute_latents(z, torch.Generator().manual_seed(seed)))


def test_each_latent_has_a_permutation_of_its_own_and_all_permutations_are_as_likely():
    z = torch.arange(3.0)[:, None].expand(3, 4000)
    permuted = loss.permute_latents(z, torch.Generator().manual_seed(0))
    kinds, counts = permuted.unique(dim=1, return_counts=True)
    assert kinds.shape == (3, 6)
    assert ((counts - 4000 / 6).abs() < 4 * math.sqrt(4000 / 6)).all()


def test_permuting_makes_dependent_latents_independent():
    z = random(4000, 1).expand(4000, 2)
    permuted = loss.permute_latents(z, torch.Generator().manual_seed(0))
    assert abs(torch.corrcoef(permuted.T)[0, 1].item()) < 0.05
