"""What tests of kernels share: arrays that tell when a kernel strays, error bounds, and the same call on more
threads."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray
from sparsecore.kernels.compile import register_bytes
from sparsecore.kernels.cpu import launch
from sparsecore.kernels.cpu.launch import Launcher
from sparsecore.kernels.cpu.threads import Pool

from sparsecore.storage.pattern import SparsityPattern

Array = NDArray[Any]

LANES = 16
MARGIN = 64  # elements on either side of a guarded array


class Strewn:
    """A pool whose threads claim in any order, from anywhere, and stop in the middle: parts of a call are cut at
    random, shuffled, and done by three threads that sleep now and then."""

    threads = 3

    def __init__(self, seed: int = 0) -> None:
        self._random, self._workers = random.Random(seed), ThreadPoolExecutor(self.threads)

    def run(self, calls: Array, count: int, parts: int) -> None:
        for k in range(count):
            several = int(calls[k, 1])
            cuts = self._random.sample(range(1, several), self._random.randint(0, min(6, several - 1)))
            ranges = list(itertools.pairwise([0, *sorted(cuts), several]))
            self._random.shuffle(ranges)
            do = partial(_do, KERNEL(int(calls[k, 0])), calls[k, 2:].ctypes.data, several)
            stops = [self._random.choice([0, 0, 0, 1e-4]) for _ in ranges]
            list(self._workers.map(do, *zip(*ranges, strict=True), stops))


def _do(kernel: Any, at: int, parts: int, part: int, until: int, stop: float) -> None:
    if stop:
        time.sleep(stop)
    kernel(at, part, until, parts)


KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
POOLS: list[Any] = [*(Pool(threads) for threads in (1, 2, 3)), Strewn()]

WIDTHS = [16, 32, 64]
"""The registers of NEON and SSE, of AVX2 and of AVX-512: LLVM makes each width run on any machine."""


# Most of a kernel's test goes to compiling it, so plain pytest takes float64 through this machine's registers alone.
HERE = [*((np.float32, width) for width in WIDTHS), (np.float64, register_bytes())]
ELSEWHERE = [(np.float64, width) for width in WIDTHS if width != register_bytes()]
machines = pytest.mark.parametrize(
    "dtype, register_bytes", [*HERE, *(pytest.param(*machine, marks=pytest.mark.slow) for machine in ELSEWHERE)]
)


def grouped(columns: int, classes: list[set[int]], members: list[int]) -> SparsityPattern:
    """A pattern whose row i has the columns of class `members[i]`."""
    rows = [sorted(classes[member % len(classes)]) for member in members]
    indptr = np.cumsum([0, *map(len, rows)])
    return SparsityPattern((len(rows), columns), indptr, np.array([c for row in rows for c in row], np.int64))


@st.composite
def patterns(draw: Any, most_columns: int = 40) -> SparsityPattern:
    """Few distinct rows, some of them empty or full, dealt out in any order: groups of every size, not adjacent."""
    columns = draw(st.integers(1, most_columns))
    row = st.sets(st.integers(0, columns - 1)) | st.just(set()) | st.just(set(range(columns)))
    classes = draw(st.lists(row, min_size=1, max_size=5))
    return grouped(columns, classes, draw(st.lists(st.integers(0, len(classes) - 1), min_size=1, max_size=14)))


def assert_close(got: Array, exact: Array, magnitude: Array | float, terms: int) -> None:
    """Within the error bound of a sum of `terms` terms in any order: terms · eps · Σ |terms|. NaN only where it
    belongs."""
    bound = (terms + 2) * np.finfo(got.dtype).eps * np.broadcast_to(magnitude, got.shape)
    lost = np.isnan(exact)
    assert np.array_equal(np.isnan(got), lost)
    assert np.all(np.abs(got - exact)[~lost] <= bound[~lost])


def assert_same_bits(call: Callable[[Launcher], list[Array]]) -> None:
    """A call, which returns what it wrote, writes the same bits on 1, 2 and 3 threads, and whoever does which of its
    parts when, however small it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "WORTH_CUTTING", 1)
        first, *others = ([array.tobytes() for array in call(Launcher(pool))] for pool in POOLS)
    assert all(other == first for other in others)


def assert_survives(code: str) -> None:
    """Run Python in another process, which a segmentation fault may kill."""
    root = Path(__file__).resolve().parent.parent
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


class Guarded:
    """Copies of arrays between two margins, `shift` elements off their natural alignment.

    Around inputs lie NaN or absurd integers: what is read out of bounds shows in the result. Outputs begin as NaN or
    absurd integers: what is not written shows too.
    """

    def __init__(self, shift: int = 0) -> None:
        self._shift = shift
        self._inputs: list[tuple[Array, bytes]] = []
        self._outputs: list[tuple[Array, Array]] = []

    def put(self, array: Any) -> Any:
        """A guarded input; None stays None."""
        if array is None:
            return None
        memory, view = self._between_margins(array.shape, array.dtype)
        view[...] = array
        self._inputs.append((memory, memory.tobytes()))
        return view

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A guarded output."""
        memory, view = self._between_margins(shape, dtype)
        self._outputs.append((memory, view))
        return view

    def assert_intact(self) -> None:
        """No input changed, and nothing around an output."""
        for memory, before in self._inputs:
            assert memory.tobytes() == before, "an input was written"
        for memory, view in self._outputs:
            start = (view.ctypes.data - memory.ctypes.data) // memory.itemsize
            for margin in (memory[:start], memory[start + view.size :]):
                assert (np.isnan(margin) if margin.dtype.kind == "f" else margin == _absurd(margin.dtype)).all(), (
                    "something was written outside an output"
                )

    def _between_margins(self, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
        size = int(np.prod(shape, dtype=np.int64))
        memory = np.full(size + 2 * MARGIN + self._shift, _absurd(np.dtype(dtype)), dtype)
        start = MARGIN + self._shift
        return memory, memory[start : start + size].reshape(shape)


def _absurd(dtype: np.dtype[Any]) -> Any:
    return np.nan if dtype.kind == "f" else np.iinfo(dtype).max // 3 * 2


class Fenced:
    """Copies of arrays that end, or begin, where a page begins that the system lets nobody read or write."""

    def __init__(self, at_end: bool) -> None:
        self._at_end = at_end
        self._kept: list[mmap.mmap] = []

    def put(self, array: Any) -> Any:
        """A fenced input; None stays None."""
        if array is None:
            return None
        view = self.empty(array.shape, array.dtype)
        view[...] = array
        return view

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A fenced output."""
        page = mmap.PAGESIZE
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        inner = -(-max(size, 1) // page) * page
        pages = mmap.mmap(-1, inner + 2 * page)
        self._kept.append(pages)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for fence in (start, start + page + inner):
            if protect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        first = page + (inner - size if self._at_end else 0)
        return np.frombuffer(pages, np.uint8, size, first).view(dtype).reshape(shape)

    def assert_intact(self) -> None:
        """Whoever came here touched no fence."""
