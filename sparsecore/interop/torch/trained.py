"""Whether an optimizer trains the weights of sparse modules, and what it knows of connections can move with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .modules import SparseModule


def called(name: str, module: SparseModule) -> str:
    """How messages name a module."""
    return f"module {name or 'itself'}, {type(module).__name__}{module.pattern.shape}"


def check_optimizer(modules: Mapping[str, SparseModule], optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer with which the weights' state cannot move, and weights that it does not train.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"rewire: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("rewire: LBFGS keeps one state of all parameters together, which cannot move: use another")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    owners: dict[int, str] = {}
    for name, module in modules.items():
        weight = module._parameters.get("weight")
        if weight is None:
            raise ValueError(f"rewire: {called(name, module)}: its weight is computed anew in each call, by a "
                             "parametrization or a mask, which cannot move: remove it first")  # fmt: skip
        if id(weight) not in held:
            raise ValueError(f"rewire: {called(name, module)}: its weight is not among the optimizer's parameters")
        if not weight.requires_grad:
            raise ValueError(f"rewire: {called(name, module)}: its weight is frozen: name it in skip")
        if (other := owners.setdefault(id(weight), name)) != name:
            raise ValueError(f"rewire: {called(name, module)}: shares its weight with module {other}: name both in "
                             "skip")  # fmt: skip
