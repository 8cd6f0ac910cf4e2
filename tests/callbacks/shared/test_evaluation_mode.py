import pytest
import torch
from torch import nn

from callbacks.shared.random_state import evaluation_mode


def test_every_part_is_back_in_its_own_mode_and_gradients_are_off_inside_even_after_an_error():
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), nn.Linear(2, 2))
    module[1].eval()
    modes = [part.training for part in module.modules()]
    with pytest.raises(ZeroDivisionError), evaluation_mode(module):
        raise ZeroDivisionError
    with evaluation_mode(module):
        assert not any(part.training for part in module.modules())
        assert not module(torch.ones(1, 2)).requires_grad
    assert [part.training for part in module.modules()] == modes
    assert module(torch.ones(2, 2)).requires_grad
