"""Replacing a model's dense layers by sparse ones: those that were pruned, or all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

import torch
from torch import nn

from .attention import PROJECTIONS, SparseMultiheadAttention, from_attention, without_fast_path
from .carry import carry, carry_hooks
from .dense import check_sparsity
from .given import KINDS
from .kinds import (
    WITHOUT_COUNTERPART,
    folded,
    is_dense,
    is_pruned,
    maker_of,
    obstacle,
    other_padding,
    shape_of_weight,
    too_small,
)
from .modules import SparseModule
from .ranks import check_alone
from .summary import Left, Replaced, Summary

Model = TypeVar("Model", bound=nn.Module)
_WHOLE = "neither a mask nor a zero"


def sparsify(
    model: Model, sparsity: float | None = None, *, skip: Collection[str] = (), strict: bool | None = None
) -> Model | SparseModule | SparseMultiheadAttention:
    """Replace a model's dense layers by sparse ones with the values that they keep, and say what was done.

    These are `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` and `nn.ConvTranspose2d`, with groups or without,
    `nn.MultiheadAttention`, and the `Conv1D` of transformers. A layer with a `torch.nn.utils.prune` mask keeps what the
    mask keeps, zeros included; any other layer keeps its nonzero weights. If `sparsity` allows fewer, the largest |w|
    of these are kept. Without `sparsity`, a layer that has neither a mask nor a zero stays dense. An older weight norm
    (`torch.nn.utils.weight_norm`) is folded into its weights. Hooks, modes and what is trained stay as they are.

    Parameters
    ----------
    model : nn.Module
        Is changed in place, whole or not at all. Optimizers must be made anew.
    sparsity : float, optional
        Of each layer, at least 0 and below 1.
    skip : collection of str
        Names, as in `model.named_modules()`, of what stays dense, with all that is in it.
    strict : bool, optional
        What happens where something stands in the way of a layer that could be sparse and is not named in `skip`, such
        as a class of its own or a weight that is an embedding's too. It is left dense, and the summary says why; True
        refuses it. Where two layers share a parameter, or a convolution pads with something other than zeros, it is
        refused by default, and False leaves it dense.

    Returns
    -------
    nn.Module
        The model; or, if it is itself a dense layer, the sparse layer that replaces it. Its attribute `sparsified` is a
        `Summary` of what was replaced, and of what was left dense for which reason: print it.

    Raises
    ------
    ValueError
        If the sparsity is out of range, a name in `skip` is not a module's, a layer is refused (see `strict`), or the
        model is in a `DistributedDataParallel` already.
    """
    check_sparsity(sparsity)
    check_alone("sparsify", model)
    found = _Layers(model, sparsity, skip)
    if refused := {None: found.refused, True: found.hindered, False: []}[strict]:
        path, kind, _, why = refused[0]
        raise ValueError(f"sparsify: {path or 'the model'}, {kind}, would stay dense: {why}: name it in skip")
    replaced: Any = found.replace()
    return replaced


class _Layers:
    """A model's dense layers: what takes their place, made before anything is changed, and what stays.

    Attributes
    ----------
    new : list of (dense module, sparse module)
    replaced, left
        As of `Summary`.
    hindered, refused : list of Left
        Of the layers that are left, those that could be sparse but for something, and those refused by default.
    """

    def __init__(self, model: nn.Module, sparsity: float | None, skip: Collection[str]) -> None:
        self.model, self.sparsity = model, sparsity
        self.new: list[tuple[nn.Module, nn.Module]] = []
        self.replaced: list[Replaced] = []
        self.left: list[Left] = []
        self.hindered: list[Left] = []
        self.refused: list[Left] = []
        modules = dict(model.named_modules())
        if unknown := set(skip) - set(modules):
            raise ValueError(f"sparsify: skip must name modules of the model, got {', '.join(sorted(unknown))}")
        self._skipped = {id(each) for name in skip for each in modules[name].modules()}
        self._owners = _owners(modules)
        read = {id(part) for each in modules.values() if isinstance(each, nn.MultiheadAttention) for part in
                each.modules() if part is not each}  # fmt: skip
        for path, module in modules.items():
            if is_dense(module) and id(module) not in read:  # an attention reads the weights of what it holds
                self._look_at(path, module)

    def replace(self) -> Any:
        """Put the sparse layers in; the model, or what takes its place."""
        taken = {id(old): new for old, new in self.new}
        for parent in [each for each in self.model.modules() if id(each) not in taken]:
            for name, child in parent._modules.items():  # all of them: a module may be the child of several
                if id(child) in taken:
                    setattr(parent, name, taken[id(child)])
        for old, new in self.new:
            carry_hooks(old, new)
        model = taken.get(id(self.model), self.model)
        without_fast_path(model)
        model.sparsified = Summary(tuple(self.replaced), tuple(self.left))
        return model

    def _look_at(self, path: str, module: nn.Module) -> None:
        if id(module) in self._skipped:
            self._leave(path, module, "named in skip")
        elif self.sparsity is None and not is_pruned(module):
            self._leave(path, module, _WHOLE)
        elif (why := obstacle(module)) is not None:
            self._leave(path, module, why, [] if why == WITHOUT_COUNTERPART else [self.hindered])
        elif (tie := self._tie(module)) is not None:
            other, layers = tie
            both = [self.hindered, self.refused] if layers else [self.hindered]
            self._leave(path, module, f"it and {other or 'the model'} share a parameter", both)
        elif (why := other_padding(module)) is not None:
            self._leave(path, module, why, [self.hindered, self.refused])
        elif self.sparsity is not None and too_small(module, self.sparsity):
            self._leave(path, module, f"too small: at sparsity {self.sparsity} nothing would be left of it")
        elif isinstance(module, nn.MultiheadAttention):
            self._replace_attention(path, module)
        else:
            made: Any = maker_of(module)
            new = made(module, self.sparsity)
            carry(module, new)
            self.new.append((module, new))
            self._say(path, new, type(module).__name__, shape_of_weight(module), folded(module))

    def _replace_attention(self, path: str, module: nn.MultiheadAttention) -> None:
        """An attention whole, and its projections one by one."""
        out = module.out_proj
        made = from_attention(module, self.sparsity, output=id(out) not in self._skipped)
        self.new.append((module, made))
        if made.out_proj is not out:
            self.new.append((out, made.out_proj))
        for name in PROJECTIONS:
            part, where = getattr(made, name), f"{path}.{name}" if path else name
            if isinstance(part, SparseModule):
                note = folded(out) if part is made.out_proj else ""
                self._say(where, part, "MultiheadAttention", part.pattern.shape, note)
            else:
                self._leave(where, part, "named in skip" if part is out else _WHOLE)

    def _say(self, path: str, new: Any, kind: str, shape: tuple[int, ...], note: str) -> None:
        narrow = "" if new.weight.dtype in KINDS else f"computes in float32 or float64, not {new.weight.dtype}"
        weights = int(torch.Size(shape).numel())
        note = "; ".join(each for each in (note, narrow) if each)
        self.replaced.append(Replaced(path, kind, tuple(shape), new.pattern.nnz, weights, note))

    def _leave(self, path: str, module: nn.Module, why: str, lists: Collection[list[Left]] = ()) -> None:
        found = Left(path, type(module).__name__, shape_of_weight(module), why)
        for each in (self.left, *lists):
            each.append(found)

    def _tie(self, module: nn.Module) -> tuple[str, bool] | None:
        """Which other module has one of a layer's parameters too, and whether that could be sparse as well."""
        parts = set(module.modules())
        owners = (owner for parameter in module.parameters() for owner in self._owners[id(parameter)])
        other = next((owner for owner in owners if owner[1] not in parts), None)
        if other is None:
            return None
        return other[0], maker_of(other[1]) is not None and id(other[1]) not in self._skipped


def _owners(modules: dict[str, nn.Module]) -> dict[int, list[tuple[str, nn.Module]]]:
    """The modules that have a parameter for their own, with their names, by the parameter."""
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in modules.items():
        for parameter in module.parameters(recurse=False):
            found.setdefault(id(parameter), []).append((name, module))
    return found
