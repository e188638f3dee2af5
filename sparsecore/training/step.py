"""A training step and an evaluation step: recorded once for a batch size, then replayed by a single call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from ..data.batches import Batches
from ..layers.sparse import SparseLayer
from ..network import Network
from ..runtime.copies import Whole
from ..runtime.device import Device
from ..runtime.halves import widened
from ..runtime.tiles import PAIRS, Tiles
from ..runtime.workspace import Share, Workspace
from ..storage.few import Few
from ..storage.pattern import SparsityPattern
from .hosted import loss_through, name_of, update_through
from .losses import CrossEntropy, Loss
from .optimizers import Optimizer
from .sharing import Buckets, Sharing, mean_of_kept, place, total_of

_MOST = 8
"""Batch sizes that a step keeps tapes and buffers of; an epoch has two."""


class Totals(NamedTuple):
    """What a stretch of steps added up to."""

    loss: float
    correct: int
    samples: int

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.samples, 1)

    @property
    def accuracy(self) -> float:
        return self.correct / max(self.samples, 1)


class Phase(NamedTuple):
    """What one part of a recorded step does: how many kernels it calls, and which Python functions, in order."""

    name: str
    kernels: int
    host_calls: tuple[str, ...]


class Step(Whole):
    """Pack a batch, run it through the network and, given an optimizer, learn from it.

    A step is a row of phases: pack, forward, loss and, in training, backward, reduce and update. The first run for a
    batch size records every call of a kernel on a tape; later runs replay the tape, which takes one Python call and
    none of the layers' code. What is written in plain Python (a layer, a loss, an optimizer without the mark
    `@recorded`) is a host call on the tape: it runs at every step, in its turn among the kernels. After a change of
    structure (`network.version`), or with other columns of the optimizer, steps are recorded anew.

    Parameters
    ----------
    network : Network
    batches : Batches
    optimizer : Optimizer, optional
        Without one the step only evaluates.
    device : Device, optional
        The network's if not given.
    loss : Loss or callable, optional
        Cross-entropy if not given. What a callable takes and gives is said at `Loss`.
    reduce : callable, optional
        Called as `reduce(grads)` between backward and update, in Python, to change all gradients in place: one flat
        NumPy array.
    sharing : Sharing, optional
        How each batch is shared out among the ranks of an MPI job, of which this process is one: it takes its rows, and
        gradients and totals are sums over all ranks.

    Raises
    ------
    ValueError
        If the network or the batches are on another device.

    Attributes
    ----------
    grads : flat array
        The gradients of the last step, in the order of `network.params`; from the first `prepare` on, of a step that
        learns.
    """

    def __init__(
        self, network: Network, batches: Batches, optimizer: Optimizer | Any = None, device: Device | None = None, *,
        loss: Loss | Callable[..., Any] | None = None, reduce: Callable[[Any], Any] | None = None,
        sharing: Sharing | None = None,
    ) -> None:  # fmt: skip
        self.network, self.batches = network, batches
        self.optimizer: Any = optimizer
        self.device = device if device is not None else network.device
        for what, where in ((repr(network), network.device), ("the batches", batches.device)):
            if where.name != self.device.name:
                raise ValueError(f"a step on {self.device.name} needs all parts there, got {what} on {where.name}")
        self.loss = CrossEntropy() if loss is None else loss
        if sharing is not None and (optimizer is None or self.device.name != "cpu"):
            raise ValueError(f"only steps of training on cpu are shared out among ranks, got one on {self.device.name}")
        self.reduce, self.sharing = reduce, sharing
        self._kernels = self.device.launcher()
        self._tapes: Few[int, Any] = Few(_MOST)
        self._workspaces: Few[int, Workspace] = Few(_MOST)
        self._version, self._last = -1, 0
        self._state: tuple[Any, ...] = ()
        self._phases: list[Phase] = []
        self._totals = self.device.zeros((3,), np.float64)
        self._own_totals = self._totals if sharing is None else self.device.zeros((3,), np.float64)

    @property
    def store(self) -> Batches:
        """The old name of `batches`."""
        return self.batches

    def prepare(self, batch: int) -> None:
        """Compile and record what a step of this batch size runs, and run nothing."""
        if self._version != self.network.version or self._moved():
            self._tapes.clear()
            for size in [size for size in self._workspaces if size != batch]:
                del self._workspaces[size]
            if self.optimizer is not None:
                self.grads = self.device.zeros(self.network.params.shape, self.network.dtype)
            self._version = self.network.version  # last: what is interrupted begins anew
        if batch not in self._tapes:
            self._tapes[batch] = self._record(batch)
            self._state = _arrays_of(self.optimizer)

    def run(self, start: int, batch: int) -> None:
        """One step on samples `start` to `start + batch` of the batches' order."""
        self.prepare(batch)
        first, rows = (0, batch) if self.sharing is None else self.sharing.part(batch)
        self.batches.seek(start + first, rows)
        self._kernels.replay(self._tapes[batch])
        self._last = batch

    def totals(self, *, reset: bool = True) -> Totals:
        """Loss, correct answers and samples since they were last reset.

        Raises
        ------
        ValueError
            If a layer has been given other parameters, which the steps did not see.
        """
        self.network._check_own()
        loss, correct, samples = map(float, self.device.get(self._totals))
        if reset:
            self._totals.fill(0)
        return Totals(loss, int(correct), int(samples))

    def gradient_at(self, layer: str | int, pattern: SparsityPattern) -> Any:
        """The gradient that the last step had at connections of a layer, stored or not; see `SparseLayer.gradient_at`.

        Raises
        ------
        ValueError
            If no step has run yet, or the layer has no connections.
        """
        found = self.network[layer]
        if self._last not in self._workspaces or not isinstance(found, SparseLayer):
            why = "it has no connections" if self._last in self._workspaces else "no step has run"
            raise ValueError(f"layer {layer}, {found!r}: has no gradient, since {why}")
        own = found.gradient_at(pattern, self._workspaces[self._last].at(layer))
        return own if self.sharing is None else self.sharing.ranks.total(own)

    def output(self, batch: int, layer: str | int) -> Any:
        """What a layer last gave for a batch of this size: floats on the device, or None where it keeps none."""
        workspace = self._workspaces.get(batch)
        if workspace is None:
            return None
        hosted = workspace.at(layer).find("host y")
        y = workspace.at(layer).find("y") if hosted is None else hosted
        return y if y is None or y.dtype != PAIRS else widened("y", Tiles(y, batch), Workspace(self.device)).data

    def count_from(self, totals: Totals) -> None:
        """Start the totals from these, so that a run that was cut off continues to the bit."""
        self.device.fill(self._totals, np.array(totals, np.float64))

    @property
    def host_calls(self) -> tuple[str, ...]:
        """Names of the Python functions that a step runs, in order; of the batch size that was recorded last."""
        return tuple(name for phase in self._phases for name in phase.host_calls)

    def describe(self) -> str:
        """A line for each phase: how many kernels it calls, and which Python functions."""
        lines = []
        for phase in self._phases:
            hosts = f"; in Python: {', '.join(phase.host_calls)}" if phase.host_calls else ""
            lines.append(f"{phase.name:<9}{phase.kernels:>3} kernel call{'s' * (phase.kernels != 1)}{hosts}")
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, Any]:
        # They hold addresses of this one's arrays.
        made = ("_kernels", "_tapes", "_workspaces", "_version", "_state", "_last")
        return {name: value for name, value in vars(self).items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._kernels = self.device.launcher()
        self._tapes, self._workspaces, self._version, self._state = Few(_MOST), Few(_MOST), -1, ()
        self._last = 0
        if isinstance(self.optimizer, Optimizer) and self.optimizer.columns:
            self.optimizer.attach(self.network)

    def _moved(self) -> bool:
        """Whether the optimizer keeps other arrays than those that were recorded."""
        now = _arrays_of(self.optimizer)
        return len(now) != len(self._state) or not all(map(is_, now, self._state))

    def _record(self, batch: int) -> Any:
        """The tape of a batch size: the phases in order."""
        kernels, tape = self.device.recorder()
        workspace = self._workspace(batch).recorded_by(kernels)
        self._phases = []
        self.batches.seek(0, batch if self.sharing is None else self.sharing.part(batch)[1])
        with self._phase("pack", tape):
            halves = {"halves": True} if self.network.activations == "bfloat16" else {}
            x, wanted = self.batches.pack(workspace, **halves)
        with self._phase("forward", tape):
            z, caches = self.network.forward(x, workspace)
        with self._phase("loss", tape):
            dz = loss_through(self.loss, z, wanted, workspace)
        if self.optimizer is None:
            return tape
        buckets = None if self.sharing is None else Buckets(self.sharing, self.network, self.grads)
        with self._phase("backward", tape):
            begin = place(tape)
            self.network.backward(dz, caches, workspace)
            if buckets is not None:
                buckets.record(kernels, tape, begin)
        with self._phase("reduce", tape):
            if buckets is not None and workspace.share is not None:
                self._finish(kernels, buckets, workspace.share)
            self._reduce(kernels)
        with self._phase("update", tape):
            update_through(self.optimizer, self.network, self.grads, workspace)
        return tape

    def _workspace(self, batch: int) -> Workspace:
        """The buffers of a batch size; those of another structure are used again where they have kept their shape."""
        if batch not in self._workspaces:
            training = self.optimizer is not None
            self._workspaces[batch] = Workspace(
                self.device, self._kernels, training=training, position=self.batches.position
            )  # fmt: skip
            if self.sharing is not None:
                self._workspaces[batch].share = self.sharing.share(batch)
        workspace = self._workspaces[batch]
        workspace.put("totals", self._own_totals)
        for path, pieces in ({} if self.optimizer is None else self.network.views(self.grads)).items():
            for name, piece in pieces.items():
                workspace.at(path).put(name, piece)
        return workspace

    def _reduce(self, kernels: Any) -> None:
        if self.reduce is not None:
            reduce = self.reduce
            kernels.host(name_of(reduce), lambda grads: reduce(grads), {}, {"grads": self.grads})

    def _finish(self, kernels: Any, buckets: Buckets, share: Share) -> None:
        """What ranks owe each other at the end of a backward pass."""
        kernels.host("sum over ranks", buckets.finish, {}, {"grads": self.grads})
        totals = {"own": self._own_totals, "totals": self._totals}
        kernels.host("totals of all ranks", partial(total_of, share.ranks), {}, totals)
        table = self.network.table
        if not share.norms and table.values.size > table.trained:
            kept = {"kept": table.values[table.trained :]}
            kernels.host("running rows of all ranks", partial(mean_of_kept, share), {}, kept)

    @contextmanager
    def _phase(self, name: str, tape: Any) -> Iterator[None]:
        kernels, hosts = tape.count, len(tape.hosts)
        yield
        names = tuple(call.name for _, call in tape.hosts[hosts:])
        self._phases.append(Phase(name, tape.count - kernels, names))


def _arrays_of(optimizer: Any) -> tuple[Any, ...]:
    """What a recorded step has the addresses of."""
    columns = getattr(optimizer, "columns", None)
    return () if columns is None else (getattr(optimizer, "rates", None), *columns.values())
