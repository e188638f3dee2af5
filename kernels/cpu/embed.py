"""spmm and sddmm for a user's own `@njit` functions: the engine's kernels, called from compiled code.

They have the parameters of `Launcher.spmm` and `Launcher.sddmm`, run on the calling thread, and check nothing: arrays
must be C-contiguous, of one dtype (float32 or float64) and of the sizes that layout and grid speak of. Any alignment
will do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from ..compile import njit, register_bytes
from .sddmm import SDDMM, sddmm_body
from .spmm import SPMM, spmm_body
from .vector import pointer

_GROUP = 4
_SPMM = {size: njit(spmm_body(size, _GROUP, register_bytes() // size)) for size in (4, 8)}
_SDDMM = {size: njit(sddmm_body(size, _GROUP, register_bytes() // size)) for size in (4, 8)}


def _spmm(layout, grid, data, x, bias, out, relu, mask):  # type: ignore[no-untyped-def]
    raise TypeError("this form of spmm is for @njit functions; from Python call it through a compiled function")


def _sddmm(layout, grid, dy, x, grad, db):  # type: ignore[no-untyped-def]
    raise TypeError("this form of sddmm is for @njit functions; from Python call it through a compiled function")


@overload(_spmm)
def _spmm_overload(layout, grid, data, x, bias, out, relu, mask):  # type: ignore[no-untyped-def]
    body = _SPMM[_size(out)]

    def implementation(layout, grid, data, x, bias, out, relu, mask):  # type: ignore[no-untyped-def]
        calls = np.empty(1, SPMM)
        c = calls[0]
        c.indptr, c.rows, c.starts, c.runs = _at(layout.indptr), _at(layout.rows), _at(layout.starts), _at(layout.runs)
        c.cuts, c.work, c.offsets = _at(layout.cuts), _at(layout.work), _at(layout.offsets)
        c.groups, c.blocks = len(layout.runs), len(layout.cuts) - 1
        c.data, c.x, c.bias, c.out, c.mask, c.relu = _at(data), _at(x), _at(bias), _at(out), _at(mask), relu
        c.outer, c.x_outer, c.out_outer = grid.outer, grid.x_outer, grid.out_outer
        c.ys, c.x_y, c.out_y = grid.ys, grid.x_y, grid.out_y
        c.lines, c.x_line, c.out_line, c.out_row = grid.lines, grid.x_line, grid.out_line, grid.out_row
        c.bands = _at(grid.bands)
        body(pointer(calls), 0, 1)
        _keep(calls)

    return implementation


@overload(_sddmm)
def _sddmm_overload(layout, grid, dy, x, grad, db):  # type: ignore[no-untyped-def]
    body = _SDDMM[_size(grad)]

    def implementation(layout, grid, dy, x, grad, db):  # type: ignore[no-untyped-def]
        calls = np.empty(1, SDDMM)
        c = calls[0]
        c.indptr, c.rows, c.starts, c.runs = _at(layout.indptr), _at(layout.rows), _at(layout.starts), _at(layout.runs)
        c.cuts, c.work, c.offsets = _at(layout.cuts), _at(layout.work), _at(layout.offsets)
        c.groups, c.blocks = len(layout.runs), len(layout.cuts) - 1
        c.dy, c.x, c.grad, c.db = _at(dy), _at(x), _at(grad), _at(db)
        c.outer, c.x_outer, c.dy_outer = grid.outer, grid.x_outer, grid.out_outer
        c.ys, c.x_y, c.dy_y = grid.ys, grid.x_y, grid.out_y
        c.lines, c.x_line, c.dy_line, c.dy_row = grid.lines, grid.x_line, grid.out_line, grid.out_row
        c.panel = max(grid.lines, 1)
        body(pointer(calls), 0, 1)
        _keep(calls)

    return implementation


@intrinsic
def _keep(_: Any, array: Any) -> Any:
    """Numba frees an array after its last use, even if a pointer to it is still about: this is one more use."""
    return types.void(array), lambda context, b, signature, args: context.get_dummy_value()


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
