"""The pattern in a module's buffers, which anybody may write: copied, averaged, broadcast, swapped."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...storage.pattern import SparsityPattern
from .given import real_tensor

NAMES = ("indptr", "indices")
KIND = torch.float64
"""Of the buffers. Averages of models (timm's ModelEmaV2, `AveragedModel`) go over all that a state holds: an integer n
averaged with itself is cut to n − 1 at times, since they count in float32, and nothing tells. In float64 it stays n but
for the last bits, which are taken off at the next use, and an average of different patterns is seen to be none."""

_OFF = 1e-9
"""How far, as a part of it, averages may take a number from where it was: some bits, times steps that they remember."""
_SOME = 6
"""Columns that are compared at every use: each costs a line of memory, and other patterns differ in most of them."""


class Seen:
    """Two buffers as they were when somebody last looked at them whole; without any, nothing has been seen.

    Writes are noticed by PyTorch's counter of versions, other tensors by what they are, and other memory by where it
    lies. Some writes are not counted (`.data.copy_`, NumPy, other processes, `DistributedDataParallel` in its forward
    pass), so a few columns are compared as well, which a whole other pattern does not share.
    """

    def __init__(self, indptr: torch.Tensor | None = None, indices: torch.Tensor | None = None) -> None:
        self._indptr: Any = None
        self._indices: Any = None
        if indptr is None or indices is None or any(each.is_meta or each.is_inference() for each in (indptr, indices)):
            return  # they hold nothing, or do not count what is written: they are looked at whole at every use
        self._indptr, self._indices = indptr, indices
        self._marks = indptr._version, indices._version, indices.data_ptr()
        self._some = _some_of(indices)
        self._were = self._some.tobytes()

    def still(self, indptr: torch.Tensor, indices: torch.Tensor) -> bool:
        """Whether these are the same, unchanged as far as a glance tells: a microsecond, as it is of every pass."""
        return (
            indices is self._indices
            and indptr is self._indptr
            and (indptr._version, indices._version, indices.data_ptr()) == self._marks
            and self._some.tobytes() == self._were  # memory that is no longer theirs is not read: marks tell
        )


def glance(indptr: torch.Tensor, indices: torch.Tensor) -> tuple[Any, ...] | None:
    """What `Seen` compares, of two tensors that may be others each time; None of those that do not count writes."""
    if indptr.is_inference() or indices.is_inference():
        return None
    some = _some_of(indices).tobytes()
    return indptr._version, indices._version, indptr.data_ptr(), indices.data_ptr(), len(indices), some


def _some_of(indices: torch.Tensor) -> NDArray[Any]:
    """A few columns, where the host sees them."""
    if not indices.is_cpu or type(indices) is not torch.Tensor:
        return np.empty(0)
    numbers: NDArray[Any] = indices.detach().numpy()
    return numbers[:: max(1, len(indices) // _SOME)]


def buffer_of(numbers: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Row starts or columns as a buffer."""
    return torch.tensor(numbers, dtype=KIND, device=device)


def holds(buffer: Any, numbers: NDArray[Any]) -> bool:
    """Whether a buffer is exactly what `buffer_of` makes of these numbers."""
    if not isinstance(buffer, torch.Tensor) or buffer.dtype != KIND or buffer.is_meta:
        return False
    return buffer.shape == numbers.shape and np.array_equal(buffer.detach().cpu().numpy(), numbers)


def pattern_in(shape: tuple[int, int], indptr: Any, indices: Any) -> SparsityPattern:
    """The pattern of this shape that buffers hold, or entries of a state: whole numbers of any dtype.

    Raises
    ------
    TypeError, ValueError
        If they hold none.
    """
    return SparsityPattern(shape, *(_whole(name, each) for name, each in zip(NAMES, (indptr, indices), strict=True)))


def _whole(name: str, given: Any) -> NDArray[Any]:
    given = real_tensor("pattern", name, given).detach()
    if given.is_meta or given.layout is not torch.strided:
        raise TypeError(f"{name} must be numbers in memory, got a tensor on {given.device}, {given.layout}")
    numbers: NDArray[Any] = given.cpu().numpy() if not given.is_floating_point() else given.cpu().to(KIND).numpy()
    if not given.is_floating_point():
        return numbers
    with np.errstate(invalid="ignore"):
        whole = np.rint(numbers)
        wrong = ~(np.abs(numbers - whole) <= _OFF * np.abs(whole))  # whatever is no number is wrong too
    if wrong.any():
        raise ValueError(f"{name} must be whole numbers, got {numbers[wrong][0]:.9g}: is it an average over models of "
                         "other connections?")  # fmt: skip
    most = 2 / torch.finfo(given.dtype).eps
    if whole.size and np.abs(whole).max() > most:
        raise ValueError(f"{name} must be at most {most:.0f} in {given.dtype}, got {np.abs(whole).max():.0f}")
    return whole.astype(np.int64)
