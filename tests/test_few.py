"""The kernel for few samples: against the oracle, at the ends of memory, on several threads, and beside infinities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import reference
from sparsecore.kernels.cpu import launch
from sparsecore.kernels.cpu.few import FewLauncher
from sparsecore.kernels.layout import Layout

from sparsecore.storage.plan import Plan, layout_of

from .kernel_checks import POOLS, Fenced, Guarded, assert_close, patterns
from .small import PATTERNS, numbers

# Every one is compiled: float64 in two forms only, of the two that there are.
KINDS = [(np.float32, 1), (np.float32, 2), (np.float32, 4), (np.float32, 8), (np.float64, 1), (np.float64, 8)]
kinds = pytest.mark.parametrize("dtype, samples", KINDS)


def check(pattern: Any, layout: Layout, dtype: Any, samples: int, seed: int, memory: Any, pool: Any = POOLS[0]) -> Any:
    """Run it, hold it against the oracle, and return what it wrote."""
    rng = np.random.default_rng(seed)
    rows, columns = pattern.shape
    data, x = rng.standard_normal(pattern.nnz).astype(dtype), rng.standard_normal((columns, samples)).astype(dtype)
    bias = rng.standard_normal(rows).astype(dtype) if seed % 2 else None
    relu = bool(seed // 2 % 2)
    put = Layout(*map(memory.put, layout[:-1]), layout.most_group)
    out = memory.empty((rows, samples), dtype)
    FewLauncher(pool).spmm_few(put, memory.put(data), memory.put(x), memory.put(bias), out, relu=relu)
    memory.assert_intact()
    exact, magnitude = np.full((2, rows, samples), np.nan)
    reference.spmm_few(layout, data, x, bias, exact, relu=relu)
    reference.spmm_few(layout, abs(data), abs(x), None if bias is None else abs(bias), magnitude)
    assert_close(out, exact, magnitude, max(pattern.fan_in, default=0) + 1)
    return out


@kinds
@settings(max_examples=25)
@given(pattern=patterns(), block=st.sampled_from([0, 3, 16]), seed=st.integers(0, 99), shift=st.sampled_from([0, 1, 5]))
def test_any_pattern_gives_the_oracles_sums(
    dtype: Any, samples: int, pattern: Any, block: int, seed: int, shift: int
) -> None:
    check(pattern, layout_of(pattern, pattern.indices, block), dtype, samples, seed, Guarded(shift))


@kinds
@pytest.mark.parametrize("at_end", [True, False])
def test_nothing_is_read_beyond_an_array(dtype: Any, samples: int, at_end: bool) -> None:
    for seed, pattern in enumerate(PATTERNS.values()):
        check(pattern, Plan(pattern).forward, dtype, samples, seed, Fenced(at_end))


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "WORTH_CUTTING", 1)
    for name in ("random", "radix", "full", "empty rows and columns", "no connections"):
        layout = Plan(PATTERNS[name]).forward
        first, *others = (
            check(PATTERNS[name], layout, np.float32, 1, 3, Guarded(0), pool).tobytes() for pool in POOLS
        )
        assert others == [first] * len(others)


@pytest.mark.parametrize("samples", [1, 4])
def test_infinities_reach_only_rows_that_read_them(samples: int) -> None:
    """A row's last vector is filled up with what other rows read: nothing of that may count."""
    pattern = PATTERNS["random"]
    x = numbers((pattern.shape[1], samples), dtype=np.float32)
    x[0], x[-1], x[7] = np.inf, np.nan, -np.inf
    data, out = np.ones(pattern.nnz, np.float32), np.empty((pattern.shape[0], samples), np.float32)
    FewLauncher(POOLS[0]).spmm_few(Plan(pattern).forward, data, x, None, out, relu=True)
    stored = pattern.to_scipy(data).toarray()
    reached = stored[:, [0, 7, pattern.shape[1] - 1]].any(1)
    assert 0 < reached.sum() < len(reached)
    assert np.isfinite(out[~reached]).all()
    assert np.isnan(out[stored[:, -1] > 0]).all()  # a ReLU lets NaN through
