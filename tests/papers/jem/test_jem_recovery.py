"""JEM's recovery from divergence and what its checkpoints hold, each function by itself."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.jem.chains import Chains
from zoo.jem.persistence import join_shares, restore_state, take_share
from zoo.jem.recovery import Escalation, Recovery, repeat_until_healthy


def snapshot(
    recovery: Recovery, network: nn.Linear, optimizer: Any, value: float, memory: Tensor | None = None
) -> None:
    """Take a good state in which the weights have this value."""
    with torch.no_grad():
        network.bias.fill_(value)
    recovery.take_snapshot(recovery.taken_at + 1, network, optimizer, memory)


def test_a_second_divergence_goes_back_to_the_older_snapshot():
    network, recovery = nn.Linear(2, 3), Recovery()
    optimizer = torch.optim.Adam(network.parameters())
    snapshot(recovery, network, optimizer, 1.0)
    snapshot(recovery, network, optimizer, 2.0)
    recovery.go_back(network, optimizer, None)
    assert network.bias[0] == 2.0
    recovery.go_back(network, optimizer, None)
    assert network.bias[0] == 1.0
    snapshot(recovery, network, optimizer, math.nan)  # refused: not finite
    recovery.go_back(network, optimizer, None)
    assert network.bias[0] == 1.0


def test_going_back_restores_optimiser_and_memory_in_place_and_lowers_the_current_rate():
    network, memory, recovery = nn.Linear(2, 3), torch.zeros(4, 1), Recovery()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    snapshot(recovery, network, optimizer, 1.0, memory)
    before = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    optimizer.step()
    memory.fill_(5.0)
    optimizer.param_groups[0]["lr"] = 0.08  # of the schedule, since the snapshot
    recovery.go_back(network, optimizer, memory)
    after = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not memory.any()
    assert optimizer.param_groups[0]["lr"] == 0.04
    assert recovery.escalation == Escalation(learning_rate=0.5)
    recovery.go_back(network, optimizer, memory)
    assert optimizer.param_groups[0]["lr"] == 0.04, "the second recovery doubles the steps instead"


class Stub:
    """As much of JEM as the recovery asks for."""

    def __init__(self, elsewhere: list[bool]) -> None:
        self.network = nn.Linear(1, 1)
        self.recovery = Recovery()
        self.hparams = SimpleNamespace(max_energy_gap=10.0, max_out_of_range=0.5, max_recoveries=2)
        strategy = SimpleNamespace(reduce_boolean_decision=lambda bad, all: bad or elsewhere.pop(0))
        optimizer = torch.optim.SGD(self.network.parameters(), 1.0)
        self.trainer: Any = SimpleNamespace(strategy=strategy, optimizers=[optimizer])
        self.seeds: list[tuple[int, int]] = []
        self.chains = SimpleNamespace(images=None, seed=lambda count, rank, device: self.seeds.append((count, rank)))
        self.global_step, self.global_rank, self.device = 7, 1, torch.device("cpu")
        self.recovery.take_snapshot(0, self.network, optimizer, None)


def attempts(*gaps: float) -> Any:
    turns = iter(gaps)

    def attempt() -> Any:
        gap = torch.tensor(next(turns))
        return gap.nan_to_num(0.0), torch.stack([torch.zeros(()), gap]), {}, [(torch.zeros(2, 3), None)]

    return attempt


def test_a_step_is_repeated_with_another_seed_until_its_gaps_are_healthy_in_all_processes():
    module = Stub(elsewhere=[True, False])
    with pytest.warns(UserWarning, match=r"diverged at step 7.*recovery . of at most 2"):
        loss, _, _ = repeat_until_healthy(module, attempts(11.0, 1.0, 2.0))
    assert loss == 2.0, "the first diverged here, by its second term, the second in another process"
    assert module.seeds == [(1, 1), (2, 1)]
    assert module.recovery.escalation == Escalation(learning_rate=0.5, steps=2)


def test_the_last_recovery_is_followed_by_an_error():
    module = Stub(elsewhere=[])
    with pytest.warns(UserWarning, match="recovery"), pytest.raises(RuntimeError, match=r"2 times already.*penalty"):
        repeat_until_healthy(module, attempts(11.0, math.nan, -11.0))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_shares_of_the_memory_are_those_that_were_joined_and_hold_each_class_alike(classes, processes, each):
    by_class = torch.arange(classes)[:, None, None, None].expand(-1, each * processes, 1, 1).flatten(0, 1)[:, None]
    memory = by_class + torch.rand(len(by_class), 1, 1, 1) / 2
    shares = torch.stack([take_share(memory, classes, processes, rank) for rank in range(processes)])
    assert torch.equal(join_shares(shares, classes), memory)
    for share in shares:
        assert share.flatten().long().tolist() == [label for label in range(classes) for _ in range(each)]


def test_a_checkpoint_of_an_earlier_version_has_neither_good_states_nor_the_time_of_the_newest():
    chains = Chains((1, 1, 1), 2, lambda: torch.empty(0), 0.05, torch.float32)
    recovery, memory = Recovery(), torch.rand(4, 1, 1, 1)
    module: Any = SimpleNamespace(trainer=SimpleNamespace(world_size=1), global_rank=0, device=torch.device("cpu"))
    restore_state({"recoveries": 2, "rungs": [0.5, 2, 0.0], "memory": memory}, module, chains, recovery)
    assert (recovery.count, recovery.escalation, recovery.taken_at) == (2, Escalation(0.5, 2, 0.0), -1)
    assert not recovery.good_states
    assert torch.equal(chains.images, memory)
    assert chains.images.data_ptr() != memory.data_ptr(), "what was loaded stays as it is"
