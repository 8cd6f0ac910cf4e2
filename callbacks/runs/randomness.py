"""The random state: saved and restored with the run, different on each rank, and left alone by pictures."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.random import mtrand
from torch import distributed

from ..shared.random_state import random_state, set_random_state


class Randomness(Callback):
    """Saves and restores the random state, and gives each rank noise of its own.

    Lightning does neither: a resumed run shuffles and drops out differently from the uninterrupted one, and
    after ``seed_everything`` every rank draws the same numbers. With this callback

    * a checkpoint holds the generators of every rank (Python, NumPy, torch on CPU and CUDA), and a run
      resumed from it goes on bit for bit like the uninterrupted one, with the same number of ranks on the
      same kind of device; in the middle of an epoch if the loaders keep their place, as those of
      ``datamodules`` do;
    * a new run leaves rank 0 as seeded and re-seeds every other rank from that seed and its rank, once the
      weights exist, so that weights are equal and noise is not. A rank for which a checkpoint holds no state
      is seeded in the same way.

    Both happen in ``on_fit_start``: in ``on_train_start`` the iterator of the data loader exists already. In the
    middle of an epoch it existed when the checkpoint was written, too, so there the state is restored once more
    in ``on_train_start``. A strategy that loads checkpoints later than ``on_fit_start`` (FSDP, DeepSpeed) is only
    re-seeded. What has to be drawn alike on all ranks needs a generator of its own.

    What Lightning does not save and this callback cannot: gradients of an accumulation that was under way, and
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
        """Note whether an epoch had ended."""
        if "loops" in checkpoint:
            epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
            self._between_epochs = epoch["processed"] == epoch["started"] == epoch["ready"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this rank's state, or seed it apart from the others."""
        rank, states = trainer.global_rank, self._restored
        self._restore(trainer)
        if states and self._between_epochs:
            # With a number of steps to make, Lightning takes every checkpoint for one from the middle of an epoch, and
            # would end an epoch twice; so it does not know the number until the training starts.
            self._max_steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1
        missing = rank >= len(states) if states else rank > 0
        if missing:
            _seed_apart(rank)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In the middle of an epoch, take back what the new iterator of the data loader drew."""
        loop = trainer.fit_loop
        if self._max_steps is not None:
            loop.epoch_loop.max_steps = self._max_steps
            self._max_steps = None
        if loop.restarting and trainer.global_rank < len(self._restored):
            if loop._combined_loader_states_to_load and loop._data_fetcher is not None:
                # A module that asked for the number of steps had the loaders set up before their place was known.
                loop._load_combined_loader_states()
                iter(loop._data_fetcher)
            self._restore(trainer)
        self._restored = []

    def _restore(self, trainer: Trainer) -> None:
        if states := self._restored:
            set_random_state(states[min(trainer.global_rank, len(states) - 1)], self._device)


def _seed_apart(rank: int) -> None:
    """Seed all generators from the next number of torch's and the rank."""
    drawn = int(torch.randint(2**63 - 1, ()).item())
    seeds = np.random.SeedSequence([drawn, rank]).generate_state(3, np.uint64)
    random.seed(int(seeds[0]))
    mtrand.seed(int(seeds[1]) % 2**32)
    torch.manual_seed(int(seeds[2]) % 2**63)
