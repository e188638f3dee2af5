"""Moving connections while a run trains: what a trainer calls after each step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..layers.sparse import SparseLayer
from ..network import Network
from ..storage.growth import changed, free_places
from ..storage.parameters import LayerPath
from ..storage.pattern import SparsityPattern
from ..storage.plan import Plan
from ..storage.rewiring import Move
from ..training.callbacks import Callback, Training
from .methods import Method
from .moving import Movement, RewiringSchedule
from .shrink import PruneError, Targets

TRIED = "tried:"
"""How the names begin of the arrays in a run's state that have a bit for each place: has a connection been there?"""


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


class Rewirer(Movement, Callback):
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
        Let whole filters of convolutions move, not single weights: the granularity "channel".
    granularity : str, optional
        What moves together: "weight", "channel", "rows:G" or "block:G,H"; see `storage.granularity`.
    """

    def __init__(
        self, method: Method, schedule: RewiringSchedule, *, layers: Iterable[str | int] | None = None,
        targets: Targets | None = None, initial: Targets | None = None, seed: int = 0, filters: bool = False,
        granularity: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            method, schedule, targets=targets, initial=initial, seed=seed, filters=filters, granularity=granularity
        )
        self.layers = None if layers is None else [LayerPath(k) for k in layers]
        self._tried: dict[str, int] = {}

    def started(self, trainer: Training) -> None:
        """Look whether all layers can be rewired; compile what an update runs."""
        self.check(trainer.network)
        trainer.network.let_move(self._paths(trainer.network), self.together)
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
        if network.table.columns is not trainer.optimizer.columns:
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
        network, layer = trainer.network, trainer.network[path]
        assert isinstance(layer, SparseLayer)
        after, sources, stayed = self.moved(
            layer.pattern, self.units_in(layer), network.device.get(layer.weight), self._gradient_of(trainer, path),
            step=trainer.steps_done, path=path, number=number,
        )  # fmt: skip
        move = Move(network.table.by_path[f"{path}.weight"], after, sources)
        return move, self._result(trainer, path, layer, move, stayed)

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
        self.check_layer(f"rewiring: layer {path}, {network[path]!r}", path, network[path])

    def _paths(self, network: Network) -> list[LayerPath]:
        return [LayerPath(k) for k in network.sparse] if self.layers is None else self.layers


def _compile(dtype: Any) -> None:
    """Run what an update runs once on next to nothing, so that no step of the run waits for a compiler."""
    from ..kernels.cpu.change import moving_key, note_change, places_kept, take_or_zero
    from ..kernels.cpu.choose import largest

    pattern, edges, one = SparsityPattern((2, 2), [0, 1, 2], [0, 1]), np.array([0, 2]), np.array([1])
    keep, _ = largest(np.ones(2, dtype), edges, one)
    places = free_places(pattern, edges, one, int(moving_key(0, 0, 0)))
    places.where(np.ones(1, np.bool_))
    places_kept(pattern.indptr, pattern.indices, keep, 2, 0, 2, np.empty(3, np.int64), np.empty(2, np.int64))
    after, sources, _ = changed(pattern, keep, places)
    note_change(np.zeros(1, np.uint8), after.indptr, after.indices, sources, 2, np.empty(6, np.int64))
    take_or_zero(np.ones(2, dtype), sources, np.empty(len(sources), dtype))
    plan, other = Plan(pattern, moving=True), Plan(pattern, moving=True)
    if plan.transposed and plan.forward and plan.fits(other):
        plan.patch(other)
