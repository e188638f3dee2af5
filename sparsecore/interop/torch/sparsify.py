"""Replacing a model's dense layers by sparse ones: those that were pruned, or all."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

import torch
from torch import nn

from .dense import check_sparsity
from .modules import SparseConv2d, SparseLinear

Model = TypeVar("Model", bound=nn.Module)
DENSE = (nn.Linear, nn.Conv2d)
"""The classes that are replaced. Their subclasses are not, since these may do anything."""


def sparsify(
    model: Model, sparsity: float | None = None, *, skip: Collection[str] = ()
) -> Model | SparseLinear | SparseConv2d:
    """Replace a model's `nn.Linear` and `nn.Conv2d` layers by sparse ones with the values that they keep.

    A layer with a `torch.nn.utils.prune` mask keeps what the mask keeps, zeros included; any other layer keeps its
    nonzero weights. If `sparsity` allows fewer, the largest |w| of these are kept. Without `sparsity`, a layer that
    has neither a mask nor a zero stays dense.

    Parameters
    ----------
    model : nn.Module
        Is changed in place, whole or not at all. Optimizers must be made anew.
    sparsity : float, optional
        Of each layer, at least 0 and below 1.
    skip : collection of str
        Names, as in `model.named_modules()`, of layers that stay dense.

    Returns
    -------
    nn.Module
        The model; or, if it is itself a dense layer, the sparse layer that replaces it.

    Raises
    ------
    ValueError
        If the sparsity is out of range, a name in `skip` is not a module's, a weight belongs to two layers, or a
        convolution pads with something other than zeros.
    """
    check_sparsity(sparsity)
    modules = dict(model.named_modules())
    if unknown := set(skip) - set(modules):
        raise ValueError(f"sparsify: skip must name modules of the model, got {', '.join(sorted(unknown))}")
    skipped = {id(modules[name]) for name in skip}
    owners: dict[int, nn.Module] = {}
    dense: dict[int, nn.Linear | nn.Conv2d] = {}
    for name, module in modules.items():
        replaced = isinstance(module, DENSE) and type(module) in DENSE and id(module) not in skipped
        for parameter in module.parameters(recurse=False):
            other = owners.setdefault(id(parameter), module)
            if other is not module and (replaced or id(other) in dense):
                raise ValueError(f"sparsify: {name} and another layer share a parameter: name them in skip")
        if replaced and (sparsity is not None or _is_pruned(module)):
            dense[id(module)] = module
    new = {key: _replacement(module, sparsity) for key, module in dense.items()}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # all of them: a module may be the child of several
            if id(child) in new:
                setattr(parent, name, new[id(child)])
    return new.get(id(model), model)


def _replacement(module: nn.Linear | nn.Conv2d, sparsity: float | None) -> SparseLinear | SparseConv2d:
    made: SparseLinear | SparseConv2d
    if isinstance(module, nn.Linear):
        made = SparseLinear.from_linear(module, sparsity)
    else:
        made = SparseConv2d.from_conv(module, sparsity)
    made.train(module.training)
    for name, parameter in made.named_parameters():
        old = getattr(module, f"{name}_orig", None)  # where PyTorch's pruning keeps the parameter
        parameter.requires_grad_((old if old is not None else getattr(module, name)).requires_grad)
    return made


def _is_pruned(module: nn.Module) -> bool:
    mask = getattr(module, "weight_mask", None)
    weight = module.weight.detach() if mask is None else mask
    assert isinstance(weight, torch.Tensor)
    return mask is not None or bool((weight == 0).any())
