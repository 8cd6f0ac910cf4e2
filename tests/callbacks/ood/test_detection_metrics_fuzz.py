"""Detection figures and scores for whatever comes in: brute force in float64, invariants, ties, extremes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from callbacks.ood import feature_scores as ood_features
from callbacks.ood import metrics
from callbacks.ood import scores as ood_scores
from callbacks.ood.metrics import Curve, detection_metrics
from callbacks.ood.results import evaluate
from callbacks.shared.rows import unit_rows

# infinite scores are as good as any, and few values tie often
SCORE = st.one_of(
    st.integers(-3, 3).map(float), st.floats(allow_nan=False), st.sampled_from([math.inf, -math.inf, 5e-324])
)
SCORES = st.lists(SCORE, min_size=1, max_size=20)
EXTREME = st.sampled_from([0.0, -0.0, 1e-45, 1e4, -1e4, 1e30, -1e30])
LOGIT = st.one_of(st.floats(-50, 50, width=16), EXTREME)


def ranks(inside, outside):
    """The same scores as whole numbers in the same order."""
    places = {value: float(place) for place, value in enumerate(sorted({*inside, *outside}))}
    return np.array([places[v] for v in inside]), np.array([places[v] for v in outside])


@given(SCORES, SCORES)
def test_metrics_of_any_scores_infinite_ones_too_are_those_of_scikit_learn_on_their_ranks(inside, outside):
    a, b = ranks(inside, outside)
    labels, scores = np.r_[np.zeros(len(a)), np.ones(len(b))], np.r_[a, b]
    expected = {
        "auroc": roc_auc_score(labels, scores),
        "ap_ood": average_precision_score(labels, scores),
        "ap_id": average_precision_score(1 - labels, -scores),
        "fpr95_ood_positive": min((a >= t).mean() for t in scores if 20 * (b >= t).sum() >= 19 * len(b)),
        "fpr95_id_positive": min((b <= t).mean() for t in scores if 20 * (a <= t).sum() >= 19 * len(a)),
    }
    found = detection_metrics(inside, outside)
    assert found == pytest.approx(expected, abs=1e-13)
    assert all(0 <= value <= 1 for value in found.values())


@given(st.integers(1, 9), st.lists(st.integers(0, 20), min_size=1, max_size=9))
def test_exactly_95_percent_are_enough(times, inside):
    # of 20 different scores the lowest is let go, however often each comes
    outside = times * list(range(1, 21))
    assert detection_metrics(inside, outside)["fpr95_ood_positive"] == sum(v >= 2 for v in inside) / len(inside)
    assert detection_metrics(outside, inside)["fpr95_id_positive"] == sum(v <= 19 for v in inside) / len(inside)


@given(SCORES, SCORES, st.integers(2, 5))
def test_metrics_of_the_data_several_times_are_the_same(inside, outside, times):
    expected = detection_metrics(inside, outside)
    assert detection_metrics(times * inside, times * outside) == pytest.approx(expected, abs=1e-13)
    # the AUROC does not depend on the ratio of the two sides either
    assert detection_metrics(times * inside, outside)["auroc"] == pytest.approx(expected["auroc"], abs=1e-15)


@given(SCORES, SCORES)
def test_the_aurocs_of_the_two_directions_add_up_to_one(inside, outside):
    there, back = (detection_metrics(*pair)["auroc"] for pair in ((inside, outside), (outside, inside)))
    assert there + back == pytest.approx(1, abs=1e-15)


@given(st.lists(st.floats(-60_000, 60_000, width=16), min_size=1, max_size=20), st.sampled_from(["f2", "f4", "i4"]))
def test_scores_of_any_type_are_judged_as_the_numbers_that_they_are(values, kind):
    scores = np.array(values).astype(kind)
    half = len(scores) // 2 + 1
    expected = detection_metrics(scores[:half].astype(np.float64), scores[-half:].astype(np.float64))
    assert detection_metrics(scores[:half], scores[-half:]) == expected
    assert detection_metrics(scores[:half].tolist(), torch.from_numpy(scores[-half:].copy())) == expected


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 10**8)), min_size=1, max_size=10))
def test_two_thousand_million_samples_are_counted_without_overflow_or_rounding(steps):
    false, true = (np.cumsum([0, 1, *side]) for side in zip(*steps, strict=True))
    times = 2_000_000_000 // max(false[-1], true[-1])
    curve = Curve(false * times, true * times)
    pairs = sum(
        int(false[i + 1] - false[i]) * (int(true[i + 1]) + int(true[i])) for i in range(len(false) - 1)
    )  # of Python's integers
    assert metrics.auroc(curve) == pytest.approx(pairs / (2 * int(false[-1]) * int(true[-1])), rel=1e-15)
    assert metrics.fpr95(curve) == metrics.fpr95(Curve(false, true))
    assert metrics.average_precision(curve) == pytest.approx(metrics.average_precision(Curve(false, true)), rel=1e-13)


@given(SCORES, SCORES, st.integers(2, 30), st.integers(0, 9))
def test_the_bootstrap_is_that_of_samples_drawn_one_by_one_and_stays_in_its_range(inside, outside, resamples, seed):
    (found,) = metrics.bootstrap_aurocs([np.array(inside)], [np.array(outside)], resamples, seed)
    a, b = (np.sort(side) for side in (inside, outside))
    drawn = [
        metrics.resample_counts(len(side), resamples, (seed, which, 0)).long().numpy()
        for which, side in enumerate((a, b))
    ]
    for resample, auroc in enumerate(found):
        sides = [np.repeat(side, counts[:, resample]) for side, counts in zip((a, b), drawn, strict=True)]
        assert auroc == pytest.approx(detection_metrics(*sides)["auroc"], abs=1e-12)
    low, high = metrics.bootstrap_interval(found)
    assert 0 <= found.min() <= low <= high <= found.max() <= 1


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 9))
def test_scores_without_a_spread_are_no_better_than_chance_in_every_resample(equal, other, seed):
    scores = [np.zeros(1 + equal)], [np.zeros(1 + other)]
    assert (metrics.bootstrap_aurocs(*scores, resamples=5, seed=seed) == 0.5).all()


@given(st.lists(SCORES, min_size=2, max_size=4), st.sampled_from([0, 3]))
def test_results_of_any_finite_scores_are_plain_numbers(sets, resamples):
    finite = [np.nan_to_num(np.array(values), posinf=1e300, neginf=-1e300) / 4 for values in sets]
    names = ["id", *(f"near/{place}" for place in range(1, len(sets)))]
    results = evaluate({"s": dict(zip(names, finite, strict=True))}, "id", {}, resamples, 0)
    counts = results["histograms"]["s"]["counts"]
    assert [sum(counts[name]) for name in names] == [len(values) for values in finite]
    edges = np.array(results["histograms"]["s"]["edges"])
    assert np.isfinite(edges).all()
    mean = np.mean([results["sets"][name]["s"]["auroc"] for name in names[1:]])
    assert results["near_mean"]["s"]["auroc"] == pytest.approx(mean)


# ---------------------------------------------------------------- scores from logits


def logits(values=LOGIT):
    rows = st.integers(2, 6).flatmap(
        lambda k: st.lists(st.lists(values, min_size=k, max_size=k), min_size=0, max_size=8)
    )
    return rows.map(lambda found: torch.tensor(found, dtype=torch.float64).reshape(len(found), -1 if found else 3))


@given(logits(st.floats(-25, 25, width=16)))
def test_scores_from_logits_are_their_definitions_in_numpy(z):
    p = softmax(z.numpy(), axis=1)
    top = -np.sort(-p, axis=1)
    rest = top[:, 1:].sum(1)
    assert ood_scores.msp(z) == pytest.approx(np.log(rest) - np.log(top[:, 0]), rel=1e-9, abs=1e-9)
    assert ood_scores.max_logit(z) == pytest.approx(-z.numpy().max(1))
    assert ood_scores.energy(z) == pytest.approx(-logsumexp(z.numpy(), axis=1))
    assert ood_scores.entropy(z) == pytest.approx(-(p * np.log(p)).sum(1), rel=1e-12, abs=1e-15)
    other = np.concatenate([rest[:, None], 1 - top[:, 1:]], 1)
    assert ood_scores.gen(z, top=3) == pytest.approx(((top * other) ** 0.1)[:, :3].sum(1), rel=1e-9)


@pytest.mark.parametrize("name", ood_scores.LOGIT_SCORES)
@given(z=logits(), random=st.randoms(use_true_random=False))
def test_scores_from_any_logits_are_finite_and_know_neither_names_nor_neighbours(name, z, random):
    score = ood_scores.LOGIT_SCORES[name]
    found = score(z)
    assert found.shape == z.shape[:1]
    assert found.dtype == torch.float64
    assert bool(found.isfinite().all())
    # differences and logarithms near 0 are as good as the logits are large; entropies are sums of what is positive
    slack = 0 if name in ("entropy", "gen") else 1e-13 * (1 + z.abs().amax(1))

    def assert_equal(other, rows=slice(None)):
        assert bool(((other - found[rows]).abs() <= (1e-12 * found.abs() + slack)[rows]).all())

    classes = list(range(z.shape[1]))
    random.shuffle(classes)
    assert_equal(score(z[:, classes]))
    for row in range(len(z)):
        assert_equal(score(z[row : row + 1]), slice(row, row + 1))
    if name in ("msp", "entropy", "gen"):
        moved = ((z + 3).sub(3) == z).all(1)  # where the addition is exact
        assert_equal(score(z[moved] + 3), moved)
    if name == "entropy":
        assert bool(((found >= 0) & (found <= math.log(z.shape[1]) + 1e-12)).all())


@pytest.mark.parametrize("name", ood_scores.LOGIT_SCORES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@given(z=logits(st.floats(-60_000, 60_000, width=16)))
def test_scores_of_half_precision_are_those_of_the_same_numbers_in_float64(name, dtype, z):
    score = ood_scores.LOGIT_SCORES[name]
    assert torch.equal(score(z.to(dtype)), score(z.to(dtype).double()))


@given(st.floats(0, 600), st.integers(2, 50))
def test_the_more_certain_a_prediction_is_the_lower_are_its_scores_however_certain(margin, classes):
    rows = torch.zeros(2, classes, dtype=torch.float64)
    rows[:, 0] = torch.tensor([margin, margin + 0.25])
    for name, score in ood_scores.LOGIT_SCORES.items():
        less, more = score(rows).tolist()
        assert more < less, f"{name} ties or turns at a margin of {margin}"


def test_a_class_that_is_masked_by_minus_infinity_adds_nothing():
    masked, without = torch.tensor([[2.0, 1.0, -math.inf]]), torch.tensor([[2.0, 1.0]])
    for name, score in ood_scores.LOGIT_SCORES.items():
        assert score(masked).item() == pytest.approx(score(without).item(), rel=1e-12), name
    assert ood_scores.entropy(torch.tensor([[1e308, -1e308]], dtype=torch.float64)).item() == 0


# ---------------------------------------------------------------- scores from features

FEATURE = st.one_of(st.floats(-8, 8, width=16), st.sampled_from([0.0, 1e-45, 1e-30, 1e30]))


def features(width, fewest=1):
    row = st.lists(FEATURE, min_size=width, max_size=width)
    return st.lists(row, min_size=fewest, max_size=12).map(lambda rows: torch.tensor(rows, dtype=torch.float32))


@given(features(3), features(3), st.integers(1, 15))
def test_nearest_neighbours_are_those_of_scikit_learn_on_the_unit_sphere(bank, queries, k):
    unit = [
        [np.array(row) / max(np.linalg.norm(row), 1e-300) for row in rows.double().tolist()] for rows in (bank, queries)
    ]
    k_found = min(k, len(bank))
    expected = NearestNeighbors(n_neighbors=k_found, algorithm="brute").fit(unit[0])
    distances = np.sqrt([sorted(((np.array(q) - unit[0]) ** 2).sum(1))[k_found - 1] for q in unit[1]])
    found = ood_features.fit_knn(bank, k)(queries)
    assert found == pytest.approx(distances, abs=1e-7)
    assert found == pytest.approx(expected.kneighbors(unit[1])[0][:, -1], abs=1e-6)


@given(features(4), st.sampled_from([1e-40, 1e-30, 1e-12, 1e12, 1e30, 1e200]))
def test_rows_of_any_length_are_brought_to_one(rows, scale):
    rows = rows.double().clamp(-8, 8)
    found = unit_rows(rows * scale)
    expected = unit_rows(rows)
    kept = (rows == 0) | (rows.abs() > 1e-20)  # others are lost in the product
    assert found[kept.all(1)] == pytest.approx(expected[kept.all(1)].numpy(), rel=1e-12)
    norms = expected.norm(dim=1)
    assert bool(((norms - 1).abs() < 1e-12)[(rows != 0).any(1)].all())
    assert bool((norms == 0)[(rows == 0).all(1)].all())


@given(features(3, fewest=2), st.integers(0, 5), st.sampled_from([torch.uint8, torch.int16, torch.int64]))
def test_mahalanobis_is_the_distance_by_the_inverse_in_numpy(bank, seed, kind):
    bank = bank.double().clamp(-8, 8)
    labels = torch.randint(0, 3, (len(bank),), generator=torch.Generator().manual_seed(seed)).to(kind)
    x, y = bank.numpy(), labels.numpy()
    means = {label: x[y == label].mean(0) for label in np.unique(y)}
    centred = x - np.stack([means[label] for label in y])
    inverse = np.linalg.inv(centred.T @ centred / len(x) + 0.5 * np.eye(3))
    queries = np.r_[x, x + 1]
    expected = [min((q - mean) @ inverse @ (q - mean) for mean in means.values()) for q in queries]
    found = ood_features.fit_mahalanobis(bank, labels, ridge=0.5)(torch.from_numpy(queries))
    assert found == pytest.approx(np.array(expected), rel=1e-9, abs=1e-9)


@given(features(4), st.integers(0, 99))
def test_scores_from_features_know_neither_their_order_nor_that_of_the_samples(rows, seed):
    rows = rows.double().clamp(0, 8)
    generator = torch.Generator().manual_seed(seed)
    head = ood_features.Head(
        torch.randn(3, 4, generator=generator).double(), torch.randn(3, generator=generator).double()
    )
    columns, order = torch.randperm(4, generator=generator), torch.randperm(len(rows), generator=generator)
    turned = ood_features.Head(head.weight[:, columns], head.bias)
    react = ood_features.fit_react(rows, head), ood_features.fit_react(rows[order][:, columns], turned)
    assert react[1](rows[order][:, columns]) == pytest.approx(react[0](rows)[order].numpy(), rel=1e-9)
    for name, score in ood_features.HEAD_SCORES.items():
        found = score(rows, head)
        assert bool(found.isfinite().all()), name
        # of equal features ASH keeps whichever comes first
        told_apart = (rows[order].sort(1).values.diff(dim=1) > 0).all(1)
        again = score(rows[order][:, columns], turned)[told_apart]
        assert again == pytest.approx(found[order][told_apart].numpy(), rel=1e-9, abs=1e-9), name


def test_a_bank_without_features_and_no_neighbour_are_refused():
    with pytest.raises(ValueError, match=r"a training feature and k >= 1, got shape \(0, 3\) and k=1"):
        ood_features.fit_knn(torch.zeros(0, 3), 1)
    with pytest.raises(ValueError, match=r"k >= 1, got .* k=0"):
        ood_features.fit_knn(torch.zeros(2, 3), 0)
