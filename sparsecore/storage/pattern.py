"""Which weights of a layer are stored: the sparsity pattern, immutable and validated once."""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..runtime.arrays import plain_array
from .cached import cached
from .indices import Array, Shape, check_csr, check_range, checked_shape, index_dtype, integers, rebuilt, values_of

if TYPE_CHECKING:
    import scipy.sparse


class SparsityPattern:
    """The stored connections of a layer with `out_features` rows and `in_features` columns, in CSR order.

    Row i's connections are the positions `indptr[i]` to `indptr[i + 1]` of `indices`, which holds their columns in
    increasing order. Values live elsewhere, in flat arrays of length `nnz` in the same order. Everything here is
    read-only: the index arrays are copies of the caller's, so no later change there can become an out-of-bounds read.

    Parameters
    ----------
    shape : (int, int)
        `(out_features, in_features)`; either may be zero.
    indptr : integer array of shape (out_features + 1,)
        Starts at 0, never decreases, ends at the number of connections.
    indices : integer array of shape (nnz,)
        Columns, strictly increasing within a row.

    Attributes
    ----------
    shape : (int, int)
    indptr : int32 array of shape (out_features + 1,)
        int64 only if `nnz` is past the range of int32.
    indices : int32 array of shape (nnz,)
        int64 only if `in_features` is past the range of int32.

    Raises
    ------
    TypeError
        If a size is not an integer, or an index array does not hold integers (booleans are not).
    ValueError
        If a size is negative or too large, or the index arrays do not describe sorted, unique, in-range connections.
    """

    shape: Shape
    indptr: Array
    indices: Array

    def __init__(self, shape: Shape, indptr: npt.ArrayLike, indices: npt.ArrayLike) -> None:
        shape = checked_shape(shape)
        given_indptr = integers("indptr", indptr)
        given_indices = integers("indices", indices)
        check_csr(shape, given_indptr, given_indices)
        self._own(
            shape,
            given_indptr.astype(index_dtype(given_indices.size), order="C"),
            given_indices.astype(index_dtype(shape[1]), order="C"),
        )

    def _own(self, shape: Shape, indptr: Array, indices: Array) -> None:
        vars(self).update(shape=shape, indptr=_frozen(indptr), indices=_frozen(indices))

    @classmethod
    def _from_valid(cls, shape: Shape, indptr: Array, indices: Array, rows: Array | None = None) -> SparsityPattern:
        """Take over arrays that are valid by construction and that nobody else will write to."""
        pattern = cls.__new__(cls)
        pattern._own(
            shape,
            np.ascontiguousarray(indptr, index_dtype(indices.size)),
            np.ascontiguousarray(indices, index_dtype(shape[1])),
        )
        if rows is not None:
            vars(pattern)["rows"] = _frozen(rows)
        return pattern

    # -- what it holds ---------------------------------------------------------------------------------------------

    @property
    def nnz(self) -> int:
        """Number of connections."""
        return self.indices.size

    @property
    def sparsity(self) -> float:
        """Fraction of the possible connections that are not stored; 0 where none is possible."""
        possible = self.shape[0] * self.shape[1]
        return (possible - self.nnz) / possible if possible else 0.0

    @property
    def is_full(self) -> bool:
        """Whether every possible connection is stored: a dense layer."""
        return self.nnz == self.shape[0] * self.shape[1]

    @cached
    def fan_in(self) -> Array:
        """Connections of each row (output): integers of shape (out_features,)."""
        return _frozen(np.diff(self.indptr))

    @cached
    def fan_out(self) -> Array:
        """Connections of each column (input): integers of shape (in_features,)."""
        counts = np.bincount(self.indices, minlength=self.shape[1])
        return _frozen(counts.astype(self.indptr.dtype, copy=False))

    @cached
    def rows(self) -> Array:
        """Row of each connection, as COO has it: integers of shape (nnz,). Built when first read, then kept."""
        numbers = np.arange(self.shape[0], dtype=index_dtype(self.shape[0]))
        return _frozen(np.repeat(numbers, self.fan_in))

    # -- made from -------------------------------------------------------------------------------------------------

    @classmethod
    def full(cls, shape: Shape) -> SparsityPattern:
        """Every connection of a layer of this `(out_features, in_features)` shape: a dense layer."""
        out_features, in_features = shape = checked_shape(shape)
        connections = out_features * in_features
        if connections > sys.maxsize:
            raise ValueError(f"a full pattern of shape {shape} has {connections:,} connections, too many to store")
        row = np.arange(in_features if out_features else 0, dtype=index_dtype(in_features))
        indptr = np.arange(out_features + 1, dtype=np.int64) * row.size
        indices = np.tile(row, out_features)
        return cls._from_valid(shape, indptr, indices)

    @classmethod
    def from_coo(cls, shape: Shape, rows: npt.ArrayLike, columns: npt.ArrayLike) -> SparsityPattern:
        """The connections `(rows[p], columns[p])`, given in any order.

        Parameters
        ----------
        shape : (int, int)
            `(out_features, in_features)`.
        rows, columns : integer arrays of one length
            Output and input of each connection.

        Raises
        ------
        TypeError
            If an array does not hold integers.
        ValueError
            If the lengths differ, an index is out of range or a connection is given twice.
        """
        shape = checked_shape(shape)
        given_rows, given_columns = integers("rows", rows), integers("columns", columns)
        if given_rows.size != given_columns.size:
            raise ValueError(
                f"rows and columns must have the same length, got {given_rows.size:,} and {given_columns.size:,}"
            )
        check_range("rows", given_rows, shape[0])
        check_range("columns", given_columns, shape[1])
        import scipy.sparse  # its import takes a tenth of a command's start, and most runs do without it

        once = np.ones(given_rows.size, dtype=np.int32)
        summed = scipy.sparse.coo_array((once, (given_rows, given_columns)), shape=shape).tocsr()
        summed.sum_duplicates()
        if summed.nnz != given_rows.size:
            twice = int(np.argmax(summed.data > 1))
            row = int(np.searchsorted(summed.indptr, twice, side="right")) - 1
            raise ValueError(
                f"each connection must be given once, got row {row}, column {summed.indices[twice]} "
                f"{summed.data[twice]} times"
            )
        return cls._from_valid(shape, summed.indptr, summed.indices)

    @classmethod
    def from_scipy(cls, matrix: Any) -> tuple[SparsityPattern, Array]:
        """Split a scipy.sparse array or matrix of any format into its pattern and its values.

        Stored zeros stay stored (but scipy's own DIA to CSR conversion drops them). Duplicates are summed, as scipy
        does. `matrix` is not changed and shares no memory with the result.

        Returns
        -------
        pattern : SparsityPattern
        data : array of shape (nnz,), of `matrix`'s dtype
            Values in CSR order.

        Raises
        ------
        TypeError
            If `matrix` is not sparse.
        ValueError
            If it is not two-dimensional, or its index arrays are broken.
        """
        import scipy.sparse

        if not scipy.sparse.issparse(matrix):
            raise TypeError(f"a scipy.sparse array or matrix is needed, got {type(matrix).__name__}; see from_dense")
        if matrix.ndim != 2:
            raise ValueError(f"a sparse matrix must have 2 dimensions, got {matrix.ndim}")
        csr = rebuilt(matrix).tocsr()
        csr.sum_duplicates()
        return cls(csr.shape, csr.indptr, csr.indices), csr.data

    @classmethod
    def sharing_scipy(cls, matrix: Any) -> tuple[SparsityPattern, Array]:
        """Like `from_scipy`, but the values are those of `matrix` itself where it is CSR and in canonical form: its
        columns strictly increase in every row, and no row has gaps to the next."""
        import scipy.sparse

        if not scipy.sparse.issparse(matrix) or matrix.ndim != 2 or matrix.format != "csr":
            return cls.from_scipy(matrix)
        try:
            pattern = cls(matrix.shape, matrix.indptr, matrix.indices)
        except ValueError:
            return cls.from_scipy(matrix)
        data = values_of(matrix)
        return (pattern, data) if data.shape == (pattern.nnz,) else cls.from_scipy(matrix)

    @classmethod
    def from_dense(cls, weights: npt.ArrayLike) -> tuple[SparsityPattern, Array]:
        """Split a matrix into the pattern of its nonzeros and their values. NaN is a nonzero.

        Parameters
        ----------
        weights : numeric array of shape (out_features, in_features)

        Returns
        -------
        pattern : SparsityPattern
        data : array of shape (nnz,), of `weights`'s dtype
            Values in CSR order.
        """
        matrix = plain_array(weights, "weights")
        if matrix.dtype.kind not in "biufc":
            raise TypeError(f"weights must be numbers, got dtype {matrix.dtype}")
        if matrix.ndim != 2:
            raise ValueError(f"weights must have shape (out_features, in_features), got {matrix.shape}")
        stored = matrix != 0
        indptr = np.zeros(matrix.shape[0] + 1, dtype=np.int64)
        np.cumsum(stored.sum(axis=1), out=indptr[1:])
        return cls._from_valid(matrix.shape, indptr, np.nonzero(stored)[1]), matrix[stored]

    # -- made into -------------------------------------------------------------------------------------------------

    def to_scipy(self, data: npt.ArrayLike | None = None) -> scipy.sparse.csr_array:
        """The layer's matrix as a `scipy.sparse.csr_array`.

        Parameters
        ----------
        data : array of shape (nnz,), optional
            Values in CSR order, shared and not copied; float32 ones if not given. The index arrays are shared too, and
            stay read-only: scipy refuses to restructure such a matrix in place (copy it first).
        """
        import scipy.sparse

        values = np.ones(self.nnz, dtype=np.float32) if data is None else plain_array(data, "data")
        if values.shape != (self.nnz,):
            raise ValueError(f"data must have shape ({self.nnz},), one value a connection, got {values.shape}")
        matrix = scipy.sparse.csr_array((values, self.indices, self.indptr), shape=self.shape, copy=False)
        matrix.data = values  # scipy copies a small part of another array even so
        return matrix

    def transpose(self) -> tuple[SparsityPattern, Array]:
        """The pattern with inputs and outputs exchanged, and where its connections come from.

        Returns
        -------
        transposed : SparsityPattern
            Of shape (in_features, out_features).
        perm : read-only integer array of shape (nnz,)
            `data[perm]` are the values of the transposed layer, in its own CSR order.
        """
        from ..kernels.cpu.turn import turn  # compiling waits until a transpose is wanted

        out_features, in_features = self.shape
        indptr, perm = np.zeros(in_features + 1, self.indptr.dtype), np.empty(self.nnz, self.indptr.dtype)
        rows = np.empty(self.nnz, index_dtype(out_features))
        turn(self.indptr, self.indices, indptr, rows, perm)
        return SparsityPattern._from_valid(self.shape[::-1], indptr, rows), _frozen(perm)

    def select(self, keep: npt.ArrayLike) -> SparsityPattern:
        """The pattern of the connections where `keep`, a boolean array of shape (nnz,), is true."""
        mask = plain_array(keep, "keep")
        if mask.dtype != np.bool_:
            raise TypeError(f"keep must be boolean, got dtype {mask.dtype}")
        if mask.shape != (self.nnz,):
            raise ValueError(f"keep must have shape ({self.nnz},), one entry a connection, got {mask.shape}")
        kept = np.flatnonzero(mask)
        return SparsityPattern._from_valid(self.shape, np.searchsorted(kept, self.indptr), self.indices[kept])

    # -- an immutable value ----------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a SparsityPattern cannot be changed: {name} is read-only")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a SparsityPattern cannot be changed: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        return self is other or (
            self.shape == other.shape
            and np.array_equal(self.indptr, other.indptr)
            and np.array_equal(self.indices, other.indices)
        )

    def __hash__(self) -> int:
        return self._hash

    @cached
    def _hash(self) -> int:
        return hash((self.shape, zlib.crc32(self.indptr.data), zlib.crc32(self.indices.data)))

    def __reduce__(self) -> tuple[type[SparsityPattern], tuple[Shape, Array, Array]]:
        return SparsityPattern, (self.shape, self.indptr, self.indices)  # a pickle is validated like any other input

    def __copy__(self) -> SparsityPattern:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> SparsityPattern:
        return self

    def __repr__(self) -> str:
        percent = f"{self.sparsity:.1%}"
        if percent == "100.0%" and self.nnz:
            percent = "over 99.9%"
        return f"SparsityPattern({self.shape[0]}×{self.shape[1]}, {self.nnz:,} connections, {percent} sparse)"


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array
