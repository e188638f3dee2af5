"""Calls to compiled kernels, written down so that they can be run again and again.

A kernel is a C function `kernel(arguments, part, until, parts)`, which does the parts from `part` to before `until` of
so many. A *call* is a row of 64-bit words: the kernel's address, how many parts it is cut into, and its arguments,
addresses of arrays among them. A kernel describes its arguments by a record type and reads them by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core.ccallback import CFunc

from ..compile import cfunc, njit

WORDS = 48
"""Words of one call: kernel, parts, then arguments."""

SIGNATURE = types.void(types.voidptr, types.int64, types.int64, types.int64)


def arguments(*names: str) -> np.dtype:
    """The record type of a kernel's arguments, one 64-bit word each."""
    return np.dtype([(name, np.int64) for name in names])


def kernel(function: Any) -> CFunc:
    """Compile a kernel to C's calling convention; kept on disk."""
    return cfunc(SIGNATURE, function)


@njit
def share(count: int, part: int, until: int, parts: int) -> tuple[int, int]:
    """The range of `count` things that falls to the parts from `part` to before `until`."""
    return count * part // parts, count * until // parts
