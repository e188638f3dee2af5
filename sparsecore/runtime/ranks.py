"""The processes of an MPI job: the only file that knows MPI.

What is summed over ranks is summed here, in the order of ranks and not in MPI's: every rank gets the same bits, and so
does every run on as many ranks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..errors import OneLineError
from .processors import asked_for, available, processes

GATHERED = 1 << 14
"""Bytes of a piece up to which each of three or more ranks gets all others' and sums all of it, where that is one
message instead of two; two ranks always do, since sharing the sum out would send as much."""


class RanksError(OneLineError):
    """Ranks that cannot train together; one line that names the rank."""


class Ranks:
    """This process among those of a communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Copied: messages of others do not meet these.

    Attributes
    ----------
    rank, size : int
    here : int
        How many are on this machine.
    together : bool
        Whether all are, where a message is a copy: none goes on while a rank computes, and asking MPI
        for that costs more than the copy.
    threads : int
        That are this rank's share of the processors that it is bound to.
    """

    def __init__(self, comm: Any) -> None:
        self.rank, self.size = int(comm.rank), int(comm.size)
        self._comm, self._pieces, self._end = comm.Dup(), comm.Dup(), comm.Dup()
        from mpi4py import MPI

        here = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.here = int(here.size)
        self.together = self.here == self.size
        self.threads = _share_of_processors(here)
        here.Free()

    def __repr__(self) -> str:
        return f"Ranks({self.rank} of {self.size})"

    def gather(self, array: Any) -> np.ndarray[Any, Any]:
        """What every rank gives: contiguous arrays of one shape and dtype, as (size, *shape), in the order of ranks."""
        found = np.empty((self.size, *array.shape), array.dtype)
        self._comm.Allgather(np.ascontiguousarray(array), found)
        return found

    def total(self, array: Any) -> Any:
        """The sum over ranks of arrays of one shape and dtype: a new array."""
        return _in_order(self.gather(array))

    def summing(self, piece: Any) -> Summing:
        """What replaces a flat array by its sum over ranks; all ranks begin and finish theirs in the same order."""
        return Summing(self._pieces, self.rank, self.size, piece, waiting=self.together)

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """Which of these some rank wishes."""
        found: Any = self.gather(np.array(wishes, np.bool_)).any(axis=0)
        return tuple(found.tolist())

    def same(self, things: Mapping[str, Any]) -> None:
        """See to it that all ranks have the same of these, by name.

        Raises
        ------
        RanksError
            On all ranks alike, if one has not what rank 0 has: it names that rank.
        """
        first, *others = self._comm.allgather(dict(things))
        for rank, found in enumerate(others, 1):
            for name in first.keys() | found.keys():
                if (expected := first.get(name)) != (got := found.get(name)):
                    raise RanksError(f"rank {rank}: {name}: expected {expected!s:.80}, as rank 0 has, got {got!s:.80}")

    def leave(self, status: int, patience: float | None = None) -> list[int] | None:
        """Wait until all have come here, sparing the processor; what status each has, or None when patience ends."""
        request, began = self._end.Ibarrier(), time.monotonic()
        while not request.Test():
            if patience is not None and time.monotonic() - began > patience:
                return None
            time.sleep(0.01)
        return list(self._end.allgather(status))

    def abort(self, status: int) -> None:
        """End the whole job, with this exit status."""
        self._comm.Abort(status)


class Summing:
    """Replaces a flat array by its sum over ranks, in place, as often as it is begun and finished."""

    def __init__(self, comm: Any, rank: int, size: int, piece: Any, *, waiting: bool) -> None:
        self.piece, self._comm, self._waiting = piece, comm, waiting
        self._cuts = _Cuts.of(piece.size, size)
        self._whole = size == 2 or piece.nbytes <= GATHERED
        own = piece.size if self._whole else self._cuts.sizes[rank]
        self._received = np.empty((size, own), piece.dtype)
        self._own = piece if self._whole else np.empty(own, piece.dtype)
        self._places = [own] * size, [own * k for k in range(size)]
        self._request: Any = None

    def begin(self) -> None:
        """Send what this rank has; where that is a copy, wait for what the others have, too."""
        comm: Any = self._comm
        sent: Any = self.piece
        received: Any = self._received
        if self._whole:
            call = comm.Allgather if self._waiting else comm.Iallgather
        else:
            call = comm.Alltoallv if self._waiting else comm.Ialltoallv
            sent, received = [sent, self._cuts], [received, self._places]
        self._request = call(sent, received)

    def look(self) -> None:
        """Give MPI an occasion to send and receive: most work only while they are called."""
        if self._request is not None:
            self._request.Test()

    def finish(self) -> None:
        """Put the sum in the array's place."""
        if self._request is not None:
            self._request.Wait()
        _in_order(self._received, self._own)
        if not self._whole:
            self._comm.Allgatherv(self._own, [self.piece, self._cuts])


class _Cuts(NamedTuple):
    """The parts of an array that each rank sums, as MPI takes them: sizes, and where each begins."""

    sizes: list[int]
    starts: list[int]

    @classmethod
    def of(cls, numbers: int, ranks: int) -> _Cuts:
        edges = [numbers * k // ranks for k in range(ranks + 1)]
        return cls([after - before for before, after in pairwise(edges)], edges[:-1])


def started() -> Ranks | None:
    """This process among those that mpiexec or srun has started; None if it is alone.

    Raises
    ------
    RanksError
        If it is one of several, and MPI does not know that.
    """
    if (size := processes()) == 1:
        return None
    if find_spec("mpi4py") is None:
        raise RanksError(f"one of {size} processes: needs mpi4py, not installed here: pip install 'sparsecore[mpi]'")
    import mpi4py

    mpi4py.rc.thread_level = "funneled"  # kernels' threads never call MPI
    from mpi4py import MPI

    found = int(MPI.COMM_WORLD.size)
    if found == 1:
        raise RanksError(
            f"one of {size} processes, and MPI knows of this one alone: use the mpiexec of the MPI that mpi4py finds "
            f"({MPI.Get_library_version().split(',')[0].splitlines()[0].strip()}), or srun --mpi=pmix"
        )
    return Ranks(MPI.COMM_WORLD)


def _in_order(arrays: Any, out: Any = None) -> Any:
    """The sum of arrays along the first axis, from the first to the last."""
    out = np.add(arrays[0], arrays[1], out=out)
    for array in arrays[2:]:
        np.add(out, array, out=out)
    return out


def _share_of_processors(here: Any) -> int:
    """Threads for this rank: a processor that several ranks of this machine may use counts for each of them in part."""
    bound = here.allgather(_bound())
    own = bound[here.rank]
    share = sum(1 / sum(number in each for each in bound) for number in own) / len(own)
    return max(1, min(int(available() * share + 1e-9), asked_for() or 256))


def _bound() -> set[int]:
    """The processors that this process may use, by their numbers."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not on every system
        return set(range(os.cpu_count() or 1))
