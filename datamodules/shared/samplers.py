"""Samplers that restart within an epoch, and how processes share out the samples."""

import os
from collections.abc import Iterator, Sized
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DistributedSampler


class RestartingSampler(DistributedSampler[int]):
    """Gives each process its part of one shuffled order, and another order whenever it restarts.

    Lightning gives every shuffled loader of several processes a ``DistributedSampler`` with one and the same seed: two
    loaders over equally many images would read them in the same order, and one that restarts within an epoch would
    repeat itself. Lightning leaves a ``DistributedSampler`` of ours alone, apart from calling ``set_epoch``. The order
    follows from the seed of ``seed_everything``, the epoch and the number of the pass within it: all processes agree
    on it without communication, and a resumed run has the orders that the uninterrupted one would have had.
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # what Lightning takes for its own: the same on all ranks
        super().__init__(cast(Any, dataset), num_replicas, rank, seed=seed, drop_last=True)
        self.size, self.passes = len(dataset), 0

    def set_epoch(self, epoch: int) -> None:
        """Counts the passes from 0 in a new epoch; Lightning may set the same epoch twice."""
        if epoch != self.epoch:
            self.passes = 0
        super().set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """The number of the next pass within the epoch."""
        return {"passes": self.passes}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue with that pass."""
        self.passes = state_dict["passes"]

    def __iter__(self) -> Iterator[int]:
        """The indices of this process in the next pass; the parts are disjoint and of one size."""
        # Hashed, for a sum of the three would be the seed of one of Lightning's orders.
        words = np.random.SeedSequence([self.seed, self.epoch, self.passes]).generate_state(1, np.uint64)
        self.passes += 1
        generator = torch.Generator().manual_seed(int(words[0]) % 2**63)
        order = torch.randperm(self.size, generator=generator)
        return iter(order[self.rank : self.total_size : self.num_replicas].tolist())


def sampler_shares(trainer: Trainer | None) -> dict[str, int]:
    """``num_replicas`` and ``rank`` where Lightning would put its own sampler into loaders; empty elsewhere."""
    # Lightning has no public name for its switch.
    if trainer is None or not trainer._accelerator_connector.use_distributed_sampler:
        return {}
    return trainer.distributed_sampler_kwargs or {}


def process_share(trainer: Trainer | None) -> tuple[int, int]:
    """The rank of this process and the number of processes, of those that share out the training data."""
    shares = None if trainer is None else trainer.distributed_sampler_kwargs
    return (shares["rank"], shares["num_replicas"]) if shares else (0, 1)
