import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from callbacks.calibration import metrics

P = np.array([(0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (0.2, 0.5, 0.3), (0.1, 0.1, 0.8), (0.4, 0.35, 0.25)])
NO_EDGE = np.array([(0.73, 0.17, 0.1), (0.62, 0.28, 0.1), (0.21, 0.52, 0.27), (0.08, 0.11, 0.81), (0.45, 0.33, 0.22)])
Y = np.array([0, 1, 1, 2, 2])


def errors(probabilities, bins, right_closed=False):
    bins = metrics.reliability(*metrics.top_label(probabilities, Y), bins, right_closed)
    return metrics.ece(bins), metrics.mce(bins), metrics.rmsce(bins)


def random_case(samples=3000, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    labels = torch.multinomial((logits / 2).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize(
    ("bins", "right_closed", "expected"),
    [(5, False, (0.12, 0.2, 0.134164)), (5, True, (0.2, 0.4, 0.240832)), (15, False, (0.4, 0.6, 0.424264))],
)
def test_ece_mce_and_rmsce_of_the_sheet(bins, right_closed, expected):
    assert errors(P, bins, right_closed) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("bins", "ece", "mce"), [(5, 0.114, 0.19), (15, 0.402, 0.62)])
def test_both_conventions_agree_away_from_the_edges(bins, ece, mce):
    assert errors(NO_EDGE, bins)[:2] == pytest.approx((ece, mce))
    assert errors(NO_EDGE, bins, right_closed=True)[:2] == pytest.approx((ece, mce))


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "closed_left", "closed_right"),
    [
        ((0.55, 0.65, 0.72, 0.95, 0.98), (1, 0, 1, 1, 1), 5, (0.178, 0.45), (0.178, 0.45)),
        ((0.6, 0.6, 0.7, 0.8), (1, 0, 0, 1), 5, (0.275, 0.3), (0.175, 0.25)),
        ((0.75, 0.75, 0.9, 0.9), (1, 1, 0, 0), 4, (0.325, 0.325), (0.575, 0.9)),
        # exactly 1 has no bin of its own: where torchmetrics departs (.275, .500), this agrees with Guo et al.
        ((1.0, 1.0, 0.95, 0.95), (1, 0, 1, 1), 10, (0.225, 0.225), (0.225, 0.225)),
        ((1.0, 1.0, 1.0, 0.92), (1, 1, 0, 0), 10, (0.48, 0.48), (0.48, 0.48)),
    ],
)
def test_edges_of_bins_follow_the_named_convention(confidence, correct, bins, closed_left, closed_right):
    for right_closed, expected in ((False, closed_left), (True, closed_right)):
        found = metrics.reliability(np.array(confidence), np.array(correct), bins, right_closed)
        assert (metrics.ece(found), metrics.mce(found)) == pytest.approx(expected)


def test_a_confidence_of_zero_is_in_the_first_bin_or_for_guo_in_none():
    confidence, correct = np.array([0.0, 0.7]), np.array([1, 1])
    closed_left = metrics.reliability(confidence, correct, 2)
    closed_right = metrics.reliability(confidence, correct, 2, right_closed=True)
    assert closed_left.count.tolist() == [1, 1]
    assert closed_right.count.tolist() == [0, 1]
    assert metrics.ece(closed_right) == pytest.approx(0.15)  # weighted by all samples


def test_other_metrics_of_the_sheet():
    logits, labels = torch.tensor(P).log(), torch.tensor(Y)
    confidence, correct = metrics.top_label(P, Y)
    assert (confidence.tolist(), correct.tolist()) == ([0.7, 0.6, 0.5, 0.8, 0.4], [True, False, True, True, False])
    assert metrics.accuracy(P, Y) == 0.6
    assert metrics.brier(P, Y) == pytest.approx(0.457)
    assert np.mean((confidence - correct) ** 2) == pytest.approx(0.18)  # top-label Brier
    assert metrics.nll(logits, labels) == pytest.approx(0.7726465682517428, abs=1e-15)
    assert metrics.adaptive_ece(confidence, correct, 2) == pytest.approx(0.2)
    by_class = [metrics.ece(metrics.reliability(P[:, k], k == Y, 5)) for k in range(3)]
    assert by_class == pytest.approx([0.2, 0.15, 0.17])
    assert metrics.classwise_ece(P, Y, 5) == pytest.approx(0.52 / 3)
    assert metrics.brier(NO_EDGE, Y) == pytest.approx(0.469280)
    assert metrics.nll(torch.tensor(NO_EDGE).log(), labels) == pytest.approx(0.793290, abs=1e-6)
    risks_by_coverage = (0, 0, 1 / 3, 1 / 4, 2 / 5)  # the most confident sample, the two most confident, ...
    assert metrics.aurc(*metrics.top_label(NO_EDGE, Y)) == pytest.approx(np.mean(risks_by_coverage))


def test_metrics_agree_with_torchmetrics_and_scikit_learn_where_conventions_do():
    logits, labels = random_case()
    p, y = metrics.softmax(logits), labels.numpy()
    bins = metrics.reliability(*metrics.top_label(p, y), 15)
    for norm, ours in (("l1", metrics.ece(bins)), ("max", metrics.mce(bins)), ("l2", metrics.rmsce(bins))):
        theirs = multiclass_calibration_error(torch.tensor(p), labels, 5, n_bins=15, norm=norm)
        assert ours == pytest.approx(theirs.item(), abs=1e-6)
    assert metrics.nll(logits, labels) == pytest.approx(log_loss(y, p), rel=1e-12)
    one_hot = np.eye(5)[y]
    by_class = [brier_score_loss(one_hot[:, k], p[:, k]) for k in range(5)]
    assert metrics.brier(p, y) == pytest.approx(sum(by_class), rel=1e-12)


def test_saturated_logits_give_a_finite_nll():
    assert metrics.nll(torch.tensor([[1000.0, 0.0], [1000.0, 0.0]]), torch.tensor([0, 1])) == 500.0


def test_metrics_do_not_depend_on_the_order_even_with_equal_confidences():
    generator = np.random.default_rng(0)
    confidence, correct = generator.integers(5, 11, 500) / 10, generator.integers(0, 2, 500)
    shuffled = generator.permutation(500)
    for figure in (metrics.adaptive_ece, metrics.aurc, lambda c, a: metrics.ece(metrics.reliability(c, a))):
        assert figure(confidence, correct) == figure(confidence[shuffled], correct[shuffled])


def test_fewer_samples_than_bins_leave_bins_empty():
    assert metrics.adaptive_ece(np.array([0.9, 0.8]), np.array([1, 0]), 15) == pytest.approx(0.45)
    bins = metrics.reliability(np.array([0.9]), np.array([1]), 15)
    assert np.isnan(bins.accuracy).sum() == 14
    assert metrics.ece(bins) == pytest.approx(0.1)


def margin_case(dtype):
    logits = torch.tensor([[4.0, 0.0]], dtype=dtype).repeat(400, 1)
    return logits, (torch.arange(400) % 4 == 0).long()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_temperature_reaches_the_closed_form_optimum(dtype):
    fit = metrics.fit_temperature(*margin_case(dtype))
    assert fit.value == pytest.approx(4 / np.log(3), abs=1e-6)
    assert fit.nll_after == pytest.approx(0.562335, abs=1e-6)
    assert fit.converged


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0, 15.0])
def test_temperature_is_found_far_from_one_for_float32_logits(temperature):
    logits, labels = random_case(samples=20_000)
    optimum = metrics.fit_temperature(logits, labels).value
    fit = metrics.fit_temperature(logits * (temperature / optimum), labels)
    assert fit.converged
    assert fit.value == pytest.approx(temperature, rel=1e-5)
    assert fit.nll_after <= fit.nll_before


def test_temperature_works_in_inference_mode():
    with torch.inference_mode():
        logits, labels = margin_case(torch.float32)
        assert metrics.fit_temperature(logits + 0, labels).converged


def test_temperature_of_separable_or_wrong_data_stays_in_its_bounds_and_says_so():
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    separable = metrics.fit_temperature(logits, torch.tensor([0, 1]))
    wrong = metrics.fit_temperature(logits, torch.tensor([1, 0]))
    assert 0.05 <= separable.value < 1
    assert wrong.value == 20.0
    assert not separable.converged
    assert not wrong.converged
