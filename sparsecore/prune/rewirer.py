"""Moving connections while a run trains: what a trainer calls after each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..layers.sparse import SparseLayer
from ..network import Network
from ..storage.growth import changed, free_places, units_of, whole_units
from ..storage.parameters import LayerPath
from ..storage.pattern import SparsityPattern
from ..storage.rewiring import Move
from ..training.callbacks import Callback, Training
from .methods import Counts, Method, Site
from .shrink import PruneError, Targets

TRIED = "tried:"
"""How the names begin of the arrays in a run's state that have a bit for each place: has a connection been there?"""


@dataclass(frozen=True)
class RewiringSchedule:
    """Updates after every `every` steps, up to step `end`; each moves a part of the connections, ever fewer.

    Parameters
    ----------
    every : int
        Steps between two updates.
    end : int
        Steps of training after which there is none.
    fraction : float
        Of a layer's connections, above 0 and below 1: at first. It falls to 0 as a cosine does from 0 to π.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    every: int
    end: int
    fraction: float = 0.3

    def __post_init__(self) -> None:
        if self.every < 1 or self.end < self.every:
            raise ValueError(f"updates must be due every 1 or more steps, and once by the end, got every {self.every} "
                             f"steps until {self.end}")  # fmt: skip
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must be above 0 and below 1, got {self.fraction}")

    def due(self, step: int) -> bool:
        """Whether there is an update after `step` steps."""
        return 0 < step <= self.end and step % self.every == 0

    def at(self, step: int) -> float:
        """The fraction that moves after `step` steps."""
        return 0.5 * self.fraction * (1 + math.cos(math.pi * step / self.end))

    def progress(self, step: int) -> float:
        """How far the updates have come: 1 at the last one."""
        return min(step / (self.end // self.every * self.every), 1.0)


class Rewired(NamedTuple):
    """What an update did to a layer.

    Attributes
    ----------
    layer, name : str
    went, came : int
        Connections.
    stayed : int
        Connections that were to go, and were chosen again.
    connections : int
        That are there now.
    tried : int
        That have ever been there.
    possible : int
        That could be: `tried` over these is the exploration rate of S. Liu, L. Yin, D. Mocanu, M. Pechenizkiy, Do We
        Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse Training, ICML 2021.
    empty_rows : int
        Outputs without any.
    fan_in : tuple of (int, int, float)
        The smallest, the largest and the standard deviation, over rows.
    """

    layer: str
    name: str
    went: int
    came: int
    stayed: int
    connections: int
    tried: int
    possible: int
    empty_rows: int
    fan_in: tuple[int, int, float]


class Rewirer(Callback):
    """Moves connections when a schedule says so, and writes a line of metrics each time.

    Parameters
    ----------
    method : Method
        Such as `SET`, `RIGL` or `REGROW`.
    schedule : RewiringSchedule
    layers : iterable of paths, optional
        Whose connections move; the network's sparse ones if not given.
    targets : float, or mapping of layer to float
        The sparsity at the end, for a method that changes it.
    initial : float, or mapping of layer to float
        The sparsity at the start, likewise.
    seed : int
        Of what is drawn at random.
    filters : bool
        Let whole filters of convolutions move, not single weights.
    """

    def __init__(
        self, method: Method, schedule: RewiringSchedule, *, layers: Iterable[str | int] | None = None,
        targets: Targets | None = None, initial: Targets | None = None, seed: int = 0, filters: bool = False,
    ) -> None:  # fmt: skip
        self.method, self.schedule, self.seed, self.filters = method, schedule, seed, filters
        self.layers = None if layers is None else [LayerPath(k) for k in layers]
        if (method.towards is not None) != (targets is not None):
            raise ValueError("targets: go with a method that changes the sparsity, and only with that")
        self.targets, self.initial = targets, initial
        self._tried: dict[str, int] = {}

    def started(self, trainer: Training) -> None:
        """Look whether all layers can be rewired; compile what an update runs."""
        self.check(trainer.network)
        trainer.network.let_move(self._paths(trainer.network))
        for path in self._paths(trainer.network):
            self._note_start(trainer, path)
        _compile(trainer.network.dtype)

    def check(self, network: Network) -> None:
        """Raise PruneError for a layer whose connections cannot move."""
        for path in self._paths(network):
            self._check(network, path)

    def stepped(self, trainer: Training) -> None:
        if self.schedule.due(trainer.steps_done):
            self.update(trainer)

    def update(self, trainer: Training) -> list[Rewired]:
        """Move connections now, by the last step's gradient."""
        step, network = trainer.steps_done, trainer.network
        moves, done = [], []
        for number, path in enumerate(self._paths(network)):
            move, result = self._moved(trainer, path, number)
            moves.append(move)
            done.append(result)
        trainer.optimizer.attach(network)
        network.carry_out(moves)
        connections, possible = (sum(getattr(each, name) for each in done) for name in ("connections", "possible"))
        trainer.record(
            {
                "event": "rewire", "epoch": step / trainer.steps, "step": step, "fraction": self.schedule.at(step),
                "connections": connections, "sparsity": 1 - connections / possible,
                "layers": [each._asdict() for each in done],
            }
        )  # fmt: skip
        return done

    def _moved(self, trainer: Training, path: str, number: int) -> tuple[Move, Rewired]:
        """The move of one layer, and what it comes to."""
        from ..kernels.cpu.change import moving_key
        from ..kernels.cpu.choose import largest

        step, network = trainer.steps_done, trainer.network
        row = network.table.by_path[f"{path}.weight"]
        layer = network[path]
        assert isinstance(layer, SparseLayer)
        size = self._size(layer)
        units = units_of(layer.pattern, size)
        assert units is not None
        rows = units.shape[0]
        edges = np.arange(rows + 1) if self.method.by_row else np.array([0, rows])
        stay, come = self._counts(units, edges, step, path)
        matters = self.method.goes(network.device.get(layer.weight), size)
        starts = units.indptr[edges].astype(np.int64)
        keep, _ = largest(matters, starts, stay)
        key = int(moving_key(self.seed, step, number))
        site = Site(units, keep, edges, size, self._gradient_of(trainer, path), key)
        after, sources, stayed = changed(units, keep, self.method.comes(site, come))
        move = Move(row, whole_units(after, size), _of_connections(sources, size))
        return move, self._result(trainer, path, layer, move, stayed * size)

    def _counts(self, units: SparsityPattern, edges: Counts, step: int, path: str) -> tuple[Counts, Counts]:
        """How many units stay in each stretch, and how many come."""
        starts = units.indptr[edges].astype(np.int64)
        held, possible = starts[1:] - starts[:-1], (edges[1:] - edges[:-1]) * units.shape[1]
        goal = held
        if self.method.towards is not None:
            first, last = self._sparsities(path)
            sparsity = self.method.towards(self.schedule.progress(step), first, last)
            goal = np.minimum(held, np.rint((1 - sparsity) * possible).astype(np.int64))
        come = np.minimum(np.rint(self.schedule.at(step) * goal).astype(np.int64), possible - goal)
        return goal - come, come

    def _sparsities(self, path: str) -> tuple[float, float]:
        first, last = (
            float(given[path]) if isinstance(given, Mapping) else float(given or 0.0)
            for given in (self.initial, self.targets)
        )  # fmt: skip
        return min(first, last), last

    def _gradient_of(self, trainer: Training, path: str) -> Any:
        def gradient(pattern: SparsityPattern) -> NDArray[np.floating[Any]]:
            found = trainer.network.device.get(trainer.gradient_at(path, pattern))
            if not np.isfinite(np.add.reduce(found)):
                trainer.check()  # names where the run has gone wrong; a sum alone may overflow
            return found

        return gradient

    def _result(self, trainer: Training, path: str, layer: SparseLayer, move: Move, stayed: int) -> Rewired:
        """What an update comes to; what came is noted as tried."""
        from ..kernels.cpu.change import note_change

        after, bits = move.pattern, trainer.state.arrays[f"{TRIED}{path}"]
        found = np.empty(6, np.int64)
        note_change(bits, after.indptr, after.indices, move.sources, after.shape[1], found)
        came, first, empty, least, most, squares = found.tolist()
        self._tried[path] += first
        rows, nnz = after.shape[0], after.nnz
        spread = math.sqrt(max(squares / rows - (nnz / rows) ** 2, 0.0))
        return Rewired(
            path, repr(layer), move.row.size - nnz + came, came, stayed, nnz, self._tried[path],
            rows * after.shape[1], empty, (least, most, spread),
        )  # fmt: skip

    def _note_start(self, trainer: Training, path: str) -> None:
        """Know which connections have ever been there: a bit for each place, kept with the run's state."""
        from ..kernels.cpu.change import note_change

        pattern, name = trainer.network.patterns[path], f"{TRIED}{path}"
        size = -(-pattern.shape[0] * pattern.shape[1] // 8)
        bits = trainer.state.arrays.setdefault(name, np.zeros(size, np.uint8))
        if bits.shape != (size,) or bits.dtype != np.uint8:
            raise PruneError(f"{name}: expected {size:,} bytes in the run's state, got {bits.dtype} {bits.shape}")
        every, found = np.full(pattern.nnz, -1), np.empty(6, np.int64)
        note_change(bits, pattern.indptr, pattern.indices, every, pattern.shape[1], found)
        self._tried[path] = int(np.bitwise_count(bits).sum())

    def _check(self, network: Network, path: str) -> None:
        """Refuse a layer whose connections cannot move."""
        name = f"rewiring: layer {path}, {network[path]!r}"
        pattern = network.patterns.get(path)
        if pattern is None or not pattern.nnz:
            raise PruneError(f"{name}: has no connections that could move")
        if pattern.is_full:
            raise PruneError(f"{name}: has all connections already, and no place is free: start with fewer")
        layer = network[path]
        assert isinstance(layer, SparseLayer)
        units = units_of(pattern, self._size(layer))
        if units is None:
            raise PruneError(f"{name}: stores parts of filters, so whole ones cannot move; move single weights")
        held, possible = units.nnz, units.shape[0] * units.shape[1]
        goal = held if self.targets is None else round((1 - self._sparsities(path)[1]) * possible)
        if (first := round(self.schedule.at(self.schedule.every) * goal)) > possible - goal:
            raise PruneError(f"{name}: {first:,} connections would move at first, and only {possible - goal:,} places "
                             "are free: move a smaller fraction, or start with fewer")  # fmt: skip

    def _paths(self, network: Network) -> list[LayerPath]:
        return [LayerPath(k) for k in network.sparse] if self.layers is None else self.layers

    def _size(self, layer: SparseLayer) -> int:
        kernel = getattr(layer, "kernel_size", None)
        return math.prod(kernel) if self.filters and kernel is not None else 1


def _of_connections(sources: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Where connections stood, given where their units did."""
    if size == 1:
        return sources
    first = np.where(sources < 0, -1, sources * size)[:, np.newaxis]
    return np.where(first < 0, -1, first + np.arange(size)).ravel()


def _compile(dtype: Any) -> None:
    """Run what an update runs once on next to nothing, so that no step of the run waits for a compiler."""
    from ..kernels.cpu.change import moving_key, note_change
    from ..kernels.cpu.choose import largest

    pattern, edges, one = SparsityPattern((2, 2), [0, 1, 2], [0, 1]), np.array([0, 2]), np.array([1])
    keep, _ = largest(np.ones(2, dtype), edges, one)
    places = free_places(pattern, edges, one, int(moving_key(0, 0, 0)))
    after, sources, _ = changed(pattern, keep, places)
    note_change(np.zeros(1, np.uint8), after.indptr, after.indices, sources, 2, np.empty(6, np.int64))
