"""Replacing a model's sparse modules by ordinary dense ones, with zeros where there are no connections."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from .attention import PROJECTIONS, SparseMultiheadAttention, to_attention, with_fast_path
from .carry import carry_traits
from .conv_transpose import SparseConvTranspose2d
from .modules import SparseConv2d, SparseLinear, SparseModule
from .ranks import check_alone
from .transformers_conv1d import to_conv1d

Model = TypeVar("Model", bound=nn.Module)

_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


def densify(model: Model) -> Model | nn.Module:
    """Replace a model's sparse modules by the ordinary ones that compute the same, for other tools.

    These are `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` and `nn.ConvTranspose2d`, with the groups that they had unless
    connections have moved between them, `nn.MultiheadAttention`, and the `Conv1D` of transformers. Names, hooks,
    training flags, frozen parameters and what is tied are kept; a bias stays the same Parameter, but for those that an
    attention keeps in one. An attention with a projection of another class, or with hooks, or shared, or frozen by
    itself, remains one of four projections, which are dense then. PyTorch's transformer layers get their fast path
    back. What an optimizer makes of the zeros is its own affair.

    Parameters
    ----------
    model : nn.Module
        Is changed in place, whole or not at all. Optimizers must be made anew.

    Returns
    -------
    nn.Module
        The model; or, if it is itself sparse, the dense module that replaces it.

    Raises
    ------
    TypeError
        If it is no module, or a sparse module of it has no dense counterpart.
    ValueError
        If the model is in a `DistributedDataParallel`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"densify: model must be an nn.Module, got {type(model).__name__}")
    check_alone("densify", model)
    weights: dict[Any, nn.Parameter] = {}
    sparse = [module for module in model.modules() if isinstance(module, SparseModule)]
    new = {id(module): _replacement(module, weights) for module in sparse}
    for attention in [module for module in model.modules() if isinstance(module, SparseMultiheadAttention)]:
        if _is_alone(attention, model) and (made := _whole(attention, new)) is not None:
            new[id(attention)] = made
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # all of them: a module may be the child of several
            if id(child) in new:
                setattr(parent, name, new[id(child)])
    dense = new.get(id(model), model)
    with_fast_path(dense)
    return dense


def _whole(attention: SparseMultiheadAttention, new: dict[int, nn.Module]) -> nn.Module | None:
    """PyTorch's attention, whose in-projection is one matrix, if there is one."""
    parts = [attention.get_submodule(name) for name in PROJECTIONS]
    made = to_attention(attention, [new.get(id(part), part) for part in parts])
    if made is not None:
        _share_hooks(attention, made)
    return made


def _is_alone(attention: SparseMultiheadAttention, model: nn.Module) -> bool:
    """Whether nobody else has the projections of an attention, or their parameters."""
    inside = [attention.get_submodule(name) for name in PROJECTIONS]
    outside = [each for each in model.modules() if each is not attention and each not in inside]
    own = [id(each) for part in inside for each in (part, *part.parameters(recurse=False))]
    others = (id(each) for other in outside for each in (*other.children(), *other.parameters(recurse=False)))
    return len(set(own)) == len(own) and set(own).isdisjoint(others)


def _replacement(module: SparseModule, weights: dict[Any, nn.Parameter]) -> nn.Module:
    """The dense module, with a weight that is one Parameter for all that shared one and its connections."""
    made: Any
    for name in ("weight", "bias"):
        if not (name in module._parameters or getattr(module, name) is None):
            raise TypeError(
                f"densify: a {type(module).__name__} whose {name} is computed anew in each call, as a mask of "
                "torch.nn.utils.prune does, has no dense counterpart: see prune.remove"
            )
    if isinstance(module, SparseLinear):
        made = to_conv1d(module) if module.inputs_first else module.to_linear()
    elif isinstance(module, (SparseConv2d, SparseConvTranspose2d)):  # of one dimension too
        made = module.to_conv()
    else:
        raise TypeError(f"densify: a {type(module).__name__} has no dense counterpart")
    carry_traits([module.weight], made.weight)
    made.weight = weights.setdefault((id(module.weight), module.pattern, made.weight.shape), made.weight)
    if module.bias is not None:
        made.bias = module.bias
    made.train(module.training)
    _share_hooks(module, made)
    return made


def _share_hooks(module: nn.Module, made: nn.Module) -> None:
    """The same dicts: handles go on removing from them."""
    vars(made).update({name: vars(module)[name] for name in _HOOKS})
