"""PyTorch on deep networks: the same layers and weights as ours, dense, by autograd, in both of its layouts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from bench.deep_problem import SHAPE, DeepProblem
from sparsecore.interop.torch import to_torch

from .torch_conv import LAYOUTS
from .torch_eager import Trained


class Step(Trained):
    """A training step."""

    def __init__(self, problem: DeepProblem, layout: torch.memory_format, fused: bool) -> None:
        model: Any = to_torch(problem.network()).train()
        x = torch.tensor(problem.x).reshape(-1, *SHAPE).contiguous(memory_format=layout)
        super().__init__(model.to(memory_format=layout), x, problem, fused)


STEPS = {
    engine: {"SGD": partial(Step, layout=layout, fused=False), "fused SGD": partial(Step, layout=layout, fused=True)}
    for engine, layout in LAYOUTS.items()
}
