"""What code that is recorded may do, and which of its mistakes are noticed.

A step is recorded once and replayed. Code that runs while it is recorded runs *once*: a kernel that it calls is
written down and runs at every replay, but a number that it computes in Python is lost. Methods that only name buffers
and call kernels say so by the mark `@recorded`; whatever has no mark is run at every replay, as a host call.

The mark is checked while a marked method is recorded on the CPU. Buffers, activations, gradients and parameters are
then `Buffer`s, which kernels take and NumPy cannot compute with. Refused, with `NotRecordedError`:

- writing to a buffer in place: assignment, `fill`, `out=`, `np.copyto`, whatever library does it;
- reading a buffer's values: arithmetic, comparisons, functions of NumPy, `float(x[0])`, `x.copy()`, `if x.any()`;
- on every device: returning activations or gradients that do not lie in the workspace's memory, or in what was given.

Not noticed: values read through `np.asarray(x)`, or by another library that shares memory, as long as they are not
returned; random numbers, times and counters that do not come from a buffer; arrays of one's own that change later but
not in place; and, on a GPU, whatever is computed and not returned. A method that does such things needs no mark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


class NotRecordedError(RuntimeError):
    """Code that is marked as recorded computes something that no replay would compute again."""


def recorded(function: F) -> F:
    """Mark a method that only names buffers and calls kernels: it runs once, while a step is recorded.

    Whatever else it computes would be lost at a replay. Without the mark a method is run at every replay.
    """
    function.__recorded__ = function  # type: ignore[attr-defined]  # not True: functools.wraps copies attributes
    return function


def is_recorded(*methods: Any) -> bool:
    """Whether all these methods have the mark themselves: one that overrides a marked method does not."""
    functions = [getattr(method, "__func__", method) for method in methods]
    return all(getattr(function, "__recorded__", None) is function for function in functions)


class Buffer(np.ndarray[Any, Any]):
    """An array while a step is recorded: it has an address and a shape, but no values.

    Attributes
    ----------
    origin : array
        The array that a whole buffer stands for, so that a tape looks up one address only; views have none.
    """

    origin: Any

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        raise _Touched(f"np.{ufunc.__name__}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in _VIEWS:
            raise _Touched(f"np.{function.__name__}")
        return super().__array_function__(function, types, args, kwargs)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if not isinstance(found, Buffer) or (found.size and not np.may_share_memory(found, self)):
            raise _Touched("an element's value")
        return found

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(len(self)))


_VIEWS = {
    np.shape, np.ndim, np.size, np.reshape, np.transpose, np.moveaxis, np.swapaxes, np.squeeze, np.expand_dims,
    np.broadcast_to, np.may_share_memory, np.shares_memory,
}  # fmt: skip
"""Functions of NumPy that read no values."""

_VALUES = [
    "__bool__", "__complex__", "__contains__", "__copy__", "__deepcopy__", "__float__", "__index__", "__int__", "all",
    "any", "argmax", "argmin", "argpartition", "argsort", "astype", "choose", "clip", "compress", "copy", "cumprod",
    "cumsum", "diagonal", "dot", "flatten", "item", "max", "mean", "min", "nonzero", "partition", "prod", "put",
    "ravel", "repeat", "round", "searchsorted", "sort", "std", "sum", "take", "tobytes", "tolist", "trace", "var",
]  # fmt: skip
"""Methods of arrays that do."""


def _touching(name: str) -> Callable[..., Any]:
    def method(self: Buffer, *args: Any, **kwargs: Any) -> Any:
        raise _Touched(name)

    return method


for _name in _VALUES:
    setattr(Buffer, _name, _touching(_name))


class _Touched(Exception):
    """A value was read where there is none; the text says by what."""


def buffer(array: Any) -> Any:
    """The same memory without values; an array that is not NumPy's is given back as it is."""
    if not isinstance(array, np.ndarray):
        return array
    view = array.view(Buffer)
    view.flags.writeable = False
    view.origin = array
    return view


def shallow(thing: Any) -> Any:
    """A twin with the same attributes, which may then be given others: `copy.copy` at a tenth of its cost."""
    twin = object.__new__(type(thing))
    vars(twin).update(vars(thing))
    return twin


@contextmanager
def recording(owner: Any, method: str) -> Iterator[None]:
    """Around a marked method: what it must not do becomes one line that says who does it, and what to do."""
    try:
        yield
    except _Touched as touched:
        raise NotRecordedError(_complaint(owner, method, f"computes ({touched})")) from None
    except ValueError as error:
        if not any(word in str(error) for word in ("read-only", "writable")):  # NumPy has no error of its own for it
            raise
        raise NotRecordedError(_complaint(owner, method, f"writes to an array ({error})")) from None


def _complaint(owner: Any, method: str, what: str) -> str:
    return (
        f"{owner!r}: {method} is marked as recorded, but {what} in Python, which no replay would do again: take the "
        f"mark @recorded away, or call it through kernels.host"
    )


def check_known(owner: Any, method: str, name: str, array: Any, known: Iterable[Any]) -> None:
    """Refuse a result of a marked method that lies in memory which nothing on the tape writes."""
    if not array.size:
        return
    if isinstance(array, np.ndarray):
        if any(_share(array, each) for each in known):
            return
    else:
        first, last = extent(array)
        if any(start <= first and last <= stop for start, stop in map(extent, known)):
            return
    raise NotRecordedError(_complaint(owner, method, f"returns a new array as {name}, made"))


_share = getattr(np.may_share_memory, "_implementation", np.may_share_memory)
"""Whether the addresses of two arrays overlap, without a detour through `Buffer.__array_function__`."""


def extent(array: Any) -> tuple[int, int]:
    """The addresses of an array's first byte and of the one after its last, on any device; no stride is negative."""
    start = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    steps = sum((size - 1) * step for size, step in zip(array.shape, array.strides, strict=True))
    return (int(start), int(start) + steps + array.dtype.itemsize) if array.size else (0, 0)
