"""PyTorch in bfloat16, dense: so are activations and the weights that products read, while weights learn in float32.

By hand, as torch_hand; or by `torch.autocast`, as its tutorials write it. Its products are those of oneDNN, with
AVX512-BF16 where the processor has it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from bench.deep_problem import AnyProblem
from bench.problem import Problem
from sparsecore.interop.torch import to_torch

from . import torch_eager, torch_hand
from .torch_conv import LAYOUTS

HALF = torch.bfloat16


class Step(torch_hand.Step):
    """A training step by hand."""

    def __init__(self, problem: Problem, batch_last: bool) -> None:
        super().__init__(problem, batch_last, HALF)

    def begin_back(self) -> None:
        self.dy[-1].copy_(torch.softmax(self.logits.float(), 0).sub_(self.truth).mul_(self.rate))

    def learn(self) -> None:
        super().learn()
        for w, learned in zip(self.weights, self.learned, strict=True):
            w.copy_(learned)


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
