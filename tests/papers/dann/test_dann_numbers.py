"""DANN's losses and schedules on any numbers: float64 references, invariants, shapes that must not be broadcast."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_inputs import check, dtypes, exact, numbers, one_line, seeds, size, tensors
from scipy.special import entr, expit, softmax
from torch import Tensor

from zoo.dann.loss import (
    annealing_factor,
    conditional_features,
    domain_coefficient,
    domain_loss,
    entropy_weights,
    reverse_gradient,
)

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


# gradient reversal


@given(st.data(), shapes, st.just(0.0) | st.floats(0, 1e4))
def test_the_reversal_is_the_identity_with_minus_lambda_times_the_gradient(data, shape, coefficient):
    dtype = data.draw(dtypes)
    x = data.draw(tensors(shape, numbers(1e30), dtype)).requires_grad_()
    found = reverse_gradient(x, coefficient)
    assert torch.equal(found, x)
    incoming = data.draw(tensors(shape, numbers(1), dtype))
    (gradient,) = torch.autograd.grad(found, x, incoming)
    assert torch.equal(gradient, -coefficient * incoming)


@given(seeds, st.floats(0, 10))
def test_the_reversal_can_be_differentiated_twice(seed, coefficient):
    x = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    (first,) = torch.autograd.grad(reverse_gradient(x, coefficient).pow(3).sum(), x, create_graph=True)
    torch.testing.assert_close(first, -coefficient * 3 * x.square())
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, coefficient**2 * 6 * x.detach())


@given(st.floats(max_value=-1e-300) | st.just(math.nan))
def test_a_coefficient_that_would_turn_the_reversal_round_is_refused(coefficient):
    with pytest.raises(ValueError, match=r"coefficient is .*; expected a number of at least 0") as caught:
        reverse_gradient(torch.zeros(1), coefficient)
    assert one_line(caught.value)


# schedules


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1e-3, 1e6))
def test_both_schedules_go_one_way_and_stay_in_their_ranges(one, two, gamma):
    early, late = min(one, two), max(one, two)
    assert 0 <= domain_coefficient(early, gamma) <= domain_coefficient(late, gamma) <= 1
    assert 11**-0.75 - 1e-15 <= annealing_factor(late) <= annealing_factor(early) <= 1


@given(st.floats().filter(lambda progress: not 0 <= progress <= 1), st.floats().filter(lambda g: not 0 < g < math.inf))
def test_progress_and_steepness_out_of_range_are_refused(progress, gamma):
    for call in (domain_coefficient, annealing_factor):
        with pytest.raises(ValueError, match=r"progress is .*\[0, 1\]"):
            call(progress)
    with pytest.raises(ValueError, match=r"gamma is .*; expected a number above 0"):
        domain_coefficient(0.5, gamma)


# domain loss


@given(st.data())
def test_the_domain_loss_is_that_of_float64_for_any_logits_and_weights(data):
    dtype, count, others = data.draw(dtypes), data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    source, target = (data.draw(tensors((n,), numbers(1e30), dtype)) for n in (count, others))
    weights = [data.draw(st.none() | tensors((n,), st.floats(0, 2), dtype)) for n in (count, others)]
    terms = [np.logaddexp(0, exact(source)), np.logaddexp(0, -exact(target))]
    expected = sum(mean(t if w is None else t * exact(w)) for t, w in zip(terms, weights, strict=True))
    found = domain_loss(source, target, *weights)
    check(found, expected, dtype, size(source, target) * (1e8 if dtype == torch.float64 else 1))  # softplus turns at 20
    if not found.isnan():
        assert found >= 0


@given(st.data())
def test_the_gradients_of_the_domain_loss_are_bounded_by_one_over_the_batch(data):
    dtype, count = data.draw(dtypes), data.draw(st.integers(1, 5))
    logits = [data.draw(tensors((count,), numbers(1e30), dtype)).requires_grad_() for _ in range(2)]
    source, target = torch.autograd.grad(domain_loss(*logits), logits)
    tolerance = 1e-5 + torch.finfo(dtype).eps
    np.testing.assert_allclose(exact(source), expit(exact(logits[0])) / count, rtol=0, atol=tolerance)
    np.testing.assert_allclose(exact(target), -expit(-exact(logits[1])) / count, rtol=0, atol=tolerance)


@given(st.data())
def test_exchanging_the_domains_turns_the_signs_and_order_does_not_matter(data):
    source, target = (data.draw(tensors((4,), numbers(1e3), torch.float64)) for _ in range(2))
    assert domain_loss(source, target) == domain_loss(-target, -source)
    order = torch.tensor(data.draw(st.permutations(range(4))))
    torch.testing.assert_close(domain_loss(source[order], target), domain_loss(source, target))


@pytest.mark.parametrize(
    ("logits", "weights"), [((4, 1), (4,)), ((4,), (4, 1)), ((4,), (1,)), ((4,), ()), ((4,), (3,)), ((0,), (1,))]
)
def test_weights_are_not_broadcast(logits, weights):
    for call in (
        lambda: domain_loss(torch.zeros(logits), torch.zeros(2), torch.ones(weights), None),
        lambda: domain_loss(torch.zeros(2), torch.zeros(logits), None, torch.ones(weights)),
    ):
        with pytest.raises(ValueError, match=r"logits \(.*, weights \(.*expected the same shape") as caught:
            call()
        assert one_line(caught.value)


# conditional domain heads


@given(st.data())
def test_conditional_features_are_outer_products_or_products_of_projections(data):
    dtype, batch = data.draw(dtypes), data.draw(st.integers(0, 4))
    width, classes, mapped = (data.draw(st.integers(1, 4)) for _ in range(3))
    f, g = (data.draw(tensors((batch, n), numbers(10), dtype)) for n in (width, classes))
    found = conditional_features(f, g)
    assert found.dtype == dtype
    expected = np.einsum("bk,bd->bkd", exact(g), exact(f)).reshape(batch, classes * width)
    np.testing.assert_allclose(exact(found), expected, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)
    maps = [data.draw(tensors((n, mapped), numbers(3), dtype)) for n in (width, classes)]
    expected = (exact(f) @ exact(maps[0])) * (exact(g) @ exact(maps[1])) / math.sqrt(mapped)
    found = conditional_features(f, g, tuple(maps))
    np.testing.assert_allclose(exact(found), expected, rtol=0, atol=4e4 * torch.finfo(dtype).eps)


@given(st.data())
def test_shapes_of_a_conditional_head_are_not_broadcast(data):
    right = {"f": (3, 4), "g": (3, 2), "r": (4, 5), "s": (2, 5)}
    name = data.draw(st.sampled_from(sorted(right)))
    wrong: tuple[int, ...] = data.draw(st.sampled_from([(1, n) for n in right[name][1:]] + [right[name][:1], (7, 1)]))
    given_shapes = right | {name: wrong}
    f, g, r, s = (torch.zeros(given_shapes[key]) for key in "fgrs")
    if name in "fg" and wrong[:1] == (3,) and len(wrong) == 2:
        return
    with pytest.raises(ValueError, match=r"expected \(B, D\) and \(B, K\)|expected \(D, d\) and \(K, d\)") as caught:
        conditional_features(f, g, (r, s))
    assert one_line(caught.value)


def reference_weights(logits: Tensor) -> np.ndarray:
    weights = 1 + np.exp(-entr(softmax(exact(logits), axis=1)).sum(1))
    return weights / weights.mean() if len(weights) else weights


@given(st.data(), st.booleans())
def test_entropy_weights_are_those_of_float64_for_any_logits_even_impossible_classes(data, impossible):
    dtype, batch, classes = data.draw(dtypes), data.draw(st.integers(0, 5)), data.draw(st.integers(1, 5))
    logits = data.draw(tensors((batch, classes), numbers(1e30), dtype))
    if impossible and batch:
        logits = logits.clone()
        logits[0, 1:] = -math.inf
    found = entropy_weights(logits)
    check(found, reference_weights(logits), dtype)
    assert not found.requires_grad
    if batch:
        assert found.mean().item() == pytest.approx(1, abs=1e-5)
        assert found.max() <= 2 * found.min() * (1 + 1e-6)
        shifted = entropy_weights(logits.double() + 3)
        torch.testing.assert_close(shifted, entropy_weights(logits.double()), rtol=1e-6, atol=1e-6)
    assert entropy_weights(torch.tensor([[math.nan, 0.0]])).isnan().all()
