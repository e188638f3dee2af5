"""Two functions that are each other's derivatives, as nodes of autograd's graph: a layer's product, and its gradients.

y = A(weight) x + bias is linear in x and in (weight, bias). So its gradients, Aᵀ dy, the sample of dy xᵀ at the stored
connections and the sum of dy, are linear in dy and in (x, weight), and whoever differentiates them meets products
and gradients again. `Product` and `Gradients` are all that derivatives of any order need, forward or in reverse.

While PyTorch computes, both are plain `autograd.Function`s on the module's own plans: a call through `torch.library`
costs some 20 μs more, as long as a small layer's product itself. Where somebody follows the operators instead
(`torch.compile`, export, modes), the same two are operators: see `operators`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch._C import _are_functorch_transforms_active as transformed
from torch._C import _will_engine_execute_node
from torch._C._functorch import unwrap_if_dead
from torch.autograd.function import Function

from ...layers.replay import backward_of, forward_of
from ...layers.sparse import SparseLayer
from ...runtime.device import Device
from ...runtime.devices import cpu, cuda
from ...runtime.replay import Replay
from ...runtime.workspace import Workspace
from .crew import crew
from .given import cast, channels_last, check, check_parameters, plain

_NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}
Tensors = tuple[torch.Tensor, ...]


def call(module: Any, layer: SparseLayer, x: torch.Tensor) -> torch.Tensor:
    """A layer's output for x with a module's parameters instead of its own; differentiable by all three.

    Parameters
    ----------
    module : SparseModule
        Its weight, of shape (nnz,), is float32 or float64; its bias, of shape (out_features,), is the same or None.
    layer : SparseLayer
        Of the module's pattern. Not changed: a module may be used twice in a network, or by several threads.
    x : tensor of shape (batch, *in_shape), which the module has seen to
        Of the weight's dtype, or float16 or bfloat16, which are widened to it; under `autocast` see `given.cast`.

    Raises
    ------
    TypeError, ValueError
        If one of them has another shape, dtype or layout, or they are not on one CPU or NVIDIA GPU.
    RuntimeError
        In the backward pass, if the module has taken another pattern since.
    """
    weight, bias = module.weight, module.bias
    check_parameters(layer, weight, bias)
    x = cast(x, weight, transposed=not layer.halves)
    check(layer, "x", x, weight)
    y: torch.Tensor = product(x, weight, bias, Use(layer, weakref.ref(module)))
    return y


class Use:
    """What the two functions of one call compute with; to PyTorch it is a whole, not a tuple of arguments.

    Parameters
    ----------
    layer : SparseLayer
    module : weak reference to a SparseModule
        Weakly: modules may keep what they computed.

    Attributes
    ----------
    pattern : SparsityPattern
        The layer's when it was called: layers take another when connections move.
    recorded : bool
        Whether a backward pass may follow.
    """

    __slots__ = ("layer", "module", "pattern", "recorded")

    def __init__(self, layer: SparseLayer, module: weakref.ref[Any]) -> None:
        self.layer, self.module, self.pattern = layer, module, layer.pattern
        self.recorded = torch.is_grad_enabled()  # within a function's own methods it never is

    @property
    def caught(self) -> Any:
        """Who is told what the module's gradient is made of, as connections move after this step; None if nobody."""
        module = self.module()
        return None if module is None or module.caught is None else module.caught()

    def check(self) -> None:
        """Refuse the gradients of connections that there were."""
        module = self.module()
        if (self.layer if module is None else module).pattern is not self.pattern:
            raise RuntimeError(
                f"{self.layer!r}: the module has taken another pattern since this forward pass: repeat it"
            )


class Product(Function):
    """y of (x, weight, bias or None, use)."""

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, use: Use) -> torch.Tensor:
        return product_of(use.layer, x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, bias, ctx.use = inputs
        need_dx, need_dw, *_ = ctx.needs_input_grad
        # A batch of data is copied: whoever loads the next may write over it. The weights are read only for dx.
        kept = x.clone() if need_dw and not need_dx and ctx.use.recorded else x
        ctx.save_for_backward(kept, weight if need_dx else None)
        ctx.save_for_forward(x, weight)
        ctx.biased = bias is not None

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors  # raises if they were changed
        need_dx, need_dw, need_db, _ = ctx.needs_input_grad
        compute = gradients if torch.is_grad_enabled() or transformed() else _gradients_at_once
        counts = need_dw and counted(ctx, 1)
        dx, dw, db = _sorted(compute(dy, x, weight, ctx.use, ctx.biased, counts), need_dx, ctx.biased)
        return dx, dw if need_dw else None, db if need_db else None, None

    @staticmethod
    def jvp(ctx: Any, dx: Any, dw: Any, db: Any, _: Any) -> torch.Tensor:
        x, weight = ctx.saved_tensors
        return _sum(
            None if dx is None else product(dx, weight, None, ctx.use),
            None if dw is None and db is None else product(x, _or_zeros(dw, weight), db, ctx.use),
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any, weight: Any, bias: Any, use: Use) -> tuple[torch.Tensor, int]:
        if in_dims[1] is None and in_dims[2] is None:  # as one batch
            x = x.movedim(in_dims[0], 0)
            return product(x.flatten(0, 1), weight, bias, use).unflatten(0, x.shape[:2]), 0
        return _one_by_one(product, info, in_dims, x, weight, bias, use), 0


class Gradients(Function):
    """(dx, dw, db) of (dy, x, weight, use, biased, counts); without a weight no dx, and db where it is biased.

    `counts` says whether dw becomes a part of the module's gradient.
    """

    @staticmethod
    def forward(
        dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, use: Use, biased: bool, counts: bool
    ) -> Tensors:
        return _gradients_at_once(dy, x, weight, use, biased, counts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        dy, x, weight, ctx.use, ctx.biased, _ = inputs
        ctx.save_for_backward(dy, x, weight)
        ctx.save_for_forward(dy, x, weight)

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> Any:
        dy, x, weight = ctx.saved_tensors
        ddx, ddw, ddb = _sorted(given, weight is not None, ctx.biased)
        ddy = product(x, ddw, ddb, ctx.use)
        if weight is None:
            dx, _ = gradients(dy, x, ddw, ctx.use, False, False)
            return ddy, dx, None, None, None, None
        counts = ctx.needs_input_grad[2] and counted(ctx, 2)
        dx, dw = gradients(dy, ddx, ddw, ctx.use, False, counts)
        return ddy + product(ddx, weight, None, ctx.use), dx, dw, None, None, None

    @staticmethod
    def jvp(ctx: Any, ddy: Any, dx: Any, dw: Any, *_: Any) -> Any:
        dy, x, weight = ctx.saved_tensors
        found = gradients(_or_zeros(ddy, dy), x, weight, ctx.use, ctx.biased, False)
        if dx is None and dw is None:
            return found
        dw = None if weight is None else _or_zeros(dw, weight)
        changed = gradients(dy, _or_zeros(dx, x), dw, ctx.use, False, False)
        return tuple(_sum(*each) for each in zip(found, (*changed, None), strict=False))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> Any:
        found = _one_by_one(gradients, info, in_dims, *given)
        return found, (0,) * len(found)


def _applied(function: type[Function]) -> Callable[..., Any]:
    """The function's `apply`, without what PyTorch does for defaults that there are none of: as long as a product."""
    at_once = super(Function, function).apply

    def apply(*given: Any) -> Any:
        return function.apply(*given) if transformed() else at_once(*given)

    return apply


product = _applied(Product)
gradients = _applied(Gradients)


def counted(ctx: Any, weight: int) -> bool:
    """Whether somebody watches a module in whose gradient this backward pass will end, by way of that input.

    A node is also run for the sake of others: of gradients with respect to x alone, say.
    """
    if ctx.use.caught is None:
        return False
    try:
        return bool(_will_engine_execute_node(ctx.next_functions[weight][0]))
    except RuntimeError:  # `autograd.grad` was asked for this very gradient, of which there is no node to run
        return True


def _gradients_at_once(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, use: Use, biased: bool, counts: bool
) -> Tensors:
    use.check()
    check(use.layer, "dy", dy, x, (len(x), *use.layer.out_shape))
    if counts and (caught := use.caught) is not None:
        caught.add(use.layer, x, dy)
    return gradients_of(use.layer, dy, x, weight, biased)


def _sorted(given: tuple[Any, ...], with_dx: bool, biased: bool) -> tuple[Any, Any, Any]:
    """dx, dw and db of those that there are."""
    dx, given = (given[0], given[1:]) if with_dx else (None, given)
    return dx, given[0], given[1] if biased else None


def _or_zeros(given: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if given is None else given


def _sum(one: torch.Tensor | None, other: torch.Tensor | None) -> Any:
    return other if one is None else one if other is None else one + other


def _one_by_one(function: Callable[..., Any], info: Any, in_dims: Any, *given: Any) -> Any:
    """What a function gives for each of a batch of arguments, stacked: values of weights share no product."""

    def at(k: int) -> list[Any]:
        return [each if dim is None else each.select(dim, k) for each, dim in zip(given, in_dims, strict=True)]

    found = [function(*at(k)) for k in range(info.batch_size)]
    if isinstance(found[0], torch.Tensor):
        return torch.stack(found)
    return tuple(map(torch.stack, zip(*found, strict=True)))


# -- what computes ---------------------------------------------------------------------------------------------------


def product_of(
    layer: SparseLayer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """y = A(weight) x + bias of a layer's pattern, of shape (batch, *out_shape)."""
    weight, bias, last = plain(weight), None if bias is None else plain(bias), channels_last(x)
    x = plain(x, last)
    if not x.is_cpu:
        return _product_on_gpu(layer, x, weight, bias)
    y = _new((len(x), *layer.out_shape), x.dtype, last)
    replay = forward_of(layer, len(x), _NAMES[x.dtype], biased=bias is not None, channels_last=last)
    _run(replay, x, weight, bias, y, None)
    return y


def gradients_of(
    layer: SparseLayer, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, biased: bool
) -> Tensors:
    """dx if there is a weight, dw, and db if biased."""
    last = channels_last(x)
    dy, x, weight = plain(dy, last), plain(x, last), None if weight is None else plain(weight)
    if not dy.is_cpu:
        return _gradients_on_gpu(layer, dy, x, weight, biased)
    need_dx, name = weight is not None, _NAMES[dy.dtype]
    replay = backward_of(layer, len(dy), name, biased=biased, need_dx=need_dx, channels_last=last)
    kind: Any = {"dtype": dy.dtype, "device": "cpu"}  # said, since a user may have set another default device
    dx = _new((len(dy), *layer.in_shape), dy.dtype, last) if need_dx else None
    if dy.dtype is torch.bfloat16:
        kind["dtype"] = torch.float32
    dw = torch.empty(layer.pattern.nnz, **kind)
    db = torch.empty(layer.pattern.shape[0], **kind) if biased else None
    _run(replay, dy, x, None, weight, dx, dw, db)
    return tuple(each for each in (dx, dw, db) if each is not None)


def _new(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> torch.Tensor:
    """An uninitialised tensor, from NumPy where it is large; of images whose channels come last in memory, if asked.

    PyTorch asks for memory aligned to 64 bytes. The GNU allocator then wants a hole that is as much larger, and never
    uses that which a tensor of the same size has left: a training of a deep model takes half as much memory again.
    Ours begins within a little more memory than it needs, for whoever reads a line that lies across two of the cache
    waits twice.
    """
    if last:
        batch, channels, *size = shape
        return _new((batch, *size, channels), dtype, False).permute(0, 3, 1, 2)
    if math.prod(shape) < _LARGE:
        return torch.empty(shape, dtype=dtype, device="cpu")
    if dtype is torch.bfloat16:  # of which NumPy knows none
        return torch.from_numpy(cpu().empty(shape, np.int16)).view(dtype)
    return torch.from_numpy(cpu().empty(shape, _NAMES[dtype]))


_LARGE = 1 << 15
"""Numbers of a tensor from which the system is asked for them by itself: small ones find holes that fit."""


def _run(replay: Replay, *tensors: torch.Tensor | None) -> None:
    """Run a replay on these tensors, which are held until it has ended: nothing else takes an address."""
    try:
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    except RuntimeError:  # perhaps kept within a transform that has ended, as that of `vjp` when its result is called
        alive = [None if tensor is None else unwrap_if_dead(tensor) for tensor in tensors]
        if all(one is other for one, other in zip(alive, tensors, strict=True)):  # the older vmap asks nobody
            raise TypeError("a sparse layer computes with numbers in memory, not with a batch of gradients at once: "
                            "leave out is_grads_batched and vectorize, or use torch.func") from None  # fmt: skip
        return _run(replay, *alive)
    for tensor, address in zip(tensors, addresses, strict=True):
        if not address and tensor is not None and tensor.numel():
            raise TypeError(f"a sparse layer computes with numbers in memory, got a {type(tensor).__name__} without: "
                            "parameters must be whole tensors on each rank, as DistributedDataParallel has them")
    replay.run(*addresses, by=crew())


def _product_on_gpu(
    layer: SparseLayer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    device, stream = place_of(x)
    with stream:
        y, _ = _on_gpu(layer, device, weight, bias, x).forward(array_of(x), Workspace(device))
    return torch.from_dlpack(y)


def _gradients_on_gpu(
    layer: SparseLayer, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, biased: bool
) -> Tensors:
    """Those of a pass that is repeated: nothing is kept beside x, which autograd knows of."""
    device, stream = place_of(dy)
    with stream:
        used = _on_gpu(layer, device, dy.new_zeros(layer.pattern.nnz) if weight is None else weight, None, x)
        workspace = Workspace(device)
        _, cache = used.forward(array_of(x), workspace)
        dx, grads = used.backward(array_of(dy), cache, workspace, need_dx=weight is not None)
    found = dx, grads["weight"], grads["bias"] if biased else None
    return tuple(torch.from_dlpack(array) for array in found if array is not None)


def _on_gpu(
    layer: SparseLayer, device: Device, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor
) -> SparseLayer:
    """The layer with these parameters."""
    zero = device.zeros(layer.out_shape[:1], str(x.dtype)[6:]) if bias is None else array_of(bias)
    return layer.with_params(array_of(weight), zero)


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
