"""The product and its gradients as operators of PyTorch, for whoever follows operators: compilers, exports, modes.

`sparsecore::product` and `sparsecore::gradients` take tensors and numbers only. The pattern is named by the module's
two buffers themselves, so that nothing has to be kept alive beside a graph: an exported program that is loaded into
another process finds its connections in its own state, and so does `functional_call` with other buffers. What is made
of them is remembered by the buffers, as long as these live, and they are glanced at in each call, as modules do:
whatever is written is taken, or refused by one line.

Their derivatives are each other, as in `function`, which modules use while nobody follows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from ...errors import one_line
from ...layers.sparse import SparseLayer
from ...storage.few import Few
from ...storage.pattern import SparsityPattern
from .function import gradients_of, product_of
from .geometry import columns_of, in_shape_of, layer_of, out_shape_of
from .given import KINDS, NARROW, channels_last, check, check_parameters
from .written import glance, holds, pattern_in

_PATTERN = "Tensor indptr, Tensor indices, str kind, int[] steps"
_MOST = 16
"""Image sizes of which plans are kept for each pattern."""

torch.library.define("sparsecore::product", f"(Tensor x, Tensor weight, Tensor? bias, {_PATTERN}) -> Tensor")
torch.library.define(
    "sparsecore::gradients",
    f"(Tensor dy, Tensor x, Tensor? weight, {_PATTERN}, bool biased) -> (Tensor, Tensor, Tensor)",
)
product = torch.ops.sparsecore.product.default
gradients = torch.ops.sparsecore.gradients.default


def call(module: Any, x: torch.Tensor, size: tuple[Any, ...]) -> torch.Tensor:
    """A module's output for x of shape (batch, *in_shape), as an operator."""
    weight = module.weight
    if x.dtype in NARROW:
        x = x.to(weight.dtype)
    y: torch.Tensor = product(x, weight, module.bias, module.indptr, module.indices, *module._geometry(size))
    return y


class _Known:
    """What has been made of two buffers."""

    def __init__(self, pattern: SparsityPattern) -> None:
        self.pattern, self.glance = pattern, None
        self.layers: Few[Any, SparseLayer] = Few(_MOST)


_known: Any = WeakTensorKeyDictionary()
"""By the columns' tensor, then by kind and number of columns."""


def _layer(indptr: torch.Tensor, indices: torch.Tensor, kind: str, steps: list[int], x: torch.Tensor) -> SparseLayer:
    """The layer of what the buffers hold now, for x's size."""
    shape = len(indptr) - 1, columns_of(kind, steps)
    by_shape = _known.setdefault(indices, {})
    known, seen = by_shape.get(shape), glance(indptr, indices)
    if known is None or seen is None or known.glance != seen:
        if known is None or not (holds(indptr, known.pattern.indptr) and holds(indices, known.pattern.indices)):
            known = by_shape[shape] = _Known(_pattern(shape, indptr, indices))
        known.glance = seen
    size = tuple(x.shape[2:])
    key = kind, tuple(steps), size
    layer: SparseLayer | None = known.layers.get(key)
    if layer is None:
        layer = known.layers[key] = layer_of(known.pattern, kind, steps, size)
    return layer


def _pattern(shape: tuple[int, int], indptr: torch.Tensor, indices: torch.Tensor) -> SparsityPattern:
    try:
        return pattern_in(shape, indptr, indices)
    except (TypeError, ValueError) as error:
        wanted, said = f"{shape[0]}×{shape[1]}", one_line(str(error).splitlines()[0], 200)
        raise ValueError(f"sparsecore::product: indptr and indices hold no {wanted} pattern: {said}") from None


def _check_x(layer: SparseLayer, x: torch.Tensor, kind: str, steps: list[int], like: torch.Tensor) -> None:
    check(layer, "x", x, like, (x.shape[0], *in_shape_of(kind, steps, x)))


def _product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, indptr: torch.Tensor, indices: torch.Tensor,
    kind: str, steps: list[int],
) -> torch.Tensor:  # fmt: skip
    layer = _layer(indptr, indices, kind, steps, x)
    check_parameters(layer, weight, bias)
    _check_x(layer, x, kind, steps, weight)
    return product_of(layer, x, weight, bias)


def _gradients(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, indptr: torch.Tensor, indices: torch.Tensor,
    kind: str, steps: list[int], biased: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    layer = _layer(indptr, indices, kind, steps, x)
    if weight is not None:
        check_parameters(layer, weight, None)
    _check_x(layer, x, kind, steps, dy)
    check(layer, "dy", dy, x, (len(x), *layer.out_shape))
    found = iter(gradients_of(layer, dy, x, weight, biased))
    dx = x.new_empty(0) if weight is None else next(found)
    return dx, next(found), next(found) if biased else x.new_empty(0)


def _fake_product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, indptr: torch.Tensor, indices: torch.Tensor,
    kind: str, steps: list[int],
) -> torch.Tensor:  # fmt: skip
    if weight.dtype not in KINDS or x.dtype != weight.dtype:
        found = f"{x.dtype} and {weight.dtype}"
        raise TypeError(f"sparsecore::product: x and weight must be both float32 or both float64, got {found}")
    shape = (x.shape[0], *out_shape_of(kind, steps, indptr.shape[0] - 1, x.shape[2:]))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_format_of(x))


def _format_of(x: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if channels_last(x) else torch.contiguous_format


def _fake_gradients(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, indptr: torch.Tensor, indices: torch.Tensor,
    kind: str, steps: list[int], biased: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    dx = x.new_empty(0) if weight is None else torch.empty_like(x, memory_format=_format_of(x))
    return dx, x.new_empty(indices.shape[0]), x.new_empty(indptr.shape[0] - 1 if biased else 0)


def _keep_for_product(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, indptr, indices, *ctx.geometry = inputs
    need_dx = ctx.needs_input_grad[0]
    ctx.save_for_backward(x, weight if need_dx else None, indptr, indices)
    ctx.biased = bias is not None


def _back_of_product(ctx: Any, dy: torch.Tensor) -> Any:
    x, weight, *buffers = ctx.saved_tensors
    dx, dw, db = gradients(dy, x, weight, *buffers, *ctx.geometry, ctx.biased)
    need_dx, need_dw, need_db, *rest = ctx.needs_input_grad
    return dx if need_dx else None, dw if need_dw else None, db if need_db else None, *(None for _ in rest)


def _keep_for_gradients(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, x, weight, indptr, indices, kind, steps, ctx.biased = inputs
    ctx.geometry = kind, steps
    ctx.save_for_backward(dy, x, weight, indptr, indices)


def _back_of_gradients(ctx: Any, ddx: torch.Tensor, ddw: torch.Tensor, ddb: torch.Tensor) -> Any:
    dy, x, weight, *buffers = ctx.saved_tensors
    pattern = *buffers, *ctx.geometry
    ddy = product(x, ddw, ddb if ctx.biased else None, *pattern)
    dx, dw, _ = gradients(dy, x if weight is None else ddx, ddw, *pattern, False)
    if weight is None:
        return ddy, dx, *(None,) * 6
    return ddy + product(ddx, weight, None, *pattern), dx, dw, *(None,) * 5


for _name, _run, _fake, _keep, _back in (
    ("product", _product, _fake_product, _keep_for_product, _back_of_product),
    ("gradients", _gradients, _fake_gradients, _keep_for_gradients, _back_of_gradients),
):
    torch.library.impl(f"sparsecore::{_name}", ("cpu", "cuda"))(_run)
    torch.library.register_fake(f"sparsecore::{_name}")(_fake)
    torch.library.register_autograd(f"sparsecore::{_name}", _back, setup_context=_keep)
