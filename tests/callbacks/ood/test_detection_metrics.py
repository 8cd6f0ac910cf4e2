import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from callbacks.ood import metrics
from callbacks.ood.metrics import detection_metrics

few_values = st.lists(st.integers(-4, 4), min_size=1, max_size=30)  # many ties
floats = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30)


def figures_and_interval(inside, outside):
    (resampled,) = metrics.bootstrap_aurocs([inside], [outside], resamples=20)
    return detection_metrics(inside, outside), metrics.bootstrap_interval(resampled)


def test_toy_case_of_the_sheet():
    scores, is_ood = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.2, 0.1]), np.array([1, 0, 1, 0, 0, 1, 0], bool)
    assert detection_metrics(scores[~is_ood], scores[is_ood]) == pytest.approx(
        {
            "auroc": 2 / 3,
            "ap_ood": 0.7222222,
            "ap_id": 0.7708333,
            "fpr95_ood_positive": 0.75,
            "fpr95_id_positive": 2 / 3,
        }
    )


def test_constant_score_is_chance():
    figures = detection_metrics(np.zeros(5), np.zeros(5))
    assert list(figures.values()) == [0.5, 0.5, 0.5, 1.0, 1.0]


def test_tie_ladder_passes_whole_tie_groups():
    figures = detection_metrics(np.arange(100), np.arange(100))
    assert figures["fpr95_ood_positive"] == figures["fpr95_id_positive"] == 0.95
    assert figures["auroc"] == 0.5


def test_a_threshold_keeps_at_least_95_percent():
    # 19 of 20 are 95 % exactly; the twentieth OOD sample lies below all ID samples
    figures = detection_metrics(np.full(4, 0.5), np.array([0.0] + [1.0] * 19))
    assert figures["fpr95_ood_positive"] == 0.0
    assert detection_metrics(np.full(4, 0.5), np.array([0.0, 0.0] + [1.0] * 18))["fpr95_ood_positive"] == 1.0


@given(few_values, few_values)
def test_metrics_agree_with_a_count_of_all_pairs_and_with_scikit_learn(inside, outside):
    a, b = np.array(inside, float), np.array(outside, float)
    figures = detection_metrics(a, b)
    pairs = (b[:, None] > a).mean() + (b[:, None] == a).mean() / 2
    assert figures["auroc"] == pytest.approx(pairs, abs=1e-12)
    labels, scores = np.r_[np.zeros(len(a)), np.ones(len(b))], np.r_[a, b]
    assert figures["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert figures["ap_ood"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert figures["ap_id"] == pytest.approx(average_precision_score(1 - labels, -scores), abs=1e-12)
    thresholds = [t for t in np.unique(scores) if (b >= t).mean() >= 0.95 - 1e-12]
    assert figures["fpr95_ood_positive"] == pytest.approx(min((a >= t).mean() for t in thresholds))
    thresholds = [t for t in np.unique(scores) if (a <= t).mean() >= 0.95 - 1e-12]
    assert figures["fpr95_id_positive"] == pytest.approx(min((b <= t).mean() for t in thresholds))


def test_metrics_agree_with_torchmetrics_without_its_sigmoid_and_differ_with_it():
    generator = np.random.default_rng(0)
    a, b = 210 + 5 * generator.normal(size=500), 220 + 5 * generator.normal(size=400)
    scores, labels = torch.tensor(np.r_[a, b]), torch.tensor([0] * 500 + [1] * 400)
    figures = detection_metrics(a, b)
    assert figures["auroc"] == pytest.approx(BinaryAUROC(normalization=None)(scores, labels).item(), abs=1e-6)
    precision = BinaryAveragePrecision(normalization=None)(scores, labels).item()
    assert figures["ap_ood"] == pytest.approx(precision, abs=1e-6)
    assert BinaryAUROC()(scores, labels).item() == 0.5  # the trap: all scores became 1


@given(floats, floats, st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_order(inside, outside, random):
    expected = figures_and_interval(inside, outside)
    random.shuffle(inside)
    random.shuffle(outside)
    assert figures_and_interval(inside, outside) == expected


@given(few_values, few_values)
def test_metrics_do_not_change_under_a_strictly_increasing_transform(inside, outside):
    a, b = np.array(inside, float), np.array(outside, float)
    expected = figures_and_interval(a, b)
    assert figures_and_interval(1000 * a + 5, 1000 * b + 5) == expected
    assert figures_and_interval(np.exp(a), np.exp(b)) == expected
    assert figures_and_interval(np.arctan(a), np.arctan(b)) == expected


@given(few_values, few_values)
def test_negated_scores_with_sides_exchanged_give_the_same_auroc(inside, outside):
    a, b = np.array(inside, float), np.array(outside, float)
    first, second = detection_metrics(a, b), detection_metrics(-b, -a)
    assert first["auroc"] == second["auroc"]
    assert first["ap_ood"] == second["ap_id"]
    assert first["fpr95_ood_positive"] == second["fpr95_id_positive"]


def test_nan_and_empty_sides_are_refused_by_name():
    with pytest.raises(ValueError, match="1 of 2 OOD scores are NaN"):
        detection_metrics([1.0, 2.0], [np.nan, 1.0])
    with pytest.raises(ValueError, match="no ID scores"):
        detection_metrics([], [1.0])
    with pytest.raises(ValueError, match="OOD scores of shape"):
        detection_metrics([1.0], [[1.0]])


@given(st.integers(1, 5000), st.integers(1, 300))
def test_roc_points_keep_both_ends_and_stay_few(samples, distinct):
    generator = np.random.default_rng(samples)
    curve = metrics.roc(generator.integers(0, distinct, samples), generator.integers(0, distinct, 100))
    fpr, tpr = metrics.roc_points(curve)
    assert len(fpr) == len(tpr) <= 200
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auroc(curve), abs=0.02)


def test_bootstrap_agrees_with_resampling_by_hand():
    generator = np.random.default_rng(3)
    a, b = generator.integers(0, 6, 40).astype(float), generator.integers(2, 8, 30).astype(float)
    (found,) = metrics.bootstrap_aurocs([a], [b], resamples=20, seed=5)
    id_counts, ood_counts = (
        metrics.resample_counts(n, 20, seed).numpy() for n, seed in ((40, (5, 0, 0)), (30, (5, 1, 0)))
    )
    for column in range(20):
        drawn = [np.repeat(np.sort(s), c[:, column].astype(int)) for s, c in ((a, id_counts), (b, ood_counts))]
        assert found[column] == detection_metrics(*drawn)["auroc"]


def test_bootstrap_is_seeded_covers_the_estimate_and_leaves_the_global_state_alone():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=400), generator.normal(size=300) + 0.7
    before = torch.get_rng_state()
    (first,) = metrics.bootstrap_aurocs([a], [b], seed=1)
    (second,) = metrics.bootstrap_aurocs([a], [b], seed=1)
    (other,) = metrics.bootstrap_aurocs([a], [b], seed=2)
    assert (first == second).all()
    assert (first != other).any()
    assert torch.equal(before, torch.get_rng_state())
    low, high = metrics.bootstrap_interval(first)
    assert low < detection_metrics(a, b)["auroc"] < high
    deviation = first.std()
    shares = (b[:, None] > a).astype(float)
    delong = np.sqrt(shares.mean(1).var() / len(b) + shares.mean(0).var() / len(a))
    assert deviation == pytest.approx(delong, rel=0.15)


def test_the_interval_of_a_score_does_not_depend_on_the_other_scores():
    generator = np.random.default_rng(0)
    a, b, c, d = (generator.normal(size=size) for size in (50, 40, 50, 40))
    both = metrics.bootstrap_aurocs([c, a], [d, b], resamples=30)
    assert (both[1] == metrics.bootstrap_aurocs([a], [b], resamples=30)[0]).all()


def test_bootstrap_of_perfect_separation_is_a_point():
    resampled = metrics.bootstrap_aurocs([np.zeros(9)], [np.ones(9)], resamples=50)
    assert metrics.bootstrap_interval(resampled[0]) == (1.0, 1.0)


@pytest.mark.long
def test_a_thousand_resamples_of_ten_thousand_and_ten_thousand_take_seconds_at_most():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=10_000), generator.normal(size=10_000)
    start = time.process_time()
    metrics.bootstrap_aurocs([a], [b], resamples=1000)
    assert time.process_time() - start < 6  # one second on a quiet core
