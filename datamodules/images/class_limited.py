"""Batches of few classes, so that many pairs of a batch share a class: for losses that compare pairs."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, Sampler, TensorDataset


class ClassLimitedBatchSampler(BatchSampler):
    """Batches with ``classes_per_batch`` classes each; an epoch visits every sample once.

    For the class-limited batches of Nøkland and Eidnes 2019 (https://arxiv.org/abs/1901.06656, official code): with
    100 classes and batches of 128, one pair in a hundred shares a class, and their similarity loss learns from such
    pairs. For each batch, classes are drawn without replacement, a class in proportion to the samples that it still
    has. Each gives one sample, and the rest of the batch is drawn from what these classes still have. Classes so drain
    evenly, also if they are of different sizes. Where the drawn classes cannot fill the batch, towards the end of an
    epoch, further classes are drawn until they can.

    Batches follow from the labels, the seed and the epoch alone. Use it as
    ``DataLoader(dataset, batch_sampler=ClassLimitedBatchSampler(dataset.targets, 128, 20))``. On several processes the
    batches are dealt out in turn, the same number to each. Under Lightning this, and the calls of ``set_epoch``, happen
    by themselves for loaders made in a ``*_dataloader`` method; elsewhere give ``num_replicas`` and ``rank``. A
    remainder is what is left when no process can have another full batch. With ``drop_last`` it is left out, otherwise
    it is shared out evenly as one smaller last batch for each process.

    Departures from the official algorithm: that one starts a batch with the first 20 samples of a shuffled order, so
    with fewer than 20 classes, and fills it from the front of the order, so that the front holds ever fewer classes
    (about 14 in a batch, and 7 % of the pairs share a class). Here a batch has all ``classes_per_batch`` (with 20 of
    100, 4.9 % of the pairs share a class; with 14, 7.1 %), but for the last few of an epoch, which have more. The
    official draws are not seeded, and know one process only.

    Args:
        labels: (N,) class of each sample; any whole numbers, not necessarily from 0.
        batch_size: Samples in a batch of one process.
        classes_per_batch: Classes in a batch, from 1 to the smaller of ``batch_size`` and the number of classes.
        seed: Seed of all draws, not negative.
        limited_epochs: Epochs with limited classes, after which batches are plainly shuffled; None for all epochs.
        drop_last: Whether the remainder of an epoch is left out.
        num_replicas: Number of processes.
        rank: Number of this process.
        epoch: The epoch to begin with, in a resumed run: worker processes read before anyone calls ``set_epoch``.
        sampler: Says the processes and the epoch instead, if it is a ``DistributedSampler``; Lightning fills it in. Its
            order is not used, but with one that does not shuffle (``overfit_batches``) all epochs are the first.

    Raises:
        ValueError: An argument is out of its range, or there are too few samples for one batch of each process.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        batch_size: int,
        classes_per_batch: int,
        seed: int = 0,
        limited_epochs: int | None = None,
        drop_last: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
        epoch: int = 0,
        sampler: Sampler[int] | None = None,
    ) -> None:
        values = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
            raise ValueError(f"labels must be whole numbers of shape (N,), got {values.dtype} of shape {values.shape}")
        self.classes = np.unique(values, return_inverse=True)[1]  # numbered from 0
        self.class_sizes = np.bincount(self.classes)
        most = min(batch_size, len(self.class_sizes))
        if not 1 <= classes_per_batch <= most:
            raise ValueError(
                f"classes_per_batch must lie in 1..{most} for batch_size={batch_size} and {len(self.class_sizes)} "
                f"classes, got {classes_per_batch}"
            )
        for argument, value in (("seed", seed), ("limited_epochs", limited_epochs or 0)):
            if value < 0:
                raise ValueError(f"{argument} must not be negative, got {value}")
        if sampler is None:  # not for its order: Lightning looks here for a `set_epoch`
            sampler = DistributedSampler(TensorDataset(torch.from_numpy(self.classes)), num_replicas, rank)
        super().__init__(sampler, batch_size, drop_last)
        self.num_replicas, self.rank = 1, 0
        if isinstance(sampler, DistributedSampler):
            self.num_replicas, self.rank = sampler.num_replicas, sampler.rank
        self.classes_per_batch, self.seed, self.limited_epochs = classes_per_batch, seed, limited_epochs
        if epoch:
            self.set_epoch(epoch)
        if not len(self):
            raise ValueError(
                f"{len(values)} samples are too few for one batch_size={batch_size} in each of {self.num_replicas} "
                f"processes (drop_last={drop_last})"
            )

    @property
    def epoch(self) -> int:
        """The epoch whose batches come next."""
        if isinstance(self.sampler, DistributedSampler) and self.sampler.shuffle:
            return self.sampler.epoch
        return 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the batches of an epoch, from 0; without, every epoch is that of the constructor."""
        if isinstance(self.sampler, DistributedSampler):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        """Number of batches of this process in an epoch."""
        return len(self._sizes()) // self.num_replicas

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this process, each a list of indices in random order."""
        for number, batch in enumerate(self._batches()):
            if number % self.num_replicas == self.rank:
                yield batch.tolist()

    def _sizes(self) -> list[int]:
        """Sizes of the batches of all processes."""
        rounds, remainder = divmod(len(self.classes), self.batch_size * self.num_replicas)
        last = 0 if self.drop_last else remainder // self.num_replicas
        return [self.batch_size] * (rounds * self.num_replicas) + [last] * (self.num_replicas if last else 0)

    def _batches(self) -> Iterator[np.ndarray]:
        """The batches of all processes, which agree on them without exchange."""
        random = np.random.default_rng([self.seed, self.epoch])
        order, sizes = random.permutation(len(self.classes)), self._sizes()
        if self.limited_epochs is not None and self.epoch >= self.limited_epochs:
            yield from np.split(order, np.cumsum(sizes))[: len(sizes)]
            return
        by_class = order[np.argsort(self.classes[order], kind="stable")]
        queues = np.split(by_class, np.cumsum(self.class_sizes)[:-1])
        left = self.class_sizes.copy()
        for size in sizes:
            # The smallest of exponential draws over weights: classes in proportion to their weights, one by one.
            present = left.nonzero()[0]
            ranked = present[np.argsort(random.exponential(size=len(present)) / left[present])]
            enough = 1 + np.searchsorted(np.cumsum(left[ranked]), size)
            chosen = ranked[: max(min(self.classes_per_batch, size), enough)]
            counts = 1 + random.multivariate_hypergeometric(left[chosen] - 1, size - len(chosen))
            ends = left[chosen]
            left[chosen] = ends - counts
            parts = [queues[c][start:end] for c, start, end in zip(chosen, left[chosen], ends, strict=True)]
            yield random.permutation(np.concatenate(parts))
