"""Factors without images: the grid of all combinations, fixed rows of it, and draws that no two processes share."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from ..shared.memory import as_tensor

FactorBatch = tuple[Tensor, int]  # factors (B, K), and the seed of whatever else the images need


def draw_factors(sizes: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """Uniform, independent factors, (count, K) int64 on the device of the generator."""
    columns = [torch.randint(size, (count,), generator=generator, device=generator.device) for size in sizes]
    return torch.stack(columns, 1)


class FactorGrid(Dataset[FactorBatch]):
    """All combinations of factors, the last factor fastest, each batch with a fresh seed for its nuisances.

    The seeds come from torch's default generator, so seeding and the restoring of random states control them. Each
    process draws those of all and takes its own (``share``: rank and number of processes): no two are alike.
    """

    def __init__(self, sizes: Sequence[int], share: tuple[int, int]) -> None:
        self.sizes, self.share = tuple(sizes), share

    def __len__(self) -> int:
        """Number of combinations."""
        return math.prod(self.sizes)

    def __getitems__(self, indices: list[int]) -> FactorBatch:
        """Factors (B, K) in the order of the indices, and a seed."""
        rank, processes = self.share
        factors = torch.stack(torch.unravel_index(as_tensor(indices), self.sizes), 1)
        return factors, int(torch.randint(2**63 - 1, (processes,))[rank])


class FixedFactors(Dataset[FactorBatch]):
    """Chosen rows of factors (N, K) int64, with seeds that follow from ``seed`` and the place of a batch."""

    def __init__(self, factors: Tensor, seed: int) -> None:
        self.factors, self.seed = factors, seed

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.factors)

    def __getitems__(self, indices: list[int]) -> FactorBatch:
        """Factors (B, K) in the order of the indices, and a seed."""
        return self.factors.index_select(0, as_tensor(indices)), self.seed * 2**32 + indices[0]


class FactorDraws(DistributedSampler[int]):
    """Independent uniform draws from a grid, with replacement; each process has draws of its own.

    Lightning would put a shuffled pass over all combinations in the place of a plain sampler with replacement; a
    DistributedSampler it leaves alone. The draws follow from torch's default generator, as the seeds of ``FactorGrid``;
    ``draws`` are those of all processes together in a pass, ``share`` is the rank and the number of processes.
    """

    def __init__(self, grid: FactorGrid, draws: int, share: tuple[int, int]) -> None:
        rank, processes = share
        super().__init__(grid, processes, rank)
        self.size, self.draws = len(grid), draws // processes

    def __len__(self) -> int:
        """Draws of this process in a pass."""
        return self.draws

    def __iter__(self) -> Iterator[int]:
        """New draws for each pass."""
        seed = int(torch.randint(2**63 - 1, (self.num_replicas,))[self.rank])
        drawn = torch.randint(self.size, (self.draws,), generator=torch.Generator().manual_seed(seed))
        return iter(drawn.tolist())
