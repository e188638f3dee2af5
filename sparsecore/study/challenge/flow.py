"""Samples on their way through layers: in pens that a cache holds, from which those that die are dropped.

A *stage* is some layers in a row, recorded as one tape. Before each stage is a pen of two halves; whenever a half is
full its samples go through the stage, and those that come out alive close up behind whoever waits in the next pen. So
every lane of every call holds a living sample until the last ones are sent after them, and a half goes as deep as it
can while a cache still holds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...kernels.cpu.launch import Launcher, Tape
from ...kernels.cpu.lives import FIRST, MOVE, USED, choose_living, count_lives, move_living, unpack_bits
from ...kernels.cpu.threads import Pool
from ...kernels.layout import LANES, Grid
from ...kernels.tuning import LIVES_SETTLED, LIVES_SIFTED, PEN_LINES
from ...runtime.devices import cpu
from .networks import CEILING
from .packed import Packed

Array = NDArray[Any]


class Herd(NamedTuple):
    """Samples before a window of layers: `names[k]` is lane k of `x`, which is (neurons, lanes), or None of bits."""

    names: Array
    x: Array | None


class Passed(NamedTuple):
    """What came of samples in a window: how many lived through each layer, and those that are left."""

    lives: Array
    left: list[Herd]


class Pen:
    """Where samples wait for a stage: in two halves, one behind the other and around again."""

    def __init__(self, neurons: int, lanes: int, halves: int = 2) -> None:
        self.lanes = lanes
        self.halves = [cpu().zeros((neurons, lanes), np.float32) for _ in range(halves)]
        self.names = np.zeros(halves * lanes, np.int64)
        self.state = np.zeros(2, np.int64)

    def names_of(self, half: int) -> Array:
        return self.names[half * self.lanes : (half + 1) * self.lanes]

    @property
    def waiting(self) -> int:
        return int(self.state[USED])

    def take(self) -> tuple[int, int]:
        """The half that is first in turn, and how many samples it has, which leave the pen."""
        half, count = int(self.state[FIRST]) // self.lanes, min(self.waiting, self.lanes)
        self.state[USED] -= count
        self.state[FIRST] = (half + 1) % len(self.halves) * self.lanes
        return half, count


class Flow:
    """A thread's own way through a window of layers.

    Parameters
    ----------
    layers : sequence of Packed
    first : int
        Layers before them.
    bias : float
        Every neuron's.
    words : uint16 array, shape (tiles, neurons), optional
        Where samples come from as bits.
    """

    def __init__(self, layers: Sequence[Packed], first: int, bias: float, words: Array | None = None) -> None:
        neurons, lanes = len(layers[0].order), PEN_LINES * LANES
        self._lanes, self._words, self._pool = lanes, words, Pool(1)
        self._bias = np.full(neurons, bias, np.float32)
        self._lives = np.zeros(len(layers), np.int64)
        counts = lengths(first, len(layers))
        ends = np.cumsum(counts)
        self._stages = [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]
        self._layers = layers
        self._pens = [Pen(neurons, lanes, 1 if k == 0 else 2) for k in range(len(counts) + 1)]
        self._between = [cpu().zeros((neurons, lanes), np.float32) for _ in range(2)]
        self._using, self._ages = np.zeros(2, np.int64), np.zeros(lanes, np.int64)
        self._moves = np.zeros((PEN_LINES, MOVE), np.int64)
        self._tapes: dict[tuple[int, int, int], Tape] = {}
        self._left: list[Herd] = []
        for stage, pen in enumerate(self._pens[:-1]):  # what full halves go through
            for half in range(len(pen.halves)):
                self._tape(stage, half, PEN_LINES)

    @property
    def nbytes(self) -> int:
        """Bytes of the pens, and of what stages compute in."""
        return sum(half.nbytes for pen in self._pens for half in pen.halves) + sum(y.nbytes for y in self._between)

    def run(self, herds: Iterator[Herd]) -> Passed:
        """Send samples through until there are no more.

        Herds without values are consecutive samples of `words`, from a multiple of LANES on.
        """
        self._lives.fill(0)
        self._left, pen = [], self._pens[0]
        for names, x in herds:
            pen.state[USED] = count = len(names)
            pen.names[:count] = names
            if x is None:
                self._using[FIRST] = names[0] // LANES
            else:
                pen.halves[0][:, :count] = x
            self._go(0)
        for stage in range(1, len(self._stages)):
            if self._pens[stage].waiting:
                self._go(stage)
        if self._pens[-1].waiting:
            self._leave()
        return Passed(self._lives.copy(), self._left)

    def _go(self, stage: int) -> None:
        """Send a half through a stage, and then whoever fills the next one."""
        half, count = self._pens[stage].take()
        self._using[USED] = count
        tape = self._tape(stage, half, -(-count // LANES))
        self._pool.run(tape.calls, tape.count, 1)
        following = self._pens[stage + 1]
        if following.waiting >= self._lanes:
            if stage + 1 < len(self._stages):
                self._go(stage + 1)
            else:
                self._leave()

    def _leave(self) -> None:
        pen = self._pens[-1]
        half, count = pen.take()
        self._left.append(Herd(pen.names_of(half)[:count].copy(), pen.halves[half][:, :count].copy()))

    def _tape(self, stage: int, half: int, lines: int) -> Tape:
        """What so many lines of a half go through."""
        key = stage, half, lines
        if key not in self._tapes:
            self._tapes[key] = self._recorded(*key)
        return self._tapes[key]

    def _recorded(self, stage: int, half: int, lines: int) -> Tape:
        tape = Tape()
        kernels = Launcher(self._pool, tape)
        pen, following, using = self._pens[stage], self._pens[stage + 1], self._using
        grid = Grid(1, 0, 0, 1, 0, 0, lines, LANES, LANES, self._lanes)
        x = pen.halves[half]
        if stage == 0 and self._words is not None:
            kernels.compiled(unpack_bits, lines, [self._words, using], [x])
        for k, layer in enumerate(self._layers[self._stages[stage]]):
            y = self._between[k % 2]
            kernels.spmm(layer.layout, grid, layer.data, x, self._bias, y, ceiling=CEILING)
            kernels.compiled(count_lives, lines, [y, using], [self._ages])
            x = y
        inputs = [using, pen.names_of(half), lines]
        outputs = [self._ages, self._lives[self._stages[stage]], self._moves, following.names, following.state]
        kernels.compiled(choose_living, 1, inputs, outputs)
        kernels.compiled(move_living, lines, [x, self._moves], following.halves)
        return tape


def lengths(first: int, count: int) -> list[int]:
    """Layers of each stage, of `count` after the `first`: few while many samples die, then more and more."""
    ends, length = list(LIVES_SIFTED), LIVES_SETTLED
    while ends[-1] < first + count:
        ends.append(ends[-1] + length)
        length *= 2
    edges = [first, *(end for end in ends if first < end < first + count), first + count]
    return [end - begin for begin, end in itertools.pairwise(edges)]
