"""Cross-entropy with labels, of three papers: any shape, dtype and layout, huge logits, and labels that are none."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_inputs import FLOATS, INTEGERS, check, dtypes, exact, numbers, one_line, seeds, size, tensors
from scipy.special import log_softmax, softmax
from torch import Tensor

from zoo.classifier.loss import classification_loss
from zoo.distillation.loss import distillation_loss, hard_loss
from zoo.local_error.loss import prediction_loss
from zoo.shared.schedules import warmup_cosine

LOSSES = [classification_loss, prediction_loss, hard_loss]
each_loss = pytest.mark.parametrize("loss", LOSSES)


def draw_batch(data: st.DataObject, limit: float, smallest: int = 0) -> tuple[Tensor, Tensor]:
    batch, classes = data.draw(st.integers(smallest, 6)), data.draw(st.integers(1, 6))
    logits = data.draw(tensors((batch, classes), numbers(limit), data.draw(dtypes)))
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch))
    return logits, torch.tensor(labels, dtype=data.draw(st.sampled_from(INTEGERS)))


def reference(logits: Tensor, labels: Tensor) -> Any:
    rows = log_softmax(exact(logits), axis=1)
    return -rows[np.arange(len(rows)), labels.long().numpy()].mean() if len(rows) else math.nan


@each_loss
@given(st.data())
def test_any_logits_and_labels_of_any_integer_type_give_the_reference(loss, data):
    logits, labels = draw_batch(data, 1e30)
    check(loss(logits, labels), reference(logits, labels), logits.dtype, size(logits))


@each_loss
@given(st.data())
def test_the_gradient_is_softmax_minus_label_however_large_the_logits_are(loss, data):
    logits, labels = draw_batch(data, 1e30, smallest=1)
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    expected = softmax(exact(logits), axis=1)
    expected[np.arange(len(labels)), labels.long().numpy()] -= 1
    assert gradient.dtype == logits.dtype
    tolerance = 64 * torch.finfo(torch.promote_types(logits.dtype, torch.float32)).eps + torch.finfo(logits.dtype).eps
    np.testing.assert_allclose(exact(gradient), expected / len(labels), rtol=tolerance, atol=tolerance)


@each_loss
@given(st.data())
def test_neither_a_shift_nor_the_order_of_samples_or_classes_matters(loss, data):
    logits, labels = draw_batch(data, 1e3, smallest=1)
    logits = logits.double()
    expected = loss(logits, labels).item()
    near = pytest.approx(expected, abs=1e-8)
    shift = data.draw(tensors((len(logits), 1), numbers(1e3), torch.float64))
    assert loss(logits + shift, labels).item() == near
    order = torch.tensor(data.draw(st.permutations(range(len(labels)))))
    assert loss(logits[order], labels[order]).item() == near
    classes = torch.tensor(data.draw(st.permutations(range(logits.shape[1]))))
    assert loss(logits[:, classes], classes.argsort()[labels.long()]).item() == near
    twice = loss(logits.repeat(2, 1), labels.repeat(2))
    assert twice.item() == near


@each_loss
@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_the_gradient_is_that_of_finite_differences(loss, seed, batch, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(classes, (batch,), generator=generator)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), (logits.requires_grad_(),))


@each_loss
@given(st.data())
def test_a_label_out_of_range_is_never_left_out_of_the_mean(loss, data):
    logits, labels = draw_batch(data, 10, smallest=1)
    classes = logits.shape[1]
    wrong = data.draw(st.sampled_from([-100, -1, classes, classes + 1, 255, 10**9, -(10**9)]))
    labels = labels.long()
    labels[data.draw(st.integers(0, len(labels) - 1))] = wrong
    with pytest.raises((IndexError, ValueError), match=str(wrong)) as caught:  # torch's own is an IndexError
        loss(logits, labels)
    assert one_line(caught.value)


@each_loss
@given(st.data())
def test_labels_that_do_not_fit_are_refused_and_not_broadcast(loss, data):
    logits, labels = draw_batch(data, 10)
    kind = data.draw(st.sampled_from(["column", "longer", "scalar", "bool", "one row of logits", "images of logits"]))
    if kind == "bool":
        labels = labels.bool()
    elif kind == "one row of logits":
        logits = logits.new_zeros(7)
    elif kind == "images of logits":
        logits = logits[:, :, None]
    else:
        labels = {
            "column": labels[:, None],
            "longer": labels.new_zeros(len(labels) + 1),
            "scalar": labels.new_zeros(()),
        }[kind]
    with pytest.raises(ValueError, match=r"expected integers \(B,\) with \(B, K\)") as caught:
        loss(logits, labels)
    assert one_line(caught.value)


@pytest.mark.parametrize("loss", [classification_loss, prediction_loss])
@pytest.mark.parametrize("dtype", FLOATS)
def test_floating_labels_are_refused(loss, dtype):
    with pytest.raises(ValueError, match=f"of {dtype} with logits"):
        loss(torch.zeros(2, 3), torch.zeros(2, dtype=dtype))


@each_loss
@pytest.mark.parametrize("dtype", FLOATS)
def test_certainty_costs_nothing_or_everything_and_nan_is_passed_on(loss, dtype):
    certain = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=dtype)
    assert loss(certain, torch.tensor([0])).item() == 0
    assert loss(certain, torch.tensor([2])).item() == math.inf
    for broken in (math.nan, math.inf):
        logits = torch.zeros(4, 3, dtype=dtype)
        logits[2, 1] = broken
        assert loss(logits, torch.tensor([0, 1, 2, 0])).isnan()
    assert loss(torch.zeros(0, 3, dtype=dtype), torch.zeros(0, dtype=torch.int64)).isnan()


@given(st.data(), st.sampled_from([0.0, 1.0]) | st.floats(0, 1))
def test_smoothing_mixes_the_label_with_all_classes(data, share):
    logits, labels = draw_batch(data, 1e4, smallest=1)
    rows = log_softmax(exact(logits), axis=1)
    target = np.full(rows.shape, share / rows.shape[1])
    target[np.arange(len(rows)), labels.long().numpy()] += 1 - share
    expected = -(target * rows).sum(1).mean()
    check(classification_loss(logits, labels, share), expected, logits.dtype, size(logits))


@given(st.floats().filter(lambda share: not 0 <= share <= 1))
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"label_smoothing is .*; expected a share in \[0, 1\]"):
        classification_loss(torch.zeros(1, 2), torch.tensor([0]), share)


@given(st.data(), st.sampled_from([0.0, 1.0]) | st.floats(0, 1))
def test_distillation_is_a_mix_of_its_terms_and_at_least_nothing(data, alpha):
    logits, labels = draw_batch(data, 1e4, smallest=1)
    teacher = data.draw(tensors(tuple(logits.shape), numbers(1e4), data.draw(dtypes)))

    def loss(share: float) -> float:
        return distillation_loss(logits, teacher, labels, 2.0, share).item()

    hard, soft = loss(0.0), loss(1.0)
    assert hard == pytest.approx(hard_loss(logits, labels).item(), rel=1e-6)
    assert loss(alpha) == pytest.approx((1 - alpha) * hard + alpha * soft, rel=1e-5, abs=1e-5)
    assert min(hard, soft) >= -16 * torch.finfo(torch.float32).eps * size(logits, teacher)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6) | st.just(math.inf))
def test_the_schedule_of_the_classifier_stays_in_its_range(step, warmup, total):
    factor = warmup_cosine(step, warmup, total)
    assert 0 <= factor <= 1
    if step + 1 < warmup:
        assert warmup_cosine(step + 1, warmup, total) > factor
    elif step >= warmup:
        assert warmup_cosine(step + 1, warmup, total) <= factor
    if step >= max(total, warmup + 1):
        assert factor == pytest.approx(0, abs=1e-12)
