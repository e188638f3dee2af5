"""Samples that are rows of a CSR matrix: packed into tiles as they are used, and never dense all at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..kernels.compile import njit
from ..runtime.devices import cpu
from ..runtime.halves import narrowed
from ..runtime.tiles import LANES, Labels, Tiles, tiles_of
from ..runtime.workspace import Workspace
from . import Split
from .batches import Batches

_NUMBERS = 1 << 20
"""How many numbers are dense at a time, where all rows are looked at."""


class CsrBatches(Batches):
    """`Batches` of the rows of a CSR matrix, on the CPU, standardised as they are packed.

    That is (x − mean) / scale in float64, and then float32.

    Parameters
    ----------
    matrix : scipy.sparse CSR array or matrix
        Checked, with sorted columns, each once a row; see `canonical`.
    labels : int32 array, shape (n,)
    mean, scale : float64 array, shape (features,)
    targets : float array, shape (n, outputs), optional
        Instead of the labels.
    """

    def __init__(self, matrix: Any, labels: Any, mean: Any, scale: Any, *, targets: Any = None) -> None:
        rows, features = matrix.shape
        super().__init__(
            Split(np.zeros((rows, 1), np.float32), labels), (1,), [0.0], [1.0], cpu(), targets=targets
        )  # fmt: skip
        self.shape = (features,)
        self._matrix = matrix.indptr, matrix.indices, np.ascontiguousarray(matrix.data, np.float64)
        self._affine = np.ascontiguousarray(mean, np.float64), np.ascontiguousarray(scale, np.float64)

    def pack(self, workspace: Workspace, *, halves: bool = False) -> tuple[Tiles, Any]:
        """The batch chosen by `seek`, as tiles, and its labels, or its targets if there are any."""
        batch, tiles = self._batch, tiles_of(self._batch)
        x = workspace.array("x", (tiles, *self.shape, LANES), self.dtype)
        labels = workspace.array("labels", (tiles * LANES,), np.int32)
        given = *self._matrix, *self._affine, self._y, self._order, self._position, batch
        workspace.kernels.compiled(_pack, tiles, given, (x, labels), work=2 * x.size)
        packed = Tiles(x, batch)
        packed = narrowed("narrow x", packed, workspace) if halves else packed
        if self._targets is not None:
            addresses = workspace.array("addresses", (tiles * LANES,), np.int64)
            return packed, self._packed_targets(workspace, addresses)
        return packed, Labels(labels, batch, self.classes)


@njit
def _pack(indptr, indices, data, mean, scale, y, order, position, batch, x, labels, first, last):  # type: ignore[no-untyped-def]
    """Some of the tiles of a batch: what is not stored is a zero like any other, and lanes without a sample are 0."""
    features, lanes = x.shape[1], x.shape[2]
    for tile in range(first, last):
        used = min(lanes, batch - tile * lanes)
        for column in range(features):
            empty = np.float32((0.0 - mean[column]) / scale[column])
            for lane in range(lanes):
                x[tile, column, lane] = empty if lane < used else np.float32(0)
        for lane in range(lanes):
            labels[tile * lanes + lane] = 0
        for lane in range(used):
            row = order[position[0] + tile * lanes + lane]
            labels[tile * lanes + lane] = y[row]
            for k in range(indptr[row], indptr[row + 1]):
                column = indices[k]
                x[tile, column, lane] = np.float32((data[k] - mean[column]) / scale[column])


def canonical(matrix: Any) -> Any:
    """A CSR matrix whose rows have sorted columns, each once, and that a kernel may trust; itself if it is so already.

    Raises ValueError where its index arrays are broken.
    """
    matrix.check_format(full_check=True)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


def dense_rows(x: Any) -> Iterator[tuple[slice, Any]]:
    """Rows of a matrix, sparse or not, a few at a time as an ordinary array, with where they are."""
    rows, features = x.shape
    step = max(_NUMBERS // max(features, 1), LANES)
    for start in range(0, rows, step):
        part = x[start : start + step]
        yield slice(start, start + step), part.toarray() if hasattr(part, "toarray") else part
