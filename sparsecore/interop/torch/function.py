"""A call of a sparse layer as a node of autograd's graph; tensors share their memory with the layer's arrays."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ...layers.replay import replay_of
from ...layers.sparse import SparseLayer
from ...runtime.device import Device
from ...runtime.devices import cuda
from ...runtime.workspace import Workspace

_NAMES = {torch.float32: "float32", torch.float64: "float64"}


def call(layer: SparseLayer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A layer's output for x with these parameters instead of its own; differentiable once by all three.

    Parameters
    ----------
    layer : SparseLayer
        Not changed: a module may be used twice in a network, or by several threads.
    x : tensor of shape (batch, *in_shape)
        Of the weight's dtype, or float16 or bfloat16, which are widened to it.
    weight : float32 or float64 tensor of shape (nnz,)
    bias : tensor of shape (out_features,), optional

    Raises
    ------
    TypeError
        If a dtype is not one of these, or the tensors are not on one CPU or NVIDIA GPU.
    """
    if weight.dtype not in _NAMES:
        raise TypeError(f"{layer!r}: parameters must be float32 or float64, got {weight.dtype}: call .float()")
    if x.dtype != weight.dtype:
        if x.dtype not in (torch.float16, torch.bfloat16):
            raise TypeError(f"{layer!r}: x must be {weight.dtype}, as the weights are, or 16 bits wide, got {x.dtype}")
        x = x.to(weight.dtype)
    if not (x.is_cpu and weight.is_cpu) and (x.device != weight.device or not x.is_cuda):
        raise TypeError(f"{layer!r}: x and the weights must be on one CPU or GPU, got {x.device} and {weight.device}")
    return _Call.apply(layer, x, weight, bias)


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layer: SparseLayer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        run: Any = _forward_on_cpu if x.is_cpu else _forward_on_gpu
        need_dx = ctx.needs_input_grad[1]
        if need_dx:  # so that autograd notices a change of the weights in place; x is kept as packed tiles
            ctx.save_for_backward(weight)
        y, ctx.left = run(layer, x, weight, bias, need_dx)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        # The wrapper that refuses gradients of gradients costs some microseconds: only where they may be wanted.
        return (_backward_once if torch.is_grad_enabled() else _backward)(ctx, dy)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    _, need_dx, need_dw, need_db = ctx.needs_input_grad
    if need_dx:
        _ = ctx.saved_tensors  # raises if they were changed
    run: Any = _backward_on_cpu if dy.is_cpu else _backward_on_gpu
    dx, dw, db = run(dy, *ctx.left, need_dx)
    return None, dx, dw if need_dw else None, db if need_db else None


_backward_once = once_differentiable(_backward)


def _forward_on_cpu(
    layer: SparseLayer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, need_dx: bool
) -> tuple[torch.Tensor, tuple[Any, ...]]:
    x, weight = x.contiguous(), weight.contiguous()
    replay = replay_of(layer, len(x), _NAMES[x.dtype], need_dx)
    shape, zero = replay.scratch
    scratch = (torch.zeros if zero else torch.empty)(shape, dtype=x.dtype)
    y = torch.empty((len(x), *layer.out_shape), dtype=x.dtype)
    bias_at = replay.zero_bias.ctypes.data if bias is None else bias.contiguous().data_ptr()
    replay.forward.run(x.data_ptr(), weight.data_ptr(), bias_at, y.data_ptr(), scratch.data_ptr())
    return y, (layer, scratch, weight.detach())


def _backward_on_cpu(
    dy: torch.Tensor, layer: SparseLayer, scratch: torch.Tensor, weight: torch.Tensor, need_dx: bool
) -> tuple[torch.Tensor | None, ...]:
    dy = dy.contiguous()
    replay = replay_of(layer, len(dy), _NAMES[dy.dtype], need_dx)
    dx = torch.empty((len(dy), *layer.in_shape), dtype=dy.dtype) if need_dx else None
    dw, db = torch.empty_like(weight), torch.empty(layer.pattern.shape[0], dtype=dy.dtype)
    dx_at = 0 if dx is None else dx.data_ptr()
    replay.backward.run(
        dy.data_ptr(), scratch.data_ptr(), weight.data_ptr(), dx_at, dw.data_ptr(), db.data_ptr()
    )
    return dx, dw, db


def _forward_on_gpu(
    layer: SparseLayer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, need_dx: bool
) -> tuple[torch.Tensor, tuple[Any, ...]]:
    device, stream = _gpu(x)
    with stream:
        zero = device.zeros(layer.out_shape[:1], str(x.dtype)[6:]) if bias is None else _array(bias)
        used = layer.with_params(_array(weight), zero)
        y, cache = used.forward(_array(x), Workspace(device))
    return torch.from_dlpack(y), (used, cache)


def _backward_on_gpu(
    dy: torch.Tensor, used: SparseLayer, cache: Any, need_dx: bool
) -> tuple[torch.Tensor | None, ...]:
    device, stream = _gpu(dy)
    with stream:
        dx, grads = used.backward(_array(dy), cache, Workspace(device), need_dx=need_dx)
    found = dx, grads["weight"], grads["bias"]
    return tuple(None if array is None else torch.from_dlpack(array) for array in found)


def _gpu(x: torch.Tensor) -> tuple[Device, AbstractContextManager[Any]]:
    """Our device for a tensor, and a context in which it works on PyTorch's current stream."""
    import cupy

    index = x.device.index or 0
    return cuda(index), cupy.cuda.ExternalStream(torch.cuda.current_stream(index).cuda_stream, index)


def _array(x: torch.Tensor) -> Any:
    """The tensor's memory as CuPy's array."""
    import cupy

    return cupy.from_dlpack(x.detach().contiguous())
