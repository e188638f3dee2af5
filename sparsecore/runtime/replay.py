"""Recorded kernel calls, run again on other arrays than they were recorded on.

Beside the kernels this costs a copy of the calls, a few addresses written into it, and one Python call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .devices import cpu
from .recording import extent

Array = np.ndarray[Any, Any]


class Replay:
    """Recorded calls in which some arrays are to be replaced.

    It uses buffers of its own, so a thread must have replays of its own.

    Parameters
    ----------
    tape : Tape
        From the CPU's `recorder`.
    stand_ins : sequence of arrays, or None where there is none
        The arrays that the calls were recorded on, and that `run` replaces.

    Raises
    ------
    ValueError
        If there are Python functions among the calls: these are bound to the arrays they were recorded on.
    """

    def __init__(self, tape: Any, stand_ins: Sequence[Array | None]) -> None:
        if tape.hosts:
            raise ValueError(f"{tape.hosts[0][1].name} is plain Python, which cannot be replayed on other arrays")
        self._tape = tape  # keeps all other arrays alive
        self._calls = tape.calls[: tape.count].copy()
        places = [(slot, *extent(array)) for slot, array in enumerate(stand_ins) if array is not None]
        self._replaced = [  # words of the calls that are addresses: which, of which stand-in, how far into it
            (k, slot, word - first)
            for k, word in enumerate(self._calls.ravel().tolist())
            for slot, first, last in places
            if first <= word < last
        ]

    def run(self, *addresses: int) -> None:
        """Run the calls on contiguous arrays of the stand-ins' shapes and dtypes at these addresses."""
        calls = self._calls.copy()
        words = calls.reshape(-1)
        for k, slot, offset in self._replaced:
            words[k] = addresses[slot] + offset
        cpu().pool.run(calls, len(calls), self._tape.parts)


def addresses(*arrays: Array | None) -> list[int]:
    """Where arrays lie, 0 for None. Whoever asks holds them until they have been used."""
    return [0 if array is None else array.ctypes.data for array in arrays]
