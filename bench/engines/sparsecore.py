"""This engine: a step is recorded once and replayed by one call. A dense network is one of full patterns."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bench.deep_problem import AnyProblem
from bench.problem import Floats
from sparsecore.layers.conv import SparseConv2d
from sparsecore.layers.linear import SparseLinear
from sparsecore.network import Network
from sparsecore.runtime.border import Border
from sparsecore.runtime.device import Device
from sparsecore.runtime.devices import CPU
from sparsecore.runtime.halves import narrowed
from sparsecore.runtime.tiles import LANES, Labels, Tiles, tiles_of
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import Plan
from sparsecore.training.losses import CrossEntropy
from sparsecore.training.optimizers import SGD


class _Recorded:
    """A device, the CPU with so many threads if none is given, and a tape to record on and replay."""

    def __init__(self, threads: int, device: Device | None = None) -> None:
        self.device = device if device is not None else CPU(threads)
        self.launcher = self.device.launcher()
        self.kernels, self.tape = self.device.recorder()

    def run(self) -> None:
        self.launcher.replay(self.tape)

    def tiles(self, x: Floats) -> Tiles:
        """(batch, features) packed."""
        batch, features = x.shape
        data = self.device.zeros((tiles_of(batch), features, LANES), np.float32)
        self.launcher.pack(self.device.put(np.ascontiguousarray(x)), data)
        return Tiles(data, batch)

    def plain(self, tiles: Tiles) -> Floats:
        """(batch, features) of tiles."""
        out = self.device.empty((tiles.batch, tiles.features), np.float32)
        self.launcher.unpack(tiles.data, out)
        return self.device.get(out)


class Step(_Recorded):
    """A training step, with activations in float32 or bfloat16."""

    def __init__(
        self, problem: AnyProblem, threads: int, device: Device | None = None, activations: str = "float32"
    ) -> None:
        super().__init__(threads, device)
        network = problem.network().to(self.device, activations=activations)
        x = self.tiles(problem.x)
        if activations == "bfloat16":
            x = narrowed("x", x, Workspace(self.device))
        labels = self.device.zeros((tiles_of(x.batch) * LANES,), np.int32)
        self.device.fill(labels[: len(problem.labels)], problem.labels)
        workspace = Workspace(self.device, self.kernels, training=True)
        grads = self.device.zeros(network.params.shape, network.dtype)
        for path, pieces in network.views(grads).items():
            for name, piece in pieces.items():
                workspace.at(path).put(name, piece)
        self.logits, caches = network.forward(x, workspace)
        truth = Labels(labels, len(problem.labels), problem.sizes[-1])
        network.backward(CrossEntropy()(self.logits, truth, workspace), caches, workspace)
        self.optimizer = SGD(problem.rate)
        self.optimizer.step(network.params, grads, workspace)

    def result(self) -> Any:
        return self.plain(self.logits)


class Gather(_Recorded):
    """spmm alone."""

    def __init__(
        self, pattern: SparsityPattern, data: Any, x: Floats, threads: int, format: str, device: Device | None = None
    ) -> None:
        super().__init__(threads, device)
        tiles = self.tiles(x.T)
        self.y = Tiles(self.device.empty((len(tiles.data), pattern.shape[0], LANES), np.float32), tiles.batch)
        plan = Plan(pattern, format)
        values = self.device.put(data)
        self.kernels.spmm(plan.forward, plan.grid(len(tiles.data)), values, tiles.data, None, self.y.data)

    def result(self) -> Any:
        return self.plain(self.y).T


class Sample(_Recorded):
    """sddmm alone."""

    def __init__(
        self, pattern: SparsityPattern, dy: Floats, x: Floats, threads: int, format: str, device: Device | None = None
    ) -> None:
        super().__init__(threads, device)
        tiles, dy_tiles = self.tiles(x.T), self.tiles(dy.T)
        self.dw = self.device.empty((pattern.nnz,), np.float32)
        plan = Plan(pattern, format)
        self.kernels.sddmm(plan.forward, plan.grid(len(tiles.data)), dy_tiles.data, tiles.data, self.dw)

    def result(self) -> Any:
        return self.device.get(self.dw)


class LayerStep(_Recorded):
    """Forward, dX, dW and update of one layer in the middle of a network, from a given dy."""

    def __init__(self, pattern: SparsityPattern, batch: int, threads: int) -> None:
        super().__init__(threads)
        network = Network([SparseLinear(pattern, np.zeros(pattern.nnz, np.float32))])
        (layer,) = network.layers
        workspace = Workspace(self.device, self.kernels)
        grads = self.device.zeros(network.params.shape, network.dtype)
        for name, piece in network.views(grads)["0"].items():
            workspace.put(name, piece)
        out_features, in_features = pattern.shape
        self.y, cache = layer.forward_tiles(self.tiles(np.ones((batch, in_features), np.float32)), workspace)
        layer.backward_tiles(self.tiles(np.ones((batch, out_features), np.float32)), cache, workspace)
        self.optimizer = SGD(1e-3)
        self.optimizer.step(network.params, grads, workspace)

    def result(self) -> Any:
        return self.plain(self.y).T


class ConvLayer(_Recorded):
    """Forward and backward of one convolution, from a given dy."""

    def __init__(self, layer: SparseConv2d, x: Floats, dy: Floats, threads: int) -> None:
        super().__init__(threads)
        workspace = Workspace(self.device, self.kernels)
        self.shapes = (len(x), *layer.out_shape), (len(x), *layer.in_shape)
        given = self.images("x", x, layer.x_border), self.images("dy", dy, layer.dy_border)
        self.y, cache = layer.forward_tiles(given[0], workspace)
        self.dx, self.grads = layer.backward_tiles(given[1], cache, workspace)

    def images(self, name: str, given: Floats, border: Border) -> Tiles:
        """Images packed within their border, as the layers around a convolution give them."""
        batch, shape = len(given), given.shape[1:]
        tiles = self.tiles(given.reshape(batch, -1))
        data, within = Workspace(self.device).images(name, len(tiles.data), shape, border, np.float32)
        self.launcher.place(tiles.data.reshape(data.shape), data)
        return Tiles(data, batch, border=border, within=within)

    def result(self) -> Any:
        assert self.dx is not None
        together = [replace(tiles, data=np.ascontiguousarray(np.asarray(tiles.data))) for tiles in (self.y, self.dx)]
        y, dx = (self.plain(tiles).reshape(shape) for tiles, shape in zip(together, self.shapes, strict=True))
        return y, dx, np.asarray(self.grads["weight"])  # not the recording's buffer, which has no values


def _formats(make: Any) -> dict[str, Any]:
    return {name: partial(make, format=name) for name in ("csr", "coo")}


WHAT = {"step": {"": Step}, "gather": _formats(Gather), "sample": _formats(Sample), "layer": {"": LayerStep}}
