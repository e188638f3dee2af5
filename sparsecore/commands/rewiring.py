"""How a configuration moves connections while a run trains: when, how many, and where to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..network import Network
from ..prune.methods import REGROW, RIGL, SET, Method, of_all, of_candidates
from ..prune.moving import RewiringSchedule
from ..prune.rewirer import Rewirer
from ..prune.shrink import Targets, shared_out
from ..runs.config import RunConfig
from ..runs.kinds import ConfigError

METHODS = {"set": SET, "rigl": RIGL, "regrow": REGROW}


def rewirer(config: RunConfig, network: Network, steps: int) -> Rewirer:
    """What moves the connections of a run of so many steps, whose network starts as this one does.

    Raises
    ------
    ConfigError
        If there is no update within the run.
    PruneError
        If a layer's connections cannot move.
    """
    schedule = schedule_of_moves(config, steps)
    layers = _layers(network)
    targets = _targets(config, network) if config.rewire == "regrow" else None
    if isinstance(targets, Mapping) and (left := [path for path in targets if targets[path] and path not in layers]):
        raise ConfigError("{start_sparsity}: leaves layer {path} full, which then stays so; ask for more",
                          path=left[0])  # fmt: skip
    made = Rewirer(
        method_of(config), schedule, layers=layers,
        targets=targets, initial=_initial(network),
        seed=config.seed, granularity=_granularity(config),
    )  # fmt: skip
    made.check(network)
    return made


def schedule_of_moves(config: RunConfig, steps: int) -> RewiringSchedule:
    """When connections of a run of so many steps move. Raises ConfigError if they never do."""
    every, until, fraction = config.every, config.until, config.fraction
    assert every is not None and until is not None and fraction is not None  # `resolved` has filled them in
    end = int(until * steps)
    if every > end:
        raise ConfigError("{every}: must be within the first {end:,} of the run's {steps:,} steps, those that {until} "
                          "leaves for moving, got {got:,}", end=end, steps=steps, got=every)  # fmt: skip
    return RewiringSchedule(every, end, fraction)


def rewiring_line(config: RunConfig, schedule: RewiringSchedule) -> str:
    """What a run will move, as a line for people."""
    return (
        f"{config.rewire} after every {schedule.every:,} steps until step {schedule.end:,}: "
        f"{schedule.fraction:.0%} of a layer's connections move at first, ever fewer later"
    )


def method_of(config: RunConfig) -> Method:
    """The method that a configuration names."""
    assert config.rewire is not None
    method = METHODS[config.rewire]
    if config.grow is not None:
        method = replace(method, comes=of_all if config.grow == "exact" else of_candidates(float(config.grow)))
    return replace(method, by_row=config.fixed_fan_in)


def _layers(network: Network) -> list[str]:
    """The sparse layers; one that was wired in full stays so."""
    patterns = network.patterns
    return [path for path in network.sparse if not patterns[path].is_full] or list(network.sparse)


def _targets(config: RunConfig, network: Network) -> Targets:
    goals = config.sparsity
    assert goals is not None
    if config.distribution == "erk" and not isinstance(goals, tuple):
        return shared_out(network, goals)
    return dict(zip(network.sparse, goals, strict=True)) if isinstance(goals, tuple) else goals


def _initial(network: Network) -> Targets:
    return {path: network.patterns[path].sparsity for path in network.sparse}


def _granularity(config: RunConfig) -> str:
    """What moves together: as `Wiring` has it, whole filters for a RadiX-Net if not said."""
    return config.granularity or ("channel" if config.radix is not None else "weight")
