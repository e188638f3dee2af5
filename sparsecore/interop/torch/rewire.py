"""`rewire`: what is looked at before the connections of a model's sparse modules move."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from ...prune.methods import RIGL, Method
from ...prune.moving import Movement, RewiringSchedule
from .modules import SparseModule
from .moving import Moving
from .ranks import agree, in_ranks
from .trained import called, check_optimizer


def rewire(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, schedule: RewiringSchedule, method: Method = RIGL,
    targets: float | Mapping[str, float] | None = None, skip: Collection[str] = (), seed: int = 0,
    filters: bool = False, granularity: str | None = None,
) -> Moving:  # fmt: skip
    """Let the connections of a model's sparse modules move while it trains; call `step()` after the optimizer's.

    Absent connections are scored by the gradient of the step before an update, at candidates or a block of rows at a
    time, so that nothing dense is held; no other step does anything for it. Where `torch.distributed` runs, all ranks
    must call this and `step()`: their gradients are averaged, and the same connections move on each.

    Parameters
    ----------
    model : nn.Module
        Its `SparseLinear` and `SparseConv2d` modules, which may lie within a `DistributedDataParallel`.
    optimizer : torch.optim.Optimizer
        That trains their weights. What its state holds for each connection moves along.
    schedule : RewiringSchedule
        Counted in calls of `step()`.
    method : Method
        Such as `SET`, `RIGL` or `REGROW` of `sparsecore.prune`.
    targets : float, or mapping of module name to float
        The sparsity at the end, at least 0 and below 1, for a method that changes it.
    skip : collection of str
        Names, as in `model.named_modules()`, of modules whose connections stay.
    seed : int
        Of what is drawn at random, at least 0; the same on all ranks.
    filters : bool
        Let whole filters of convolutions move, not single weights: the granularity "channel".
    granularity : str, optional
        What moves together: "weight", "channel", "rows:G" or "block:G,H"; see `storage.granularity`.

    Returns
    -------
    Moving

    Raises
    ------
    TypeError, ValueError
        If there is nothing to move, a module's connections cannot move, the optimizer does not hold a weight or keeps
        a state that cannot move, two modules share a weight, or ranks differ. Nothing has changed then.
    """
    modules = _modules(model, skip)
    check_optimizer(modules, optimizer)
    if not isinstance(method, Method) or not isinstance(schedule, RewiringSchedule):
        raise TypeError(f"rewire: expected a Method and a RewiringSchedule, got {type(method).__name__} and "
                        f"{type(schedule).__name__}")  # fmt: skip
    if not isinstance(seed, int) or not 0 <= seed < 1 << 62:
        raise ValueError(f"rewire: seed must be a whole number, at least 0 and below 2**62, got {seed!r}")
    initial = None
    if targets is not None:
        targets = _checked_targets(targets, modules)
        initial = {name: module.pattern.sparsity for name, module in modules.items()}
    movement = Movement(
        method, schedule, targets=targets, initial=initial, seed=seed, filters=filters, granularity=granularity
    )  # fmt: skip
    for name, module in modules.items():
        movement.check_layer(f"rewire: {called(name, module)}", name, module)
    _check_sizes(modules, movement, model)
    _check_ranks(modules, seed)
    return Moving(modules, optimizer, movement)


def _modules(model: nn.Module, skip: Collection[str]) -> dict[str, SparseModule]:
    """The modules whose connections move, by name."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"rewire: model must be an nn.Module, got {type(model).__name__}")
    every = dict(model.named_modules())
    if unknown := set(skip) - set(every):
        raise ValueError(f"rewire: skip must name modules of the model, got {', '.join(sorted(unknown))}")
    skipped = {id(every[name]) for name in skip}
    found = {name: each for name, each in every.items() if isinstance(each, SparseModule) and id(each) not in skipped}
    if not found:
        raise ValueError("rewire: the model has no sparse modules whose connections could move: see sparsify")
    return found


def _checked_targets(targets: Any, modules: Mapping[str, SparseModule]) -> dict[str, float]:
    """The sparsity at the end, by module."""
    if not isinstance(targets, Mapping):
        targets = dict.fromkeys(modules, targets)
    if set(targets) != set(modules):
        raise ValueError(f"rewire: targets must name {', '.join(modules)}, got {', '.join(map(str, targets))}")
    for name, target in targets.items():
        if not isinstance(target, int | float) or not 0 <= target < 1:
            raise ValueError(f"rewire: targets must be at least 0 and below 1, got {target!r} for module {name}")
    return {name: float(targets[name]) for name in modules}


def _check_sizes(modules: Mapping[str, SparseModule], movement: Movement, model: nn.Module) -> None:
    """Refuse numbers of connections that would change among ranks, who exchange gradients in buffers of fixed sizes."""
    if not in_ranks(model):
        return
    for name, module in modules.items():
        if movement.targets is not None or not movement.units_in(module).even:
            what = "targets" if movement.targets is not None else f"granularity {movement.granularity}"
            raise ValueError(f"rewire: {what}: would change how many connections {called(name, module)} has, and ranks "
                             "exchange gradients in buffers of fixed sizes")  # fmt: skip


def _check_ranks(modules: Mapping[str, SparseModule], seed: int) -> None:
    """Refuse ranks that would move different connections."""
    patterns = [module.pattern for module in modules.values()]
    sums = [zlib.crc32(pattern.indices.tobytes(), zlib.crc32(pattern.indptr.tobytes())) for pattern in patterns]
    same = agree([seed, *sums], next(iter(modules.values())).weight.device)
    if not same[0]:
        raise ValueError("rewire: seed must be the same on all ranks")
    for (name, module), equal in zip(modules.items(), same[1:], strict=True):
        if not equal:
            raise ValueError(f"rewire: {called(name, module)}: has other connections on other ranks: give all the "
                             "same pattern, as torch.manual_seed before it is made does")  # fmt: skip
