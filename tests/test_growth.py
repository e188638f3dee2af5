"""Free places are drawn evenly, the largest are exactly the largest, and what changes keeps its order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparsecore.kernels.cpu.choose import largest

from sparsecore.storage.growth import Places, changed, free_places, rows_between
from sparsecore.storage.pattern import SparsityPattern


def random_pattern(rng: np.random.Generator, most: int = 12) -> SparsityPattern:
    shape = tuple(int(n) for n in rng.integers(0, most, 2))
    return SparsityPattern.from_dense(rng.random(shape) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0]))[0]


def stretches(rng: np.random.Generator, length: int) -> np.ndarray:
    cuts = np.sort(rng.integers(0, length + 1, rng.integers(0, 4)))
    return np.concatenate([[0], cuts, [length]]).astype(np.int64)


@given(st.integers(0, 10**9), st.sampled_from([np.float32, np.float64]), st.sampled_from([9, 600, 3000]))
def test_largest_are_those_of_a_stable_sort(seed: int, kind: type, most: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(rng.integers(0, most)).astype(kind) ** 2
    if rng.random() < 0.5:
        scores = np.round(scores, int(rng.integers(0, 3)))  # many that are equal
    scores[rng.random(len(scores)) < rng.choice([0.0, 0.7])] = 0
    edges = stretches(rng, len(scores))
    counts = np.array([rng.integers(0, last - first + 1) for first, last in pairwise(edges)])
    mask, least = largest(scores, edges, counts)
    for (first, last), count in zip(pairwise(edges), counts, strict=True):
        best = np.sort(np.argsort(-scores[first:last], kind="stable")[:count])
        assert np.array_equal(np.flatnonzero(mask[first:last]), best)
        if 0 < count < last - first:
            expected = scores[first:last][best].min()
    if any(0 < count < last - first for (first, last), count in zip(pairwise(edges), counts, strict=True)):
        assert least == expected


@given(st.integers(0, 10**9))
def test_free_places_are_free_different_in_order_and_as_many_as_asked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pattern = random_pattern(rng)
    edges = stretches(rng, pattern.shape[0])
    free = np.array([
        (last - first) * pattern.shape[1] - (pattern.indptr[last] - pattern.indptr[first])
        for first, last in pairwise(edges)
    ])  # fmt: skip
    counts = np.array([rng.integers(0, most + 1) for most in free])
    rows, columns = free_places(pattern, edges, counts, int(rng.integers(0, 2**63)))
    positions = rows.astype(np.int64) * pattern.shape[1] + columns
    assert np.all(np.diff(positions) > 0)
    assert not set(positions) & set(pattern.rows.astype(np.int64) * pattern.shape[1] + pattern.indices)
    assert np.array_equal(np.histogram(rows, edges)[0] if edges[-1] else counts, counts) or len(set(edges)) < len(edges)


def test_every_free_place_is_drawn_equally_often() -> None:
    pattern = SparsityPattern.from_dense(np.random.default_rng(0).random((7, 11)) < 0.4)[0]
    free, draws = 77 - pattern.nnz, 4000
    tally = np.zeros((7, 11))
    for key in range(draws):
        rows, columns = free_places(pattern, np.array([0, 7]), np.array([10]), key * 7919)
        tally[rows, columns] += 1
    stored = pattern.to_scipy().toarray() != 0
    assert not tally[stored].any()
    expected = draws * 10 / free
    assert np.abs(tally[~stored] - expected).max() < 5 * np.sqrt(expected)


@given(st.integers(0, 10**9))
def test_a_change_is_that_of_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pattern = random_pattern(rng)
    dense = pattern.to_scipy().toarray() != 0
    keep = rng.random(pattern.nnz) < 0.6
    kept = np.zeros_like(dense)
    kept[pattern.rows[keep], pattern.indices[keep]] = True
    coming = (rng.random(dense.shape) < 0.3) & ~kept
    rows, columns = np.nonzero(coming)
    after, sources, stayed = changed(pattern, keep, Places(rows, columns))
    assert np.array_equal(after.to_scipy().toarray() != 0, kept | coming)
    assert stayed == np.count_nonzero(coming & dense)
    numbers = np.zeros(dense.shape, np.int64) - 1
    numbers[pattern.rows, pattern.indices] = np.arange(pattern.nnz)
    assert np.array_equal(sources, numbers[after.rows, after.indices])


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 5), (2, 3), (4, 5)])
def test_rows_between_are_full_and_the_others_empty(first: int, last: int) -> None:
    pattern = rows_between(SparsityPattern.from_dense(np.eye(5, 4))[0], first, last)
    wanted = np.zeros((5, 4), bool)
    wanted[first:last] = True
    assert np.array_equal(pattern.to_scipy().toarray() != 0, wanted)
    assert SparsityPattern(pattern.shape, pattern.indptr, pattern.indices) == pattern
