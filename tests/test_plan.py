"""Plans: groups found by content, blocks of columns, the transpose, and what they cost."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparsecore.kernels.cpu import rows as row_kernels

from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import LARGEST_GROUP, Plan, layout_of
from sparsecore.topology.radix import fit_radix_net

from .kernel_checks import patterns

BLOCKS = st.sampled_from([None, 0, 1, 3, 16, 1000])


def rows_of(pattern: SparsityPattern) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.split(pattern.indices, pattern.indptr[1:-1])]


def group_sizes(layout: Any) -> Counter[int]:
    return Counter(np.diff(layout.starts).tolist())


def assert_sound(pattern: SparsityPattern, layout: Any, columns_per_block: int | None = 0) -> None:
    """What every kernel relies on."""
    rows = rows_of(pattern)
    sizes = np.diff(layout.starts)
    assert sorted(layout.rows) == list(range(len(rows)))
    assert layout.starts[0] == 0
    assert layout.starts[-1] == len(rows)
    assert np.all(sizes >= 1)
    assert layout.most_group == sizes.max(initial=1) <= LARGEST_GROUP
    assert np.array_equal(layout.indptr, pattern.indptr)
    assert layout.work[0] == 0
    for group, run in enumerate(layout.runs):
        members = layout.rows[layout.starts[group] : layout.starts[group + 1]]
        (columns,) = {rows[member] for member in members}
        assert tuple(layout.offsets[run : run + len(columns)]) == columns
        assert layout.work[group + 1] - layout.work[group] == len(columns) * len(members)
        cuts = layout.cuts[:, group]
        assert cuts[0] == 0
        assert cuts[-1] == len(columns)
        assert np.all(np.diff(cuts) >= 0)
        if columns_per_block:
            for block, (first, last) in enumerate(itertools.pairwise(cuts)):
                assert {column // columns_per_block for column in columns[first:last]} <= {block}
    kinds = [layout.indptr, layout.rows, layout.starts, layout.runs, layout.cuts, layout.work, layout.offsets]
    assert [kind.dtype for kind in kinds] == [np.dtype(k) for k in ("i8", "i4", "i4", "i8", "i4", "i8", "i4")]
    assert all(kind.flags.c_contiguous for kind in kinds)


@given(patterns(), BLOCKS)
def test_every_row_is_in_one_group_of_rows_with_its_columns(pattern, columns_per_block):
    assert_sound(pattern, layout_of(pattern, pattern.indices, columns_per_block), columns_per_block)


@given(patterns())
def test_all_rows_that_share_their_columns_are_grouped_evenly(pattern):
    layout = layout_of(pattern, pattern.indices)
    classes = defaultdict(list)
    rows = rows_of(pattern)
    for group in range(len(layout.runs)):
        members = layout.rows[layout.starts[group] : layout.starts[group + 1]]
        classes[rows[members[0]]].append(len(members))
    assert len(layout.runs) == sum(-(-count // LARGEST_GROUP) for count in Counter(rows).values())
    assert all(max(sizes) - min(sizes) <= 1 for sizes in classes.values())


@given(patterns(), BLOCKS)
def test_offsets_of_another_kind_go_where_the_columns_went(pattern, columns_per_block):
    """An image's offsets: blocks are cut by column, whatever place a column stands for."""
    places = np.random.default_rng(0).permutation(pattern.shape[1]) * 7
    columns = layout_of(pattern, pattern.indices, columns_per_block)
    moved = layout_of(pattern, places[pattern.indices], columns_per_block)
    assert np.array_equal(moved.offsets, places[columns.offsets])
    assert np.array_equal(moved.cuts, columns.cuts)


@given(patterns())
def test_the_transpose_has_the_values_in_its_own_order(pattern):
    plan = Plan(pattern)
    values = np.arange(1, pattern.nnz + 1)
    turned = pattern.transpose()[0]
    assert_sound(turned, plan.transposed)
    assert np.array_equal(
        turned.to_scipy(values[plan.perm.ravel()]).toarray(), pattern.to_scipy(values).toarray().T
    )  # fmt: skip


def test_groups_of_radix_nets():
    """784→300→100 of [10, 10]: rows of one residue share their columns, a period of 100 apart."""
    first, second = (Plan(pattern) for pattern in fit_radix_net([[10, 10]], [784, 300, 100]).patterns)
    assert group_sizes(first.forward) == {3: 100}
    assert group_sizes(first.transposed) == {4: 184, 3: 16}  # 84 residues of 8 inputs, 16 of 7
    assert group_sizes(second.forward) == {4: 10, 3: 20}  # 10 classes of 10
    assert group_sizes(second.transposed) == {4: 60, 3: 20}  # 10 classes of 30
    for plan in (first, second):
        assert_sound(plan.pattern, plan.forward)
        assert_sound(plan.pattern.transpose()[0], plan.transposed)
    members = first.forward.rows[:3]
    assert np.array_equal(np.diff(members), [100, 100])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (10, 7), (300, 784)])
def test_a_full_pattern_is_groups_of_nearly_equal_size(shape):
    layout = Plan(SparsityPattern.full(shape)).forward
    pieces = -(-shape[0] // LARGEST_GROUP)
    assert group_sizes(layout) == Counter(len(part) for part in np.array_split(range(shape[0]), pieces))
    assert set(layout.runs) == {0}  # one run of columns serves all


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 4)])
def test_patterns_without_connections(shape):
    pattern = SparsityPattern(shape, np.zeros(shape[0] + 1, np.int64), [])
    for plan, out in ((Plan(pattern).forward, shape[0]), (Plan(pattern).transposed, shape[1])):
        assert plan.starts[-1] == out
        assert not plan.cuts.any()


@given(st.integers(0, 10**9), st.sampled_from(["csr", "coo"]), st.booleans())
def test_a_patched_plan_is_a_fresh_one_in_the_old_arrays(seed, format, turned):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 12, 2))
    nnz = int(rng.integers(0, shape[0] * shape[1] + 1))
    old, new = (np.sort(rng.permutation(shape[0] * shape[1])[:nnz]) for _ in range(2))
    before, after = (
        SparsityPattern.from_coo(shape, places // shape[1], places % shape[1]) for places in (old, new)
    )  # fmt: skip
    plan, fresh = (Plan(pattern, format, moving=True) for pattern in (before, after))
    names = ("forward", "transposed", "perm") if turned else ("forward",)
    held = {name: getattr(plan, name) for name in names}
    if not plan.fits(fresh):
        assert format == "coo"  # whose rows may be cut elsewhere
        return
    plan.patch(fresh)
    wanted = Plan(after, format, moving=True)
    for name, numbers in held.items():
        assert getattr(plan, name) is numbers
        for one, other in zip(flat(numbers), flat(getattr(wanted, name)), strict=True):
            assert np.array_equal(one, other), name
    assert plan.pattern is after
    assert np.array_equal(plan.perm, wanted.perm)


def flat(numbers):
    return numbers if isinstance(numbers, tuple) else (numbers,)


@given(patterns())
def test_rows_whose_keys_collide_are_told_apart(pattern):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_kernels, "row_keys", lambda indptr, indices, keys: keys.fill(2**64 - 1))
        layout = layout_of(pattern, pattern.indices)
    assert_sound(pattern, layout)
    wanted = layout_of(pattern, pattern.indices)
    assert all(np.array_equal(found, array) for found, array in zip(layout, wanted, strict=True))


@given(patterns())
def test_keys_do_not_depend_on_where_a_row_stands(pattern):
    keys = np.empty(pattern.shape[0], np.uint64)
    row_kernels.row_keys(pattern.indptr, pattern.indices, keys)
    rows = rows_of(pattern)
    by_row = defaultdict(set)
    for row, number in zip(rows, keys.tolist(), strict=True):
        by_row[row].add(number)
    assert all(len(numbers) == 1 for numbers in by_row.values())


def test_a_million_rows_plan_within_seconds_and_little_memory():
    """10 connections a row: 24 bytes a connection with the pattern, 40 more while the plan is made."""
    rows, fan_in = 1_000_000, 10
    rng = np.random.default_rng(0)
    indices = np.sort(rng.integers(0, rows - fan_in, (rows, fan_in), np.int32), axis=1) + np.arange(fan_in, dtype="i4")
    pattern = SparsityPattern((rows, rows), np.arange(rows + 1) * fan_in, indices.ravel())
    started = time.perf_counter()
    tracemalloc.start()
    try:
        plan = Plan(pattern)
        layouts = plan.forward, plan.transposed, plan.perm
        stays, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 30
    assert len(layouts[0].runs) > 0.99 * rows
    held = stays + pattern.indices.nbytes + pattern.indptr.nbytes
    assert held <= 24 * pattern.nnz
    assert most <= 64 * pattern.nnz
