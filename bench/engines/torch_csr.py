"""PyTorch's sparse CSR tensors by hand, no autograd; tensors are (features, batch).

dX needs a second CSR tensor, of the transpose, whose values are brought up to date in every step. dW is
`sampled_addmm`, or the whole of it from BLAS with the stored ones picked out.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.problem import Floats, Problem, as_dense
from sparsecore.storage.pattern import SparsityPattern

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta|Sparse invariant checks are implicitly")


def csr(pattern: SparsityPattern, data: Any) -> torch.Tensor:
    """A CSR tensor with a copy of the values."""
    return torch.sparse_csr_tensor(
        torch.tensor(pattern.indptr), torch.tensor(pattern.indices), torch.tensor(data), pattern.shape
    )


class Gather:
    """y = W x."""

    def __init__(self, pattern: SparsityPattern, data: Any, x: Floats) -> None:
        self.w, self.x = csr(pattern, data), torch.tensor(x)
        self.y = torch.empty(pattern.shape[0], x.shape[1])

    @torch.inference_mode()
    def run(self) -> None:
        torch.mm(self.w, self.x, out=self.y)

    def result(self) -> Any:
        return self.y.numpy()


class Sample:
    """dW of the stored connections."""

    def __init__(self, pattern: SparsityPattern, dy: Any, x: Any, picked: bool) -> None:
        self.picked, self.dy, self.x = picked, torch.as_tensor(dy), torch.as_tensor(x)
        self.matrix = csr(pattern, np.zeros(pattern.nnz, np.float32))
        self.dw = self.matrix.values()
        if picked:
            self.full = torch.empty(pattern.shape)
            self.positions = torch.tensor(pattern.rows.astype(np.int64) * pattern.shape[1] + pattern.indices)

    @torch.inference_mode()
    def run(self) -> None:
        if self.picked:
            torch.mm(self.dy, self.x.t(), out=self.full)
            torch.take(self.full, self.positions, out=self.dw)
        else:
            torch.sparse.sampled_addmm(self.matrix, self.dy, self.x.t(), beta=0, out=self.matrix)

    def result(self) -> Any:
        return self.dw.numpy()


class Layer:
    """One layer of a step; a full pattern is an ordinary matrix."""

    def __init__(self, pattern: SparsityPattern, data: Floats, x: torch.Tensor, picked: bool) -> None:
        out_features, batch = pattern.shape[0], x.shape[1]
        self.full, self.x = pattern.is_full, x
        self.b, self.db = torch.zeros(2, out_features, 1)
        self.y, self.dy = torch.empty(2, out_features, batch)
        if self.full:
            self.w = torch.tensor(as_dense(pattern, data))
            self.w_t, self.values = self.w.t(), self.w
            self.dw = torch.empty_like(self.w)
        else:
            turned, perm = pattern.transpose()
            self.w, self.w_t = csr(pattern, data), csr(turned, data)
            self.values, self.values_t = self.w.values(), self.w_t.values()
            self.perm = torch.tensor(perm.astype(np.int64))
            self.sample = Sample(pattern, self.dy, x, picked)
            self.dw = self.sample.dw

    def forward(self) -> torch.Tensor:
        return torch.addmm(self.b, self.w, self.x, out=self.y)

    def backward(self, dx: torch.Tensor) -> None:
        if not self.full:
            torch.index_select(self.values, 0, self.perm, out=self.values_t)
        torch.mm(self.w_t, self.dy, out=dx)
        torch.ops.aten.threshold_backward.grad_input(dx, self.x, 0, grad_input=dx)

    def learn(self) -> None:
        """Subtract rate · dW and rate · db; dy has the rate as a factor."""
        torch.sum(self.dy, 1, keepdim=True, out=self.db)
        if self.full:
            torch.mm(self.dy, self.x.t(), out=self.dw)
        else:
            self.sample.run()
        self.values.sub_(self.dw)
        self.b.sub_(self.db)


class LayerStep:
    """Forward, dX, dW and update of one layer in the middle of a network, from a given dy."""

    def __init__(self, pattern: SparsityPattern, batch: int) -> None:
        self.layer = Layer(pattern, np.zeros(pattern.nnz, np.float32), torch.ones(pattern.shape[1], batch), False)
        self.layer.dy.fill_(1e-3)
        self.dx = torch.empty(pattern.shape[1], batch)

    @torch.inference_mode()
    def run(self) -> None:
        self.layer.forward()
        torch.index_select(self.layer.values, 0, self.layer.perm, out=self.layer.values_t)
        torch.mm(self.layer.w_t, self.layer.dy, out=self.dx)
        self.layer.learn()

    def result(self) -> Any:
        return self.layer.y.numpy()


class Step:
    """A training step."""

    def __init__(self, problem: Problem, picked: bool) -> None:
        batch = len(problem.x)
        self.layers: list[Layer] = []
        x = torch.tensor(problem.x.T.copy())
        for pattern, data in zip(problem.patterns, problem.weights, strict=True):
            self.layers.append(Layer(pattern, data, x, picked))
            x = self.layers[-1].y
        self.truth = torch.zeros(problem.sizes[-1], batch)
        self.truth[problem.labels, np.arange(batch)] = 1
        self.rate = problem.rate / batch

    @torch.inference_mode()
    def run(self) -> None:
        for layer in self.layers[:-1]:
            layer.forward().clamp_min_(0)
        last = self.layers[-1]
        torch.softmax(last.forward(), 0, out=last.dy).sub_(self.truth).mul_(self.rate)
        for k in range(len(self.layers) - 1, -1, -1):
            if k:
                self.layers[k].backward(self.layers[k - 1].dy)
            self.layers[k].learn()

    def result(self) -> Any:
        return self.layers[-1].y.t().numpy()


def _both(make: Any) -> dict[str, Any]:
    return {"sampled_addmm": partial(make, picked=False), "dW picked from dense": partial(make, picked=True)}


WHAT = {"step": _both(Step), "gather": {"": Gather}, "sample": {"sampled_addmm": partial(Sample, picked=False)}}
