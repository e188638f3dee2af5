"""Which numbers of an array are its largest: exactly so many, of equals the first, in a few passes over the array.

The bits of numbers that are at least 0 are in the order of the numbers. They are counted by eleven bits at a time from
the top, as in a radix sort, which finds the least number to take without sorting any. Where few are wanted of many, a
sample tells first below which numbers none of them can be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compile import njit
from ..tuning import SAMPLED_EVERY, SORTED_STRETCH

Array = NDArray[Any]

_DIGIT, _CHUNK = 11, 16


def largest(
    scores: Array, edges: Array, counts: Array, barred: Array | None = None
) -> tuple[NDArray[np.bool_], Any]:
    """Where the largest numbers of each stretch of an array stand.

    Parameters
    ----------
    scores : float32 or float64 array, shape (n,)
        Without NaN; their magnitudes count.
    edges : int64 array, shape (stretches + 1,)
        Stretch s is `scores[edges[s]:edges[s + 1]]`.
    counts : int64 array, shape (stretches,)
        How many of it to take, from 0 to its length.
    barred : integer array, optional
        Numbers at these places are not taken; `counts` must leave that possible.

    Returns
    -------
    mask : boolean array, shape (n,)
        Of equal numbers the first are taken.
    least : number of the array's dtype
        The least magnitude that was taken of the last stretch from which some, but not all, were; 0 if there is none.
    """
    given: Array = np.ascontiguousarray(scores).view(_BITS[scores.itemsize])
    bits, mask, least = np.empty_like(given), np.empty(len(given), np.bool_), np.zeros(1, given.dtype)
    mark_largest(given, bits, edges, counts, _NONE if barred is None else barred, mask, least)
    return mask, least.view(scores.dtype)[0]


_BITS, _NONE = {4: np.uint32, 8: np.uint64}, np.empty(0, np.int64)


@njit
def mark_largest(
    given: Array, bits: Array, edges: Array, counts: Array, barred: Array, mask: Array, least: Array
) -> None:
    """mask = which of each stretch are its largest; `given` are the bits of floats, which those of their ranks are
    written behind."""
    width, raised = 8 * given.itemsize, given.dtype.type(len(barred) > 0)
    magnitude = given.dtype.type((np.uint64(1) << np.uint64(width - 1)) - np.uint64(1))
    for k in range(len(given)):
        bits[k] = (given[k] & magnitude) + raised
    for k in range(len(barred)):
        bits[barred[k]] = 0  # below every other number
    tallies = np.empty(1 << _DIGIT, np.int64)
    for s in range(len(counts)):
        first, last, count = edges[s], edges[s + 1], counts[s]
        if count <= 0 or count >= last - first:
            mask[first:last] = count > 0
            continue
        here = bits[first:last]
        if len(here) <= SORTED_STRETCH:
            found = np.uint64(np.sort(here)[len(here) - count])
            near = here
        else:
            near = _likely(here, count)
            found = _counted(near, width, count, tallies)
        least[0] = found
        bound = least[0]  # of the array's own type
        taken = mask[first:last]
        for k in range(len(here)):  # from 0 on: only then are several compared at once
            taken[k] = here[k] >= bound
        left = -count
        for k in range(len(near)):
            left += near[k] >= bound
        k = len(here)
        while left > 0:  # of those that equal it, the last are too many
            k -= 1
            if here[k] == bound:
                taken[k] = False
                left -= 1
    if least[0] > 0:
        least[0] -= raised


@njit
def _likely(bits: Array, count: int) -> Array:
    """The numbers among which the count-th largest is, fewer if a sample tells: those above what lies well below it.

    Whatever the sample says, they are enough: otherwise all are given back.
    """
    sample = len(bits) // SAMPLED_EVERY
    below = count // SAMPLED_EVERY * 3 // 2 + 16  # numbers of the sample that are hardly ever too few
    if below >= sample:
        return bits
    seen = np.empty(sample, bits.dtype)
    for k in range(sample):
        seen[k] = bits[k * SAMPLED_EVERY]
    bound = np.sort(seen)[sample - below]
    most, n, full = min(len(bits), 4 * below * SAMPLED_EVERY), 0, len(bits) // _CHUNK * _CHUNK
    kept = np.empty(most + _CHUNK, bits.dtype)
    for first in range(0, len(bits), _CHUNK):
        if n > most:  # many are equal
            return bits
        if first < full:
            here, reached = bits[first : first + _CHUNK], 0
            for k in range(_CHUNK):
                reached |= here[k] >= bound
            if not reached:  # as most are, and this is found out sixteen at a time
                continue
        for k in range(first, min(first + _CHUNK, len(bits))):
            kept[n] = bits[k]  # written over by the next where it does not reach
            n += bits[k] >= bound
    return kept[:n] if n >= count else bits


@njit
def _counted(near: Array, width: int, count: int, tallies: Array) -> np.uint64:
    """The count-th largest, digit by digit; `near` shrinks to those that begin with the digits found."""
    found, bottom = np.uint64(0), width
    while bottom > 0:
        digit = min(_DIGIT, bottom)
        bottom -= digit
        shift, low = np.uint64(bottom), np.uint64((1 << digit) - 1)
        tallies[:] = 0
        for k in range(len(near)):
            tallies[(np.uint64(near[k]) >> shift) & low] += 1
        value = (1 << digit) - 1
        while tallies[value] < count:
            count -= tallies[value]
            value -= 1
        found = (found << np.uint64(digit)) | np.uint64(value)
        if bottom > 0 and tallies[value] < len(near):
            kept, n = np.empty(tallies[value], near.dtype), 0
            for k in range(len(near)):
                if (np.uint64(near[k]) >> shift) & low == np.uint64(value):
                    kept[n] = near[k]
                    n += 1
            near = kept
    return found
