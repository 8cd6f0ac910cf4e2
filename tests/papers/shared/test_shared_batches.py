"""Batches: their inputs and their parts, and the loss and accuracy of labels."""

import pytest
import torch
from torch.nn import functional

from zoo.shared.batches import batch_inputs, check_parts
from zoo.shared.losses import accuracy, cross_entropy


def test_the_inputs_of_a_batch_are_the_batch_itself_or_its_first_part():
    x = torch.zeros(2)
    for batch in (x, (x, 1), [x]):
        assert batch_inputs(batch) is x


@pytest.mark.parametrize(
    ("batch", "what"), [({"source": 1, "other": 2}, "source, other"), ((1, 2), "tuple"), (torch.zeros(1), "Tensor")]
)
def test_a_batch_without_its_named_parts_is_refused_with_what_it_is(batch, what):
    check_parts({"source": 1, "target": 2, "more": 3}, ("source", "target"), "Data")
    with pytest.raises(ValueError, match=f"a batch is {what}; expected source and target, such as Data gives"):
        check_parts(batch, ("source", "target"), "Data")


def test_the_loss_of_each_sample_has_the_mean_loss_and_accuracy_counts_the_largest_logit():
    logits, labels = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3
    each = cross_entropy(logits, labels, 0.1, reduction="none")
    assert each.shape == (6,)
    torch.testing.assert_close(each.mean(), cross_entropy(logits, labels, 0.1))
    torch.testing.assert_close(each, functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1))
    assert accuracy(torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2])) == 0.75
