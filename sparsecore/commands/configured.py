"""What a configuration names: the optimizer, the wiring, the augmentation and the schedule of a run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..data.augmentation import Augmentation
from ..runs.config import RunConfig
from ..runs.kinds import ConfigError, step_schedule
from ..topology.wiring import Wiring
from ..training.optimizers import SGD, Adam, AdamW, Optimizer
from ..training.schedules import Schedule, constant, cosine, step_decay, warm_up

if TYPE_CHECKING:  # imported only by runs that prune
    from .pruning import Pruning

FIRST_RATE = 1.0
"""What an optimizer has until a range test has found its rate."""


def optimizer_of(config: RunConfig) -> Optimizer:
    """The optimizer of a configuration."""
    lr, decay, clip = _said(config.lr), _said(config.weight_decay), config.clip_norm
    lr, clip = (FIRST_RATE if lr == "auto" else lr), (None if clip == "none" else clip)
    if config.optimizer == "sgd":
        return SGD(lr, _said(config.momentum), decay, nesterov=config.nesterov, clip_norm=clip)
    kind = Adam if config.optimizer == "adam" else AdamW
    return kind(lr, _said(config.betas), _said(config.eps), decay, clip_norm=clip)


def wiring_of(config: RunConfig) -> Wiring:
    """How a configuration wires the sparse layers, at first."""
    sparsity = first_sparsity(config)
    how: Any = {"granularity": config.granularity, "distribution": config.distribution or "uniform"}
    if config.radix is not None:
        return Wiring("radix", config.radix, widths=config.widths, **how)
    if config.expander is not None:
        return Wiring("expander", expander=config.expander, sparsity=sparsity, **how)
    if config.random or config.rewire is not None:
        return Wiring("random", sparsity=sparsity, **how)
    return Wiring(granularity=config.granularity)


def first_sparsity(config: RunConfig) -> float | tuple[float, ...]:
    """The sparsity that a network is wired with: less than the last one where rewiring makes it sparser."""
    last = config.sparsity if config.sparsity is not None else 0.0
    if config.rewire != "regrow":
        return last
    first = _said(config.start_sparsity)
    return tuple(min(first, each) for each in last) if isinstance(last, tuple) else min(first, last)


def augmentation_of(config: RunConfig, shape: tuple[int, ...]) -> Augmentation | None:
    """How training images of a shape are augmented. Raises ConfigError."""
    pixels, _, flip = _said(config.augment).partition(",")
    try:
        return None if pixels == "none" else Augmentation(shape, int(pixels), bool(flip))
    except ValueError as error:
        raise ConfigError("{augment}: {problem}; none leaves them as they are", problem=error) from None


def schedule_of(config: RunConfig, steps: int, total: int) -> Schedule:
    """The factors of the learning rate, for `total` steps in epochs of `steps`. Raises ConfigError."""
    name, _, rest = _said(config.schedule).partition(":")
    warm, whole = round(_said(config.warm_up) * steps), _said(config.epochs) * steps
    if warm >= whole:
        raise ConfigError("{warm_up}: must be shorter than the {epochs_run:g} epochs, got {got:g}",
                          epochs_run=whole / steps, got=config.warm_up)  # fmt: skip
    if total < whole:  # one phase of a run may be shorter than the run's warm-up
        warm = min(warm, total // 2)
    if name == "step":  # between epochs: those of the warm-up are counted as far as they are whole ones
        every, factor = step_schedule(rest)
        decay, rise, begun = step_decay(every * steps, factor), warm_up(warm, constant()), warm - warm % steps
        return lambda step: rise(step) * decay(max(step - begun, 0))
    after = cosine(total - warm) if name == "cosine" else constant()
    return warm_up(warm, after) if warm else after


def of_a_field(error: ValueError) -> ValueError:
    """An error whose text begins with a field's name, as one that can name the field's flag instead."""
    name = re.split("[: ]", str(error))[0]
    if name not in RunConfig.__dataclass_fields__:
        return error
    return ConfigError(f"{{{name}}}{{rest}}", rest=str(error).removeprefix(name))


def rates_of(config: RunConfig, steps: int, pruning: Pruning | None) -> Schedule:
    """The learning rate of a whole run in epochs of so many steps, which may begin anew when it goes back to earlier
    values. Raises ConfigError."""
    if pruning is not None and config.rewind is not None:
        return pruning.restarted(lambda part: schedule_of(config, steps, part))
    return schedule_of(config, steps, steps * _said(config.epochs))


def _said(value: Any) -> Any:
    """A field of a resolved configuration, which is not None."""
    assert value is not None
    return value
