"""A call of a sparse layer as a node of autograd's graph; tensors share their memory with the layer's arrays."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ...layers.replay import backward_of, forward_of
from ...layers.sparse import SparseLayer
from ...runtime.device import Device
from ...runtime.devices import cpu, cuda
from ...runtime.replay import Replay
from ...runtime.workspace import Workspace
from .given import NARROW, check, check_parameters, plain

_NAMES = {torch.float32: "float32", torch.float64: "float64"}


def call(module: Any, layer: SparseLayer, x: torch.Tensor) -> torch.Tensor:
    """A layer's output for x with a module's parameters instead of its own; differentiable once by all three.

    Parameters
    ----------
    module : SparseModule
        Its weight, of shape (nnz,), is float32 or float64; its bias, of shape (out_features,), is the same or None.
    layer : SparseLayer
        Of the module's pattern. Not changed: a module may be used twice in a network, or by several threads.
    x : tensor of shape (batch, *in_shape), which the module has seen to
        Of the weight's dtype, or float16 or bfloat16, which are widened to it.

    Raises
    ------
    TypeError, ValueError
        If one of them has another shape, dtype or layout, or they are not on one CPU or NVIDIA GPU.
    RuntimeError
        In the backward pass, if the module has taken another pattern since.
    """
    weight, bias = module.weight, module.bias
    check_parameters(layer, weight, bias)
    if x.dtype in NARROW:
        x = x.to(weight.dtype)
    check(layer, "x", x, weight)
    learns = torch.is_grad_enabled()
    y = _Call.apply(weakref.ref(module), layer, x, weight, bias, learns)  # weakly: modules may keep what they computed
    if module.caught is not None and (caught := module.caught()) is not None:  # connections move after this step
        caught.watch(layer, x, y)
    return y


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, owner: Any, layer: SparseLayer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
        learns: bool,
    ) -> torch.Tensor:  # fmt: skip
        need_dx, x = ctx.needs_input_grad[2], plain(x)
        values, bias = plain(weight), None if bias is None else plain(bias)
        kept = ctx.left = None
        if x.is_cpu:
            y = _forward_on_cpu(layer, x, values, bias)
            # A batch of data is copied: whoever loads the next may write over it.
            kept = x if need_dx or not learns else x.clone()
        else:  # which keeps x in tiles
            y, ctx.left = _forward_on_gpu(layer, x, values, bias)
        # Saved so that autograd notices a change in place; the weights are read only for dx.
        ctx.save_for_backward(kept, weight if need_dx else None)
        weight = values
        ctx.of = owner, layer, layer.pattern, y.shape, weight.detach(), bias is not None  # the pattern may change
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        # The wrapper that refuses gradients of gradients costs some microseconds: only where they may be wanted.
        return (_backward_once if torch.is_grad_enabled() else _backward)(ctx, dy)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    _, _, need_dx, need_dw, need_db, _ = ctx.needs_input_grad
    owner, layer, pattern, shape, weight, biased = ctx.of
    module = owner()
    if (layer if module is None else module).pattern is not pattern:
        raise RuntimeError(f"{layer!r}: the module has taken another pattern since this forward pass: repeat it")
    x, _ = ctx.saved_tensors  # raises if they were changed
    check(layer, "dy", dy, weight, shape)
    if dy.is_cpu:
        dx, dw, db = _backward_on_cpu(layer, plain(dy), x, weight, biased, need_dx)
    else:
        dx, dw, db = _backward_on_gpu(plain(dy), layer, weight, ctx.left, need_dx)
    return None, None, dx, dw if need_dw else None, db if need_db else None, None


_backward_once = once_differentiable(_backward)


def _forward_on_cpu(
    layer: SparseLayer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """y of contiguous arrays."""
    y = torch.empty((len(x), *layer.out_shape), dtype=x.dtype, device="cpu")
    _run(forward_of(layer, len(x), _NAMES[x.dtype], biased=bias is not None), x, weight, bias, y, None)
    return y


def _backward_on_cpu(
    layer: SparseLayer, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, biased: bool, need_dx: bool
) -> tuple[torch.Tensor | None, ...]:
    """dx, dw and db of contiguous arrays; None where one is not wanted."""
    replay = backward_of(layer, len(dy), _NAMES[dy.dtype], biased=biased, need_dx=need_dx)
    kind: Any = {"dtype": dy.dtype, "device": "cpu"}  # said, since a user may have set another default device
    dx = torch.empty((len(dy), *layer.in_shape), **kind) if need_dx else None
    dw, db = torch.empty_like(weight), torch.empty(layer.pattern.shape[0], **kind) if biased else None
    _run(replay, dy, x, None, weight, dx, dw, db)
    return dx, dw, db


def _run(replay: Replay, *tensors: torch.Tensor | None) -> None:
    """Run a replay on these tensors, which are held until it has ended: nothing else takes an address."""
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    for tensor, address in zip(tensors, addresses, strict=True):
        if not address and tensor is not None and tensor.numel():
            raise TypeError(f"a sparse layer computes with numbers in memory, got a {type(tensor).__name__} without")
    replay.run(*addresses)


def _forward_on_gpu(
    layer: SparseLayer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, tuple[SparseLayer, Any]]:
    device, stream = place_of(x)
    with stream:
        zero = device.zeros(layer.out_shape[:1], str(x.dtype)[6:]) if bias is None else array_of(bias)
        used = layer.with_params(array_of(weight), zero)
        y, cache = used.forward(array_of(x), Workspace(device))
    return torch.from_dlpack(y), (used, cache)


def _backward_on_gpu(
    dy: torch.Tensor, layer: SparseLayer, weight: torch.Tensor, left: tuple[SparseLayer, Any], need_dx: bool
) -> tuple[torch.Tensor | None, ...]:
    device, stream = place_of(dy)
    used, cache = left
    with stream:
        dx, grads = used.backward(array_of(dy), cache, Workspace(device), need_dx=need_dx)
    found = dx, grads["weight"], grads["bias"]
    return tuple(None if array is None else torch.from_dlpack(array) for array in found)


def place_of(x: torch.Tensor) -> tuple[Device, AbstractContextManager[Any]]:
    """Our device for a tensor, and a context in which a GPU works on PyTorch's current stream."""
    if x.is_cpu:
        return cpu(), nullcontext()
    import cupy

    index = x.device.index or 0
    return cuda(index), cupy.cuda.ExternalStream(torch.cuda.current_stream(index).cuda_stream, index)


def array_of(x: torch.Tensor) -> Any:
    """The tensor's memory as an array of its device."""
    if x.is_cpu:
        return x.detach().numpy()
    import cupy

    return cupy.from_dlpack(x.detach())
