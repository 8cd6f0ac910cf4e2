"""The checks and the set in memory that all data modules share."""

import pytest
import torch

from datamodules.shared.arguments import check_at_least, check_choice, check_finite
from datamodules.shared.memory import MemorySet
from datamodules.shared.samplers import process_share


def test_checks_name_the_argument_its_range_and_its_value():
    check_at_least(1, size=1, count=2)
    check_finite(angle=0.0)
    check_choice("part", "toy", ("toy", "real"))
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        check_at_least(1, size=1, count=0)
    with pytest.raises(ValueError, match="angle must be finite, got nan"):
        check_finite(angle=float("nan"))
    with pytest.raises(ValueError, match="part must be toy, real, got 'simple'"):
        check_choice("part", "simple", ("toy", "real"))


def test_a_set_in_memory_gives_samples_and_batches_in_the_order_of_the_indices():
    x, y = torch.arange(6.0).view(3, 2), torch.tensor([5, 6, 7])
    both, alone = MemorySet(x, y), MemorySet(x)
    assert len(both) == len(alone) == 3
    assert [part.tolist() for part in both[1]] == [[2, 3], 6]
    assert [part.tolist() for part in both.__getitems__([2, 0])] == [[[4, 5], [0, 1]], [7, 5]]
    assert alone[1].tolist() == [2, 3]
    assert alone.__getitems__([2, 0]).tolist() == [[4, 5], [0, 1]]


def test_without_a_trainer_a_process_is_alone():
    assert process_share(None) == (0, 1)
