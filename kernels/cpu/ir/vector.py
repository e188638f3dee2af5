"""Words for writing vector code as LLVM IR inside Numba: pointers, lines, loops and branches.

A *line*, the LANES values of one feature of one tile, fills `LANES / width` registers. The micro-kernels written in
these words are in `gather.py`, `sample.py` and their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from ...layout import LANES

Builder = Any  # llvmlite's IRBuilder; llvmlite ships no types
Value = Any

I32, I64 = ir.IntType(32), ir.IntType(64)
SCALAR = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


# ---------------------------------------------------------------------------------------------- pointers


@intrinsic
def pointer(_: Any, array: Any) -> Any:
    """Address of an array's first element."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return make_array(signature.args[0])(context, b, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@intrinsic(prefer_literal=True)
def floats(_: Any, address: Any, size: Any) -> Any:
    """The pointer to float32 (size 4), float64 (size 8), or words of two bfloat16 (size 2) at an integer address."""
    return _at(address, size, {2: types.uint32, 4: types.float32, 8: types.float64})


@intrinsic(prefer_literal=True)
def ints(_: Any, address: Any, size: Any) -> Any:
    """The pointer to int32 (size 4) or int64 (size 8) at an integer address."""
    return _at(address, size, {4: types.int32, 8: types.int64})


@intrinsic(prefer_literal=True)
def stored(_: Any, address: Any, size: Any) -> Any:
    """The pointer to a sample's values as they are kept: uint8 (size 1), bfloat16 (2), float32 (4) or float64 (8)."""
    return _at(address, size, {1: types.uint8, 2: types.uint16, 4: types.float32, 8: types.float64})


def _at(address: Any, size: Any, kinds: dict[int, Any]) -> Any:
    literal = literals(size)
    if literal is None:
        return None
    kind = types.CPointer(kinds[literal[0]])

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return b.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, size), emit


@intrinsic
def element(_: Any, pointer: Any, value: Any) -> Any:
    """A float64 as an element of what a pointer points at."""
    kind = pointer.dtype

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return context.cast(b, args[1], types.float64, kind)

    return kind(pointer, types.float64), emit


@intrinsic
def advance(_: Any, address: Any, count: Any) -> Any:
    """The pointer `count` elements further on."""
    return address(address, types.int64), lambda context, b, signature, args: b.gep(args[0], [args[1]])


@intrinsic
def copy_line(_: Any, x: Any, out: Any) -> Any:
    """Copy a line. A loop of Numba's would first ask whether x and out overlap."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        scalar = args[0].type.pointee
        size, line = size_of(scalar), ir.VectorType(scalar, LANES).as_pointer()
        value = b.load(b.bitcast(args[0], line))
        value.align = size
        b.store(value, b.bitcast(args[1], line)).align = size
        return context.get_dummy_value()

    return types.void(x, out), emit


@intrinsic
def fetch(_: Any, x: Any) -> Any:
    """Begin to bring the 64 bytes at x into the second-level cache; any address will do."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        f = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        b.call(f, [b.bitcast(args[0], byte), I32(0), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(x), emit


@intrinsic
def square_root(_: Any, value: Any) -> Any:
    """√value by the processor's instruction. Numba's own calls the C library, and no loop with a call is vectorised."""

    def emit(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        kind = args[0].type
        name = f"llvm.sqrt.f{8 * size_of(kind)}"
        return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(kind, [kind]), name), [args[0]])

    return value(value), emit


# ---------------------------------------------------------------------------------------------- helpers


def size_of(scalar: ir.Type) -> int:
    """Bytes of a float, a word or a double."""
    return 8 if isinstance(scalar, ir.DoubleType) else 4


def broadcast(b: Builder, value: Value, kind: ir.VectorType) -> Value:
    """A vector of equal elements."""
    undefined = ir.Constant(kind, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return b.shuffle_vector(b.insert_element(undefined, value, I32(0)), undefined, zeros)


class Lines:
    """Emits loads, stores and arithmetic on vectors of `width` elements of one scalar type."""

    def __init__(self, b: Builder, scalar: ir.Type, width: int) -> None:
        self.b, self.scalar, self.width = b, scalar, width
        self.size = size_of(scalar)
        self.vector = ir.VectorType(scalar, width)
        self.registers = LANES // width
        self.first = 0  # register of the line that is this one's first
        self.at_once: list[tuple[int, ...]] = [(r,) for r in range(self.registers)]  # what one load gives
        self.zero = ir.Constant(self.vector, [0.0] * width)
        suffix = f"v{width}f{8 * self.size}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self._fma = cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.{suffix}")

    def fma(self, a: Value, x: Value, total: Value) -> Value:
        return self.b.call(self._fma, [a, x, total])

    def load(self, base: Value, register: int = 0) -> Value:
        # The element's alignment: costs nothing on aligned data, and an aligned load crashes on any other.
        value = self.b.load(self._cast(self.b.gep(base, [I64((self.first + register) * self.width)]), self.vector))
        value.align = self.size
        return value

    def parts(self, count: int) -> list[Lines]:
        """The same of each of `count` equal parts of a line."""
        parts = [copy(self) for _ in range(count)]
        for k, part in enumerate(parts):
            part.registers = self.registers // count
            part.first = k * part.registers
        return parts

    def prefetch(self, base: Value) -> None:
        """Begin to bring the line at `base` into the cache; any address will do."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        f = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0")
        for start in range(0, LANES * self.size, 64):
            target = self.b.gep(self.b.bitcast(base, byte), [I64(start)])
            self.b.call(f, [target, I32(0), I32(3), I32(1)])

    def store(self, value: Value, base: Value, register: int = 0) -> None:
        target = self._cast(self.b.gep(base, [I64((self.first + register) * self.width)]), value.type)
        self.b.store(value, target).align = self.size

    def store_some(self, value: Value, base: Value, keep: Value) -> None:
        """Store the elements of `value` whose bit of `keep` is set."""
        count = value.type.count
        kind = ir.FunctionType(ir.VoidType(), [value.type, value.type.as_pointer(), I32, keep.type])
        name = f"llvm.masked.store.v{count}f{8 * self.size}.p0"
        f = cgutils.get_or_insert_function(self.b.module, kind, name)
        self.b.call(f, [value, self._cast(base, value.type), I32(self.size), keep])

    def load_some(self, base: Value, keep: Value, count: int) -> Value:
        kind = ir.VectorType(self.scalar, count)
        name = f"llvm.masked.load.v{count}f{8 * self.size}.p0"
        f = cgutils.get_or_insert_function(
            self.b.module, ir.FunctionType(kind, [kind.as_pointer(), I32, keep.type, kind]), name
        )
        return self.b.call(f, [self._cast(base, kind), I32(self.size), keep, ir.Constant(kind, [0.0] * count)])

    def load_all(self, base: Value, starts: list[Value]) -> list[Value]:
        """Every register of the lines at `starts`."""
        return [self.load(self.b.gep(base, [start]), r) for start in starts for r in range(self.registers)]

    def store_all(self, values: list[Value], base: Value, starts: list[Value]) -> None:
        for k, value in enumerate(values):
            self.store(value, self.b.gep(base, [starts[k // self.registers]]), k % self.registers)

    def broadcast(self, value: Value) -> Value:
        return broadcast(self.b, value, self.vector)

    def shuffle(self, a: Value, c: Value, order: list[int]) -> Value:
        return self.b.shuffle_vector(a, c, ir.Constant(ir.VectorType(I32, len(order)), order))

    def sums(self, vectors: list[Value]) -> list[Value]:
        """The horizontal sum of each vector, in order, packed into vectors of 2ⁿ sums each.

        Two vectors merge into one that holds half-sums of both, and so on down to single sums: a blend, a shuffle and
        an addition a merge, where reducing one by one takes log2(width) shuffles each.
        """
        packed = []
        while vectors:
            together = min(1 << (len(vectors).bit_length() - 1), self.width)
            chunk, vectors, segment = vectors[:together], vectors[together:], self.width
            owners = [[k] for k in range(len(chunk))]  # whose sum each segment of a vector belongs to
            while segment > 1:
                half = segment // 2
                if len(chunk) > 1:
                    owners = [
                        [owner for pair in zip(owners[k], owners[k + 1], strict=True) for owner in pair]
                        for k in range(0, len(chunk), 2)
                    ]
                    chunk = [self._merge(chunk[k], chunk[k + 1], half) for k in range(0, len(chunk), 2)]
                else:
                    chunk = [self._fold(chunk[0], half)]
                segment = half
            order = [owners[0].index(k) for k in range(len(owners[0]))]
            packed.append(self.shuffle(chunk[0], chunk[0], order))
        return packed

    def _merge(self, a: Value, c: Value, half: int) -> Value:
        """[a₀ + a₁ | c₀ + c₁ | a₂ + a₃ | …], where the subscripts count pieces of `half` elements."""
        count = a.type.count
        mine = [k + (count if (k // half) % 2 else 0) for k in range(count)]  # a₀ c₁ a₂ c₃: a blend
        other = [(k ^ half) + (count if (k // half) % 2 else 0) for k in range(count)]  # a₁ c₀ a₃ c₂
        return self.b.fadd(self.shuffle(a, c, mine), self.shuffle(a, c, other))

    def _fold(self, a: Value, half: int) -> Value:
        """[a₀ + a₁ | a₂ + a₃ | …], half as long."""
        low = [k for k in range(a.type.count) if (k // half) % 2 == 0]
        return self.b.fadd(self.shuffle(a, a, low), self.shuffle(a, a, [k + half for k in low]))

    def _cast(self, base: Value, kind: ir.Type) -> Value:
        return self.b.bitcast(base, kind.as_pointer())


def count_loop(
    b: Builder, start: Value, stop: Value, step: int, carried: list[Value], body: Callable[..., Any], *,
    unrolled: bool = True,
) -> Any:  # fmt: skip
    """Emit `for p in range(start, stop, step)` that carries values; `body(p, carried)` returns the new ones.

    LLVM may unroll it, if that is not denied.
    """
    entry = b.block
    loop, done = b.append_basic_block("loop"), b.append_basic_block("done")
    b.cbranch(b.icmp_signed("<", start, stop), loop, done)
    b.position_at_end(loop)
    p = b.phi(I64)
    inside = [b.phi(value.type) for value in carried]
    new = body(p, inside)
    following = b.add(p, I64(step))
    last = b.block  # the body may have opened blocks of its own
    again = b.cbranch(b.icmp_signed("<", following, stop), loop, done)
    if not unrolled:
        again.set_metadata("llvm.loop", _as_it_stands(b.module))
    p.add_incoming(start, entry)
    p.add_incoming(following, last)
    b.position_at_end(done)
    results = []
    for phi, first, value in zip(inside, carried, new, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(value, last)
        total = b.phi(value.type)
        total.add_incoming(first, entry)
        total.add_incoming(value, last)
        results.append(total)
    return results


def _as_it_stands(module: ir.Module) -> ir.MDValue:
    """What tells LLVM not to unroll a loop: a list of wishes that begins, as LLVM wants it, with itself."""
    wishes = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = ir.MDValue(module, (wishes,), name=str(len(module.metadata)))
    loop.operands = loop, wishes
    return loop


def choose(b: Builder, condition: Value, yes: Callable[[], list[Value]], no: Callable[[], list[Value]]) -> list[Value]:
    """Emit an if/else whose branches each give a list of values."""
    blocks = [b.append_basic_block(name) for name in ("yes", "no", "join")]
    b.cbranch(condition, blocks[0], blocks[1])
    outcomes = []
    for block, branch in zip(blocks, (yes, no), strict=False):
        b.position_at_end(block)
        values = branch()
        outcomes.append((values, b.block))
        b.branch(blocks[2])
    b.position_at_end(blocks[2])
    joined = [b.phi(value.type) for value in outcomes[0][0]]
    for values, block in outcomes:
        for phi, value in zip(joined, values, strict=True):
            phi.add_incoming(value, block)
    return joined


def opaque(b: Builder, address: Value) -> Value:
    """The same address, but LLVM no longer knows how it came about.

    Left alone, it computes the sum of every base and every offset ahead of an unrolled loop, and spills them all.
    """
    return b.inttoptr(opaque_number(b, b.ptrtoint(address, I64)), address.type)


def opaque_number(b: Builder, number: Value) -> Value:
    """The same number, about which LLVM knows nothing: it cannot be added to other addresses ahead of time."""
    return b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [number], False)


def not_null(b: Builder, address: Value) -> Value:
    return b.icmp_unsigned("!=", b.ptrtoint(address, I64), I64(0))


def literals(*kinds: Any) -> list[int] | None:
    """The values of literal types; None asks Numba to come back with literals."""
    if all(isinstance(kind, types.IntegerLiteral) for kind in kinds):
        return [kind.literal_value for kind in kinds]
    return None


def switch(b: Builder, cases: dict[int, Callable[[], None]], key: Value) -> None:
    """Emit one block for each case of a runtime integer; the last case also takes every other value."""
    done = b.append_basic_block("done")
    *first, last = cases.items()
    for value, emit in first:
        here, following = b.append_basic_block("case"), b.append_basic_block("other")
        b.cbranch(b.icmp_signed("==", key, I64(value)), here, following)
        b.position_at_end(here)
        emit()
        b.branch(done)
        b.position_at_end(following)
    last[1]()
    b.branch(done)
    b.position_at_end(done)
