"""The modules under contract, PyTorch's own as the yardstick, and the dense module that each of them stands for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsecore.interop.torch import (
    SparseConv1d,
    SparseConv2d,
    SparseConvTranspose2d,
    SparseLinear,
    densify,
    sparsify,
)
from sparsecore.topology import uniform_random


class Attention(nn.Module):
    """Self-attention as a module of one input and one output."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


class Subject(NamedTuple):
    """A module under contract.

    Attributes
    ----------
    make : callable
        The module of a seed: other seeds give other values, and other connections, as many.
    shape : tuple of int
        Of a sample.
    ours : bool
        Whether it is one of this package, or PyTorch's.
    """

    make: Callable[[int], Any]
    shape: tuple[int, ...]
    ours: bool = True

    def x(self, batch: int = 3, dtype: Any = torch.float32) -> torch.Tensor:
        return torch.randn(batch, *self.shape, dtype=dtype)


def _made(build: Callable[[Any], Any]) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return build(np.random.default_rng(seed))

    return make


SUBJECTS = {
    "nn.Linear": Subject(_made(lambda rng: nn.Linear(8, 6)), (8,), False),
    "nn.Conv2d": Subject(_made(lambda rng: nn.Conv2d(2, 3, 3, padding=1)), (2, 5, 4), False),
    "SparseLinear": Subject(_made(lambda rng: SparseLinear(8, 6, sparsity=0.6)), (8,)),
    "SparseConv2d": Subject(_made(lambda rng: SparseConv2d(uniform_random(3, 18, 0.6, rng), 3, 1, 1)), (2, 5, 4)),
    "SparseConv1d": Subject(_made(lambda rng: SparseConv1d(uniform_random(4, 9, 0.6, rng), 3, 1, 1)), (3, 7)),
    "SparseConvTranspose2d": Subject(
        _made(lambda rng: SparseConvTranspose2d(uniform_random(2, 27, 0.6, rng), 3, 2, 1)), (3, 3, 4)
    ),
    "SparseMultiheadAttention": Subject(
        _made(lambda rng: Attention(sparsify(nn.MultiheadAttention(8, 2, batch_first=True), 0.6))), (5, 8)
    ),
}  # fmt: skip
each_subject = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
OURS = {name: subject for name, subject in SUBJECTS.items() if subject.ours}
each_of_ours = pytest.mark.parametrize("subject", OURS.values(), ids=OURS)
FEW = {name: SUBJECTS[name] for name in ("nn.Linear", "nn.Conv2d", "SparseLinear", "SparseConv2d")}
each_of_few = pytest.mark.parametrize("subject", FEW.values(), ids=FEW)
"""For what takes seconds: the others go the same way."""

Values = dict[str, torch.Tensor]


def parameters_of(module: nn.Module) -> Values:
    """A module's parameters as leaves of their own."""
    return {name: each.detach().clone().requires_grad_() for name, each in module.named_parameters()}


def call(module: nn.Module, values: Values, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = torch.func.functional_call(module, values, (x,))
    return y


def twin(module: nn.Module) -> Callable[[Values, torch.Tensor], torch.Tensor]:
    """What the dense module computes that a module stands for, of that module's own parameters.

    Where a weight belongs is found by counting: the module's numbers are 1, 2, 3, …, one parameter after another, and
    an attention has some of them in one matrix.
    """
    numbered, count = copy.deepcopy(module), 0
    names = [name for name, _ in module.named_parameters()]
    with torch.no_grad():
        for parameter in numbered.parameters():
            parameter.copy_(torch.arange(count + 1, count + parameter.numel() + 1).reshape(parameter.shape))
            count += parameter.numel()
    dense = densify(numbered)
    places = {}
    for name, parameter in dense.named_parameters():
        found = parameter.detach().flatten().round().long()
        where = torch.nonzero(found).flatten()
        places[name] = where, found[where] - 1, parameter.shape

    def computed(values: Values, x: torch.Tensor) -> torch.Tensor:
        numbers, full = torch.cat([values[name].flatten() for name in names]), {}
        for name, (at, which, shape) in places.items():
            zeros = torch.zeros(shape.numel(), dtype=numbers.dtype)
            full[name] = zeros.index_put((at,), numbers[which]).reshape(shape)
        with sdpa_kernel(SDPBackend.MATH):  # PyTorch's other kernels have a first derivative only, in reverse
            return call(dense, full, x)

    return computed


def one_line(error: BaseException) -> str:
    """What an error says, which must be one line."""
    said = str(error)
    assert said and "\n" not in said.strip(), said
    return said
