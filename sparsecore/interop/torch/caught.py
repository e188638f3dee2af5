"""What a module's gradient is made of in the step before its connections move: absent ones are scored from it.

Wherever a gradient of weights is computed, in first derivatives and in higher ones, it is a sample of dy xᵀ at the
stored connections, for some x and dy; and what the loss says of absent connections is the same at their places.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch._C import _current_graph_task_id, _will_engine_execute_node
from torch._C._functorch import unwrap_if_dead
from torch.autograd import Variable
from torch.autograd.graph import get_gradient_edge

from ...layers.sparse import SparseLayer
from ...runtime.workspace import Workspace
from ...storage.pattern import SparsityPattern
from .function import array_of, place_of
from .given import plain


class Caught:
    """Pairs of x and dy of one step: of all passes that its `weight.grad` is the sum of.

    Parameters
    ----------
    module : SparseModule
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self._under_way: set[int] = set()  # passes back through graphs, by the engine's numbers
        self._passes: list[tuple[SparseLayer, torch.Tensor, torch.Tensor]] = []
        self._samplers: list[Callable[[SparsityPattern], torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self._passes)

    def clear(self) -> None:
        """Forget it all."""
        self._passes, self._samplers = [], []
        self._under_way.clear()  # of a pass that an error ended

    def add(self, layer: SparseLayer, x: torch.Tensor, dy: torch.Tensor) -> None:
        """Take note of a pass whose gradient is being computed.

        Where `weight.grad` is empty it begins anew: what was added to the one before, such as a critic's while its
        generator learns, is forgotten with it.
        """
        if (task := _current_graph_task_id()) not in self._under_way:
            if not self._under_way and self._begins_anew():  # else within another, as a reentrant checkpoint does
                self._passes = []
            if task >= 0:
                self._under_way.add(task)
                Variable._execution_engine.queue_callback(partial(self._under_way.discard, task))
        self._samplers = []
        # Whoever called may write over them later.
        self._passes.append((layer, *(plain(unwrap_if_dead(each).detach()).clone() for each in (x, dy))))

    def _begins_anew(self) -> bool:
        """Whether the pass back through the graph that is under way is the first to add to `weight.grad`."""
        weight = self.module.weight
        if not weight.is_leaf or not (weight.grad is None or not weight.grad.any()):
            return False
        try:
            adds = bool(_will_engine_execute_node(get_gradient_edge(weight).node))
        except RuntimeError:  # it adds to nothing: `autograd.grad` gives the gradient to whoever asked
            return False
        if not adds or weight.grad is None or not self._passes:
            return adds
        return bool(self.gradient(self.module.pattern).any())  # else these zeros are those of the passes

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
