"""PyTorch on a GPU: dense steps as its tutorials write them, and the same as one CUDA graph. In float32 throughout."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from bench.problem import Problem, as_dense

torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def linear(problem: Problem) -> Any:
    """LeNet-300-100, or as many layers as there are patterns."""
    layers: list[Any] = []
    for size, out in zip(problem.sizes[:-1], problem.sizes[1:], strict=True):
        layers += [torch.nn.Linear(size, out), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def convolutional(problem: Problem) -> Any:
    """LeNet-5 of Caffe's sizes."""
    nn = torch.nn
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


class Step:
    """A training step; the weights are the problem's.

    Parameters
    ----------
    problem : Problem
    make : callable
        The model of a problem.
    graph : bool
        Captured after three steps, which warm up what must not be made while a stream is captured.
    on : str
    """

    def __init__(self, problem: Any, make: Any, *, graph: bool = False, on: str = "cuda") -> None:
        self.model = make(problem).to(on)
        layers = [layer for layer in self.model if hasattr(layer, "weight")]
        with torch.no_grad():
            for layer, pattern, data in zip(layers, problem.patterns, problem.weights, strict=True):
                layer.weight.copy_(torch.tensor(as_dense(pattern, data)).reshape(layer.weight.shape))
                layer.bias.zero_()
        self.x = torch.tensor(problem.x, device=on)
        self.labels = torch.tensor(problem.labels, dtype=torch.int64, device=on)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=problem.rate)
        self.loss, self.done = torch.nn.CrossEntropyLoss(), 0
        self._graph: Any = None
        if graph:
            self._capture()

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.work()
        torch.cuda.current_stream().wait_stream(side)
        self.done, graph = 3, torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self.work()
        self._graph = graph

    def work(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.logits = self.model(self.x)
        self.loss(self.logits, self.labels).backward()
        self.optimizer.step()

    def run(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self.work()

    def result(self) -> Any:
        return self.logits.detach().cpu().numpy()


STEPS = {
    model: {"torch-eager": partial(Step, make=make), "torch-graph": partial(Step, make=make, graph=True)}
    for model, make in (("lenet300", linear), ("lenet5", convolutional))
}
