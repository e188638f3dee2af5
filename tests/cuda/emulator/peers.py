"""What the benchmarks' peers use of CuPy and cupyx beside the engine's part: dense and sparse products, element by
element. Computed by NumPy, so that every line of theirs runs; of the libraries themselves it says nothing.

It is a module apart from `stand_in`, where an engine that used any of this would fail.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import stand_in
from .stand_in import RawModule, __version__, cuda

__all__ = ["RawModule", "__version__", "cuda"]

CUPY = (
    "asarray", "asfortranarray", "empty_like", "exp", "float32", "full", "matmul", "maximum", "ones", "subtract",
)  # fmt: skip
"""What is CuPy's here, beside the stand-in's."""


class ndarray(stand_in.ndarray):
    """A device array that can be computed with."""

    T = property(lambda self: ndarray(self._memory, self._view.T))

    def __setitem__(self, key: Any, value: Any) -> None:
        _run(lambda: stand_in.ndarray.__setitem__(self, key, value))

    def max(self, axis: int) -> Any:
        return _compute(lambda a: a.max(axis=axis), self)

    def sum(self, axis: int, keepdims: bool = False) -> Any:
        return _compute(lambda a: a.sum(axis=axis, keepdims=keepdims), self)

    def ravel(self) -> Any:
        return self.reshape(-1)

    def __sub__(self, other: Any) -> Any:
        return _compute(np.subtract, self, other)

    def __truediv__(self, other: Any) -> Any:
        return _compute(np.true_divide, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _compute(np.multiply, other, self)

    def __gt__(self, other: Any) -> Any:
        return _compute(np.greater, self, other)

    def __iadd__(self, other: Any) -> Any:
        return _compute(np.add, self, other, out=self)

    def __isub__(self, other: Any) -> Any:
        return _compute(np.subtract, self, other, out=self)

    def __imul__(self, other: Any) -> Any:
        return _compute(np.multiply, self, other, out=self)

    def __itruediv__(self, other: Any) -> Any:
        return _compute(np.true_divide, self, other, out=self)


class _Operation:
    """One of these in a captured graph."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def _launch(self, shapes: object, values: object) -> None:
        self._work()


def _run(work: Callable[[], object]) -> None:
    """Now, or whenever the graph that is being captured runs."""
    stream = stand_in._Settings.stream
    if isinstance(stream, stand_in.Stream) and stream.captured is not None:
        stream.captured.append((_Operation(work), None, None, None))
    else:
        work()


def _compute(function: Callable[..., Any], *given: Any, out: Any = None) -> Any:
    views = [each._view if isinstance(each, stand_in.ndarray) else each for each in given]
    if out is None:
        with np.errstate(all="ignore"):
            like = np.asarray(function(*views))
        out = empty(like.shape, like.dtype)
    _run(lambda: np.copyto(out._view, function(*views), casting="same_kind"))
    return out


def _owned(array: stand_in.ndarray) -> ndarray:
    return ndarray(array._memory, array._view)


def empty(shape: Any, dtype: Any = float) -> ndarray:
    return _owned(stand_in.empty(shape, dtype))


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return _owned(stand_in.zeros(shape, dtype))


def full(shape: Any, value: Any, dtype: Any = float) -> ndarray:
    return _owned(stand_in.array(np.full(shape, value, dtype), order="C"))


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return full(shape, 1, dtype)


def array(values: Any, *, order: str) -> ndarray:
    return _owned(stand_in.array(values, order=order))


def asarray(values: Any) -> ndarray:
    return values if isinstance(values, ndarray) else array(np.asarray(values), order="C")


def asfortranarray(values: ndarray) -> ndarray:
    return array(np.ascontiguousarray(values._view.T), order="C").T


def empty_like(values: ndarray) -> ndarray:
    return empty(values.shape, values.dtype)


def matmul(a: Any, b: Any, out: Any = None) -> Any:
    return _compute(np.matmul, a, b, out=out)


def exp(a: Any) -> Any:
    return _compute(np.exp, a)


def maximum(a: Any, b: Any, out: Any = None) -> Any:
    return _compute(np.maximum, a, b, out=out)


def subtract(a: Any, b: Any, out: Any = None) -> Any:
    return _compute(np.subtract, a, b, out=out)


float32 = np.float32


class csr_matrix:
    """A sparse matrix that is multiplied by a dense one in Fortran's order."""

    def __init__(self, parts: tuple[Any, Any, Any], shape: tuple[int, int]) -> None:
        import scipy.sparse

        self._matrix = scipy.sparse.csr_array(tuple(part._view for part in parts), shape=shape)

    def __matmul__(self, x: ndarray) -> Any:
        if not x._view.flags.f_contiguous:
            raise TypeError("cuSPARSE takes a dense matrix in Fortran's order")
        return _compute(lambda view: self._matrix @ view, x)


def modules() -> dict[str, Any]:
    """What `import` gives under CuPy's names."""
    sparse, scipy, cupyx = (types.ModuleType(name) for name in ("cupyx.scipy.sparse", "cupyx.scipy", "cupyx"))
    sparse.csr_matrix, scipy.sparse, cupyx.scipy = csr_matrix, sparse, scipy  # type: ignore[attr-defined]
    return {"cupy": sys.modules[__name__], "cupyx": cupyx, "cupyx.scipy": scipy, "cupyx.scipy.sparse": sparse}


@contextlib.contextmanager
def installed() -> Iterator[types.ModuleType]:
    """As `stand_in.installed`, with all this in it."""
    with stand_in.installed():
        before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "cupyx"}
        sys.modules.update(modules())
        try:
            yield sys.modules[__name__]
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] == "cupyx"]:
                del sys.modules[name]
            sys.modules.update(before)
