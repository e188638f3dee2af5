"""Attention whose projections are modules, sparse or dense, in place of `nn.MultiheadAttention`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import nn
from torch._C import _are_functorch_transforms_active as transformed
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from .carry import HOOKS, carry_traits
from .dense import connections, pruned, trained
from .modules import SparseLinear, SparseModule

Mask: TypeAlias = torch.Tensor | None


class SparseMultiheadAttention(nn.Module):
    """softmax(Q Kᵀ / √d) V of each head (Vaswani et al., 2017), as `nn.MultiheadAttention` computes it.

    That keeps the projections of queries, keys and values in one matrix, which no module may replace. Here each of them
    is a module, and so is that of the output, so that they may be sparse, or not, as any other layer.

    Parameters
    ----------
    q_proj, k_proj, v_proj, out_proj : nn.Module
        Linear layers; the first three give `embed_dim` features, as many for each head.
    embed_dim, num_heads : int
    dropout : float
        Of the attention's weights, while it trains.
    batch_first : bool
        Whether batches of sequences are (batch, length, features) instead of (length, batch, features).
    """

    # By these `nn.TransformerEncoderLayer` sees that it must not read matrices in place of calling modules.
    in_proj_weight = in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self, q_proj: nn.Module, k_proj: nn.Module, v_proj: nn.Module, out_proj: nn.Module, *, embed_dim: int,
        num_heads: int, dropout: float = 0.0, batch_first: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = q_proj, k_proj, v_proj, out_proj
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.dropout, self.batch_first = dropout, batch_first

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, key_padding_mask: Mask = None,
        need_weights: bool = True, attn_mask: Mask = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """As that of `nn.MultiheadAttention`; padded tensors only, no nested ones.

        Whoever calls `backward` on gradients takes the weights too, or PyTorch's `sdpa_kernel(SDPBackend.MATH)`: its
        other kernels have no second derivative. Transforms of `torch.func` need neither.

        Raises
        ------
        TypeError, ValueError
            If a tensor is nested, the number of axes is neither 2 nor 3, `is_causal` comes without a mask, sizes do not
            go together, or a mask is neither of truths nor of floating-point numbers.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            raise TypeError("SparseMultiheadAttention: takes padded tensors with a key_padding_mask, got a nested one")
        if query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
            got = tuple(each.dim() for each in (query, key, value))
            raise ValueError(f"SparseMultiheadAttention: query, key and value must have 2 or 3 axes each, got {got}")
        if is_causal and attn_mask is None:
            raise ValueError("SparseMultiheadAttention: is_causal says what attn_mask is: give it too")
        batched = query.dim() == 3
        self._check(query, key, value, attn_mask, key_padding_mask)
        q, k, v = (
            self._heads(project(given), batched)
            for project, given in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        causal = is_causal and key_padding_mask is None and not need_weights  # then the mask need not be read
        mask = None if causal else self._mask(attn_mask, key_padding_mask, q)
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-2, -1)
            weights = functional.softmax(scores if mask is None else scores + mask, -1)
            weights = functional.dropout(weights, rate) if rate else weights
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights[0]
        else:
            with _kernels():
                y = functional.scaled_dot_product_attention(q, k, v, mask, rate, causal)
        return self.out_proj(self._joined(y, batched)), weights

    def _check(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn: Mask, padding: Mask) -> None:
        """Refuse sizes that would be broadcast, as `nn.MultiheadAttention` does, and masks that are counts."""
        batched, at = query.dim() == 3, 0 if self.batch_first else 1
        batch = tuple(query.shape[at : at + 1]) if batched else ()
        lengths = [each.shape[1 - at if batched else 0] for each in (query, key, value)]
        alike = not batched or query.shape[at] == key.shape[at] == value.shape[at]
        if not alike or lengths[1] != lengths[2]:
            got = ", ".join(str(tuple(each.shape)) for each in (query, key, value))
            raise ValueError("SparseMultiheadAttention: query, key and value must be of one batch, and key and value "
                             f"of one length, got {got}")  # fmt: skip
        each = (self.num_heads * (query.shape[at] if batched else 1), *lengths[:2])
        for name, mask, shapes in (
            ("attn_mask", attn, (tuple(lengths[:2]), each)), ("key_padding_mask", padding, ((*batch, lengths[1]),)),
        ):  # fmt: skip
            if mask is None:
                continue
            if mask.dtype != torch.bool and not mask.is_floating_point():
                raise TypeError(f"SparseMultiheadAttention: {name} must be of truths or floating-point numbers, which "
                                f"are added, got {mask.dtype}")  # fmt: skip
            if tuple(mask.shape) not in shapes:
                wanted = " or ".join(map(str, shapes))
                raise ValueError(f"SparseMultiheadAttention: {name} must have shape {wanted}, got {tuple(mask.shape)}")

    def _heads(self, x: torch.Tensor, batched: bool) -> torch.Tensor:
        """Projected features as (batch, heads, length, features of a head)."""
        if not batched:
            x = x[None]
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.reshape(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _joined(self, y: torch.Tensor, batched: bool) -> torch.Tensor:
        """What the heads give, side by side, its axes as the caller has them."""
        y = y.transpose(1, 2).flatten(2)
        if not batched:
            return y[0]
        return y if self.batch_first else y.transpose(0, 1)

    def _mask(self, attn_mask: Mask, padding: Mask, q: torch.Tensor) -> Mask:
        """Both masks as one to be added to scores of shape (batch, heads, length, length of the keys)."""
        found = None
        if attn_mask is not None:
            found = _added(attn_mask, q)
            found = found if found.dim() == 2 else found.unflatten(0, (len(q), self.num_heads))
        if padding is not None:
            other = _added(padding if padding.dim() == 2 else padding[None], q)[:, None, None]
            found = other if found is None else found + other
        return found

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Hand the matrices of an `nn.MultiheadAttention` on to the projections, which load after this."""
        for name in ("in_proj_weight", "in_proj_bias"):
            if isinstance(packed := state_dict.get(prefix + name), torch.Tensor) and packed.ndim:
                parts = zip(PROJECTIONS[:3], state_dict.pop(prefix + name).tensor_split(3), strict=True)
                state_dict.update({f"{prefix}{each}.{name[8:]}": part.clone() for each, part in parts})
        for each in PROJECTIONS[:3]:
            if f"{prefix}{each}_weight" in state_dict:
                state_dict[f"{prefix}{each}.weight"] = state_dict.pop(f"{prefix}{each}_weight")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _kernels() -> AbstractContextManager[Any]:
    """Have PyTorch take steps that it can differentiate in any way, where it is asked to: its fast kernels know only
    their first derivative, in reverse.
    """
    if not is_compiling() and (transformed() or forward_ad._current_level >= 0):
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def _added(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask to be added: −∞ where a mask of truths says to leave out."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)
    return mask.to(like.dtype)


_LINEAR = (nn.Linear, NonDynamicallyQuantizableLinear)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def from_attention(
    dense: nn.MultiheadAttention, sparsity: float | None, *, output: bool = True
) -> SparseMultiheadAttention:
    """The attention that computes the same with its projections as modules, sparse where they have something to leave.

    Parameters
    ----------
    dense : nn.MultiheadAttention
        Without `bias_k`, `bias_v` and `add_zero_attn`. Values are copied.
    sparsity : float, optional
        Of each projection; as in `sparsify`.
    output : bool
        Whether the projection of the output may be replaced; it stays the module that it is otherwise.
    """
    made = {}
    for k, name in enumerate(PROJECTIONS[:3]):
        packed = dense._qkv_same_embed_dim
        weight, part = ("in_proj_weight", (k, 3)) if packed else (f"{name}_weight", (0, 1))
        made[name] = _projection(dense, weight, part, "in_proj_bias", (k, 3), sparsity)
    out = _projection(dense.out_proj, "weight", (0, 1), "bias", (0, 1), sparsity) if output else dense.out_proj
    sizes: dict[str, Any] = {"embed_dim": dense.embed_dim, "num_heads": dense.num_heads}
    attention = SparseMultiheadAttention(
        **made, out_proj=out, dropout=dense.dropout, batch_first=dense.batch_first, **sizes
    )
    return attention.train(dense.training)


def _projection(
    owner: nn.Module, weight: str, of_weight: tuple[int, int], bias: str, of_bias: tuple[int, int],
    sparsity: float | None,
) -> nn.Module:  # fmt: skip
    """The linear layer of one part, number and count, of a weight and a bias."""

    def part(values: torch.Tensor | None, which: tuple[int, int]) -> torch.Tensor | None:
        return None if values is None else values.chunk(which[1])[which[0]]

    values, mask = part(pruned(owner, weight), of_weight), part(getattr(owner, f"{weight}_mask", None), of_weight)
    assert values is not None
    shift = part(pruned(owner, bias), of_bias)
    made: nn.Module
    if sparsity is not None or bool(((values if mask is None else mask) == 0).any()):
        kind: dict[str, Any] = {"device": values.device, "dtype": values.dtype}
        made = SparseLinear.of(*connections(values, mask, sparsity), shift, **kind)
    else:
        made = nn.Linear(values.shape[1], len(values), shift is not None).to(values)
        with torch.no_grad():
            made.weight.copy_(values)
            if shift is not None:
                made.bias.copy_(shift)
    carry_traits(trained(owner, weight), made.weight)
    carry_traits(trained(owner, bias), made.bias)
    return made


def to_attention(attention: SparseMultiheadAttention, projections: Sequence[nn.Module]) -> nn.MultiheadAttention | None:
    """The `nn.MultiheadAttention` that computes the same, or None if there is none.

    It keeps three projections in one matrix and calls no module: these must be linear layers without hooks, all with a
    bias or without, in one dtype, and the three trained or frozen alike.

    Parameters
    ----------
    attention : SparseMultiheadAttention
    projections : sequence of nn.Module
        In place of its own, in the order of `PROJECTIONS`.
    """
    layers = [each for each in projections if type(each) in _LINEAR and not any(vars(each)[name] for name in HOOKS)]
    if len(layers) < len(PROJECTIONS):
        return None
    q, k, v, out = dense = [each for each in layers if isinstance(each, nn.Linear)]
    size, inputs = attention.embed_dim, (q, k, v)
    kinds = {(each.bias is None, each.weight.dtype, each.weight.device) for each in dense}
    flags = {tuple(parameter.requires_grad for parameter in each.parameters()) for each in inputs}
    sizes = {q.in_features, out.in_features, *(each.out_features for each in dense)}
    if len(kinds) > 1 or len(flags) > 1 or sizes != {size}:
        return None
    made = nn.MultiheadAttention(
        size, attention.num_heads, attention.dropout, q.bias is not None, kdim=k.in_features, vdim=v.in_features,
        batch_first=attention.batch_first, device=q.weight.device, dtype=q.weight.dtype,
    )  # fmt: skip
    parts: list[tuple[nn.Parameter | None, list[nn.Parameter]]] = [(made.in_proj_bias, [each.bias for each in inputs])]
    if made._qkv_same_embed_dim:
        parts.append((made.in_proj_weight, [each.weight for each in inputs]))
    else:
        whole = (made.q_proj_weight, made.k_proj_weight, made.v_proj_weight)
        parts += [(one, [each.weight]) for one, each in zip(whole, inputs, strict=True)]
    for parameter, values in parts:
        if parameter is not None:
            with torch.no_grad():
                parameter.copy_(torch.cat(values))
            carry_traits(values, parameter)
    made.out_proj.weight, made.out_proj.bias = out.weight, out.bias
    return made.train(attention.training)


def without_fast_path(model: nn.Module) -> None:
    """Have PyTorch's transformer layers call their sparse modules, in evaluation too.

    Their fast path reads the modules' weights as matrices instead, in a layer and, with nested tensors, in a stack.
    """
    for module, name in _switches(model):
        if _holds_sparse(module) and not hasattr(module, _WAS):
            setattr(module, _WAS, getattr(module, name))
            setattr(module, name, 0)  # no nested tensors; and of an activation of no number there is no fast path


def with_fast_path(model: nn.Module) -> None:
    """Give PyTorch's transformer layers that hold nothing sparse any more their fast path back."""
    for module, name in _switches(model):
        if hasattr(module, _WAS) and not _holds_sparse(module):
            setattr(module, name, getattr(module, _WAS))
            delattr(module, _WAS)


_WAS = "_fast_path_was"


def _switches(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """PyTorch's transformer layers and stacks, each with the attribute that turns its fast path off."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            yield module, "use_nested_tensor"
        elif isinstance(module, nn.TransformerEncoderLayer):
            yield module, "activation_relu_or_gelu"


def _holds_sparse(module: nn.Module) -> bool:
    return any(isinstance(each, SparseModule | SparseMultiheadAttention) for each in module.modules())
