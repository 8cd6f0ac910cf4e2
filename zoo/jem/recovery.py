"""Divergence of energy-based training: its signs, and the way back."""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer


def diverged(
    loss: Tensor, energy_gap: Tensor, samples: Tensor, max_energy_gap: float, max_out_of_range: float
) -> Tensor:
    """Whether a training step shows one of the signs of divergence.

    The official guard compares the loss with 1e8, which NaN passes. Here: a loss or a sample that is not finite, an
    energy gap that is too wide, or too many pixels beyond 3, where images lie in [-1, 1].

    Args:
        loss: Scalar.
        energy_gap: ``mean LSE(data) - mean LSE(samples)`` of each generative term, or a scalar.
        samples: ``(B, ...)`` ends of the Langevin chains.
        max_energy_gap: Widest gap, in nats, that counts as healthy.
        max_out_of_range: Largest share of pixels beyond 3 that counts as healthy.

    Returns:
        A boolean scalar on the loss' device.
    """
    out_of_range = (samples.abs() > 3).float().mean()
    healthy = loss.isfinite() & (energy_gap.abs() <= max_energy_gap).all()
    healthy &= samples.isfinite().all() & (out_of_range <= max_out_of_range)
    return ~healthy


class Rungs(NamedTuple):
    """What the recoveries so far have changed; one rung of the ladder each, in turn.

    Attributes:
        learning_rate: Factor of the learning rate.
        steps: Factor of the number of SGLD steps.
        penalty: Added to the weight of the energy penalty.
    """

    learning_rate: float = 1.0
    steps: int = 1
    penalty: float = 0.0

    def after(self, recoveries: int) -> "Rungs":
        """The next rung: halve the learning rate, double the steps, add 0.1 to the penalty, and again."""
        if recoveries % 3 == 1:
            return self._replace(learning_rate=self.learning_rate / 2)
        if recoveries % 3 == 2:
            return self._replace(steps=self.steps * 2)
        return self._replace(penalty=self.penalty + 0.1)


def clone_to_cpu(state: Any) -> Any:
    """A deep copy of nested dicts and lists with every tensor on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, dict):
        return {key: clone_to_cpu(value) for key, value in state.items()}
    return [clone_to_cpu(value) for value in state] if isinstance(state, list | tuple) else state


class Recovery:
    """The last two good states in memory, and the way back to them.

    Divergence is often latent in the newest state, so a recovery that is followed by another one before a new snapshot
    was taken goes back to the older.

    Attributes:
        count: Recoveries so far.
        rungs: What they have changed.
        taken_at: Steps that were done at the newest snapshot; -1 before the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.rungs = Rungs()
        self.taken_at = -1
        self._states: deque[dict[str, Any]] = deque(maxlen=2)

    def take_snapshot(self, step: int, network: nn.Module, optimizer: Optimizer, memory: Tensor | None) -> None:
        """Keep copies of weights, optimiser's state and memory; once at each step, and only if weights are finite."""
        if step == self.taken_at:
            return
        self.taken_at = step
        weights = network.state_dict()
        if all(bool(value.isfinite().all()) for value in weights.values()):
            state = {"network": weights, "optimizer": optimizer.state_dict(), "memory": memory}
            self._states.append(clone_to_cpu(state))

    def forget(self) -> None:
        """Drop the states, which take as much memory as the run's own."""
        self._states.clear()
        self.taken_at = -1

    def state(self, whole: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What a checkpoint must hold, so that a recovery after a resume returns to where it would have.

        Args:
            whole: Makes the memory of all processes of this process' share; every process has to call it.
        """
        states = [
            state if state["memory"] is None else state | {"memory": whole(state["memory"])} for state in self._states
        ]
        return {"recoveries": self.count, "rungs": list(self.rungs), "taken_at": self.taken_at, "good_states": states}

    def restore(self, state: dict[str, Any], share: Callable[[Tensor], Tensor]) -> None:
        """Go on with what a checkpoint holds.

        Args:
            state: What `state` gave; the good states may be missing.
            share: Takes this process' share of a whole memory.
        """
        self.count, self.rungs = state["recoveries"], Rungs(*state["rungs"])
        self.taken_at = state.get("taken_at", -1)
        for good in state.get("good_states", []):
            memory = good["memory"]
            self._states.append(good if memory is None else good | {"memory": share(memory)})

    def go_back(self, network: nn.Module, optimizer: Optimizer, memory: Tensor | None) -> None:
        """Restore the newest good state in place and climb to the next rung; learning rates stay with the schedule."""
        state = self._states.pop() if len(self._states) > 1 else self._states[-1]
        before, self.count = self.rungs, self.count + 1
        self.rungs = before.after(self.count)
        rates = [group["lr"] for group in optimizer.param_groups]
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(clone_to_cpu(state["optimizer"]))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self.rungs.learning_rate / before.learning_rate
        if memory is not None:
            memory.copy_(state["memory"])
