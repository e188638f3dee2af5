"""PyTorch in bfloat16, dense: so are activations and the weights that products read, while weights learn in float32.

By hand, as torch_hand; or by `torch.autocast`, as its tutorials write it. Its products are those of oneDNN, with
AVX512-BF16 where the processor has it.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from bench.deep_problem import AnyProblem
from bench.problem import Problem, as_dense
from sparsecore.interop.torch import to_torch

from . import torch_eager
from .torch_conv import LAYOUTS

HALF = torch.bfloat16


class Step:
    """A training step by hand.

    All tensors are (features, batch); unless `batch_last`, they are views of ones that lie in memory the other way
    round. A line of ones below each layer's input makes its bias a column of its weights.
    """

    def __init__(self, problem: Problem, batch_last: bool) -> None:
        batch, sizes = len(problem.x), problem.sizes

        def array(rows: int, columns: int, dtype: torch.dtype = HALF) -> torch.Tensor:
            return torch.ones(rows, columns, dtype=dtype) if batch_last else torch.ones(columns, rows, dtype=dtype).t()

        self.inputs = [array(size + 1, batch) for size in sizes[:-1]]
        self.inputs[0][:-1] = torch.tensor(problem.x.T)
        self.logits = array(sizes[-1], batch)
        self.outputs = [h[:-1] for h in self.inputs[1:]] + [self.logits]
        self.learned = [array(out, size + 1, torch.float32) for size, out in pairwise(sizes)]
        for w, pattern, data in zip(self.learned, problem.patterns, problem.weights, strict=True):
            w[:, :-1] = torch.tensor(as_dense(pattern, data))
            w[:, -1] = 0
        self.weights = [w.to(HALF) for w in self.learned]
        self.dw = [torch.empty_like(w) for w in self.weights]
        self.dy = [array(size, batch) for size in sizes[1:]]
        self.truth = torch.zeros(sizes[-1], batch)
        self.truth[problem.labels, np.arange(batch)] = 1
        self.rate = problem.rate / batch

    @torch.inference_mode()
    def run(self) -> None:
        for w, x, y in zip(self.weights, self.inputs, self.outputs, strict=True):
            torch.mm(w, x, out=y)
            if y is not self.logits:
                y.clamp_min_(0)
        # With the rate in it, an update is one subtraction.
        self.dy[-1].copy_(torch.softmax(self.logits.float(), 0).sub_(self.truth).mul_(self.rate))
        for k in range(len(self.weights) - 1, -1, -1):
            torch.mm(self.dy[k], self.inputs[k].t(), out=self.dw[k])
            if k:
                dx = torch.mm(self.weights[k][:, :-1].t(), self.dy[k], out=self.dy[k - 1])
                torch.ops.aten.threshold_backward.grad_input(dx, self.outputs[k - 1], 0, grad_input=dx)
        for learned, w, dw in zip(self.learned, self.weights, self.dw, strict=True):
            learned.sub_(dw)
            w.copy_(learned)

    def result(self) -> Any:
        return self.logits.t().float().numpy()


class Autocast:
    """Any step of PyTorch's, its products in bfloat16."""

    def __init__(self, step: torch_eager.Trained) -> None:
        self.step = step

    def run(self) -> None:
        step = self.step
        step.optimizer.zero_grad()
        with torch.autocast("cpu", HALF):
            step.logits = step.model(step.x)
            loss = step.loss(step.logits, step.labels)
        loss.backward()
        step.optimizer.step()

    def result(self) -> Any:
        return self.step.logits.detach().float().numpy()


def _linear(problem: Problem) -> Autocast:
    return Autocast(torch_eager.Step(problem, fused=True))


def _images(problem: AnyProblem, layout: torch.memory_format) -> Autocast:
    network = problem.network()
    model: Any = to_torch(network).train()
    x = torch.tensor(problem.x).reshape(-1, *network.layers[0].in_shape).contiguous(memory_format=layout)
    return Autocast(torch_eager.Trained(model.to(memory_format=layout), x, problem, fused=True))


LINEAR = {
    "batch last": partial(Step, batch_last=True), "batch first": partial(Step, batch_last=False), "autocast": _linear,
}  # fmt: skip
IMAGES = {engine: partial(_images, layout=layout) for engine, layout in LAYOUTS.items()}
