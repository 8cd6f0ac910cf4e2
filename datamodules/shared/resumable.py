"""A loader that resumes in the middle of an epoch, with the batches that were still to come."""

import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import distributed
from torch.utils.data import DataLoader

Place = dict[str, Any]  # random state and sampler's state before the pass drew its order, and the batches handed out


class ResumableLoader(DataLoader):
    """A ``DataLoader`` whose position in a pass over the data is part of Lightning's checkpoints.

    It keeps the random state with which a pass drew its order and counts the batches that it handed out, not those that
    worker processes fetched in advance. A resumed pass draws the same order again and skips as many batches of indices,
    without reading the data set, which may draw numbers of its own. The global random state stays as it is. Each
    process keeps its own position, and all of them are saved: every process has to call ``state_dict``. A sampler that
    has a state between passes offers ``state_dict`` and ``load_state_dict``, too.

    The sampler must draw its whole order when a pass begins, as torch's do. What a data set draws in worker processes
    is not restored. The arguments are those of ``DataLoader``, since Lightning builds such a loader again when it puts
    the sampler of several processes in.
    """

    _place: Place | None = None  # of the pass that handed out a batch last
    _next: Place | None = None  # where the next pass resumes
    _drawing: Place  # of the pass that began last

    def state_dict(self) -> dict[str, Any]:
        """The places of all processes in the pass."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return {"places": [self._saved()]}
        places: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(places, self._saved())
        return {"places": places}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next pass resume where a saved one was.

        Raises:
            ValueError: The loader has another number of batches.
        """
        places = state_dict["places"]
        alone = not (distributed.is_available() and distributed.is_initialized())
        rank, processes = (0, 1) if alone else (distributed.get_rank(), distributed.get_world_size())
        self._next = places[min(rank, len(places) - 1)]
        if len(places) != processes:
            rank_zero_warn(
                f"a checkpoint of {len(places)} processes from the middle of an epoch goes on with {processes}: "
                "the rest of this epoch has other batches than it would have had"
            )
        elif self._next and self._next["length"] != len(self):
            raise ValueError(
                f"the checkpoint is from the middle of an epoch of {self._next['length']} batches, but the loader has "
                f"{len(self)}: go on with the same data and batch_size, or from a checkpoint of an epoch's end"
            )

    def _saved(self) -> Place | None:
        return self._place and self._place | {"length": len(self)}

    def __iter__(self) -> Any:
        """The batches of a pass, or what is left of a saved one."""
        place = {"batches": 0} if self._next is None else self._next
        self._next, self._drawing = None, place
        return self._counted(super().__iter__(), place)

    def _counted(self, batches: Iterator[Any], place: Place) -> Iterator[Any]:
        for batch in batches:
            place["batches"] += 1
            self._place = place
            yield batch

    @property
    def _index_sampler(self) -> Any:
        return _Order(weakref.ref(self), super()._index_sampler)


class _Order:
    """The indices of each pass of a loader, which it does not keep alive: worker processes end with the loader."""

    def __init__(self, loader: "weakref.ref[ResumableLoader]", order: Any) -> None:
        self.loader, self.order = loader, order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        loader = self.loader()
        assert loader is not None  # it is what iterates
        return self._pass(loader.sampler, loader._drawing)

    def _pass(self, sampler: Any, place: Place) -> Iterator[Any]:
        remembers = hasattr(sampler, "state_dict")
        if "random" not in place:
            place |= {"random": torch.get_rng_state(), "sampler": sampler.state_dict() if remembers else None}
            yield from self.order
            return
        now = torch.get_rng_state()
        torch.set_rng_state(place["random"])
        if remembers:
            sampler.load_state_dict(place["sampler"])
        indices = iter(self.order)
        for _ in islice(indices, place["batches"]):
            pass
        torch.set_rng_state(now)
        yield from indices
