"""Rows of any batches, on any processes and in any order, are one table, and its figures those of one update."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAUROC, MulticlassCalibrationError
from torchmetrics.regression import MeanSquaredError

from callbacks.calibration import metrics as calibration_metrics
from callbacks.ood import metrics as detection_metrics
from callbacks.ood.feature_scores import fit_knn
from callbacks.ood.scores import LOGIT_SCORES
from callbacks.ood.selection import _in_blocks
from callbacks.regression import metrics as regression_metrics
from callbacks.shared.batches import fingerprints
from callbacks.shared.collect import Collector, gather_rows

ALONE = SimpleNamespace(world_size=1)


@st.composite
def split_rows(draw):
    """Logits (N, 3), labels (N,), and the sizes of the batches that they come in, empty ones too."""
    number = draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    logits = torch.randint(-4, 5, (number, 3), generator=generator).double() / 2  # many ties
    cuts = sorted(draw(st.lists(st.integers(0, number), max_size=6)))
    edges = [0, *cuts, number]
    return (
        logits,
        torch.randint(0, 3, (number,), generator=generator),
        [b - a for a, b in pairwise(edges)],
    )


def figures(table):
    """Of a table of logits and labels: figures of each kind."""
    logits, labels = table["logits"], table["label"]
    p = calibration_metrics.softmax(logits)
    top = calibration_metrics.top_label(p, labels.numpy())
    pit = torch.from_numpy(p[:, 0])
    recalibration = regression_metrics.fit_recalibration(pit)
    return {
        "nll": calibration_metrics.nll(logits, labels),
        "brier": calibration_metrics.brier(p, labels.numpy()),
        "ece": calibration_metrics.ece(calibration_metrics.reliability(*top)),
        "ace": calibration_metrics.adaptive_ece(*top),
        "aurc": calibration_metrics.aurc(*top),
        "temperature": calibration_metrics.fit_temperature(logits, labels, max_iterations=5).value,
        "coverage": regression_metrics.quantile_coverage(pit).tolist(),
        "knots": recalibration.level.tolist(),
        **detection_metrics.detection_metrics(-top[0], 1 - p.min(1)),
    }


@given(split_rows())
def test_metrics_do_not_depend_on_the_batches_to_the_last_digit(case):
    logits, labels, sizes = case
    collector = Collector(ALONE, DataLoader(TensorDataset(logits)), "the test set")
    start = 0
    for batch, size in enumerate(sizes):
        rows = slice(start, start + size)
        collector.add(batch, {"logits": logits[rows], "label": labels[rows]})
        start += size
    found = collector.gather()
    assert torch.equal(found["key"], torch.arange(len(logits)))
    assert figures(found) == figures({"logits": logits, "label": labels})


@given(split_rows(), st.randoms(use_true_random=False), st.integers(0, 10))
def test_metrics_of_rows_that_come_in_any_order_and_repeated_are_those_of_each_once(case, random, repeated):
    logits, labels, _ = case
    places = list(range(len(logits)))
    places += random.choices(places, k=repeated)  # as the padding of a distributed sampler does
    random.shuffle(places)
    rows = torch.tensor(places)
    found = gather_rows(ALONE, {"key": rows * 7, "logits": logits[rows], "label": labels[rows]})
    assert torch.equal(found["logits"], logits)
    assert figures(found) == figures({"logits": logits, "label": labels})


@given(split_rows())
def test_scores_do_not_depend_on_the_blocks_that_they_are_computed_in(case):
    logits, _, sizes = case
    scores = {**LOGIT_SCORES, "knn": fit_knn(logits + 1, 2)}
    for name, score in scores.items():
        whole = _in_blocks(score, logits, torch.device("cpu"))
        parts = np.concatenate([_in_blocks(score, part, torch.device("cpu")) for part in logits.split(sizes)])
        assert parts == pytest.approx(whole, rel=1e-13, abs=1e-13), name


@given(split_rows())
def test_metrics_are_those_that_torchmetrics_accumulates_from_the_batches(case):
    logits, labels, sizes = case
    p = logits.softmax(1)
    calibration = MulticlassCalibrationError(3, n_bins=15, norm="l1")
    auroc, squared = BinaryAUROC(normalization=None), MeanSquaredError()
    for part, y in zip(p.split(sizes), labels.split(sizes), strict=True):
        if len(part):
            calibration.update(part, y)
            auroc.update(part[:, 0], (y == 0).long())
            squared.update(part, torch.nn.functional.one_hot(y, 3).double())
    found = figures({"logits": logits, "label": labels})
    if not (np.abs(p.amax(1).numpy() * 15 % 1) < 1e-6).any():  # an edge, which torchmetrics gives to the bin below
        assert calibration.compute().item() == pytest.approx(found["ece"], abs=1e-6)
    assert 3 * squared.compute().item() == pytest.approx(found["brier"], abs=1e-6)
    is_first = (labels == 0).numpy()
    if is_first.any() and not is_first.all():
        ours = detection_metrics.detection_metrics(p[~is_first, 0].numpy(), p[is_first, 0].numpy())
        assert auroc.compute().item() == pytest.approx(ours["auroc"], abs=1e-6)


@given(
    st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=10),
    st.randoms(use_true_random=False),
)
def test_a_sample_is_known_again_in_any_batch_and_any_other_is_not(rows, random):
    table = torch.tensor(rows, dtype=torch.float32)
    found = fingerprints(table)
    order = random.sample(range(len(rows)), len(rows))
    assert torch.equal(fingerprints(table[order]), found[order])
    for row in range(len(rows)):
        assert torch.equal(fingerprints(table[row : row + 1]), found[row : row + 1])
        changed = table[row : row + 1].clone()
        changed[0, 1] = torch.nextafter(changed[0, 1].nan_to_num(0.0, 1e30, -1e30), torch.tensor(torch.inf))
        if changed[0, 1] != table[row, 1]:  # one unit in the last place is another sample
            assert fingerprints(changed) != found[row]
    assert fingerprints(torch.tensor([[-0.0]])) == fingerprints(torch.tensor([[0.0]]))
