"""Finds rows that share their columns and gathers them into groups, for a plan."""

from __future__ import annotations

import numpy as np

from ..compile import njit


@njit
def row_keys(indptr, indices, keys):  # type: ignore[no-untyped-def]
    """keys[i] = a uint64 that is equal for rows with the same columns, and hardly ever for others."""
    for row in range(len(keys)):
        key = np.uint64(0)
        for p in range(indptr[row], indptr[row + 1]):
            mixed = np.uint32(np.uint32(indices[p]) + np.uint32(1)) * np.uint32(0x9E3779B1)
            mixed = np.uint32(mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x85EBCA77)
            key += np.uint64(np.uint32(mixed))
        keys[row] = key


@njit
def row_leaders(indptr, indices, keys, table, most, leaders, sizes):  # type: ignore[no-untyped-def]
    """leaders[i] = the first row with the columns of row i, sizes[i] = how many have those; returns how many groups of
    up to `most` rows that makes.

    `table` has a power of two entries, more than there are rows, all −1. A row's entry is the one that its key says, or
    the next that is free.
    """
    groups, last = 0, len(table) - 1
    for row in range(len(leaders)):
        entry = keys[row] & np.uint64(last)
        while table[entry] >= 0:
            other = table[entry]
            if keys[other] == keys[row] and _equal(indptr, indices, row, other):
                break
            entry = (entry + np.uint64(1)) & np.uint64(last)
        else:
            table[entry] = row
        leader = table[entry]
        leaders[row] = leader
        sizes[row] = 0
        groups += sizes[leader] % most == 0
        sizes[leader] += 1
    return groups


@njit
def _equal(indptr, indices, a, b):  # type: ignore[no-untyped-def]
    """Whether two rows have the same columns."""
    first, other = indptr[a], indptr[b]
    length = indptr[a + 1] - first
    if indptr[b + 1] - other != length:
        return False
    for k in range(length):  # noqa: SIM110
        if indices[first + k] != indices[other + k]:
            return False
    return True


@njit
def gather_rows(leaders, sizes, most, rows, starts, firsts):  # type: ignore[no-untyped-def]
    """Row numbers group by group, where each group starts, and the leader of each.

    A class of rows with the same columns is cut into as few groups of up to `most` rows as there can be, of nearly
    equal size. `sizes` is overwritten.
    """
    begin = group = 0
    for row in range(len(leaders)):
        if leaders[row] == row:
            size = sizes[row]
            pieces = (size + most - 1) // most
            for piece in range(pieces):
                starts[group] = begin + (piece * size + pieces - 1) // pieces
                firsts[group] = row
                group += 1
            sizes[row] = begin  # from here on, where the next row of the class goes
            begin += size
        rows[sizes[leaders[row]]] = row
        sizes[leaders[row]] += 1
    starts[group] = begin
