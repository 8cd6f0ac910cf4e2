"""Figures of calibration for whatever comes in: loops in float64, invariants, ties, one sample, one class, none."""

import math

import numpy as np
import pytest
import torch
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score

from callbacks.calibration import metrics

LABELS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
EXTREME = st.sampled_from([0.0, -0.0, 1e-45, -1e-30, 1e4, -1e4, 1e30, -1e30])
# a step of 1/10 is on an edge of ten bins, and few values tie
TENTHS = st.integers(0, 10).map(lambda value: value / 10)
CONFIDENCE = st.one_of(TENTHS, st.floats(0, 1), st.sampled_from([5e-324, 1.0]))
LOGIT = st.one_of(st.floats(-20, 20, width=16), EXTREME)


@st.composite
def judged(draw):
    """Confidences (N,) and hits (N,)."""
    pairs = draw(st.lists(st.tuples(CONFIDENCE, st.booleans()), min_size=1, max_size=25))
    return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])


@st.composite
def logits_and_labels(draw, values=LOGIT):
    """Logits (N, K >= 1) and labels (N,) of any integer type."""
    classes, samples = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    rows = draw(st.lists(st.lists(values, min_size=classes, max_size=classes), min_size=samples, max_size=samples))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=samples, max_size=samples))
    return torch.tensor(rows, dtype=torch.float64), torch.tensor(labels, dtype=draw(st.sampled_from(LABELS)))


def in_bin(confidence, bins, right_closed):
    """The bin of one confidence, by comparing it to every edge."""
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        if (low < confidence <= high) if right_closed else (low <= confidence < high or confidence == high == 1):
            return index
    return None


def gaps(confidence, correct, bins, right_closed):
    """(weight, gap) of each bin that is not empty."""
    held = {}
    for value, hit in zip(confidence, correct, strict=True):
        held.setdefault(in_bin(value, bins, right_closed), []).append((value, hit))
    held.pop(None, None)
    return [
        (len(part) / len(confidence), abs(math.fsum(v for v, _ in part) - sum(h for _, h in part)) / len(part))
        for part in held.values()
    ]


@given(judged(), st.integers(1, 20), st.booleans())
def test_binned_errors_are_those_of_a_loop_over_samples_and_edges(case, bins, right_closed):
    found = metrics.reliability(*case, bins, right_closed)
    expected = gaps(*case, bins, right_closed)
    assert metrics.ece(found) == pytest.approx(sum(weight * gap for weight, gap in expected), abs=1e-14)
    assert metrics.mce(found) == pytest.approx(max((gap for _, gap in expected), default=0), abs=1e-14)
    squared = sum(weight * gap**2 for weight, gap in expected)
    assert metrics.rmsce(found) == pytest.approx(math.sqrt(squared), abs=1e-13)
    assert metrics.ece(found) <= metrics.rmsce(found) + 1e-14 <= metrics.mce(found) + 2e-14 <= 1 + 3e-14
    assert found.count.sum() == sum(in_bin(value, bins, right_closed) is not None for value in case[0])


METRICS = {
    "ece": lambda c, h: metrics.ece(metrics.reliability(c, h)),
    "ece, Guo": lambda c, h: metrics.ece(metrics.reliability(c, h, right_closed=True)),
    "mce": lambda c, h: metrics.mce(metrics.reliability(c, h)),
    "rmsce": lambda c, h: metrics.rmsce(metrics.reliability(c, h)),
    "ace": metrics.adaptive_ece,
    "aurc": metrics.aurc,
}


@pytest.mark.parametrize("name", METRICS)
@given(case=judged(), random=st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_the_samples_to_the_last_digit(name, case, random):
    order = list(range(len(case[0])))
    random.shuffle(order)
    assert METRICS[name](*case) == METRICS[name](case[0][order], case[1][order])


@pytest.mark.parametrize("name", [name for name in METRICS if name != "aurc"])
@given(case=judged(), times=st.integers(2, 4))
def test_the_same_data_several_times_have_the_same_calibration(name, case, times):
    if name == "ace":
        samples = len(case[0])  # as many bins as samples: otherwise the remainder is shared out in another way
        found = metrics.adaptive_ece(np.tile(case[0], times), np.tile(case[1], times), samples)
        assert found == pytest.approx(metrics.adaptive_ece(*case, samples), abs=1e-13)
    else:
        assert METRICS[name](*(np.tile(part, times) for part in case)) == pytest.approx(METRICS[name](*case), abs=1e-13)


@given(judged(), st.integers(1, 30))
def test_the_adaptive_error_is_that_of_a_loop_in_which_equal_confidences_share_their_accuracy(case, bins):
    pairs = sorted(zip(*case, strict=True))
    confidence = [value for value, _ in pairs]
    share = [np.mean([hit for other, hit in pairs if other == value]) for value in confidence]
    size, more = divmod(len(pairs), bins)
    expected, start = 0.0, 0
    for index in range(bins):
        stop = start + size + (index < more)
        expected += abs(math.fsum(share[start:stop]) - math.fsum(confidence[start:stop])) / len(pairs)
        start = stop
    assert metrics.adaptive_ece(*case, bins) == pytest.approx(expected, abs=1e-13)


@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 30))
def test_a_constant_confidence_that_is_right_as_often_as_it_says_is_calibrated(right, times, bins):
    confidence, correct = np.full(20 * times, right / 20), np.arange(20 * times) % 20 < right
    assert metrics.adaptive_ece(confidence, correct, bins) == pytest.approx(0, abs=1e-12)
    assert metrics.ece(metrics.reliability(confidence, correct, bins)) == pytest.approx(0, abs=1e-12)


@given(judged())
def test_the_risk_is_the_mean_over_all_orders_of_equal_confidences(case):
    confidence, wrong = case[0], ~case[1]
    expected = []
    for place in range(1, len(wrong) + 1):
        # the place-th most confident sample is one of its tie group, each with the same chance
        bar = np.sort(confidence)[::-1][place - 1]
        above = confidence > bar
        expected.append((wrong[above].sum() + (place - above.sum()) * wrong[confidence == bar].mean()) / place)
    assert metrics.aurc(*case) == pytest.approx(np.mean(expected), abs=1e-13)


@given(judged(), st.floats(0.1, 10))
def test_the_risk_depends_on_the_ranking_only(case, power):
    confidence = np.round(case[0], 3)  # rounded, so that no power makes two of them equal
    assert metrics.aurc(confidence**power, case[1]) == metrics.aurc(confidence, case[1])


@given(logits_and_labels())
def test_probabilities_likelihood_and_squared_error_are_those_of_scipy_for_any_logits_and_integers(case):
    logits, labels = case
    y = labels.long().numpy()
    p = metrics.softmax(logits)
    assert p == pytest.approx(softmax(logits.numpy(), axis=1), abs=1e-14)
    log_p = log_softmax(logits.numpy(), axis=1)[np.arange(len(y)), y]
    assert metrics.nll(logits, labels) == pytest.approx(-log_p.mean(), rel=1e-12, abs=1e-14)
    squared = [sum((value - (k == label)) ** 2 for k, value in enumerate(row)) for row, label in zip(p, y, strict=True)]
    assert metrics.brier(p, labels.numpy()) == pytest.approx(np.mean(squared), abs=1e-14)
    assert 0 <= metrics.brier(p, labels.numpy()) <= 2
    assert metrics.accuracy(p, labels.numpy()) == accuracy_score(y, p.argmax(1))


@given(logits_and_labels(), st.randoms(use_true_random=False))
def test_the_names_of_classes_and_the_order_of_samples_play_no_role(case, random):
    logits, labels = case
    classes, samples = list(range(logits.shape[1])), list(range(len(logits)))
    random.shuffle(classes)
    random.shuffle(samples)
    renamed = torch.empty_like(logits)
    renamed[:, classes] = logits
    other = (renamed[samples], torch.tensor(classes)[labels.long()][samples])
    for name in ("nll", "brier", "classwise_ece"):
        figure = getattr(metrics, name)
        first, second = (
            figure(z, y) if name == "nll" else figure(metrics.softmax(z), y.numpy()) for z, y in (case, other)
        )
        assert first == pytest.approx(second, rel=1e-12, abs=1e-13), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@given(case=logits_and_labels(st.floats(-60_000, 60_000, width=16)))
def test_logits_in_half_precision_are_judged_in_float64(dtype, case):
    logits, labels = case[0].to(dtype), case[1]
    exact = logits.double()
    assert metrics.nll(logits, labels) == metrics.nll(exact, labels)
    assert (metrics.softmax(logits) == metrics.softmax(exact)).all()


@given(judged())
def test_confidences_in_half_precision_are_averaged_in_float64(case):
    half = case[0].astype(np.float16)
    for name, figure in METRICS.items():
        assert figure(half, case[1].astype(np.int8)) == figure(half.astype(np.float64), case[1]), name
    in_one_bin = metrics.adaptive_ece(half, case[1], 1), metrics.adaptive_ece(half.astype(np.float64), case[1], 1)
    assert in_one_bin[0] == in_one_bin[1]


@examples(25)
@given(logits_and_labels(st.floats(-30, 30, width=16)))
def test_the_temperature_is_the_one_that_scipy_finds_or_at_its_bound(case):
    logits, labels = case
    fit = metrics.fit_temperature(logits, labels)

    def loss(log_t):
        return metrics.nll(logits / math.exp(log_t), labels)

    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-10})
    assert 0.05 <= fit.value <= 20
    assert fit.nll_before == pytest.approx(loss(0), rel=1e-12, abs=1e-300)
    assert fit.nll_after == pytest.approx(loss(math.log(fit.value)), rel=1e-9, abs=1e-300)
    assert fit.nll_after <= fit.nll_before * (1 + 1e-12)
    if fit.converged or best.fun > 1e-3:
        assert fit.nll_after <= best.fun * (1 + 1e-8)
    separable = bool((logits.double().argmax(1) == labels).all()) and fit.nll_before < 1e-3
    assert not (fit.converged and separable and logits.shape[1] > 1)


@examples(10)
@given(logits_and_labels(EXTREME))
def test_logits_of_any_size_have_a_temperature_within_its_bounds(case):
    fit = metrics.fit_temperature(*case)
    assert 0.05 <= fit.value <= 20
    assert all(map(math.isfinite, (fit.nll_before, fit.nll_after)))


@pytest.mark.parametrize("margin", [5.0, 50.0, 1e4, 1e30])
def test_a_temperature_of_what_is_all_right_is_not_called_converged_however_certain(margin):
    fit = metrics.fit_temperature(torch.tensor([[margin, 0.0], [0.0, margin]]), torch.tensor([0, 1]))
    assert not fit.converged
    assert fit.nll_after <= fit.nll_before


@pytest.mark.parametrize("label", [-1, -100, 3])
def test_labels_that_name_no_class_are_refused_and_not_counted_from_the_end(label):
    logits, labels = torch.zeros(4, 3), torch.tensor([0, 1, label, 2])
    p, y = metrics.softmax(logits), labels.numpy()
    for figure in (metrics.accuracy, metrics.brier, metrics.classwise_ece, metrics.top_label):
        with pytest.raises(ValueError, match="expected labels from 0 to 2, got "):
            figure(p, y)
    for figure in (metrics.nll, metrics.fit_temperature):
        with pytest.raises(ValueError, match="expected labels from 0 to 2, got "):
            figure(logits, labels)


@pytest.mark.parametrize(
    "labels", [torch.zeros(4), torch.zeros(4) > 0, torch.zeros(3).long(), torch.zeros(4, 1).long()]
)
def test_labels_of_another_kind_are_refused(labels):
    with pytest.raises(ValueError, match=r"expected an integer label for each of at least one sample, \(4,\), got"):
        metrics.nll(torch.zeros(4, 3), labels)
    with pytest.raises(ValueError, match=r"expected an integer label for each of at least one sample, \(4,\), got"):
        metrics.brier(np.full((4, 3), 1 / 3), labels.numpy())


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.1, math.inf])
def test_what_is_no_probability_is_refused(value):
    confidence, correct = np.array([0.5, value]), np.array([1, 0])
    for figure in METRICS.values():
        with pytest.raises(ValueError, match=r"confidences in \[0, 1\], got 1 of 2 that are NaN or outside"):
            figure(confidence, correct)
    for figure in (metrics.accuracy, metrics.brier, metrics.classwise_ece):
        with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], got 1 of 4"):
            figure(np.array([[0.5, value], [0.5, 0.5]]), correct)


def test_no_sample_and_no_bin_are_refused_and_have_no_error_of_zero():
    for figure in METRICS.values():
        with pytest.raises(ValueError, match=r"hits of shape \(N,\), N >= 1, got \(0,\) and \(0,\)"):
            figure(np.array([]), np.array([]))
    for figure in (metrics.accuracy, metrics.brier, metrics.classwise_ece):
        with pytest.raises(ValueError, match="at least one sample"):
            figure(np.zeros((0, 3)), np.zeros(0, int))
    for figure in (metrics.nll, metrics.fit_temperature):
        with pytest.raises(ValueError, match="at least one sample"):
            figure(torch.zeros(0, 3), torch.zeros(0).long())
    for figure in (metrics.adaptive_ece, metrics.reliability):
        with pytest.raises(ValueError, match="at least one bin, got bins=0"):
            figure(np.array([0.5]), np.array([1]), 0)


def test_a_temperature_of_logits_that_are_not_finite_is_refused():
    with pytest.raises(ValueError, match="NaN or infinite logits for 1 of 2 samples"):
        metrics.fit_temperature(torch.tensor([[1.0, 0.0], [math.nan, 0.0]]), torch.tensor([0, 1]))
    assert math.isnan(metrics.nll(torch.tensor([[math.nan, 0.0]]), torch.tensor([1])))
    assert metrics.nll(torch.tensor([[-math.inf, 0.0]]), torch.tensor([1])) == 0
