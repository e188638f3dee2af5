"""PyTorch's dense convolutions: nn.Conv2d, autograd, torch.optim.SGD, in its default layout and in channels_last."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from bench.conv_problem import ConvProblem
from bench.problem import as_dense
from sparsecore.layers.conv import SparseConv2d

from .torch_eager import Trained


class Step(Trained):
    """A training step of LeNet-5."""

    def __init__(self, problem: ConvProblem, layout: torch.memory_format, fused: bool) -> None:
        convolve, connect = [nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)], [nn.Linear(800, 500), nn.Linear(500, 10)]
        layers: list[Any] = [*convolve, *connect]
        with torch.no_grad():
            for layer, pattern, data in zip(layers, problem.patterns, problem.weights, strict=True):
                layer.weight.copy_(torch.tensor(as_dense(pattern, data)).reshape(layer.weight.shape))
                layer.bias.zero_()
        pooled = [each for layer in convolve for each in (layer, nn.ReLU(), nn.MaxPool2d(2))]
        model: Any = nn.Sequential(*pooled, nn.Flatten(), connect[0], nn.ReLU(), connect[1])
        x = torch.tensor(problem.x).reshape(-1, 1, 28, 28).contiguous(memory_format=layout)
        super().__init__(model.to(memory_format=layout), x, problem, fused)


class Layer:
    """Forward and backward of one convolution, from a given dy."""

    def __init__(self, layer: SparseConv2d, x: Any, dy: Any, layout: torch.memory_format) -> None:
        channels, in_channels = layer.out_shape[0], layer.in_shape[0]
        made: Any = nn.Conv2d(in_channels, channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        with torch.no_grad():
            made.weight.copy_(torch.tensor(as_dense(layer.pattern, layer.weight)).reshape(made.weight.shape))
            made.bias.copy_(torch.tensor(layer.bias))
        self.model = made.to(memory_format=layout)
        self.x, self.dy = (torch.tensor(array).contiguous(memory_format=layout) for array in (x, dy))
        self.x.requires_grad_()

    def run(self) -> None:
        self.model.zero_grad()
        self.x.grad = None
        self.y = self.model(self.x)
        self.y.backward(self.dy)

    def result(self) -> Any:
        dx: Any = self.x.grad
        return self.y.detach().numpy(), dx.numpy(), self.model.weight.grad.numpy()


LAYOUTS = {"torch-eager": torch.contiguous_format, "torch-channels-last": torch.channels_last}
STEPS = {
    engine: {"SGD": partial(Step, layout=layout, fused=False), "fused SGD": partial(Step, layout=layout, fused=True)}
    for engine, layout in LAYOUTS.items()
}
LAYERS = {engine: {"": partial(Layer, layout=layout)} for engine, layout in LAYOUTS.items()}
