"""Distillation's soft term and its translation of bins on any numbers: against float64, or refused, or NaN."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_inputs import check, dtypes, exact, numbers, one_line, seeds, size, tensors
from scipy.special import log_softmax, softmax
from torch import Tensor

from zoo.distillation.loss import hard_loss, mix, rebin, soft_target_loss

temperatures = st.sampled_from([1.0, 2.0, 4.0, 20.0]) | st.floats(0.05, 100)


def draw_pair(data: st.DataObject, limit: float, smallest: int = 0) -> tuple[Tensor, Tensor]:
    shape = data.draw(st.integers(smallest, 5)), data.draw(st.integers(1, 6))
    student, teacher = (data.draw(tensors(shape, numbers(limit), data.draw(dtypes))) for _ in range(2))
    return student, teacher


def tolerance(temperature: float, *logits: Tensor) -> float:
    """What float32 at least can say: rounding of logits that are divided by T, times T²."""
    return 64 * torch.finfo(torch.float32).eps * (temperature**2 + temperature * size(*logits))


@given(st.data(), temperatures)
def test_the_soft_term_is_that_of_float64_for_any_two_logits(data, temperature):
    student, teacher = draw_pair(data, 1e4)
    p = softmax(exact(teacher) / temperature, axis=1)
    apart = log_softmax(exact(teacher) / temperature, axis=1) - log_softmax(exact(student) / temperature, axis=1)
    expected = temperature**2 * (p * apart).sum(1).mean() if len(p) else math.nan
    found = soft_target_loss(student, teacher, temperature)
    assert found.dtype == torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    np.testing.assert_allclose(exact(found), expected, rtol=1e-5, atol=tolerance(temperature, student, teacher))


@given(st.data(), temperatures)
def test_its_gradient_is_the_difference_of_the_softened_and_the_teacher_gets_none(data, temperature):
    student, teacher = (logits.requires_grad_() for logits in draw_pair(data, 1e4, smallest=1))
    gradient, none = torch.autograd.grad(
        soft_target_loss(student, teacher, temperature), [student, teacher], allow_unused=True
    )
    assert none is None
    p, q = (softmax(exact(logits) / temperature, axis=1) for logits in (teacher, student))
    off = 1e-6 * (temperature + size(student, teacher)) + torch.finfo(student.dtype).eps * temperature
    np.testing.assert_allclose(exact(gradient), temperature * (q - p) / len(p), rtol=0, atol=off)


@given(st.data(), temperatures)
def test_it_is_a_divergence_that_knows_no_shift_and_no_order(data, temperature):
    student, teacher = (logits.double() for logits in draw_pair(data, 100, smallest=1))
    found = soft_target_loss(student, teacher, temperature).item()
    near = pytest.approx(found, rel=1e-8, abs=1e-8 * temperature**2)
    assert found >= -1e-10 * temperature**2
    assert abs(soft_target_loss(teacher, teacher, temperature).item()) <= 1e-10 * temperature**2
    rows = data.draw(tensors((len(student), 1), numbers(100), torch.float64))
    assert soft_target_loss(student + rows, teacher - 2 * rows, temperature).item() == near
    order = torch.tensor(data.draw(st.permutations(range(student.shape[1]))))
    assert soft_target_loss(student[:, order], teacher[:, order], temperature).item() == near
    assert soft_target_loss(student / 3, teacher / 3, temperature / 3).item() * 9 == near


@given(seeds, temperatures)
def test_its_gradient_is_that_of_finite_differences(seed, temperature):
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.autograd.gradcheck(lambda z: soft_target_loss(z, teacher, temperature), (student.requires_grad_(),))


@given(st.data())
def test_a_class_that_the_teacher_rules_out_counts_nothing(data):
    student, teacher = (logits.double() for logits in draw_pair(data, 50, smallest=1))
    out = torch.full((len(teacher), 1), -math.inf, dtype=torch.float64)
    shown = torch.cat([student, data.draw(tensors((len(student), 1), numbers(50), torch.float64))], 1)
    found = soft_target_loss(shown, torch.cat([teacher, out], 1), 1.0)
    p = softmax(exact(teacher), axis=1)
    expected = (p * (np.log(np.maximum(p, 1e-300)) - log_softmax(exact(shown), axis=1)[:, :-1])).sum(1).mean()
    assert found.item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3), (1, 3)), ((2, 3), (2, 1)), ((2, 3), (3,)), ((3,), (3,)), ((2, 3, 4), (2, 3, 4))]
)
def test_rows_are_not_broadcast_and_further_dimensions_not_summed(student, teacher):
    with pytest.raises(ValueError, match=r"expected (the same shape|rows \(B, K\))") as caught:
        soft_target_loss(torch.zeros(student), torch.zeros(teacher), 2.0)
    assert one_line(caught.value)
    with pytest.raises(ValueError, match=r"expected (the same shape|rows \(B, K\))|integers"):
        hard_loss(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize("temperature", [1e-44, 1e200])
def test_a_temperature_beyond_the_precision_gives_nan_and_no_number(temperature):
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert soft_target_loss(logits, logits.flip(1), temperature).isnan()


@given(st.data())
def test_the_hard_term_takes_masses_of_any_precision(data):
    logits, other = draw_pair(data, 1e4, smallest=1)
    target = torch.softmax(other.double(), 1).to(other.dtype)
    expected = -(exact(target) * log_softmax(exact(logits), axis=1)).sum(1).mean()
    check(hard_loss(logits, target), expected, logits.dtype, size(logits))


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30), st.floats(0, 1))
def test_a_mix_lies_between_its_parts(hard, soft, alpha):
    found = mix(torch.tensor(hard, dtype=torch.float64), torch.tensor(soft, dtype=torch.float64), alpha).item()
    slack = 1e-9 * max(abs(hard), abs(soft))
    assert min(hard, soft) - slack <= found <= max(hard, soft) + slack


@given(st.floats())
def test_every_other_temperature_and_weight_is_refused_with_its_value(value):
    zero, rows = torch.zeros(()), torch.zeros(1, 2)
    softened, mixed = partial(soft_target_loss, rows, rows), partial(mix, zero, zero)
    for function, valid in ((softened, 0 < value < math.inf), (mixed, 0 <= value <= 1)):
        if valid:
            function(value)
        else:
            with pytest.raises(ValueError, match="expected"):
                function(value)


# ---------------------------------------------------------------- other bins

widths = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=7)


def edges_of(steps: list[float], start: float) -> Tensor:
    return start + torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)


def draw_masses(data: st.DataObject, bins: int) -> Tensor:
    """Histograms of any batch shape; some are certain."""
    shape = (*data.draw(st.lists(st.integers(0, 3), max_size=2)), bins)
    logits = data.draw(tensors(shape, numbers(1e4), torch.float64))
    return logits.softmax(-1).to(data.draw(dtypes))


@given(st.data(), widths, widths, st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_translated_masses_are_differences_of_the_cdf_in_any_precision(data, old, new, start, new_start):
    edges, new_edges = edges_of(old, start), edges_of(new, new_start)
    masses = draw_masses(data, len(old))
    found = rebin(masses, edges, new_edges)
    assert found.dtype == torch.float64
    assert found.shape == (*masses.shape[:-1], len(new))
    assert (found >= 0).all()
    rows = exact(masses)
    cumulative = np.concatenate([np.zeros((*rows.shape[:-1], 1)), rows.cumsum(-1)], -1)
    at = np.concatenate([[-math.inf], exact(new_edges)[1:-1], [math.inf]])
    cdf = np.array([np.interp(at, exact(edges), row) for row in cumulative.reshape(-1, len(old) + 1)])
    expected = np.diff(cdf.reshape(-1, len(at)), axis=-1).reshape(found.shape)
    np.testing.assert_allclose(exact(found), expected, rtol=1e-9, atol=1e-9)


@given(st.data(), widths)
def test_finer_bins_and_back_change_nothing_and_one_bin_takes_all(data, steps):
    edges, masses = edges_of(steps, 0.0), draw_masses(data, len(steps)).double()
    fine = torch.cat([edges, (edges[1:] + edges[:-1]) / 2]).sort().values
    torch.testing.assert_close(rebin(rebin(masses, edges, fine), fine, edges), masses, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(rebin(masses, edges, edges[[0, -1]])[..., 0], masses.sum(-1), rtol=1e-9, atol=1e-12)


@given(st.data(), st.integers(2, 5), st.booleans())
def test_edges_that_do_not_rise_give_nan_and_never_a_sum_that_lacks_mass(data, bins, new):
    masses = torch.full((2, bins), 1 / bins)
    rising = torch.arange(bins + 1.0)
    broken = rising.clone()
    place = data.draw(st.integers(0, bins - 1))
    broken[place], broken[place + 1] = rising[place + 1], rising[data.draw(st.integers(0, place + 1))]
    found = rebin(masses, rising, broken) if new else rebin(masses, broken, rising)
    assert found.isnan().any(1).all()


@pytest.mark.parametrize(
    ("masses", "edges", "new"), [((2, 3), (3,), (5,)), ((2, 3), (4,), (1,)), ((2, 3), (1, 4), (5,)), ((), (2,), (3,))]
)
def test_histograms_that_do_not_fit_their_edges_are_refused(masses, edges, new):
    with pytest.raises(ValueError, match=r"expected \(\.\.\., k\), \(k \+ 1,\) and \(m \+ 1,\)") as caught:
        rebin(torch.zeros(masses), torch.zeros(edges), torch.zeros(new))
    assert one_line(caught.value)
