"""PyTorch, dense, by hand: no autograd, every buffer allocated once, every result written where it belongs."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from bench.problem import Problem, as_dense


class Step:
    """A training step.

    All tensors are (features, batch); unless `batch_last`, they are views of ones that lie in memory the other way
    round. A line of ones below each layer's input makes its bias a column of its weights. Products are of `dtype`;
    what is learned is float32.
    """

    def __init__(self, problem: Problem, batch_last: bool, dtype: torch.dtype = torch.float32) -> None:
        batch, sizes = len(problem.x), problem.sizes

        def array(rows: int, columns: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.ones(rows, columns, dtype=dtype) if batch_last else torch.ones(columns, rows, dtype=dtype).t()

        self.inputs = [array(size + 1, batch) for size in sizes[:-1]]
        self.inputs[0][:-1] = torch.tensor(problem.x.T)
        self.logits = array(sizes[-1], batch)
        self.outputs = [h[:-1] for h in self.inputs[1:]] + [self.logits]
        self.learned = [array(out, size + 1, torch.float32) for size, out in pairwise(sizes)]
        for w, pattern, data in zip(self.learned, problem.patterns, problem.weights, strict=True):
            w[:, :-1] = torch.tensor(as_dense(pattern, data))
            w[:, -1] = 0
        self.weights = [w.to(dtype) for w in self.learned]  # in float32 the same tensors
        self.dw = [torch.empty_like(w) for w in self.weights]
        self.dy = [array(size, batch) for size in sizes[1:]]
        self.truth = torch.zeros_like(self.logits, dtype=torch.float32)
        self.truth[problem.labels, np.arange(batch)] = 1
        self.rate = problem.rate / batch

    @torch.inference_mode()
    def run(self) -> None:
        for w, x, y in zip(self.weights, self.inputs, self.outputs, strict=True):
            torch.mm(w, x, out=y)
            if y is not self.logits:
                y.clamp_min_(0)
        self.begin_back()
        for k in range(len(self.weights) - 1, -1, -1):
            torch.mm(self.dy[k], self.inputs[k].t(), out=self.dw[k])
            if k:
                dx = torch.mm(self.weights[k][:, :-1].t(), self.dy[k], out=self.dy[k - 1])
                torch.ops.aten.threshold_backward.grad_input(dx, self.outputs[k - 1], 0, grad_input=dx)
        self.learn()

    def begin_back(self) -> None:
        """The loss's gradient. With the rate in it, an update is one subtraction."""
        torch.softmax(self.logits, 0, out=self.dy[-1]).sub_(self.truth).mul_(self.rate)

    def learn(self) -> None:
        for w, dw in zip(self.learned, self.dw, strict=True):
            w.sub_(dw)

    def result(self) -> Any:
        return self.logits.t().float().numpy()


WHAT = {"step": {"batch last": partial(Step, batch_last=True), "batch first": partial(Step, batch_last=False)}}
