"""What threads need beyond Numba's own: words in memory that several read and write, and calls to an address."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vector import I64, Builder, Value


@intrinsic
def load(_: Any, words: Any, index: Any) -> Any:
    """Atomic read; whatever its writer wrote before is visible after."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return b.load_atomic(b.gep(args[0], [args[1]]), "seq_cst", 8)

    return types.int64(words, types.int64), emit


@intrinsic
def add(_: Any, words: Any, index: Any, count: Any) -> Any:
    """Atomic addition; returns the old value."""
    return types.int64(words, types.int64, types.int64), _read_modify_write("add")


@intrinsic
def swap(_: Any, words: Any, index: Any, value: Any) -> Any:
    """Atomic exchange; returns the old value."""
    return types.int64(words, types.int64, types.int64), _read_modify_write("xchg")


@intrinsic
def exchange(_: Any, words: Any, index: Any, expected: Any, value: Any) -> Any:
    """Write a value if a word is still as expected; returns whether it was."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        at = b.gep(args[0], [args[1]])
        return b.extract_value(b.cmpxchg(at, args[2], args[3], "seq_cst", "seq_cst"), 1)

    return types.boolean(words, types.int64, types.int64, types.int64), emit


def _read_modify_write(operation: str) -> Any:
    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return b.atomic_rmw(operation, b.gep(args[0], [args[1]]), args[2], "seq_cst")

    return emit


@intrinsic
def jump(_: Any, kernel: Any, arguments: Any, part: Any, until: Any, parts: Any) -> Any:
    """Call the kernel at an address (`call.py` says what a kernel takes)."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, I64, I64, I64])
        b.call(b.inttoptr(args[0], kind.as_pointer()), [b.bitcast(args[1], byte), *args[2:]])
        return context.get_dummy_value()

    return types.void(types.int64, arguments, types.int64, types.int64, types.int64), emit
