"""SciPy: CSR matrices times dense ones; arrays are (features, batch).

SciPy has no product that computes only the connections' gradients. Its users form the whole dW with BLAS and pick the
stored ones out of it, or, when few are left, multiply gathered rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.problem import Floats, Problem, as_dense
from sparsecore.storage.pattern import SparsityPattern


class Gather:
    """y = W x."""

    def __init__(self, pattern: SparsityPattern, data: Any, x: Floats) -> None:
        self.w, self.x = pattern.to_scipy(data), x

    def run(self) -> None:
        self.y = self.w @ self.x

    def result(self) -> Any:
        return self.y


class Sample:
    """dW of the stored connections."""

    def __init__(self, pattern: SparsityPattern, dy: Floats, x: Floats, picked: bool) -> None:
        self.picked, self.dy, self.x = picked, dy, x
        self.rows, self.columns = pattern.rows, pattern.indices
        self.dw = np.empty(pattern.nnz, np.float32)
        if picked:
            self.full = np.empty(pattern.shape, np.float32)
            self.positions = pattern.rows.astype(np.intp) * pattern.shape[1] + pattern.indices

    def run(self) -> None:
        if self.picked:
            np.matmul(self.dy, self.x.T, out=self.full)
            np.take(self.full, self.positions, out=self.dw, mode="clip")
        else:
            np.einsum("pb,pb->p", self.dy[self.rows], self.x[self.columns], out=self.dw)

    def result(self) -> Any:
        return self.dw


class Layer:
    """One layer of a step; a full pattern is an ordinary matrix."""

    def __init__(self, pattern: SparsityPattern, data: Floats, batch: int, picked: bool) -> None:
        out_features, in_features = pattern.shape
        self.full = pattern.is_full
        self.w: Any = as_dense(pattern, data) if self.full else pattern.to_scipy(data.copy())
        self.w_t = self.w.T  # a view: shares the values
        self.b, self.db = np.zeros((2, out_features, 1), np.float32)
        self.dy = np.empty((out_features, batch), np.float32)
        self.dw = np.empty(pattern.shape, np.float32)
        if not self.full:
            empty = np.empty((in_features, batch), np.float32)
            self.sample = Sample(pattern, self.dy, empty, picked)

    def forward(self, x: Floats) -> Any:
        y = self.w @ x
        y += self.b
        return y

    def learn(self, x: Floats) -> None:
        """Subtract rate · dW and rate · db; dy has the rate as a factor."""
        np.sum(self.dy, axis=1, keepdims=True, out=self.db)
        if self.full:
            np.matmul(self.dy, x.T, out=self.dw)
            self.w -= self.dw
        else:
            self.sample.x = x
            self.sample.run()
            self.w.data -= self.sample.dw
        self.b -= self.db


class Step:
    """A training step."""

    def __init__(self, problem: Problem, picked: bool) -> None:
        batch = len(problem.x)
        self.x = np.ascontiguousarray(problem.x.T)
        self.layers = [
            Layer(pattern, data, batch, picked)
            for pattern, data in zip(problem.patterns, problem.weights, strict=True)
        ]
        self.truth = np.zeros((problem.sizes[-1], batch), np.float32)
        self.truth[problem.labels, np.arange(batch)] = 1
        self.rate = np.float32(problem.rate / batch)

    def run(self) -> None:
        inputs = [self.x]
        for layer in self.layers[:-1]:
            y = layer.forward(inputs[-1])
            inputs.append(np.maximum(y, 0, out=y))
        self.logits = self.layers[-1].forward(inputs[-1])
        dz = np.subtract(self.logits, self.logits.max(axis=0), out=self.layers[-1].dy)
        np.exp(dz, out=dz)
        dz /= dz.sum(axis=0)
        dz -= self.truth
        dz *= self.rate
        for k in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[k]
            if k:
                np.multiply(layer.w_t @ layer.dy, inputs[k] > 0, out=self.layers[k - 1].dy)
            layer.learn(inputs[k])

    def result(self) -> Any:
        return self.logits.T


def _both(make: Any) -> dict[str, Any]:
    return {"dW picked from dense": partial(make, picked=True), "dW of gathered rows": partial(make, picked=False)}


MOST = {"dW of gathered rows": 2e7}  # it writes two numbers for every connection and sample, and reads them again
WHAT = {"step": _both(Step), "gather": {"": Gather}, "sample": _both(Sample)}
