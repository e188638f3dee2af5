"""Calls of Python functions among those of kernels.

A function that is written against NumPy stands on a tape like a kernel: it runs when its turn comes, at every replay,
on every device. It sees the values of that moment, and what it computes reaches whatever comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def python_call(
    function: Callable[..., Any], count: int, inputs: Sequence[Any], outputs: Sequence[Any]
) -> tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]:
    """A call function(*inputs, *outputs, 0, count), whose inputs may be numbers, as a host call has it: a function, and
    arrays by name."""
    arrays = {f"input {k}": value for k, value in enumerate(inputs) if hasattr(value, "shape") and value.shape != ()}
    written = {f"output {k}": array for k, array in enumerate(outputs)}

    def call(**given: Any) -> None:
        read = [given.get(f"input {k}", value) for k, value in enumerate(inputs)]
        function(*read, *(given[name] for name in written), 0, count)

    return call, arrays, written
