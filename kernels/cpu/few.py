"""spmm for few samples: 1, 2, 4 or 8 of them side by side, outside training.

It reads a layer's connections where they are, as the other kernels do, but not in blocks of columns: x is so small
that a cache holds all of it. What bounds it are the bytes of values and offsets, eight a connection, where these do not
fit a cache, and otherwise the loads of x.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from ..layout import Layout
from ..tuning import COST_FEW, LARGEST_GROUP
from .call import arguments, kernel
from .ir.few import gather_few
from .ir.vector import advance, floats, ints
from .launch import Array, Launcher
from .spmm import equal_work

SPMM_FEW = arguments(
    "indptr", "rows", "starts", "runs", "work", "offsets", "groups", "connections", "data", "x", "bias", "out", "relu",
)  # fmt: skip


@cache
def rows_kernel(size: int, samples: int) -> Any:
    """The kernel for elements of `size` bytes and so many samples, where no rows share their columns."""

    def rows_alone(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SPMM_FEW)[0]
        data, x, bias, out = floats(c.data, size), floats(c.x, size), floats(c.bias, size), floats(c.out, size)
        indptr, offsets, null = ints(c.indptr, 8), ints(c.offsets, 4), ints(0, 4)
        first, last = equal_work(ints(c.work, 8), c.groups, part, until, parts)
        begin = indptr[first]
        for row in range(first, last):
            end = indptr[row + 1]
            gather_few(
                samples, 1, 1, advance(data, begin), indptr, null, row, advance(offsets, begin), end - begin,
                c.connections - begin, x, bias, c.relu, out,
            )  # fmt: skip
            begin = end

    return kernel(rows_alone)


@cache
def groups_kernel(size: int, samples: int) -> Any:
    """The same for rows in groups."""

    def rows_in_groups(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SPMM_FEW)[0]
        data, x, bias, out = floats(c.data, size), floats(c.x, size), floats(c.bias, size), floats(c.out, size)
        indptr, rows, offsets = ints(c.indptr, 8), ints(c.rows, 4), ints(c.offsets, 4)
        starts, runs = ints(c.starts, 4), ints(c.runs, 8)
        first, last = equal_work(ints(c.work, 8), c.groups, part, until, parts)
        for g in range(first, last):
            start = np.int64(starts[g])
            row = np.int64(rows[start])
            gather_few(
                samples, LARGEST_GROUP, np.int64(starts[g + 1]) - start, data, indptr, advance(rows, start), row,
                advance(offsets, runs[g]), indptr[row + 1] - indptr[row], c.connections - runs[g], x, bias, c.relu,
                out,
            )  # fmt: skip

    return kernel(rows_in_groups)


class FewLauncher(Launcher):
    """A launcher that also knows what is computed of few samples."""

    def spmm_few(
        self, layout: Layout, data: Array, x: Array, bias: Array | None, out: Array, *, relu: bool = False
    ) -> None:
        """out[i] = bias[i] + Σ_p data[p] · x[offset[p]], then ReLU; x[k] and out[i] are 1, 2, 4 or 8 samples."""
        made = rows_kernel if layout.most_group == 1 else groups_kernel
        self._launch(
            made(out.itemsize, out.shape[1]), COST_FEW * len(data), SPMM_FEW,
            indptr=layout.indptr, rows=layout.rows, starts=layout.starts, runs=layout.runs, work=layout.work,
            offsets=layout.offsets, groups=len(layout.runs), connections=len(layout.offsets), data=data, x=x, bias=bias,
            out=out, relu=int(relu),
        )  # fmt: skip
