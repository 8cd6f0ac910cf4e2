"""JEM's losses on any logits, its sampler on any start, its memory with any labels: against float64, or refused."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from loss_inputs import INTEGERS, check, dtypes, exact, numbers, one_line, seeds, size, tensors
from scipy.special import logsumexp, softmax
from torch import Tensor

from zoo.jem.initialisation import ClassGaussians, class_moments, uniform_start
from zoo.jem.loss import (
    class_log_density,
    conditional_generative_loss,
    energy,
    energy_penalty,
    generative_loss,
    log_density,
    log_odds_of_error,
)
from zoo.jem.recovery import Escalation, diverged
from zoo.jem.sampler import ReplayMemory, sgld
from zoo.jem.schedule import learning_rate_factor


def draw_logits(data: st.DataObject, limit: float, batch: int | None = None, classes: int | None = None) -> Tensor:
    batch = data.draw(st.integers(0, 5)) if batch is None else batch
    classes = data.draw(st.integers(1, 6)) if classes is None else classes
    return data.draw(tensors((batch, classes), numbers(limit), data.draw(dtypes)))


def draw_labels(data: st.DataObject, logits: Tensor) -> Tensor:
    count, classes = logits.shape
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return torch.tensor(labels, dtype=data.draw(st.sampled_from(INTEGERS)))


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


# --------------------------------------------------------------------- losses


@given(st.data())
def test_densities_are_those_of_float64_and_their_gradient_is_the_softmax(data):
    logits = draw_logits(data, 1e30)
    expected = logsumexp(exact(logits), axis=1)
    check(log_density(logits), expected, logits.dtype, size(logits))
    check(energy(logits), -expected, logits.dtype, size(logits))
    check(class_log_density(logits, None), expected, logits.dtype, size(logits))
    logits = draw_logits(data, 1e4).requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(logits).sum(), logits)
    of_result = torch.finfo(torch.promote_types(logits.dtype, torch.float32)).eps * size(logits)  # as documented
    tolerance = 4 * of_result + torch.finfo(logits.dtype).eps
    np.testing.assert_allclose(exact(gradient), softmax(exact(logits), axis=1), rtol=tolerance, atol=tolerance)


@given(st.data())
def test_contrastive_losses_are_differences_of_means(data):
    real, samples = draw_logits(data, 1e30), draw_logits(data, 1e30)
    dtype = torch.promote_types(real.dtype, samples.dtype)
    apart = mean(logsumexp(exact(samples), axis=1)) - mean(logsumexp(exact(real), axis=1))
    least = min((real.dtype, samples.dtype), key=lambda found: torch.promote_types(found, torch.float32).itemsize)
    found = generative_loss(real, samples)
    check(found.double(), apart, torch.float64, size(real, samples) * (1 if least == torch.float64 else 1e10))
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert generative_loss(real, real).item() == 0 or len(real) == 0


@given(st.data())
def test_densities_of_a_class_are_its_logit_in_no_less_than_the_logits_precision(data):
    logits = draw_logits(data, 1e30)
    labels = draw_labels(data, logits)
    picked = exact(logits)[np.arange(len(logits)), labels.long().numpy()]
    assert class_log_density(logits, labels).dtype == torch.promote_types(logits.dtype, torch.float32)
    np.testing.assert_array_equal(exact(class_log_density(logits, labels)), picked)
    others = data.draw(tensors(tuple(logits.shape), numbers(1e30), logits.dtype))
    expected = mean(exact(others)[np.arange(len(others)), labels.long().numpy()]) - mean(picked)
    check(conditional_generative_loss(logits, others, labels), expected, logits.dtype, size(logits, others))
    if logits.shape[1] == 1:
        check(conditional_generative_loss(logits, others, labels), generative_loss(logits, others).item(), logits.dtype,
              size(logits, others))  # fmt: skip


@given(st.data(), st.booleans())
def test_labels_that_do_not_fit_are_refused_and_not_cut_to_fit(data, longer):
    logits = draw_logits(data, 10)
    labels = torch.zeros(len(logits) + (1 if longer else -1 if len(logits) else 2), dtype=torch.int64)
    for call in (class_log_density, lambda f, y: conditional_generative_loss(f, f, y)):
        with pytest.raises(ValueError, match=r"expected integers \(B,\) with \(B, K\)") as caught:
            call(logits, labels)
        assert one_line(caught.value)
    if len(logits):
        samples = logits[:-1]
        with pytest.raises(ValueError, match=r"expected integers \(B,\) with \(B, K\)"):
            conditional_generative_loss(logits, samples, labels.new_zeros(len(logits)))


@given(st.data())
def test_the_penalty_is_the_mean_of_squares_and_no_less_than_nothing(data):
    real, samples = (draw_logits(data, 1e4) for _ in range(2))
    squares = [mean(np.square(logsumexp(exact(logits), axis=1))) for logits in (real, samples)]
    found = energy_penalty(real, samples)
    np.testing.assert_allclose(exact(found), sum(squares), rtol=1e-5, atol=1e-5)
    assert found.isnan() or found.item() >= 0


@given(st.data())
def test_the_odds_of_an_error_are_those_of_float64_for_any_logits(data):
    logits = draw_logits(data, 1e30)
    rows = np.sort(exact(logits), axis=1)
    with np.errstate(divide="ignore"):
        expected = logsumexp(rows[:, :-1], axis=1) - rows[:, -1] if rows.shape[1] > 1 else np.full(len(rows), -math.inf)
    check(log_odds_of_error(logits), expected, logits.dtype, size(logits))
    order = torch.tensor(data.draw(st.permutations(range(logits.shape[1]))))
    assert torch.equal(log_odds_of_error(logits[:, order]), log_odds_of_error(logits))


def test_nan_and_infinite_logits_are_passed_on():
    rows = torch.tensor([[0.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf], [-math.inf, 1.0]])
    assert [str(v) for v in log_density(rows).tolist()] == ["nan", "inf", "-inf", "1.0"]
    assert [str(v) for v in log_odds_of_error(rows).tolist()] == ["nan", "-inf", "nan", "-inf"]


# --------------------------------------------------------------------- Langevin dynamics

wells = st.floats(0.01, 0.5)


@given(st.data(), st.integers(0, 6), wells)
def test_without_noise_each_chain_falls_into_its_well_as_the_formula_says(data, steps, rate):
    batch, width = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    start = data.draw(tensors((batch, width), numbers(100), dtype))
    before = start.clone()
    end = sgld(lambda x: -x.square().sum(1) / 2, start, steps, rate, 0.0)
    assert torch.equal(start, before), "the start stays"
    assert not end.requires_grad
    check(end, exact(start) * (1 - rate) ** steps, dtype, size(start))


@given(st.data(), st.floats(0.001, 5), st.floats(-2, 2), st.floats(0, 3), st.floats(0, 10))
def test_clip_and_bounds_hold_however_steep_the_density_is(data, clip, low, span, rate):
    start = data.draw(tensors((3, 2), numbers(1), torch.float64))
    steep = data.draw(tensors((2,), numbers(1e30), torch.float64))
    free = sgld(lambda x: (x * steep).sum(1), start, 1, rate, 0.0, gradient_clip=clip)
    assert ((free - start).abs() <= clip * rate * (1 + 1e-9) + 1e-12).all()
    kept = sgld(lambda x: (x * steep).sum(1), start, 2, rate, 1.0, bounds=(low, low + span))
    assert (kept >= low).all()
    assert (kept <= low + span).all()


@given(st.data(), seeds)
def test_noise_comes_from_the_generator_and_chains_do_not_feel_each_other(data, seed):
    def run(x: Tensor, log_density_fn: Callable[[Tensor], Tensor]) -> Tensor:
        return sgld(log_density_fn, x, 3, 0.1, 0.5, generator=torch.Generator().manual_seed(seed))

    start = data.draw(tensors((4, 3), numbers(10), torch.float64))
    end = run(start, lambda x: -x.square().sum(1))
    assert torch.equal(end, run(start.contiguous(), lambda x: -x.square().sum(1)))
    lost = start.clone()
    lost[1] = math.nan
    found = run(lost, lambda x: -x.square().sum(1))
    assert found[1].isnan().all(), "a chain that is lost stays lost"
    assert torch.equal(found[[0, 2, 3]], end[[0, 2, 3]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1}, {"step_size": math.nan}, {"step_size": math.inf}, {"noise_std": -1.0}, {"noise_std": math.nan},
        {"noise_std": math.inf}, {"gradient_clip": -1.0}, {"gradient_clip": 0.0}, {"gradient_clip": math.nan},
    ],
)  # fmt: skip
def test_a_sampler_that_cannot_be_is_refused(wrong):
    right = {"x": torch.zeros(2, 3), "steps": 1, "step_size": 1.0, "noise_std": 0.1}
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        sgld(lambda x: x.sum(1), **(right | wrong))
    assert one_line(caught.value)


# --------------------------------------------------------------------- memory


@given(st.data(), st.integers(1, 5), st.integers(1, 6), st.integers(0, 8), seeds)
def test_slots_differ_and_belong_to_their_class_or_are_refused(data, classes, per_class, count, seed):
    memory = ReplayMemory(torch.zeros(classes * per_class, 1), classes)
    generator = torch.Generator().manual_seed(seed)
    drawn = data.draw(st.none() | st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    labels = None if drawn is None else torch.tensor(drawn, dtype=data.draw(st.sampled_from(INTEGERS)))
    room = per_class if labels is not None else classes * per_class
    if count > room:
        with pytest.raises(ValueError, match="chains") as caught:
            memory.slots(count, labels, generator)
        assert one_line(caught.value)
        return
    slots = memory.slots(count, labels, generator)
    assert slots.shape == (count,)
    assert len(set(slots.tolist())) == count
    assert ((slots >= 0) & (slots < classes * per_class)).all()
    if labels is not None:
        assert torch.equal(slots // per_class, labels.long())


@given(st.integers(1, 6), st.integers(0, 12))
def test_a_memory_is_a_positive_multiple_of_its_classes_or_refused(classes, slots):
    if slots and slots % classes == 0:
        assert len(ReplayMemory(torch.zeros(slots, 2), classes).images) == slots
    else:
        with pytest.raises(ValueError, match=f"{slots} slots"):
            ReplayMemory(torch.zeros(slots, 2), classes)


@given(st.integers(1, 12), st.floats(0, 1), seeds)
def test_reading_gives_the_slot_or_a_new_start_and_writing_what_was_written(count, probability, seed):
    memory = ReplayMemory(torch.arange(12.0)[:, None].clone(), 1)
    generator = torch.Generator().manual_seed(seed)
    slots = memory.slots(count, None, generator)
    start = memory.read(slots, lambda places: 100.0 + places[:, None], probability, generator)
    assert ((start[:, 0] == slots) | (start[:, 0] == 100 + slots)).all()
    memory.write(slots, start + 1000)
    untouched = torch.ones(12, dtype=torch.bool)
    untouched[slots] = False
    assert torch.equal(memory.images[slots], start + 1000)
    assert torch.equal(memory.images[untouched, 0], torch.arange(12.0)[untouched])


# --------------------------------------------------------------------- starts, schedule, divergence


@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_moments_are_the_naive_sums_in_any_batches(data, classes, width):
    count = data.draw(st.integers(1, 8))
    x = data.draw(tensors((count, width), numbers(10), data.draw(dtypes)))
    y = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)))
    cut = data.draw(st.integers(0, count))
    found = class_moments([(x[:cut], y[:cut]), (x[cut:], y[cut:])], classes)
    rows = exact(x)
    for label in range(classes):
        own = rows[y.numpy() == label]
        for part, expected in zip(found, (len(own), own.sum(0), own.T @ own), strict=True):
            np.testing.assert_allclose(part[label].numpy(), expected, rtol=1e-9, atol=1e-9)


@given(st.data())
def test_starts_stay_in_range_and_broken_images_are_named_by_their_class(data):
    value = data.draw(st.sampled_from([math.nan, math.inf, -math.inf, 1e200]))
    x = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 2
    gaussians = ClassGaussians.from_moments(*class_moments([(x, y)], 2))
    drawn = gaussians.sample(torch.tensor([0, 1, 1]), (1, 2), torch.Generator().manual_seed(0))
    assert drawn.abs().max() <= 1
    x[data.draw(st.integers(0, 19)) * 2 + 1] = value
    with pytest.raises(ValueError, match=r"classes \[1\]") as caught:
        ClassGaussians.from_moments(*class_moments([(x, y)], 2))
    assert one_line(caught.value)


@given(st.integers(0, 5), st.lists(st.integers(1, 4), max_size=3), seeds)
def test_uniform_starts_lie_in_the_images_range(count, shape, seed):
    x = uniform_start(count, tuple(shape), torch.device("cpu"), torch.Generator().manual_seed(seed))
    assert x.shape == (count, *shape)
    assert (x.abs() <= 1).all()


@given(st.integers(0, 5000), st.integers(0, 300), st.integers(-1, 1000), st.lists(st.integers(0, 300)), st.floats(0, 1))
def test_the_learning_rate_stays_in_range_and_falls_after_the_warm_up(step, epoch, warmup, decays, rate):
    assume(rate > 0)
    factor = learning_rate_factor(step, epoch, warmup, decays, rate)
    assert 0 <= factor <= 1
    later = learning_rate_factor(step, epoch + 1, warmup, decays, rate)
    assert later <= factor
    if step < warmup:
        assert learning_rate_factor(step + 1, epoch, warmup, decays, rate) > factor


calm = st.floats(-2.9, 2.9)
signs = st.sampled_from([0.0, 3.1, -3.5, math.nan, math.inf, -math.inf])


@given(st.data(), st.floats(0, 1), st.sampled_from(["loss", "gaps", "pixels"]))
def test_divergence_is_any_of_its_signs(data, share, where):
    loss, gaps, pixels = data.draw(calm), data.draw(st.lists(calm, min_size=1, max_size=3)), [0.0, 1.0, -1.0, 2.0]
    sign = data.draw(signs)
    if where == "loss":
        loss = sign
    else:
        (gaps if where == "gaps" else pixels)[0] = sign
    beyond = sum(abs(value) > 3 for value in pixels) / len(pixels)
    assume(abs(beyond - share) > 1e-6)
    healthy = math.isfinite(loss) and all(abs(gap) <= 3 for gap in gaps) and all(map(math.isfinite, pixels))
    bad = diverged(torch.tensor(loss), torch.tensor(gaps), torch.tensor(pixels, dtype=torch.float64), 3.0, share)
    assert bool(bad) is not (healthy and beyond <= share)


@given(st.integers(1, 60))
def test_recoveries_only_make_training_slower_and_longer(count):
    before = Escalation()
    for recovery in range(1, count + 1):
        after = before.after(recovery)
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        assert after.learning_rate <= before.learning_rate
        assert after.steps >= before.steps
        assert after.penalty >= before.penalty
        before = after
