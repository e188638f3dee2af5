"""What a module hands on to the one that takes its place: hooks, mode, and what is said of its parameters."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from .dense import trained

HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_backward_pre_hooks", "_backward_hooks", "_state_dict_pre_hooks",
    "_state_dict_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
_FOLDED = (BasePruningMethod, WeightNorm)
"""Hooks that make a weight of other parameters: the new module has it for good."""


def carry_hooks(old: nn.Module, new: nn.Module) -> None:
    """Move the hooks of a module to another, handles included: their `remove()` works there from now on.

    The old module keeps copies, so that it still does what it did.
    """
    for name in HOOKS:
        hooks = getattr(old, name, None)
        if not hooks:
            continue
        # A handle knows its dict: the new module gets this one.
        setattr(old, name, OrderedDict(hooks))
        setattr(new, name, hooks)
        for key, hook in list(hooks.items()):
            if isinstance(hook, _FOLDED):
                del hooks[key]
            else:
                hooks[key] = _rebound(hook, old, new)
    new._is_full_backward_hook = old._is_full_backward_hook


def _rebound(hook: Any, old: nn.Module, new: nn.Module) -> Any:
    """A hook that PyTorch has bound to its module, bound to the new one; any other as it is."""
    bound = getattr(hook, "module", None)
    if not isinstance(bound, weakref.ref) or bound() is not old:
        return hook
    return type(hook)(hook.hook, new)


def carry_traits(old: Iterable[nn.Parameter], new: nn.Parameter | None) -> None:
    """Whether a parameter is trained, and attributes that were given to it, such as `_no_weight_decay`."""
    held = list(old)
    if new is not None and held:
        new.requires_grad_(any(each.requires_grad for each in held))
        for each in held:
            vars(new).update(vars(each))


def carry(old: nn.Module, new: nn.Module) -> None:
    """Mode, and traits of the parameters of one name, from a dense layer to its sparse one."""
    new.train(old.training)
    for name, parameter in new.named_parameters(recurse=False):
        carry_traits(trained(old, name), parameter)
