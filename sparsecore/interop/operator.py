"""Products with a `scipy.sparse` matrix through the engine's kernels: `A @ x`, `A.T @ y`, and their gradient."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import scipy.sparse

from ..kernels.layout import Grid
from ..layers.replay import chunks
from ..runtime.arrays import host_array, narrowed, on_host, real_numbers
from ..runtime.devices import cpu
from ..runtime.replay import Replay
from ..runtime.tiles import LANES, tiles_of
from ..runtime.workspace import Workspace
from ..storage.cached import cached
from ..storage.few import Few
from ..storage.pattern import SparsityPattern
from ..storage.plan import Plan

_MOST = 8
"""Replays that a thread keeps: of products and gradients, one for each number of tiles."""


class SparseOperator:
    """A sparse matrix to multiply by, many times, with batches of vectors.

    SciPy's solvers take it where they take a `scipy.sparse.linalg.LinearOperator`: cg, gmres, lsqr, lsmr, svds, eigsh
    and their like.

    A CSR matrix of float32 or float64 in canonical form shares its values with the operator: what is later written into
    `matrix.data` counts from the next product on. Its index arrays are copied and checked once, so that a later change
    of them cannot lead a kernel astray.

    Parameters
    ----------
    matrix : scipy.sparse array or matrix
        Any format; those that are not CSR of float32 or float64 are converted, integers and smaller floats to float32.

    Raises
    ------
    TypeError
        If it is not sparse, or not real.
    ValueError
        If its index arrays are broken.
    """

    __array_ufunc__ = None  # let x @ A come to __rmatmul__

    def __init__(self, matrix: Any) -> None:
        pattern, data = SparsityPattern.sharing_scipy(matrix)
        data = real_numbers(data, "SparseOperator", "the matrix")
        kind = np.float64 if data.dtype == np.float64 else np.float32
        self._init(Plan(pattern), np.ascontiguousarray(data, kind))

    def _init(self, plan: Plan, data: np.ndarray[Any, Any], turned: SparseOperator | None = None) -> None:
        self._plan, self._data, self._turned = plan, data, turned
        pattern = plan.pattern
        self.shape = pattern.shape if turned is None else pattern.shape[::-1]
        self._local = threading.local()

    @property
    def data(self) -> np.ndarray[Any, Any]:
        """The stored values, to be written into: `operator.data[:] = values`."""
        return self._data

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values, and of every product."""
        return self._data.dtype

    @cached
    def T(self) -> SparseOperator:
        """The transpose, which shares the values."""
        if self._turned is not None:
            return self._turned
        turned = object.__new__(SparseOperator)
        turned._init(self._plan, self._data, self)
        return turned

    def __matmul__(self, x: Any) -> np.ndarray[Any, Any]:
        """The product with vectors in columns.

        Parameters
        ----------
        x : array of shape (columns,) or (columns, batch)
            Any library's that lies on the host. It is cut into tiles, and copied once more before if it is not
            C-contiguous and of the operator's dtype, or batch no multiple of 16.

        Returns
        -------
        array of shape (rows,) or (rows, batch)

        Raises
        ------
        ValueError
            If x has another shape.
        TypeError
            If x does not hold real numbers, or lies on a GPU.
        """
        given = self._checked(x, self.shape[1])
        columns = given if given.ndim == 2 else given[:, np.newaxis]
        batch, tiles = columns.shape[1], tiles_of(columns.shape[1])
        columns, out = self._padded(columns, tiles), np.empty((self.shape[0], tiles * LANES), self.dtype)
        self._run("product", tiles, columns, out)
        return out[:, :batch] if given.ndim == 2 else out[:, 0].copy()

    def __rmatmul__(self, x: Any) -> np.ndarray[Any, Any]:
        """x @ A for x of shape (rows,) or (batch, rows)."""
        return (self.T @ real_numbers(x if on_host(x) else host_array(x), self, "x").T).T

    # What `scipy.sparse.linalg.aslinearoperator` asks for: products under SciPy's names. The matrix is real.

    ndim = 2

    def matvec(self, x: Any) -> np.ndarray[Any, Any]:
        """A @ x for x of shape (columns,) or (columns, 1)."""
        return self @ x

    def matmat(self, x: Any) -> np.ndarray[Any, Any]:
        """A @ x for x of shape (columns, batch)."""
        return self @ x

    def rmatvec(self, x: Any) -> np.ndarray[Any, Any]:
        """A.T @ x for x of shape (rows,) or (rows, 1)."""
        return self.T @ x

    def rmatmat(self, x: Any) -> np.ndarray[Any, Any]:
        """A.T @ x for x of shape (rows, batch)."""
        return self.T @ x

    def dot(self, x: Any) -> np.ndarray[Any, Any]:
        """A @ x."""
        return self @ x

    @property
    def H(self) -> SparseOperator:
        """The transpose, since the matrix is real."""
        return self.T

    def gradient(self, dy: Any, x: Any) -> np.ndarray[Any, Any]:
        """(dy xᵀ) at the stored entries only: how a function of A @ x changes with each of `data`.

        Parameters
        ----------
        dy : array of shape (rows, batch) or (rows,)
        x : array of shape (columns, batch) or (columns,)

        Returns
        -------
        array of shape (nnz,)
            In the order of `data`.
        """
        if self._turned is not None:
            return self._turned.gradient(x, dy)
        dy, x = self._checked(dy, self.shape[0]), self._checked(x, self.shape[1])
        if dy.shape[1:] != x.shape[1:]:
            raise ValueError(f"{self!r}: dy and x must have the same batch, got {dy.shape} and {x.shape}")
        if x.ndim == 1:
            x, dy = x[:, np.newaxis], dy[:, np.newaxis]
        tiles = tiles_of(x.shape[1])
        x, dy = self._padded(x, tiles), self._padded(dy, tiles)
        grad = np.empty_like(self._data)
        self._run("gradient", tiles, x, dy, grad)
        return grad

    def to_scipy(self) -> scipy.sparse.csr_array:
        """The matrix, sharing its values unless this is a transpose."""
        matrix = self._plan.pattern.to_scipy(self._data)
        return matrix if self._turned is None else matrix.T.tocsr()

    def _checked(self, x: Any, rows: int) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = real_numbers(x if on_host(x) else host_array(x), self, "x")
        if array.ndim not in (1, 2) or len(array) != rows:
            raise ValueError(f"{self!r}: x must have shape ({rows},) or ({rows}, batch), got {array.shape}")
        return narrowed(array, self.dtype, self, "x")

    def _padded(self, x: np.ndarray[Any, Any], tiles: int) -> np.ndarray[Any, Any]:
        """x with its rows padded to whole tiles; x itself if kernels can read it as it is."""
        batch = x.shape[1]
        if batch % LANES == 0 and x.dtype == self.dtype and x.flags.c_contiguous:
            return x
        padded = cpu().zeros((len(x), tiles * LANES), self.dtype)
        padded[:, :batch] = x
        return padded

    def _run(self, what: str, tiles: int, *arrays: np.ndarray[Any, Any]) -> None:
        """Run the replay of a product or a gradient, recorded when a thread first has a batch of so many tiles."""
        replays = vars(self._local).setdefault("replays", Few(_MOST))
        key = what, tiles
        if key not in replays:
            stand_ins = [np.zeros_like(array) for array in arrays]
            kernels, tape = cpu().recorder()
            (self._product if what == "product" else self._gradient)(kernels, tiles, *stand_ins)
            replays[key] = Replay(tape, stand_ins)
        replays[key].run(*[array.ctypes.data for array in arrays])

    def _product(self, kernels: Any, tiles: int, x: Any, out: Any) -> None:
        plan, turned, data = self._plan, self._turned is not None, self._data
        if turned:
            data = np.empty_like(data)
            kernels.reorder(self._data, plan.perm, data)
        layout, room = plan.transposed if turned else plan.forward, Workspace(kernels=kernels)
        for columns in self._chunks(tiles):
            lines = _tiled(room, "x", x[:, columns])
            # y's lines are written straight into ordinary rows.
            grid = Grid(1, 0, 0, 1, 0, 0, len(lines), len(x) * LANES, LANES, tiles * LANES)
            kernels.spmm(layout, grid, data, lines, None, out[:, columns])

    def _gradient(self, kernels: Any, tiles: int, x: Any, dy: Any, grad: Any) -> None:
        plan, room = self._plan, Workspace(kernels=kernels)
        for columns in self._chunks(tiles):
            dy_lines, x_lines = _tiled(room, "dy", dy[:, columns]), _tiled(room, "x", x[:, columns])
            grid = plan.grid(len(x_lines))
            kernels.sddmm(plan.forward, grid, dy_lines, x_lines, grad, more=columns.start > 0)

    def _chunks(self, tiles: int) -> list[slice]:
        """Columns that are computed together, so that their tiles stay in the cache."""
        return [chunk.samples for chunk in chunks(tiles * LANES, self._plan.chunk(self.dtype.itemsize))]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_local": None}  # replays stay with their thread

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    def __repr__(self) -> str:
        return f"SparseOperator({self.shape[0]}×{self.shape[1]}, {self._data.size:,} stored)"


def _tiled(room: Workspace, name: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole tiles of x's columns, in the buffer of this name.

    A kernel could read x where it lies, but would lose the time of this copy: the lines of a tile would lie a power of
    two apart and collide in the caches, and each would straddle two cache lines, since NumPy seldom aligns to them.
    """
    tiles = x.shape[1] // LANES
    lines: np.ndarray[Any, Any] = room.array(name, (tiles, len(x), LANES), x.dtype)
    room.kernels.place(x.reshape(1, len(x), tiles, 1, LANES), lines.transpose(1, 0, 2)[None, :, :, None])
    return lines
