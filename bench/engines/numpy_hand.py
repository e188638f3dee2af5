"""NumPy, dense, by hand: no autograd, every buffer allocated once, every result written where it belongs."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from bench.problem import Floats, Problem, as_dense
from sparsecore.storage.pattern import SparsityPattern

Order = Literal["C", "F"]


class Step:
    """A training step.

    All arrays are (features, batch); `order` says which of the two lies side by side in memory. A line of ones below
    each layer's input makes its bias a column of its weights, so that it and its gradient cost no pass of their own.
    """

    def __init__(self, problem: Problem, order: Order) -> None:
        batch, sizes = len(problem.x), problem.sizes
        self.inputs = [np.ones((size + 1, batch), np.float32, order) for size in sizes[:-1]]
        self.x = self.inputs[0][:-1]
        self.x[...] = problem.x.T
        self.logits = np.empty((sizes[-1], batch), np.float32, order)
        self.outputs = [h[:-1] for h in self.inputs[1:]] + [self.logits]
        self.weights = [np.zeros((out, size + 1), np.float32, order) for size, out in pairwise(sizes)]
        for w, pattern, data in zip(self.weights, problem.patterns, problem.weights, strict=True):
            w[:, :-1] = as_dense(pattern, data)
        self.dw = [np.empty_like(w) for w in self.weights]
        self.dy = [np.empty((size, batch), np.float32, order) for size in sizes[1:]]
        self.positive = [np.empty((size, batch), np.bool_, order) for size in sizes[1:-1]]
        self.truth = np.zeros_like(self.logits)
        self.truth[problem.labels, np.arange(batch)] = 1
        self.sums = np.empty((1, batch), np.float32)
        self.rate = np.float32(problem.rate / batch)

    def run(self) -> None:
        for w, x, y in zip(self.weights, self.inputs, self.outputs, strict=True):
            np.matmul(w, x, out=y)
            if y is not self.logits:
                np.maximum(y, 0, out=y)
        self._softmax_gradient(self.dy[-1])
        for k in range(len(self.weights) - 1, -1, -1):
            np.matmul(self.dy[k], self.inputs[k].T, out=self.dw[k])
            if k:
                np.matmul(self.weights[k][:, :-1].T, self.dy[k], out=self.dy[k - 1])
                np.greater(self.outputs[k - 1], 0, out=self.positive[k - 1])
                np.multiply(self.dy[k - 1], self.positive[k - 1], out=self.dy[k - 1])
        for w, dw in zip(self.weights, self.dw, strict=True):
            np.subtract(w, dw, out=w)

    def _softmax_gradient(self, dz: Floats) -> None:
        """dz = rate · (softmax − truth) / batch: with the rate in it, an update is one subtraction."""
        np.max(self.logits, axis=0, keepdims=True, out=self.sums)
        np.subtract(self.logits, self.sums, out=dz)
        np.exp(dz, out=dz)
        np.sum(dz, axis=0, keepdims=True, out=self.sums)
        np.divide(dz, self.sums, out=dz)
        np.subtract(dz, self.truth, out=dz)
        np.multiply(dz, self.rate, out=dz)

    def result(self) -> Any:
        return self.logits.T


class Gather:
    """y = W x."""

    def __init__(self, pattern: SparsityPattern, data: Any, x: Floats, order: Order) -> None:
        self.w, self.x = as_dense(pattern, data).copy(order), np.array(x, order=order)
        self.y = np.empty((pattern.shape[0], x.shape[1]), np.float32, order)

    def run(self) -> None:
        np.matmul(self.w, self.x, out=self.y)

    def result(self) -> Any:
        return self.y


class Sample:
    """dW = dy xᵀ."""

    def __init__(self, pattern: SparsityPattern, dy: Floats, x: Floats, order: Order) -> None:
        self.dy, self.x = np.array(dy, order=order), np.array(x, order=order)
        self.dw = np.empty(pattern.shape, np.float32, order)

    def run(self) -> None:
        np.matmul(self.dy, self.x.T, out=self.dw)

    def result(self) -> Any:
        return self.dw.ravel()


class LayerStep:
    """Forward, dX, dW and update of one layer in the middle of a network, from a given dy."""

    def __init__(self, pattern: SparsityPattern, batch: int, order: Order) -> None:
        out_features, in_features = pattern.shape
        self.w, self.dw = np.zeros((2, out_features, in_features), np.float32)
        self.x, self.dx = np.ones((2, in_features, batch), np.float32)
        self.y, self.dy = np.ones((2, out_features, batch), np.float32)
        if order == "F":
            for name, array in vars(self).items():
                setattr(self, name, np.asfortranarray(array))

    def run(self) -> None:
        np.matmul(self.w, self.x, out=self.y)
        np.matmul(self.dy, self.x.T, out=self.dw)
        np.matmul(self.w.T, self.dy, out=self.dx)
        np.multiply(self.dw, np.float32(1e-3), out=self.dw)
        np.subtract(self.w, self.dw, out=self.w)

    def result(self) -> Any:
        return self.y


def _both(make: Any) -> dict[str, Any]:
    return {"batch last": partial(make, order="C"), "batch first": partial(make, order="F")}


WHAT = {"step": _both(Step), "gather": _both(Gather), "sample": _both(Sample), "layer": _both(LayerStep)}
