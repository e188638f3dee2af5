"""What each row should take, said before it is measured: `python -m bench.on_card.floors` prints the table of
kernels/cuda/README.md.

The *floor* is the longer of two times: each array read or written once, at the rate of the memory, or of the
second-level cache where all of a launch's arrays fit there; and the multiply-adds at the card's full float32 rate. The
*prediction* adds an empty launch for each kernel, and what this engine's kernels ask of the second-level cache: a run
of x for each connection of each group of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from sparsecore.kernels.layout import LANES, CooLayout

from bench.engines import sparsecore as engine
from bench.problem import layer_pattern
from bench.tables import markdown, number, wires
from sparsecore.runtime.devices import CPU
from sparsecore.storage.plan import Plan

from .cards import CARDS, Card
from .cases import Case, cases, problem_of

NUMBER = 4  # bytes of a float32, and of an offset


class Work(NamedTuple):
    """What a launch does: bytes of all its arrays, bytes that its threads ask for, and operations."""

    bytes: float
    requested: float
    flops: float

    def floor(self, card: Card) -> float:
        """Seconds below which no launch does it."""
        rate = card.cache if self.bytes <= card.holds else card.memory
        return max(self.bytes / rate, self.flops / card.flops)

    def seconds(self, card: Card) -> float:
        """Seconds that this engine's launch should take."""
        return card.launch + max(self.floor(card), self.requested / card.cache)


def floor(case: Case, card: Card) -> float:
    """Seconds below which nobody does it, whatever is launched."""
    return sum(work.floor(card) for work in works(case))


def predicted(case: Case, card: Card) -> float:
    """Seconds that this engine should take."""
    return sum(work.seconds(card) for work in works(case))


@lru_cache(maxsize=512)
def works(case: Case) -> Sequence[Work]:
    """Every launch of a case."""
    return step_works(problem_of(case)) if case.bench == "step" else [layer_work(case)]


def layer_work(case: Case) -> Work:
    """A gather or a sample alone."""
    rows, columns = case.shape
    if case.topology == "dense":
        connections, shared, offsets = rows * columns, -(-rows // 4) * columns, columns
    elif case.topology == "random":
        connections = round((1 - case.sparsity) * rows * columns)
        shared = offsets = connections
    else:
        pattern = layer_pattern(case.shape, case.topology, case.sparsity)
        connections, (shared, offsets) = pattern.nnz, _shared(Plan(pattern).forward)
    lines = -(-case.batch // LANES)
    moved, flops = NUMBER * LANES * lines * (rows + columns), 2 * connections * case.batch
    return kernel_work(case.bench == "sample", connections, shared, offsets, lines, moved, rows, flops)


def kernel_work(
    sample: bool, connections: int, shared: int, offsets: int, positions: int, moved: int, rows: int, flops: float
) -> Work:
    """One launch of spmm, or of sddmm.

    Parameters
    ----------
    sample : bool
    connections, shared, offsets : int
        Stored ones; those of groups of rows with the same columns, once; and columns that are stored.
    positions : int
        Of the output, in each row: lines of LANES numbers.
    moved : int
        Bytes of all that is read and written beside connections.
    rows : int
    flops : float
    """
    line, stored = NUMBER * LANES, NUMBER * (connections + offsets)
    runs = shared + (connections / 8 if sample else rows)  # of x, and of dy for a team's eight connections, or of y
    return Work(stored + moved, NUMBER * (connections + shared) + line * positions * runs, flops)


def step_works(problem: Any) -> list[Work]:
    """The launches of a training step: the calls that a recording makes, one launch each."""
    listing = _Listing()
    engine.Step(problem, 1, device=listing)  # a CPU, but for its recorder
    return listing.works


class _Listing(CPU):
    """A processor whose kernels only note how much they would do."""

    def __init__(self) -> None:
        super().__init__(1)
        self.works: list[Work] = []

    def recorder(self) -> tuple[Any, Any]:
        return _Noting(self.works), None


class _Noting:
    recording = True

    def __init__(self, works: list[Work]) -> None:
        self._works = works

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> None:
            self._works.append(_work_of(name, arguments, list(named.values())))

        return call


def _work_of(name: str, arguments: Sequence[Any], others: Sequence[Any]) -> Work:
    arrays = {id(each): each for each in (*arguments, *others) if isinstance(each, np.ndarray)}.values()
    moved = sum(array.size * array.itemsize for array in arrays)
    if name not in ("spmm", "sddmm"):
        return Work(moved, moved, 0)
    layout, grid = arguments[0], arguments[1]
    values = arguments[2] if name == "spmm" else arguments[4]
    positions = grid.outer * grid.ys * grid.lines
    moved -= values.size * values.itemsize
    coo = isinstance(layout, CooLayout)
    shared, offsets = (layout.offsets.size,) * 2 if coo else _shared(layout)
    rows, flops = layout.count if coo else len(layout.rows), 2 * values.size * positions * LANES
    return kernel_work(name == "sddmm", values.size, shared, offsets, positions, moved, rows, flops)


def _shared(layout: Any) -> tuple[int, int]:
    """Connections of all groups, each group's once; and their columns, those that groups share once."""
    lengths = layout.cuts[-1] - layout.cuts[0]
    _, first = np.unique(layout.runs, return_index=True)
    return int(lengths.sum()), int(lengths[first].sum())


def table(some: Sequence[Case] | None = None) -> str:
    """Floors and predictions of every case on every card, in microseconds."""
    body: list[list[str]] = []
    for case in cases() if some is None else some:
        done = works(case)
        times = [1e6 * seconds(case, card) for card in CARDS for seconds in (floor, predicted)]
        body.append([
            f"{case.bench} {case.model}, {wires(case.topology, case.sparsity)}, {case.batch}",
            f"{sum(work.bytes for work in done) / 1e6:,.1f}", f"{sum(work.requested for work in done) / 1e6:,.0f}",
            f"{sum(work.flops for work in done) / 1e6:,.0f}", str(len(done)), *(number(each) for each in times),
        ])  # fmt: skip
    names = [f"{card.name} {what}" for card in CARDS for what in ("floor", "predicted")]
    head = ["what, wiring, batch", "MB", "MB asked for", "MFLOP", "launches", *names]
    return markdown("Floors and predictions, µs:", head, body)


if __name__ == "__main__":
    print(table())
