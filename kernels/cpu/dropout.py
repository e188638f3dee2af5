"""Dropout, by counted random numbers: which numbers are dropped does not depend on batches or threads."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from ..layout import LANES, kept_size, samples_of_tile
from .call import arguments, kernel, share
from .ir.pairs import lower, upper, write
from .ir.vector import advance, element, floats, ints
from .random import GOLDEN, mix, stream_key

DROPOUT = arguments("x", "position", "stream", "rate", "out", "tiles", "features")

@cache
def dropout_kernel(size: int) -> Any:
    """out = x / (1 − rate), or zero with probability `rate`, by the seed, the epoch, the sample and the feature."""

    kept, samples = kept_size(size), samples_of_tile(size)

    def dropout(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, DROPOUT)[0]
        position, rate = ints(c.position, 8), floats(c.rate, 8)[0]
        key = stream_key(position, np.uint64(c.stream))
        x, out = floats(c.x, size), floats(c.out, size)
        most = np.uint64(rate * 2.0**53)
        kind = floats(0, kept)
        scale, nothing = element(kind, 1 / (1 - rate)), element(kind, 0.0)
        first, last = share(c.tiles * c.features, part, until, parts)
        for line in range(first, last):
            sample, feature = position[0] + line // c.features * samples, line % c.features
            here, there = advance(x, line * LANES), advance(out, line * LANES)
            count = key + np.uint64(sample * c.features + feature) * GOLDEN
            step = np.uint64(c.features) * GOLDEN
            for lane in range(LANES):
                low = high = nothing
                if mix(count + np.uint64(lane) * step) >> np.uint64(11) >= most:
                    low = lower(here, lane) * scale
                if size == 2 and mix(count + np.uint64(lane + LANES) * step) >> np.uint64(11) >= most:
                    high = upper(here, lane) * scale
                write(there, lane, low, high)

    return kernel(dropout)
