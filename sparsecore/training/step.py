"""A training step and an evaluation step: recorded once for a batch size, then replayed by a single call."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..data.batches import Batches
from ..network import Network
from ..runtime.device import Device
from ..runtime.workspace import Workspace
from .losses import CrossEntropy
from .optimizers import SGD


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


class Step:
    """Pack a batch, run it through the network and, given an optimizer, learn from it.

    The first run for a batch size records every kernel call on a tape; later runs replay the tape, which takes one
    Python call and none of the layers' code. Another structure (`network.version`) or another velocity of the optimizer
    is recorded anew.

    Parameters
    ----------
    network : Network
    store : Batches
    optimizer : SGD, optional
        Without one the step only evaluates.
    device : Device, optional
        The network's if not given.

    Raises
    ------
    ValueError
        If the network or the store is on another device.
    """

    def __init__(
        self, network: Network, store: Batches, optimizer: SGD | None = None, device: Device | None = None
    ) -> None:
        self.network, self.store, self.optimizer = network, store, optimizer
        self.device = device if device is not None else network.device
        for what, where in ((repr(network), network.device), ("the store", store.device)):
            if where.name != self.device.name:
                raise ValueError(f"a step on {self.device.name} needs all parts there, got {what} on {where.name}")
        self.loss = CrossEntropy()
        self._kernels = self.device.launcher()
        self._tapes: dict[int, Any] = {}
        self._workspaces: dict[int, Workspace] = {}
        self._version = -1
        self._velocity: Any = None
        self._totals = self.device.zeros((3,), np.float64)

    def prepare(self, batch: int) -> None:
        """Compile and record what a step of this batch size runs, and run nothing."""
        if self._version != self.network.version or self._velocity is not getattr(self.optimizer, "velocity", None):
            self._tapes.clear()
            self._workspaces = {size: kept for size, kept in self._workspaces.items() if size == batch}
            self._version = self.network.version
            self.grads = self.device.zeros(self.network.params.shape, self.network.dtype)
        if batch not in self._tapes:
            self._tapes[batch] = self._record(batch)
            self._velocity = getattr(self.optimizer, "velocity", None)

    def run(self, start: int, batch: int) -> None:
        """One step on samples `start` to `start + batch` of the store's order."""
        self.prepare(batch)
        self.store.seek(start, batch)
        self._kernels.replay(self._tapes[batch])

    def totals(self, *, reset: bool = True) -> Totals:
        """Loss, correct answers and samples since they were last reset."""
        loss, correct, samples = map(float, self.device.get(self._totals))
        if reset:
            self._totals.fill(0)
        return Totals(loss, int(correct), int(samples))

    def output(self, batch: int, layer: str | int) -> Any:
        """What a layer last gave for a batch of this size: an array on the device, or None where it keeps none."""
        workspace = self._workspaces.get(batch)
        return None if workspace is None else workspace.at(layer).find("y")

    def count_from(self, totals: Totals) -> None:
        """Let the totals go on from these: how a run that was cut off takes them up again, to the bit."""
        self.device.fill(self._totals, np.array(totals, np.float64))

    def _record(self, batch: int) -> Any:
        kernels, tape = self.device.recorder()
        if batch in self._workspaces:  # of another structure: what has kept its shape is used again
            workspace = self._workspaces[batch].recording(kernels)
        else:
            workspace = Workspace(self.device, kernels, clock=self.store.clock if self.optimizer is not None else None)
        workspace.put("totals", self._totals)
        for path, pieces in self.network.views(self.grads).items():
            for name, piece in pieces.items():
                workspace.at(path).put(name, piece)
        self.store.seek(0, batch)
        x, labels = self.store.pack(workspace)
        logits, caches = self.network.forward(x, workspace)
        gradient = self.loss(logits, labels, workspace)
        if self.optimizer is not None:
            self.network.backward(gradient, caches, workspace)
            self.optimizer.attach(self.network)
            self.optimizer.step(self.network.params, self.grads, workspace)
        self._workspaces[batch] = workspace
        return tape
