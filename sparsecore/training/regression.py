"""A step of learning numbers instead of classes: half the mean squared error, with its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.batches import Batches
from ..network import Network
from ..runtime.devices import cpu
from ..runtime.tiles import LANES, Tiles
from ..runtime.workspace import Workspace
from .optimizers import SGD
from .step import Step, Totals


class RegressionStep(Step):
    """Like `Step`, with the mean over a batch of ½·Σ (z − target)² as its loss; on the CPU.

    Forward and backward pass are recorded apart: between the two, NumPy subtracts.

    Parameters
    ----------
    network : Network
    store : Batches
        Its labels are not looked at.
    targets : float array, shape (samples, outputs)
    optimizer : SGD
    """

    def __init__(self, network: Network, store: Batches, targets: Any, optimizer: SGD) -> None:
        super().__init__(network, store, optimizer, cpu())
        self.targets = np.asarray(targets, network.dtype)

    def run(self, start: int, batch: int) -> None:
        """One step on samples `start` to `start + batch` of the store's order."""
        self.prepare(batch)
        self.store.seek(start, batch)
        forward, backward, z, dz = self._tapes[batch]
        self._kernels.replay(forward)
        target = self.targets[self.store.order[start : start + batch]]
        wanted = np.zeros((z.shape[0] * LANES, z.shape[1]), z.dtype)
        wanted[:batch] = target
        np.subtract(z, wanted.reshape(z.shape[0], LANES, z.shape[1]).transpose(0, 2, 1), out=dz)
        Tiles(dz, batch).clear_padding()
        self._totals += 0.5 * float(np.sum(np.square(dz, dtype=np.float64))), 0.0, batch
        dz /= batch
        self._kernels.replay(backward)

    def totals(self, *, reset: bool = True) -> Totals:
        """Σ ½·(z − target)² and samples since they were last reset; no answer is correct or not."""
        return super().totals(reset=reset)

    def _record(self, batch: int) -> Any:
        kernels, forward = self.device.recorder()
        workspace = Workspace(self.device, kernels, clock=self.store.clock)
        self.store.seek(0, batch)
        x, _ = self.store.pack(workspace)
        z, caches = self.network.forward(x, workspace)
        kernels, backward = self.device.recorder()
        behind = Workspace(self.device, kernels, clock=self.store.clock)
        for path, pieces in self.network.views(self.grads).items():
            for name, piece in pieces.items():
                behind.at(path).put(name, piece)
        dz = behind.array("dz", z.data.shape, z.data.dtype)
        self.network.backward(Tiles(dz, batch), caches, behind)
        assert self.optimizer is not None
        self.optimizer.step(self.network.params, self.grads, behind)
        self._workspaces[batch] = workspace
        return forward, backward, z.data, dz
