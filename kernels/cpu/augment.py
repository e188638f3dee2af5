"""Augmentation: samples shifted and mirrored at random, before they are converted from what their store keeps."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from .call import arguments, kernel, share
from .ir.vector import ints, stored
from .random import GOLDEN, mix, stream_key

AUGMENT = arguments(
    "store", "labels", "order", "position", "most", "flip", "batch", "channels", "height", "width", "out", "out_labels"
)

AUGMENTATION = np.uint64(0xA5A5_0000_0000_0001)
"""The stream of random numbers; those of dropout layers are small."""


@cache
def augment_kernel(size: int) -> Any:
    """Copy samples `order[position[0] + k]`, moved by up to `most` pixels each way; what no pixel moves to is zero.

    What happens to a sample depends on the seed, the epoch and its row in the store, and on nothing else.
    """

    def augment(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, AUGMENT)[0]
        order, labels, position = ints(c.order, 8), ints(c.labels, 4), ints(c.position, 8)
        out_labels = ints(c.out_labels, 4)
        key = stream_key(position, AUGMENTATION)
        pixels = c.channels * c.height * c.width
        first, last = share(c.batch, part, until, parts)
        for k in range(first, last):
            sample = order[position[0] + k]
            out_labels[k] = labels[sample]
            drawn = mix(key + np.uint64(sample) * GOLDEN)
            shifts = np.uint64(2 * c.most + 1)
            down = np.int64(((drawn & np.uint64(0xFFFF)) * shifts) >> np.uint64(16)) - c.most
            across = np.int64((((drawn >> np.uint64(16)) & np.uint64(0xFFFF)) * shifts) >> np.uint64(16)) - c.most
            mirrored = c.flip * np.int64((drawn >> np.uint64(32)) & np.uint64(1))
            left, right = min(max(0, -across), c.width), max(min(c.width, c.width - across), 0)
            for line in range(c.channels * c.height):
                channel, row = line // c.height, line % c.height + down
                here = stored(c.out + (k * pixels + line * c.width) * size, size)
                if row < 0 or row >= c.height:
                    for column in range(c.width):
                        here[column] = 0
                    continue
                there = stored(c.store + (sample * pixels + (channel * c.height + row) * c.width) * size, size)
                for column in range(left):
                    here[column] = 0
                if mirrored != 0:
                    end = c.width - 1 - across
                    for column in range(left, right):
                        here[column] = there[end - column]
                else:
                    for column in range(left, right):
                        here[column] = there[column + across]
                for column in range(max(left, right), c.width):
                    here[column] = 0

    return kernel(augment)
