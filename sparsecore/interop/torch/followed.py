"""Modules where somebody follows PyTorch's operators: what compiles, exports, traces or counts is shown operators."""

from __future__ import annotations

from typing import Any

import torch
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch.compiler import disable, is_compiling
from torch.nn import functional

from . import operators
from .function import call


def followed() -> bool:
    """Whether a call must be seen as operators: asked in each, a fraction of a microsecond."""
    return is_compiling() or _get_tracing_state() is not None or _len_torch_dispatch_stack() > 0


def followed_call(module: Any, x: torch.Tensor, size: tuple[Any, ...]) -> torch.Tensor:
    """A module's output for x of shape (batch, *in_shape), as whoever follows can take it down."""
    if torch.onnx.is_in_onnx_export():
        return _dense_call(module, x, size)
    if module.caught is not None and _get_tracing_state() is None:
        return _watched(module, x, size)  # connections move after this step: x is kept, and what comes back
    return operators.call(module, x, size)


@disable
def _watched(module: Any, x: torch.Tensor, size: tuple[Any, ...]) -> torch.Tensor:
    module._look()
    return call(module, module._layers.get(size) or module._layer(size), x)


def _dense_call(module: Any, x: torch.Tensor, size: tuple[Any, ...]) -> torch.Tensor:
    """The same by PyTorch's own operators, for formats that know no others."""
    weight = _dense_values(module)
    kind, steps = module._geometry(size)
    if kind == "linear":
        return functional.linear(x, weight, module.bias)
    pairs = [steps[k : k + 2] for k in range(1, len(steps), 2)]
    weight = weight.unflatten(1, (steps[0], *pairs[0]))
    if kind == "conv":
        return functional.conv2d(x, weight, module.bias, *pairs[1:])
    stride, padding, more, dilation = pairs[1:]
    weight = weight.transpose(0, 1)
    return functional.conv_transpose2d(x, weight, module.bias, stride, padding, more, 1, dilation)


def _dense_values(module: Any) -> torch.Tensor:
    """The weights as a matrix, computed from the parameter where that has no numbers yet, and a constant otherwise."""
    if (tracing := _get_tracing_state()) is None:
        return module._full(module.weight)
    torch._C._set_tracing_state(None)
    try:
        return module._full(module.weight.detach())
    finally:
        torch._C._set_tracing_state(tracing)
