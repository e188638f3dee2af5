"""Recorded kernel calls, run again on other arrays than they were recorded on.

Beside the kernels this costs a copy of the calls, a few addresses written into it, and one Python call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .devices import cpu
from .recording import extent
from .scratch import scratch

Array = np.ndarray[Any, Any]
_ALIGNED = 64


class Replay:
    """Recorded calls in which some arrays are to be replaced.

    It may use others as they were when the calls were recorded, so a thread must have replays of its own.

    Parameters
    ----------
    tape : Tape
        From the CPU's `recorder`.
    stand_ins : sequence of arrays, or None where there is none
        The arrays that the calls were recorded on, and that `run` replaces; they are not kept.
    passing : lists of arrays
        Whose values no run leaves to the next: they lie in `scratch` while it lasts, those of a list in one place.

    Raises
    ------
    ValueError
        If there are Python functions among the calls: these are bound to the arrays they were recorded on.
    """

    def __init__(
        self, tape: Any, stand_ins: Sequence[Array | None], passing: Iterable[Sequence[Array]] = ()
    ) -> None:  # fmt: skip
        if tape.hosts:
            raise ValueError(f"{tape.hosts[0][1].name} is plain Python, which cannot be replayed on other arrays")
        self._calls, self._parts = tape.calls[: tape.count].copy(), tape.parts
        places = [(slot, 0, array) for slot, array in enumerate(stand_ins) if array is not None]
        self._nbytes = 0
        for arrays in passing:
            places += [(len(stand_ins), self._nbytes, array) for array in arrays]
            self._nbytes += -(-max(array.nbytes for array in arrays) // _ALIGNED) * _ALIGNED
        found = [(slot, behind, *extent(array)) for slot, behind, array in places]
        self._replaced = [  # words of the calls that are addresses: which, of which array, how far into it
            (k, slot, behind + word - first)
            for k, word in enumerate(self._calls.ravel().tolist())
            for slot, behind, first, last in found
            if first <= word < last
        ]
        self._kept = [  # all other arrays, and the kernels
            thing for address, thing in tape.kept if not any(first <= address < last for *_, first, last in found)
        ]
        scratch.need(self, self._nbytes)

    def run(self, *addresses: int, by: Any = None) -> None:
        """Run the calls on contiguous arrays of the stand-ins' shapes and dtypes at these addresses.

        `by` says whose threads do it, if not the CPU's own pool.
        """
        calls = self._calls.copy()
        words = calls.reshape(-1)
        room = scratch.take(self._nbytes)
        try:
            places = (*addresses, room.address)
            for k, slot, offset in self._replaced:
                words[k] = places[slot] + offset
            (cpu().pool if by is None else by).run(calls, len(calls), self._parts)
        finally:
            scratch.give(room)


def addresses(*arrays: Array | None) -> list[int]:
    """Where arrays lie, 0 for None. Whoever asks holds them until they have been used."""
    return [0 if array is None else array.ctypes.data for array in arrays]
