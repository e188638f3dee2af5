"""Replacing a model's sparse modules by ordinary dense ones, with zeros where there are no connections."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from .conv_transpose import SparseConvTranspose2d
from .modules import SparseConv2d, SparseLinear, SparseModule

Model = TypeVar("Model", bound=nn.Module)

_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


def densify(model: Model) -> Model | nn.Module:
    """Replace a model's sparse modules by `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` and `nn.ConvTranspose2d` that compute
    the same, for other tools.

    Names, hooks, training flags, frozen parameters and what is tied are kept; a bias stays the same Parameter. A
    convolution comes back without groups, and what an optimizer makes of the zeros is its own affair.

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
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"densify: model must be an nn.Module, got {type(model).__name__}")
    weights: dict[Any, nn.Parameter] = {}
    sparse = [module for module in model.modules() if isinstance(module, SparseModule)]
    new = {id(module): _replacement(module, weights) for module in sparse}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # all of them: a module may be the child of several
            if id(child) in new:
                setattr(parent, name, new[id(child)])
    return new.get(id(model), model)


def _replacement(module: SparseModule, weights: dict[Any, nn.Parameter]) -> nn.Module:
    """The dense module, with a weight that is one Parameter for all that shared one and its connections."""
    made: Any
    if isinstance(module, SparseLinear):
        made = module.to_linear()
    elif isinstance(module, (SparseConv2d, SparseConvTranspose2d)):  # of one dimension too
        made = module.to_conv()
    else:
        raise TypeError(f"densify: a {type(module).__name__} has no dense counterpart")
    made.weight.requires_grad_(module.weight.requires_grad)
    made.weight = weights.setdefault((id(module.weight), module.pattern, made.weight.shape), made.weight)
    if module.bias is not None:
        made.bias = module.bias
    made.train(module.training)
    vars(made).update({name: vars(module)[name] for name in _HOOKS})  # the same dicts: handles go on removing from them
    return made
