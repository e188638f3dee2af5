"""Random numbers that are counted, not drawn one after another: the k-th of a stream is a function of k."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compile import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@njit
def mix(z: Any) -> Any:
    """SplitMix64's finisher (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


@njit
def stream_key(clock: Any, stream: Any) -> Any:
    """Where a stream's counting begins; `clock` holds a sample's number, the epoch and the seed."""
    return mix(mix(mix(np.uint64(clock[2]) + GOLDEN) + np.uint64(clock[1])) + stream)
