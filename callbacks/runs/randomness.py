"""The state of the random number generators: saved and restored with the run, and different on each rank."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.random import mtrand
from torch import distributed

from ..shared.private_names import restore_loader_positions
from ..shared.random_state import random_state, set_random_state


class Randomness(Callback):
    """Saves and restores the random state, and gives each rank noise of its own.

    Lightning does neither: a resumed run shuffles and drops out differently from the uninterrupted one, and after
    ``seed_everything`` every rank draws the same numbers. With this callback

    * a checkpoint holds the generators of every rank (Python, NumPy, torch on CPU and CUDA), and a run that resumes
      from it equals the uninterrupted one bit for bit, with the same number of ranks on the same kind of device; also
      in the middle of an epoch if the loaders keep their position, as those of ``datamodules`` do;
    * a new run leaves rank 0 as seeded and re-seeds every other rank from that seed and its rank, once the weights
      exist, so that weights are equal and noise is not. A rank for which a checkpoint holds no state is seeded alike.

    Both happen in ``on_fit_start``: in ``on_train_start`` the iterator of the data loader exists already. For a
    checkpoint from the middle of an epoch, which was written when it existed, the state is restored once more in
    ``on_train_start``. A strategy that loads checkpoints later than ``on_fit_start`` (FSDP, DeepSpeed) is only
    re-seeded. What has to be drawn alike on all ranks needs a generator of its own.

    What Lightning does not save and this callback cannot: the gradients of an accumulation that was under way, and the
    sums behind a training metric that is logged with ``on_epoch=True``.
    """

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self._restored: list[dict[str, Any]] = []
        self._between_epochs = False
        self._max_steps: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the device of this rank."""
        self._device = trainer.strategy.root_device

    def state_dict(self) -> dict[str, Any]:
        """Gather the states of all ranks; Lightning calls this on every rank of a checkpoint."""
        state = random_state(self._device)
        if not (distributed.is_available() and distributed.is_initialized()):
            return {"ranks": [state]}
        states: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(states, state)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the fit starts."""
        self._restored = state_dict["ranks"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note whether the checkpoint was written between two epochs."""
        if "loops" in checkpoint:
            epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
            self._between_epochs = epoch["processed"] == epoch["started"] == epoch["ready"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this rank's state, or seed it apart from the others."""
        self._restore(trainer)
        if self._restored and self._between_epochs:
            # With max_steps Lightning takes every checkpoint for one from the middle of an epoch, and would end an
            # epoch twice; so max_steps is hidden from it until the training starts.
            self._max_steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1
        if trainer.global_rank >= max(1, len(self._restored)):  # the checkpoint holds no state of this rank
            seed_apart(trainer.global_rank)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In the middle of an epoch, restore the state again, from which the new data loader's iterator has drawn."""
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None
        if trainer.fit_loop.restarting and trainer.global_rank < len(self._restored):
            restore_loader_positions(trainer)
            self._restore(trainer)
        self._restored = []

    def _restore(self, trainer: Trainer) -> None:
        if states := self._restored:
            set_random_state(states[min(trainer.global_rank, len(states) - 1)], self._device)


def seed_apart(rank: int) -> None:
    """Seed all generators from the rank and a number drawn from torch's generator."""
    drawn = int(torch.randint(2**63 - 1, ()).item())
    seeds = np.random.SeedSequence([drawn, rank]).generate_state(3, np.uint64)
    random.seed(int(seeds[0]))
    mtrand.seed(int(seeds[1]) % 2**32)
    torch.manual_seed(int(seeds[2]) % 2**63)
