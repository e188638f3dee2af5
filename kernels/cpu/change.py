"""Connections that come and go: places that are free, drawn evenly, and the pattern that a change leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compile import njit
from .random import GOLDEN, mix

Array = NDArray[Any]


@njit
def draw_free(
    indptr: Array, indices: Array, columns: int, edges: Array, counts: Array, key: Any, begin: Array, rows: Array,
    into: Array,
) -> None:
    """Draw places without a connection, in order: `rows[k]` and `into[k]` are the k-th's row and column.

    Of each stretch of rows the free places, on a circle that starts anywhere, are cut into as many shares as are drawn,
    and one place is drawn from each share: all places are equally likely, none comes twice, and nothing need be sorted.

    Parameters
    ----------
    indptr, indices : integer arrays
        Of the pattern.
    columns : int
    edges : int64 array, shape (stretches + 1,)
        Stretch s is rows `edges[s]` to `edges[s + 1]`.
    counts : int64 array, shape (stretches,)
        Places to draw from it, at most as many as are free.
    key : uint64
        Of the stream of random numbers, of which the k-th place takes the k-th.
    begin : integer array, shape (rows of the pattern + 1,)
        Written: the first place of each row, as in an `indptr`.
    rows, into : int32 or int64 arrays, shape (sum of counts,)
    """
    most = 0
    for s in range(len(counts)):
        most = max(most, indptr[edges[s + 1]] - indptr[edges[s]])
    ahead = np.empty(most + 4, np.int64)
    k = 0
    begin[: edges[0] + 1] = 0
    for s in range(len(counts)):
        count = counts[s]
        if count <= 0:
            begin[edges[s] + 1 : edges[s + 1] + 1] = k
            continue
        held = _free_before(indptr, indices, columns, edges[s], edges[s + 1], ahead)
        free = (edges[s + 1] - edges[s]) * columns - held
        ahead[held : held + 4] = free  # no place lies behind these
        whole, rest = free // count, free % count
        turn = _below(mix(key ^ mix(GOLDEN + np.uint64(k))), free)
        # The places are drawn in the order in which they lie behind the turn: from the first share that reaches over
        # the end of the free places on, and so begins anew at their start.
        share = (free - turn) * count // free
        low, spread = share * whole + share * rest // count, share * rest % count
        while share < count:
            more = spread + rest >= count
            if low + _drawn(key, k + share, whole + more) + turn >= free:
                break
            low, spread, share = low + whole + more, spread + rest - more * count, share + 1
        p, row, start = np.int64(0), edges[s], 0
        for j in range(count):
            if share == count:
                low = spread = share = 0
            more = spread + rest >= count
            place = low + _drawn(key, k + share, whole + more) + turn
            low, spread, share = low + whole + more, spread + rest - more * count, share + 1
            place -= free * (place >= free)
            passed = np.int64(4)
            while passed == 4:  # the connections before the place move it on by as many: four are looked at at once
                passed = (
                    np.int64(ahead[p] <= place) + np.int64(ahead[p + 1] <= place) + np.int64(ahead[p + 2] <= place)
                    + np.int64(ahead[p + 3] <= place)
                )  # fmt: skip
                p += passed
            place += p
            while place >= start + columns:
                row, start = row + 1, start + columns
                begin[row] = k + j
            rows[k + j], into[k + j] = row, place - start
        k += count
        begin[row + 1 : edges[s + 1] + 1] = k
    begin[edges[-1] + 1 :] = k


@njit
def _free_before(indptr: Array, indices: Array, columns: int, first: int, last: int, free: Array) -> int:
    """free[p] = places without a connection before the p-th connection of a stretch of rows; returns how many
    connections it has."""
    origin = np.int64(indptr[first])
    for row in range(first, last):
        start = np.int64(row - first) * columns + origin
        for p in range(np.int64(indptr[row]), np.int64(indptr[row + 1])):
            free[p - origin] = start + indices[p] - p
    return int(indptr[last]) - int(origin)


@njit
def _drawn(key: Any, k: Any, places: Any) -> Any:
    """The place drawn from a share of so many, by the stream's k-th number."""
    return _below(mix(key + GOLDEN * np.uint64(k + 1)), places)


@njit
def _below(random: Any, share: Any) -> Any:
    """A number from 0 to share − 1."""
    if share <= 1 << 32:  # the high half of a product, which takes no division
        return np.int64(((random >> np.uint64(32)) * np.uint64(share)) >> np.uint64(32))
    return np.int64(random % np.uint64(share))


@njit
def places_kept(
    indptr: Array, indices: Array, keep: Array, columns: int, first: int, last: int, places: Array, counts: Array
) -> int:
    """Where in the rows from `first` to `last`, one after another, the connections lie that are kept.

    `places`, with room for one more than these rows have, is written from its start on, and how many each row keeps
    into `counts`; returns how many they are in all.
    """
    n = 0
    for row in range(first, last):
        before = n
        for p in range(np.int64(indptr[row]), np.int64(indptr[row + 1])):
            places[n] = np.int64(row - first) * columns + indices[p]  # written over by the next where it is not kept
            n += keep[p]
        counts[row - first] = n - before
    return n


@njit
def pick_places(mask: Array, rows: Array, columns: Array, its_rows: Array, its_columns: Array) -> None:
    """The rows and columns of those places where `mask` is true, as many as there is room for."""
    k = n = 0
    while n < len(its_rows):
        its_rows[n], its_columns[n] = rows[k], columns[k]  # written over by the next where it is not picked
        n += mask[k]
        k += 1


@njit
def change_rows(
    indptr: Array, indices: Array, keep: Array, rows: Array, into: Array, new_indptr: Array, new_indices: Array,
    sources: Array,
) -> int:  # fmt: skip
    """The connections where `keep` is true, and those that come, row by row in the order of columns.

    Parameters
    ----------
    indptr, indices : integer arrays
        Of the pattern.
    keep : boolean array, shape (nnz,)
    rows, into : integer arrays
        Rows and columns of what comes, in order; each is free, or that of a connection that is not kept, which then
        stays as it was.
    new_indptr, new_indices : integer arrays
        Of the new pattern, written.
    sources : int64 array
        Written: where each of its connections stood, −1 for new ones.

    Returns
    -------
    int
        How many connections that were to go have stayed.
    """
    q = k = stayed = 0
    new_indptr[0] = 0
    for row in range(len(indptr) - 1):
        p, end = np.int64(indptr[row]), np.int64(indptr[row + 1])
        while k < len(rows) and rows[k] == row:
            column = into[k]
            while p < end and indices[p] < column:
                new_indices[q], sources[q] = indices[p], p  # written over by the next where it is not kept
                q += keep[p]
                p += 1
            new_indices[q], sources[q] = column, -1
            if p < end and indices[p] == column:
                sources[q] = p
                stayed += 1
                p += 1
            q += 1
            k += 1
        while p < end and q < len(sources):
            new_indices[q], sources[q] = indices[p], p
            q += keep[p]
            p += 1
        new_indptr[row + 1] = q
    return stayed


@njit
def take_or_zero(numbers: Array, sources: Array, taken: Array) -> None:
    """taken[q] = numbers[sources[q]], or 0 where the source is −1."""
    if len(numbers) == 0:
        taken[:] = 0
        return
    for q in range(len(sources)):
        source = sources[q]
        number = numbers[max(source, 0)]  # read in any case: a choice of two costs less than a branch
        taken[q] = number if source >= 0 else 0


@njit
def note_change(tried: Array, indptr: Array, indices: Array, sources: Array, columns: int, found: Array) -> None:
    """Set the bits of new connections, those whose source is −1, in a matrix of bits, and sum up the pattern.

    Parameters
    ----------
    tried : uint8 array
        A bit for each place, row by row.
    indptr, indices, sources : integer arrays
    columns : int
    found : int64 array, shape (6,)
        Written: new connections; those whose bit was not set before; rows without connections; the least and the most
        connections of a row, and the sum of their squares.
    """
    empty = squares = most = 0
    least = columns + 1
    for row in range(len(indptr) - 1):
        fan_in = np.int64(indptr[row + 1]) - indptr[row]
        empty += fan_in == 0
        least, most = min(least, fan_in), max(most, fan_in)
        squares += fan_in * fan_in
    fresh, new, first = np.empty(most + 1, np.int64), 0, 0
    for row in range(len(indptr) - 1):
        n = 0
        for p in range(np.int64(indptr[row]), np.int64(indptr[row + 1])):
            fresh[n] = np.int64(row) * columns + indices[p]  # written over by the next where it is not new
            n += sources[p] < 0
        for place in fresh[:n]:
            bit = np.uint8(1 << (place & 7))
            first += (tried[place >> 3] & bit) == 0
            tried[place >> 3] |= bit
        new += n
    found[0], found[1], found[2], found[3], found[4], found[5] = new, first, empty, least, most, squares


@njit
def moving_key(seed: Any, step: Any, layer: Any) -> Any:
    """The key of the random numbers of a layer's update: no other stream of the run has it."""
    return mix(mix(mix(np.uint64(seed) + GOLDEN) + np.uint64(step)) ^ mix(np.uint64(layer) + (np.uint64(1) << 40)))
