"""Similarity of samples: loops in float64, invariants, extremes."""

import numpy as np
import pytest
import torch
from examples import tables
from hypothesis import given
from hypothesis import strategies as st

from callbacks.similarity import feature_rows, similarity_matrix, target_similarity

ROWS = tables(st.one_of(st.floats(-8, 8, width=16), st.sampled_from([0.0, 1e-45, 1e-30, 1e30])), widest=6)


@given(ROWS, st.sampled_from([1e-200, 1e-30, 1.0, 1e30, 1e150]), st.floats(-4, 4))
def test_the_similarity_of_samples_is_the_correlation_of_numpy_whatever_their_scale(rows, scale, shift):
    found = similarity_matrix(rows)
    centred = rows - rows.mean(1, keepdim=True)
    plain = (centred.abs().amax(1) > 1e-3 * rows.abs().amax(1)).numpy()  # neither constant nor nearly so
    with np.errstate(all="ignore"):
        scaled = (rows / rows.abs().amax(1, keepdim=True)).numpy()
        expected = np.atleast_2d(np.corrcoef(scaled)) if rows.shape[1] > 1 else np.ones((len(rows),) * 2)
    assert found.numpy()[np.ix_(plain, plain)] == pytest.approx(expected[np.ix_(plain, plain)], abs=1e-9)
    assert bool((found.abs() <= 1).all())
    constant = (rows == rows[:, :1]).all(1)
    assert bool((found[constant] == 0).all())
    assert torch.allclose(found, found.T, atol=1e-12)
    if bool((rows.abs().clamp(max=8) == rows.abs()).all() and ((rows == 0) | (rows.abs() > 1e-6)).all()):
        assert similarity_matrix(rows * scale) == pytest.approx(found.numpy(), abs=1e-9)
        if bool((centred.abs().amax(1) > 0.1).all()):
            assert similarity_matrix(rows + shift) == pytest.approx(found.numpy(), abs=1e-9)


@given(
    st.lists(st.integers(0, 5), max_size=12),
    st.integers(2, 300),
    st.sampled_from([torch.uint8, torch.int8, torch.int64]),
)
def test_the_target_is_the_correlation_of_one_hot_labels_to_the_last_digits(labels, classes, kind):
    found = target_similarity(torch.tensor(labels, dtype=kind), classes)
    expected = [[1.0 if a == b else -1 / (classes - 1) for b in labels] for a in labels]
    assert found.dtype == torch.float64
    assert found.tolist() == expected


@given(tables(st.floats(-60_000, 60_000, width=16)), st.sampled_from([torch.float16, torch.bfloat16, torch.int32]))
def test_features_of_any_type_are_compared_as_the_numbers_that_they_are(table, kind):
    half = table.to(kind)
    assert torch.equal(feature_rows(half).double(), half.double())
    assert torch.equal(similarity_matrix(feature_rows(half)), similarity_matrix(half.double()))


def test_one_class_has_no_target():
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        target_similarity(torch.zeros(3).long(), 1)
