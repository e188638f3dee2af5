"""CuPy's libraries on a GPU: cuBLAS for dense products, cuSPARSE (by cupyx) for W x; neither samples a product.

cuBLAS is timed twice: called by Python, and as a CUDA graph where the stream can be captured; the faster counts.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from bench.problem import Floats, Problem, as_dense
from sparsecore.storage.pattern import SparsityPattern


class Captured:
    """Work on a GPU, by Python's calls or as one graph of them."""

    def __init__(self, graph: bool) -> None:
        import cupy

        self._graph: Any
        self._stream: Any
        self.cupy, self._graph, self._stream = cupy, None, None
        self.done = 1 + graph  # calls that have computed before the first `run`
        self.work()
        if graph:
            with suppress(RuntimeError):
                self._graph = self._captured()

    def _captured(self) -> Any:
        # Temporary arrays come from the stream's own memory, which nobody else uses while the stream is kept.
        self._stream = stream = self.cupy.cuda.Stream(non_blocking=True)
        with stream:
            self.work()  # cuBLAS makes its workspace for a stream when it is first used
            stream.synchronize()
            stream.begin_capture()
            try:
                self.work()
            finally:
                graph = stream.end_capture()
        return graph

    def work(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        if self._graph is not None:
            self._graph.launch()
        else:
            self.work()


class Gather(Captured):
    """y = W x."""

    def __init__(self, pattern: SparsityPattern, data: Floats, x: Floats, *, graph: bool) -> None:
        import cupy

        self.w, self.x = cupy.asarray(as_dense(pattern, data)), cupy.asarray(x)
        self.y = cupy.empty((pattern.shape[0], x.shape[1]), np.float32)
        super().__init__(graph)

    def work(self) -> None:
        self.cupy.matmul(self.w, self.x, out=self.y)

    def result(self) -> Any:
        return self.y.get()


class Sample(Captured):
    """The whole dW = dy xᵀ."""

    def __init__(self, pattern: SparsityPattern, dy: Floats, x: Floats, *, graph: bool) -> None:
        import cupy

        self.dy, self.x_t = cupy.asarray(dy), cupy.asarray(x).T
        self.dw = cupy.empty(pattern.shape, np.float32)
        super().__init__(graph)

    def work(self) -> None:
        self.cupy.matmul(self.dy, self.x_t, out=self.dw)

    def result(self) -> Any:
        return self.dw.get().ravel()  # of a full pattern, all are stored


class Step(Captured):
    """A dense training step by hand, features in rows: products by cuBLAS, the rest element by element."""

    def __init__(self, problem: Problem, *, graph: bool) -> None:
        import cupy

        self.rate = problem.rate
        pairs = list(zip(problem.patterns, problem.weights, strict=True))
        self.weights = [cupy.asarray(as_dense(pattern, data)) for pattern, data in pairs]
        self.biases = [cupy.zeros((size, 1), np.float32) for size in problem.sizes[1:]]
        batch = len(problem.x)
        self.layers = [cupy.asarray(np.ascontiguousarray(problem.x.T))]
        self.layers += [cupy.empty((size, batch), np.float32) for size in problem.sizes[1:]]
        self.slopes = [cupy.empty_like(layer) for layer in self.layers]
        self.dws = [cupy.empty_like(weight) for weight in self.weights]
        self.truth = cupy.asarray(np.eye(problem.sizes[-1], dtype=np.float32)[:, problem.labels])
        super().__init__(graph)

    def work(self) -> None:
        cupy, last = self.cupy, len(self.weights) - 1
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            cupy.matmul(weight, self.layers[k], out=self.layers[k + 1])
            self.layers[k + 1] += bias
            if k < last:
                cupy.maximum(self.layers[k + 1], 0, out=self.layers[k + 1])
        self.logits = self.layers[-1]
        powers = cupy.exp(self.logits - self.logits.max(axis=0))
        cupy.subtract(powers / powers.sum(axis=0), self.truth, out=self.slopes[-1])
        self.slopes[-1] /= self.truth.shape[1]
        for k in range(last, -1, -1):
            cupy.matmul(self.slopes[k + 1], self.layers[k].T, out=self.dws[k])
            if k > 0:
                cupy.matmul(self.weights[k].T, self.slopes[k + 1], out=self.slopes[k])
                self.slopes[k] *= self.layers[k] > 0
            self.biases[k] -= self.rate * self.slopes[k + 1].sum(axis=1, keepdims=True)
            self.dws[k] *= self.rate
            self.weights[k] -= self.dws[k]

    def result(self) -> Any:
        return self.logits.get().T


class SparseGather:
    """y = W x by cuSPARSE, W in CSR and x in Fortran's order, as it wants it."""

    def __init__(self, pattern: SparsityPattern, data: Floats, x: Floats) -> None:
        import cupy
        from cupyx.scipy.sparse import csr_matrix

        parts = (data, pattern.indices.astype(np.int32), pattern.indptr.astype(np.int32))
        self.w = csr_matrix(tuple(map(cupy.asarray, parts)), shape=pattern.shape)
        self.x = cupy.asfortranarray(cupy.asarray(x))

    def run(self) -> None:
        self.y = self.w @ self.x

    def result(self) -> Any:
        return self.y.get()


def _both(make: Any) -> dict[str, Any]:
    return {"": partial(make, graph=False), "graph": partial(make, graph=True)}


DENSE = {"step": _both(Step), "gather": _both(Gather), "sample": _both(Sample)}
SPARSE = {"gather": {"": SparseGather}}
