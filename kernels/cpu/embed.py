"""spmm and sddmm for a user's own `@njit` functions: the engine's kernels, called from compiled code.

They have the parameters of `Launcher.spmm` and `Launcher.sddmm`, run on the calling thread, and check nothing: arrays
must be C-contiguous, of one dtype (float32 or float64) and of the sizes that layout and grid speak of. Any alignment
will do.

Numba compiles all that a function calls together with it, and again for each caller. Kernels take seconds to compile,
so compiled code does not call them by name: it finds their addresses in a table in memory. The first call of a kernel
compiles it, or loads it from Numba's cache.
"""

from __future__ import annotations

import _thread
import ctypes
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from ..compile import njit, register_bytes, source
from ..tuning import LARGEST_GROUP
from .ir.atomics import jump
from .ir.vector import I64, Builder, Value, pointer
from .sddmm import SDDMM, sddmm_images_kernel, sddmm_kernel, sweep
from .spmm import SPMM, spmm_kernel

_MAKERS = (spmm_kernel, sddmm_kernel, sddmm_images_kernel)
_VERSION = source()
_SYMBOL = "sparsecore_embedded_kernels"

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


def _stand_in(which: int, size: int, group: int) -> Any:
    """A kernel's first entry in the table: it calls Python, which puts the kernel there and runs it."""

    def load_and_run(call: int, part: int, until: int, parts: int) -> None:
        interrupted = False
        while True:
            try:
                kernel = _MAKERS[which](size, group, register_bytes() // size)
                break
            except KeyboardInterrupt:  # compiled code goes on after this call and counts on its results
                interrupted = True
        _table[_entry.py_func(which, size, group)] = kernel.address
        kernel.ctypes(call, part, until, parts)
        if interrupted:
            _thread.interrupt_main()

    return _CALLBACK(load_and_run)


@njit
def _entry(which: int, size: int, group: int) -> int:
    """Index in the table of the kernel of `_MAKERS[which]` for elements of `size` bytes and groups of `group` rows."""
    return (2 * which + size // 8) * LARGEST_GROUP + group


_stand_ins = [
    _stand_in(which, size, group)
    for which in range(len(_MAKERS)) for size in (4, 8) for group in range(1, LARGEST_GROUP + 1)
]  # fmt: skip
_table = np.array([_VERSION, *(ctypes.cast(each, ctypes.c_void_p).value for each in _stand_ins)], np.int64)
llvm.add_symbol(_SYMBOL, _table.ctypes.data)


@intrinsic
def _word(_: Any, index: Any) -> Any:
    """A word of the table."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        table = context.get_c_value(b, ir.ArrayType(I64, len(_table)), _SYMBOL)
        return b.load(b.gep(table, [I64(0), args[0]]))

    return types.int64(types.int64), emit


@intrinsic
def _keep(_: Any, array: Any) -> Any:
    """One more use of an array: Numba frees it after its last one, even if pointers to it are still in use."""
    return types.void(array), lambda context, b, signature, args: context.get_dummy_value()


def _spmm(layout, grid, data, x, bias, out, relu, mask):  # type: ignore[no-untyped-def]
    raise TypeError("this form of spmm is for @njit functions; from Python call it through a compiled function")


def _sddmm(layout, grid, dy, x, grad, db):  # type: ignore[no-untyped-def]
    raise TypeError("this form of sddmm is for @njit functions; from Python call it through a compiled function")


@overload(_spmm)
def _spmm_overload(layout, grid, data, x, bias, out, relu, mask):  # type: ignore[no-untyped-def]
    size = _size(out)

    def implementation(layout, grid, data, x, bias, out, relu, mask):  # type: ignore[no-untyped-def]
        calls = np.zeros(1, SPMM)  # what is not set below says no
        c = calls[0]
        c.indptr, c.rows, c.starts, c.runs = _at(layout.indptr), _at(layout.rows), _at(layout.starts), _at(layout.runs)
        c.cuts, c.work, c.offsets = _at(layout.cuts), _at(layout.work), _at(layout.offsets)
        c.groups, c.blocks = len(layout.runs), len(layout.cuts) - 1
        c.data, c.x, c.bias, c.out, c.mask, c.relu = _at(data), _at(x), _at(bias), _at(out), _at(mask), relu
        c.outer, c.x_outer, c.out_outer = grid.outer, grid.x_outer, grid.out_outer
        c.ys, c.x_y, c.out_y = grid.ys, grid.x_y, grid.out_y
        c.lines, c.x_line, c.out_line, c.out_row = grid.lines, grid.x_line, grid.out_line, grid.out_row
        c.bands = _at(grid.bands)
        c.planes, c.plane, c.ahead = grid.planes, grid.plane, grid.ahead
        _run(0, size, layout.most_group, calls)

    return implementation


@overload(_sddmm)
def _sddmm_overload(layout, grid, dy, x, grad, db):  # type: ignore[no-untyped-def]
    size = _size(grad)

    def implementation(layout, grid, dy, x, grad, db):  # type: ignore[no-untyped-def]
        calls = np.zeros(1, SDDMM)
        c = calls[0]
        c.indptr, c.rows, c.starts, c.runs = _at(layout.indptr), _at(layout.rows), _at(layout.starts), _at(layout.runs)
        c.cuts, c.work, c.offsets = _at(layout.cuts), _at(layout.work), _at(layout.offsets)
        c.groups, c.blocks = len(layout.runs), len(layout.cuts) - 1
        c.dy, c.x, c.grad, c.db = _at(dy), _at(x), _at(grad), _at(db)
        c.outer, c.x_outer, c.dy_outer = grid.outer, grid.x_outer, grid.out_outer
        c.ys, c.x_y, c.dy_y = grid.ys, grid.x_y, grid.out_y
        c.lines, c.x_line, c.dy_line, c.dy_row = grid.lines, grid.x_line, grid.out_line, grid.out_row
        c.planes, c.plane, c.ahead = grid.planes, grid.plane, grid.ahead
        c.together, c.high, c.panel, c.pieces = _sweep(grid, layout.most_group)
        _run(1 if grid.outer == 1 and grid.ys == 1 else 2, size, layout.most_group, calls)

    return implementation


def _size(array: Any) -> int:
    if not isinstance(array, types.Array) or array.dtype not in (types.float32, types.float64):
        raise TypeError(f"arrays must be float32 or float64, got {array}")
    return 4 if array.dtype == types.float32 else 8


def _address(array):  # type: ignore[no-untyped-def]
    """An array's address, 0 for None."""
    raise NotImplementedError


@overload(_address)
def _address_overload(array):  # type: ignore[no-untyped-def]
    if isinstance(array, types.NoneType):
        return lambda array: 0
    return lambda array: array.ctypes.data


@njit
def _at(array: Any) -> int:
    return _address(array)


@njit
def _run(which, size, group, calls):  # type: ignore[no-untyped-def]
    if _word(0) != _VERSION:  # the caller comes out of a cache
        raise RuntimeError("sparsecore has changed since this function was compiled: delete its Numba cache")
    jump(_word(_entry(which, size, group)), pointer(calls), 0, 1, 1)
    _keep(calls)


_sweep = njit(sweep)


@njit
def spmm(layout, grid, data, x, bias, out, relu=False, mask=None):  # type: ignore[no-untyped-def]
    """out[i] = bias[i] + Σ_p data[p] · x[offset[p]], then ReLU, or zero where `mask` is not positive.

    Parameters
    ----------
    layout : Layout
        `Plan(pattern).forward`, or `.transposed` for Wᵀ (values then in the order of `.perm`).
    grid : Grid
        `Plan(pattern).grid(tiles)`, or `.grid_t(tiles)` for Wᵀ.
    data : array, shape (nnz,)
    x : array, shape (tiles, in_features, LANES)
    bias : array, shape (out_features,), or None
    out : array, shape (tiles, out_features, LANES)
        Every element is written.
    relu : bool
    mask : array of out's shape, or None
    """
    _spmm(layout, grid, data, x, bias, out, relu, mask)


@njit
def sddmm(layout, grid, dy, x, grad, db=None):  # type: ignore[no-untyped-def]
    """grad[p] = ⟨dy[row[p]], x[offset[p]]⟩ over all samples; db[i] = Σ dy[i].

    Parameters
    ----------
    layout, grid
        As for `spmm`, forward.
    dy : array, shape (tiles, out_features, LANES)
    x : array, shape (tiles, in_features, LANES)
    grad : array, shape (nnz,)
        Every element is written.
    db : array, shape (out_features,), or None
    """
    _sddmm(layout, grid, dy, x, grad, db)
