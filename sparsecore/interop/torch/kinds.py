"""Which layers of PyTorch have a sparse counterpart, what makes it, and what stands in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from .attention import PROJECTIONS, from_attention
from .conv1d import SparseConv1d
from .conv_transpose import SparseConvTranspose2d
from .dense import allowed, is_told, pruned, weight_norm
from .modules import SparseConv2d, SparseLinear, padding_of
from .transformers_conv1d import from_conv1d, is_conv1d

Maker = Callable[[Any, float | None], nn.Module]


MAKERS: dict[type[nn.Module], Maker] = {
    nn.Linear: SparseLinear.from_linear, nn.Conv1d: SparseConv1d.from_conv, nn.Conv2d: SparseConv2d.from_conv,
    nn.ConvTranspose2d: SparseConvTranspose2d.from_conv, nn.MultiheadAttention: from_attention,
}  # fmt: skip
"""What makes the sparse layer of a dense one. Subclasses are not replaced, since these may do anything."""

WITHOUT_COUNTERPART = "a layer without a sparse counterpart"

_DENSE = (
    nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.modules.rnn.RNNBase,
    nn.modules.rnn.RNNCellBase,
)  # fmt: skip
"""Layers that multiply by weights: what stays dense among these is said."""


def maker_of(module: nn.Module) -> Maker | None:
    """What makes the sparse layer of a dense one; None if there is none of this class."""
    return from_conv1d if is_conv1d(module) else MAKERS.get(type(module))


def is_dense(module: nn.Module) -> bool:
    """Whether a module is a layer that multiplies by weights."""
    return isinstance(module, _DENSE) or is_conv1d(module)


def matrices(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The weights of a layer of which we know the counterpart, as (owner, name)."""
    if isinstance(module, nn.MultiheadAttention):
        packed = ["in_proj_weight"] if module._qkv_same_embed_dim else [f"{each}_weight" for each in PROJECTIONS[:3]]
        yield from ((module, name) for name in packed)
        yield module.out_proj, "weight"
    else:
        yield module, "weight"


def is_pruned(module: nn.Module) -> bool:
    """Whether a layer has a mask, or a weight that is zero; True as well where nobody can tell."""
    if _is_lazy(module):
        return True
    for owner, name in matrices(module):
        if hasattr(owner, f"{name}_mask"):
            return True
        if not is_told(owner, name) or not isinstance(getattr(owner, name, None), torch.Tensor):
            return True
        weight = pruned(owner, name)
        if weight is None or weight.is_meta or bool((weight == 0).any()):
            return True
    return False


def too_small(module: nn.Module, sparsity: float) -> bool:
    """Whether so few of a weight may stay that none does."""
    found = (pruned(owner, name) for owner, name in matrices(module))
    return any(weight is not None and not allowed(weight.numel(), sparsity) for weight in found)


def folded(module: nn.Module) -> str:
    """What is said of a layer whose weights are made of others."""
    normed = any(weight_norm(module, name) is not None for name in ("weight", "bias"))
    return "weight norm folded into its weights" if normed else ""


def shape_of_weight(module: nn.Module) -> tuple[int, ...]:
    """The shape of a dense layer's weight, its in-projection's if it is an attention; empty if it is not known."""
    name = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
    weight = None if _is_lazy(module) else getattr(module, name, None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()


def obstacle(module: nn.Module) -> str | None:
    """Why a dense layer cannot be replaced as it is, or None."""
    if _is_lazy(module):
        return "no weights before its first call: run the model once"
    if parametrize.is_parametrized(module):
        return f"parametrised {_parametrised(module)}: see torch.nn.utils.parametrize.remove_parametrizations"
    if maker_of(module) is None:
        return _foreign(module)
    if isinstance(module, nn.MultiheadAttention):
        if module.bias_k is not None or module.add_zero_attn:
            return "keys of its own: bias_k, or zeros"
        if type(module.out_proj) not in (NonDynamicallyQuantizableLinear, nn.Linear):
            return f"an out_proj of another class, {type(module.out_proj).__name__}"
    for owner, name in matrices(module):
        if (why := _unreadable(owner, name)) is not None:
            return why
    return None


def other_padding(module: nn.Module) -> str | None:
    """Why a convolution's padding has no counterpart, or None."""
    if isinstance(module, nn.modules.conv._ConvNd):
        try:
            padding_of(module)
        except ValueError as error:
            return str(error).partition(": ")[2]
    return None


def _unreadable(owner: nn.Module, name: str) -> str | None:
    """Why the values of a weight cannot be taken."""
    if not is_told(owner, name):
        return f"its {name} is computed anew in each call"
    weight = pruned(owner, name)
    if weight is None or weight.is_meta:
        return f"its {name} has no values" + ("" if weight is None else ": it is on the meta device")
    return None if weight.is_floating_point() else f"its {name} is of {weight.dtype}"


def _foreign(module: nn.Module) -> str:
    """Why there is no counterpart of a module's class."""
    base = next((kind for kind in MAKERS if isinstance(module, kind)), None)
    if base is None:
        return WITHOUT_COUNTERPART
    own = type(module).forward is not base.forward
    return f"a subclass of {base.__name__}, " + ("with a forward of its own" if own else "which may do anything")


def _parametrised(module: nn.Module) -> str:
    found = module.parametrizations
    assert isinstance(found, nn.ModuleDict)
    return ", ".join(
        f"{name} ({', '.join(type(each).__name__.lstrip('_') for each in steps)})"
        for name, steps in found.items() if isinstance(steps, nn.ModuleList)
    )  # fmt: skip


def _is_lazy(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params()
