"""PyTorch as it is usually written: nn.Linear, autograd, torch.optim.SGD."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch

from bench.problem import Problem, as_dense


class Trained:
    """A step of any model on one batch, as PyTorch's tutorials write it."""

    def __init__(self, model: Any, x: Any, problem: Any, fused: bool) -> None:
        self.model, self.x = model, x
        self.optimizer = torch.optim.SGD(model.parameters(), lr=problem.rate, fused=fused)
        self.loss = torch.nn.CrossEntropyLoss()
        self.labels = torch.tensor(problem.labels, dtype=torch.int64)

    def run(self) -> None:
        self.optimizer.zero_grad()
        self.logits = self.model(self.x)
        self.loss(self.logits, self.labels).backward()
        self.optimizer.step()

    def result(self) -> Any:
        return self.logits.detach().numpy()


class Step(Trained):
    """A training step."""

    def __init__(self, problem: Problem, fused: bool) -> None:
        layers: list[Any] = []
        for size, out in pairwise(problem.sizes):
            layers += [torch.nn.Linear(size, out), torch.nn.ReLU()]
        with torch.no_grad():
            for layer, pattern, data in zip(layers[::2], problem.patterns, problem.weights, strict=True):
                layer.weight.copy_(torch.tensor(as_dense(pattern, data)))
                layer.bias.zero_()
        super().__init__(torch.nn.Sequential(*layers[:-1]), torch.tensor(problem.x), problem, fused)


WHAT = {"step": {"SGD": partial(Step, fused=False), "fused SGD": partial(Step, fused=True)}}
