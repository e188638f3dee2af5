"""Calls of Python functions among those of kernels.

A function that is written against NumPy stands on a tape like a kernel: it runs when its turn comes, at every replay,
on every device. It sees the values of that moment, and what it computes reaches whatever comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class HostCall(NamedTuple):
    """A function, and the arrays it is called with by name: `function(**inputs, **outputs)`.

    Attributes
    ----------
    name : str
        For whoever lists what a step does.
    function : callable
        Reads inputs and writes outputs in place; what it returns is not looked at.
    inputs : mapping of str to array
        NumPy arrays that cannot be written to. On a GPU they are copies.
    outputs : mapping of str to array
        NumPy arrays that hold what stands there before the call. On a GPU they are copies, and are copied back.
    """

    name: str
    function: Callable[..., Any]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
