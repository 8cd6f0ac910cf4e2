"""DANN's losses and schedules: against naive float64 forms, the exact numbers of the paper, gradients, transforms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.dann.loss import (
    annealing_factor,
    conditional_features,
    domain_coefficient,
    domain_loss,
    entropy_weights,
    reverse_gradient,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# gradient reversal


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_forward_of_the_reversal_is_the_input_bit_for_bit(dtype):
    x = random(7, 5).to(dtype)
    assert torch.equal(reverse_gradient(x, 0.3), x)
    assert reverse_gradient(x, 0.3).dtype == dtype


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 1.0, 6.0])
def test_features_get_minus_lambda_times_the_gradient_and_the_head_gets_all_of_it(coefficient):
    plain, reversed_ = (random(8, 4).requires_grad_() for _ in range(2))
    head = random(4, 1, seed=1).requires_grad_()
    plain_x, plain_head = torch.autograd.grad((plain @ head).tanh().sum(), [plain, head])
    x, of_head = torch.autograd.grad((reverse_gradient(reversed_, coefficient) @ head).tanh().sum(), [reversed_, head])
    assert torch.equal(x, -coefficient * plain_x)
    assert torch.equal(of_head, plain_head)


def test_a_tensor_may_be_the_coefficient_and_gets_no_gradient():
    x, coefficient = random(3).requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    reverse_gradient(x, coefficient).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), -0.5, dtype=torch.float64))
    assert coefficient.grad is None


def test_the_reversal_works_under_torch_func():
    x = random(6, 4)

    def of_one(row: Tensor) -> Tensor:
        return reverse_gradient(row, 2.0).square().sum()

    assert torch.equal(torch.func.grad(of_one)(x[0]), -4 * x[0])
    assert torch.equal(torch.func.vmap(torch.func.grad(of_one))(x), -4 * x)
    _, pull = torch.func.vjp(lambda row: reverse_gradient(row, 2.0), x)
    assert torch.equal(pull(torch.ones_like(x))[0], torch.full_like(x, -2.0))


def test_the_reversal_works_under_autocast():
    layer, x = nn.Linear(4, 4), torch.randn(3, 4, requires_grad=True)
    gradients = []
    for coefficient in (None, 0.5):
        with torch.autocast("cpu", torch.bfloat16):
            hidden = layer(x)
            hidden = hidden if coefficient is None else reverse_gradient(hidden, coefficient)
            assert hidden.dtype == torch.bfloat16
        gradients.append(torch.autograd.grad(hidden.float().sum(), x)[0])
    assert torch.equal(gradients[1], -0.5 * gradients[0])


def test_the_reversal_compiles_without_a_break_and_takes_a_new_coefficient():
    def gradient(x: Tensor, coefficient: float) -> Tensor:
        return reverse_gradient(x * 2, coefficient).square().sum()

    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    for coefficient in (0.1, 0.2, 0.7):
        x = random(5).requires_grad_()
        compiled(x, coefficient).backward()
        torch.testing.assert_close(x.grad, -coefficient * 8 * x.detach())


def test_a_confident_domain_head_hands_little_back_unlike_flipped_labels():
    # dL/ds of the true label is D, of a flipped one D - 1: with D near 0 on the source the reversal vanishes
    logit = torch.tensor([-8.0], dtype=torch.float64, requires_grad=True)
    loss = domain_loss(reverse_gradient(logit, 1.0), torch.zeros(1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, logit)
    assert gradient.item() == pytest.approx(-torch.sigmoid(torch.tensor(-8.0, dtype=torch.float64)).item(), rel=1e-12)


# schedules


@pytest.mark.parametrize(
    ("progress", "coefficient", "rate"),
    [(0, 0, 0.01), (0.05, 0.245, 0.00738), (0.1, 0.462, 0.00595), (0.2, 0.762, 0.00439), (0.3, 0.905, 0.00354),
     (0.5, 0.987, 0.00261), (1, 0.9999, 0.00166)],
)  # fmt: skip
def test_both_schedules_have_the_papers_values(progress, coefficient, rate):
    assert domain_coefficient(progress) == pytest.approx(coefficient, abs=5e-4)
    assert 0.01 * annealing_factor(progress) == pytest.approx(rate, abs=5e-6)


@given(st.floats(0, 1), st.floats(0.01, 1000))
def test_the_coefficient_is_the_papers_formula_for_any_steepness(progress, gamma):
    # 2 / (1 + e) - 1 loses digits near 0, hence the absolute tolerance
    assert domain_coefficient(progress, gamma) == pytest.approx(2 / (1 + math.exp(-gamma * progress)) - 1, abs=1e-12)
    assert 0 <= domain_coefficient(progress, gamma) <= 1


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_a_progress_outside_the_training_is_refused(progress):
    with pytest.raises(ValueError, match="expected a share in \\[0, 1\\]"):
        domain_coefficient(progress)


# domain loss


@given(st.integers(1, 5), st.integers(1, 7), st.floats(0.1, 50), st.integers(0, 2**31))
def test_the_domain_loss_is_the_sum_of_two_naive_means(sources, targets, scale, seed):
    s, t = random(sources, seed=seed) * scale, random(targets, seed=seed + 1) * scale

    def cross_entropy(logit: float, label: int) -> float:
        signed = logit if label else -logit
        return math.log1p(math.exp(-signed)) if signed > -30 else -signed

    expected = sum(cross_entropy(v, 0) for v in s.tolist()) / sources
    expected += sum(cross_entropy(v, 1) for v in t.tolist()) / targets
    assert domain_loss(s, t).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_domain_head_that_knows_nothing_has_the_loss_2_log_2():
    assert domain_loss(torch.zeros(3), torch.zeros(9)).item() == pytest.approx(2 * math.log(2))


def test_the_domain_loss_is_twice_the_mean_over_equal_halves_and_symmetric_under_exchange():
    s, t = random(6), random(6, seed=1)
    joint = nn.functional.binary_cross_entropy_with_logits(torch.cat([s, t]), torch.cat([0 * s, 0 * t + 1]))
    torch.testing.assert_close(domain_loss(s, t), 2 * joint)
    torch.testing.assert_close(domain_loss(s, t), domain_loss(-t, -s))


def test_unequal_halves_weigh_the_same():
    s, t = random(2), random(8, seed=1)
    torch.testing.assert_close(domain_loss(s.repeat(3), t), domain_loss(s, t))


def test_equal_weights_change_nothing_and_half_precision_is_summed_in_float32():
    s, t = random(4), random(3, seed=1)
    torch.testing.assert_close(domain_loss(s, t, torch.ones(4), torch.ones(3)), domain_loss(s, t))
    half = domain_loss(s.bfloat16(), t.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, domain_loss(s.bfloat16().float(), t.bfloat16().float()))


def test_extreme_logits_give_finite_losses_and_gradients():
    s, t = (torch.tensor([-1e4, 1e4], requires_grad=True) for _ in range(2))
    loss = domain_loss(s, t)
    loss.backward()
    assert loss.item() == 1e4
    assert s.grad.isfinite().all()
    assert t.grad.isfinite().all()


# conditional domain heads


def test_conditional_features_are_the_outer_product_class_by_class():
    f, g = random(3, 4), random(3, 2, seed=1).softmax(1)
    expected = torch.stack([torch.outer(g[i], f[i]).flatten() for i in range(3)])
    assert torch.equal(conditional_features(f, g), expected)


def test_random_maps_keep_the_inner_products_of_the_outer_product():
    f, g = random(5, 6), random(5, 3, seed=1).softmax(1)
    exact = conditional_features(f, g)
    maps = random(6, 200_000, seed=2), random(3, 200_000, seed=3)
    mapped = conditional_features(f, g, maps)
    assert mapped.shape == (5, 200_000)
    torch.testing.assert_close(mapped @ mapped.T, exact @ exact.T, rtol=0, atol=0.1)


@given(st.integers(1, 8), st.integers(2, 6), st.floats(0, 30), st.integers(0, 2**31))
def test_entropy_weights_are_one_plus_exp_minus_entropy_with_mean_one(batch, classes, scale, seed):
    logits = random(batch, classes, seed=seed) * scale
    rows = logits.softmax(1).tolist()
    naive = [1 + math.exp(sum(p * math.log(p) for p in row if p > 0)) for row in rows]
    mean = sum(naive) / batch
    assert entropy_weights(logits).tolist() == pytest.approx([value / mean for value in naive], rel=1e-9)


def test_a_sure_image_weighs_more_than_an_unsure_one_and_no_gradient_flows():
    logits = torch.tensor([[20.0, 0.0], [0.0, 0.0]], requires_grad=True)
    weights = entropy_weights(logits)
    torch.testing.assert_close(weights, torch.tensor([2.0, 1.5]) / 1.75)
    assert not weights.requires_grad
