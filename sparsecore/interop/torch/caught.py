"""What passes through a module in the step before its connections move: absent connections are scored from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...layers.sparse import SparseLayer
from ...runtime.workspace import Workspace
from ...storage.pattern import SparsityPattern
from .function import array_of, place_of
from .given import plain


class Caught:
    """A module's inputs in one step, and the gradients of its outputs: of all its passes, since gradients add up.

    Parameters
    ----------
    module : SparseModule
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self._passes: list[tuple[SparseLayer, torch.Tensor, torch.Tensor]] = []
        self._samplers: list[Callable[[SparsityPattern], torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self._passes)

    def clear(self) -> None:
        """Forget it all."""
        self._passes, self._samplers = [], []

    def watch(self, layer: SparseLayer, x: torch.Tensor, y: torch.Tensor) -> None:
        """Catch x of a call now, and dy when it arrives at the node whose output is y."""
        if y.grad_fn is None:
            return
        seen = plain(x.detach()).clone()  # whoever called may write over it, or over the gradient later

        def arrived(dy: tuple[torch.Tensor | None, ...]) -> None:
            if dy[0] is not None:
                self._passes.append((layer, seen, plain(dy[0].detach().clone())))

        y.grad_fn.register_prehook(arrived)

    def gradient(self, pattern: SparsityPattern) -> torch.Tensor:
        """The gradient of a pattern's connections, stored or not, of shape (nnz,): zero where nothing passed."""
        if not self._samplers:
            self._samplers = [_sampler(self.module, *each) for each in self._passes]
        total = self.module.weight.new_zeros(pattern.nnz)
        for sampled in self._samplers:
            total += sampled(pattern)
        return total


def _sampler(
    module: Any, layer: SparseLayer, x: torch.Tensor, dy: torch.Tensor
) -> Callable[[SparsityPattern], torch.Tensor]:
    """Repeat a pass where its operands stay: gradients of any connections are then sampled from them."""
    device, stream = place_of(x)
    x, dy = x.to(module.weight.dtype), dy.to(module.weight.dtype)  # under autocast they may be bfloat16
    bias = module.weight.new_zeros(layer.pattern.shape[0])
    used = layer.with_params(array_of(module.weight.new_zeros(layer.pattern.nnz)), array_of(bias))  # no value matters
    workspace = Workspace(device)
    with stream:
        _, cache = used.forward(array_of(x), workspace)
        used.backward(array_of(dy), cache, workspace, need_dx=False)

    def sampled(pattern: SparsityPattern) -> torch.Tensor:
        with stream:
            return torch.from_dlpack(used.gradient_at(pattern, workspace.child(used)))

    return sampled
