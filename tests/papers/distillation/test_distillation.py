"""Distillation: the loss against the sheet of exact numbers and against a naive form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zoo import KnowledgeDistillation
from zoo.distillation.loss import distillation_loss, hard_loss, soft_target_loss

TEACHER = torch.tensor([[5.0, 2.0, 0.5, -1.0]], dtype=torch.float64)
STUDENT = torch.tensor([[2.0, 1.5, 0.0, -0.5]], dtype=torch.float64)
LABEL = torch.tensor([0])


# ---------------------------------------------------------------- the sheet, section 10


@pytest.mark.parametrize(
    ("temperature", "softened", "kl", "scaled", "gradient"),
    [
        (1, [0.94040, 0.04682, 0.01045, 0.00233], 0.388232, 0.388232, [-0.39214, 0.28572, 0.06375, 0.04267]),
        (2, [0.72552, 0.16189, 0.07647, 0.03612], 0.207181, 0.828724, [-0.62908, 0.31638, 0.14945, 0.16325]),
        (4, [0.49501, 0.23383, 0.16071, 0.11045], 0.060275, 0.964395, [-0.65743, 0.23190, 0.15938, 0.26614]),
        (20, [0.29411, 0.25315, 0.23485, 0.21788], 0.002204, 0.881622, [-0.56687, 0.12125, 0.11249, 0.33313]),
    ],
)
def test_the_soft_term_and_its_gradient_have_the_values_of_the_sheet(temperature, softened, kl, scaled, gradient):
    torch.testing.assert_close(
        (TEACHER / temperature).softmax(1)[0], torch.tensor(softened).double(), atol=6e-6, rtol=0
    )
    z = STUDENT.clone().requires_grad_()
    loss = soft_target_loss(z, TEACHER, temperature)
    assert loss.item() == pytest.approx(scaled, abs=1e-6)
    assert loss.item() / temperature**2 == pytest.approx(kl, abs=1e-6)
    (found,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(found[0], torch.tensor(gradient).double(), atol=6e-6, rtol=0)


def test_the_hard_term_and_the_mix_have_the_values_of_the_sheet():
    assert hard_loss(STUDENT, LABEL).item() == pytest.approx(0.601005, abs=1e-6)
    assert distillation_loss(STUDENT, TEACHER, LABEL, 4, 0.9).item() == pytest.approx(0.928056, abs=1e-6)


def test_a_high_temperature_matches_the_centred_logits():
    z = STUDENT.clone().requires_grad_()
    loss = soft_target_loss(z, TEACHER, 1e4)
    centred = (STUDENT - STUDENT.mean()) - (TEACHER - TEACHER.mean())
    assert loss.item() == pytest.approx((centred.square().sum() / 8).item(), rel=1e-3)
    assert loss.item() == pytest.approx(0.8359, abs=2e-4)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, centred / 4, atol=1e-3, rtol=0)
    expected = torch.tensor([[-0.53125, 0.09375, 0.09375, 0.34375]]).double()
    torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=0)


# ---------------------------------------------------------------- the loss


def random_logits(batch: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, v = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64) * 4
    return z, v, torch.randint(classes, (batch,), generator=generator)


def naive_softmax(row: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in row]
    return [value / math.fsum(exponentials) for value in exponentials]


logits = st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**31))


@given(logits, st.floats(0.3, 30), st.floats(0, 1))
def test_loss_is_the_naive_sum(case, temperature, alpha):
    z, v, labels = random_logits(*case)
    total = 0.0
    for mine, theirs, label in zip(z.tolist(), v.tolist(), labels.tolist(), strict=True):
        p, q = naive_softmax(theirs, temperature), naive_softmax(mine, temperature)
        kl = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total += alpha * temperature**2 * kl - (1 - alpha) * math.log(naive_softmax(mine, 1)[label])
    assert distillation_loss(z, v, labels, temperature, alpha).item() == pytest.approx(total / len(z), abs=1e-8)


@given(logits, st.floats(0.3, 30), st.floats(-50, 50))
def test_the_soft_term_is_a_divergence_whose_gradient_is_bounded_and_that_ignores_shifts(case, temperature, shift):
    z, v, _ = random_logits(*case)
    z.requires_grad_()
    loss = soft_target_loss(z, v, temperature)
    assert loss.item() >= -1e-9 * temperature**2
    (gradient,) = torch.autograd.grad(loss, z)
    p, q = (v / temperature).softmax(1), (z.detach() / temperature).softmax(1)
    torch.testing.assert_close(gradient, temperature * (q - p) / len(z), atol=1e-10, rtol=1e-8)
    assert gradient.sum(1).abs().max() < 1e-9 * temperature
    torch.testing.assert_close(soft_target_loss(z + shift, v - shift, temperature), loss, atol=1e-7, rtol=1e-7)
    assert soft_target_loss(v.clone(), v, temperature).abs().item() < 1e-10 * temperature**2


def test_no_gradient_reaches_the_teacher_and_alpha_decides_between_the_terms():
    z, v, labels = random_logits(4, 3, 0)
    z.requires_grad_()
    v.requires_grad_()
    distillation_loss(z, v, labels).backward()
    assert v.grad is None
    assert z.grad is not None
    torch.testing.assert_close(distillation_loss(z, v, labels, 7, 0), hard_loss(z, labels))
    torch.testing.assert_close(distillation_loss(z, v, labels, 7, 1), soft_target_loss(z, v, 7))


def test_half_precision_and_autocast_give_the_float32_loss():
    z, v, labels = (value.float() if value.is_floating_point() else value for value in random_logits(6, 5, 1))
    expected = distillation_loss(z, v, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distillation_loss(z, v, labels), expected)
    half = distillation_loss(z.bfloat16(), v.bfloat16(), labels)
    assert half.dtype == torch.float32
    assert torch.equal(half, distillation_loss(z.bfloat16().float(), v.bfloat16().float(), labels))


def test_a_class_that_the_teacher_rules_out_and_extreme_logits_stay_finite():
    v = torch.tensor([[3.0, -math.inf, 0.0], [1e4, -1e4, 0.0]])
    z = torch.tensor([[1.0, 2.0, 3.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    loss = soft_target_loss(z, v, 2.0)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    p, q = (v[0] / 2).softmax(0), (z[0].detach() / 2).softmax(0)
    torch.testing.assert_close(gradient[0], 2 * (q - p) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"alpha": 1.5}, r"alpha is 1.5; expected a share in \[0, 1\]"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": math.nan}, "alpha is nan"),
    ],
)
def test_bad_values_are_refused_by_the_loss_and_by_the_module(arguments, message):
    z, v, labels = random_logits(2, 3, 0)
    with pytest.raises(ValueError, match=message):
        distillation_loss(z, v, labels, **{"temperature": 4.0, "alpha": 0.9} | arguments)
    with pytest.raises(ValueError, match=message):
        KnowledgeDistillation(**arguments)


def test_logits_of_two_shapes_are_refused_and_not_broadcast():
    with pytest.raises(ValueError, match=r"student_logits \(4, 3\), teacher_logits \(1, 3\): expected the same shape"):
        distillation_loss(torch.zeros(4, 3), torch.zeros(1, 3), torch.zeros(4, dtype=torch.long))
