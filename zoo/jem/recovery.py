"""Divergence of energy-based training: its signs, and the way back to a state from before it.

The authors restarted diverged runs by hand, from an earlier checkpoint with another seed. Here the last two good states
are kept in memory, and a step that diverges is repeated from one of them, with another seed and gentler settings.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

# The loss, the energy gap of each generative term, metrics, and for each draw of chains their ends and their slots.
Losses = tuple[Tensor, Tensor, dict[str, Tensor], list[tuple[Tensor, Tensor | None]]]


def repeat_until_healthy(
    module: Any, attempt: Callable[[], Losses]
) -> tuple[Tensor, dict[str, Any], list[tuple[Tensor, Tensor | None]]]:
    """Compute the losses of a training step, again from an earlier good state for as long as they diverge.

    All processes go back as soon as one of them diverges. The replay memory is written after this, so it never holds
    the samples of a diverged attempt. Returns of the first healthy attempt the loss, the metrics with the signs of
    divergence, and the chains.

    Args:
        module: The :class:`zoo.JEM` in training.
        attempt: Runs the chains and returns the losses.

    Raises:
        RuntimeError: After ``max_recoveries`` recoveries.
    """
    h, recovery = module.hparams, module.recovery
    while True:
        loss, gaps, metrics, drawn = attempt()
        samples = torch.cat([ends for ends, _ in drawn])
        bad = diverged(loss, gaps, samples, h.max_energy_gap, h.max_out_of_range)
        if not module.trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            signs = {"energy_gap": gaps[0], "out_of_range": (samples.abs() > 1).float().mean()}
            return loss, metrics | signs | {"recoveries": float(recovery.count)}, drawn
        what = f"JEM diverged at step {module.global_step} (loss {loss.item():.4g}, energy gap {gaps[0].item():.4g})"
        if recovery.count >= h.max_recoveries:
            raise RuntimeError(
                f"{what} and has recovered {recovery.count} times already (max_recoveries). Train anew, or go on from "
                "the last checkpoint, which is untouched, by JEM.load_from_checkpoint(path, lr=...): with a lower lr, "
                "more sgld_steps, a penalty of 0.1, or gradient_clip=1 with clamp_samples"
            )
        recovery.go_back(module.network, module.trainer.optimizers[0], module.chains.images)
        module.chains.seed(recovery.count, module.global_rank, module.device)
        rank_zero_warn(f"{what}: recovery {recovery.count} of at most {h.max_recoveries}, now {recovery.escalation}")


def take_snapshot_if_due(module: Any) -> None:
    """Keep a good state of a :class:`zoo.JEM` at its first step and at every ``snapshot_every_n_steps``-th."""
    recovery, step = module.recovery, module.global_step
    if step % module.hparams.snapshot_every_n_steps == 0 or recovery.taken_at < 0:
        recovery.take_snapshot(step, module.network, module.trainer.optimizers[0], module.chains.images)


def diverged(
    loss: Tensor, energy_gap: Tensor, samples: Tensor, max_energy_gap: float, max_out_of_range: float
) -> Tensor:
    """Whether a training step shows one of the signs of divergence: a boolean scalar.

    The official guard compares the loss with 1e8, which NaN passes. Here: a loss or a sample that is not finite, an
    energy gap that is too wide, or too many pixels beyond 3, where images lie in [-1, 1].

    Args:
        loss: Scalar.
        energy_gap: ``mean LSE(data) - mean LSE(samples)`` of each generative term, or a scalar.
        samples: ``(B, ...)`` ends of the Langevin chains.
        max_energy_gap: Widest gap, in nats, that counts as healthy.
        max_out_of_range: Largest share of pixels beyond 3 that counts as healthy.
    """
    out_of_range = (samples.abs() > 3).float().mean()
    healthy = loss.isfinite() & (energy_gap.abs() <= max_energy_gap).all()
    healthy &= samples.isfinite().all() & (out_of_range <= max_out_of_range)
    return ~healthy


class Escalation(NamedTuple):
    """Cumulative effect of past recoveries on the settings of a training.

    Attributes:
        learning_rate: Factor of the learning rate.
        steps: Factor of the number of SGLD steps.
        penalty: Added to the weight of the energy penalty.
    """

    learning_rate: float = 1.0
    steps: int = 1
    penalty: float = 0.0

    def after(self, recoveries: int) -> "Escalation":
        """The effect with the n-th recovery; in turn they halve the rate, double the steps, add 0.1 to the penalty."""
        if recoveries % 3 == 1:
            return self._replace(learning_rate=self.learning_rate / 2)
        if recoveries % 3 == 2:
            return self._replace(steps=self.steps * 2)
        return self._replace(penalty=self.penalty + 0.1)


class Recovery:
    """The last two good states of a training, and how often it went back to one.

    Divergence is often latent in the newest state, so a recovery that is followed by another one before a new snapshot
    was taken goes back to the older.

    Attributes:
        count: Recoveries so far.
        escalation: Their cumulative effect.
        taken_at: Optimiser steps made at the newest snapshot; -1 before the first.
        good_states: At most two, the newest last: ``network``, ``optimizer`` and ``memory``, all on the CPU.
    """

    def __init__(self) -> None:
        self.count = 0
        self.escalation = Escalation()
        self.taken_at = -1
        self.good_states: deque[dict[str, Any]] = deque(maxlen=2)

    def take_snapshot(self, step: int, network: nn.Module, optimizer: Optimizer, memory: Tensor | None) -> None:
        """Keep copies of weights, optimiser's state and memory, once a step, and only if the weights are finite."""
        if step == self.taken_at:
            return
        self.taken_at = step
        weights = network.state_dict()
        if all(bool(value.isfinite().all()) for value in weights.values()):
            state = {"network": weights, "optimizer": optimizer.state_dict(), "memory": memory}
            self.good_states.append(copy_to_cpu(state))

    def go_back(self, network: nn.Module, optimizer: Optimizer, memory: Tensor | None) -> None:
        """Restore the newest good state in place, and escalate.

        The learning rates stay those of the schedule at the current step, times the new escalation.
        """
        state = self.good_states.pop() if len(self.good_states) > 1 else self.good_states[-1]
        self.count += 1
        before, self.escalation = self.escalation, self.escalation.after(self.count)
        rates = [group["lr"] for group in optimizer.param_groups]
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(copy_to_cpu(state["optimizer"]))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self.escalation.learning_rate / before.learning_rate
        if memory is not None:
            memory.copy_(state["memory"])

    def forget(self) -> None:
        """Drop the good states, which take as much memory as the training's own."""
        self.good_states.clear()
        self.taken_at = -1

    def notes(self, count: int = 0) -> dict[str, float]:
        """Lines for a report: the number of recoveries, ``count`` at least, and the effect of those made here."""
        effect = {f"{name} after recoveries": value for name, value in self.escalation._asdict().items()}
        return {"recoveries from divergence": max(self.count, count)} | (effect if self.count else {})


def copy_to_cpu(state: Any) -> Any:
    """A deep copy of nested dictionaries and lists with every tensor on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, dict):
        return {key: copy_to_cpu(value) for key, value in state.items()}
    return [copy_to_cpu(value) for value in state] if isinstance(state, list | tuple) else state
