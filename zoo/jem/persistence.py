"""What a checkpoint holds of JEM beyond its weights, so that a resumed training goes on bit for bit.

The replay memory is shared out over the processes. A checkpoint holds all of it, ordered by class, so that another
number of processes can share it out anew; and the random state of each process, which only the same number of processes
can go on with.
"""

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from .chains import Chains
from .initialisation import ClassGaussians
from .recovery import Escalation, Recovery
from .sampler import ReplayMemory


def join_shares(shares: Tensor, num_classes: int) -> Tensor:
    """The whole memory ``(N, C, H, W)``, ordered by class, from the shares ``(processes, N / processes, C, H, W)``."""
    processes, _, *image_shape = shares.shape
    return shares.view(processes, num_classes, -1, *image_shape).transpose(0, 1).flatten(0, 2)


def take_share(memory: Tensor, num_classes: int, processes: int, rank: int) -> Tensor:
    """The share ``(N / processes, C, H, W)`` of one process, as many images of each class as of any other."""
    return memory.view(num_classes, processes, -1, *memory.shape[1:])[:, rank].flatten(0, 1)


def collect_state(module: LightningModule, chains: Chains, recovery: Recovery) -> dict[str, Any]:
    """Collect what a checkpoint must hold of all processes; each of them has to call this.

    Returns:
        ``memory`` ``(N, C, H, W)``; ``generators`` ``(processes, bytes)``, the random states; ``mean`` and ``factor``
        of the class Gaussians; of the recovery ``recoveries``, ``rungs`` (the escalation), ``taken_at`` and
        ``good_states``, each with a whole memory.
    """

    def stack(tensor: Tensor) -> Tensor:
        several = module.trainer.world_size > 1
        return (module.all_gather(tensor.to(module.device)) if several else tensor[None]).cpu()  # type: ignore[union-attr]

    def whole(memory: Tensor | None) -> Tensor | None:
        return None if memory is None else join_shares(stack(memory), chains.num_classes)

    state = {
        "recoveries": recovery.count,
        "rungs": list(recovery.escalation),
        "taken_at": recovery.taken_at,
        "good_states": [good | {"memory": whole(good["memory"])} for good in recovery.good_states],
        "generators": stack(chains.generator.get_state()),
    }
    if chains.images is not None:
        state["memory"] = whole(chains.images)
    if chains.gaussians is not None:
        state |= {"mean": chains.gaussians.mean.cpu(), "factor": chains.gaussians.factor.cpu()}
    return state


def load_state(checkpoint: dict[str, Any], chains: Chains) -> dict[str, Any]:
    """The state that :func:`collect_state` returned, from a checkpoint; the Gaussians serve for sampling at once."""
    state = dict(checkpoint.get("jem", {}))
    if "mean" in state:
        chains.gaussians = ClassGaussians(state["mean"], state["factor"])
    return state


def restore_state(state: dict[str, Any], module: LightningModule, chains: Chains, recovery: Recovery) -> None:
    """Give chains and recovery this process' share of a loaded state, if there is any.

    In checkpoints of earlier versions ``taken_at`` and ``good_states`` may be missing. The random state is restored for
    the same number of processes only.
    """
    if not state:
        return
    processes, rank = module.trainer.world_size, module.global_rank

    def share(memory: Tensor | None) -> Tensor | None:
        return None if memory is None else take_share(memory, chains.num_classes, processes, rank)

    recovery.count, recovery.escalation = state["recoveries"], Escalation(*state["rungs"])
    recovery.taken_at = state.get("taken_at", -1)
    recovery.good_states.extend(good | {"memory": share(good["memory"])} for good in state.get("good_states", []))
    memory = share(state.get("memory"))
    if memory is not None:
        chains.memory = ReplayMemory(memory.to(module.device, copy=True), chains.num_classes)
    if len(state.get("generators", ())) == processes:
        # A copy: torch reads the state from the start of its storage, where another rank's may lie.
        chains.generator.set_state(state["generators"][rank].cpu().clone())
