"""How a configuration prunes a run: when, how far, by what, and to which values the run goes back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..network import Network
from ..prune.pruner import Pruner, Rule, quality_rule, sparsity_rule, threshold_rule
from ..prune.rewind import refresh, rewind
from ..prune.schedule import PruningSchedule, gradual, in_rounds, iterative, one_time
from ..prune.shrink import Targets, layer_targets, shared_out, stored_units
from ..runs.config import RunConfig
from ..runs.kinds import ConfigError
from ..training.callbacks import Training
from ..training.schedules import Schedule

ROUNDS, PRUNINGS = 5, 50
"""Prunings of a run where the user does not say: iterative, gradual."""
START, END = {"one-time": 0.5, "iterative": 0.1, "gradual": 0.05}, 0.5
"""Where in a run, as a fraction of its steps, prunings begin and end where the user does not say."""

Earlier = Callable[[int], Network]
"""Gives a run's network as it was after a number of steps."""


class Pruning:
    """The prunings of a run.

    Parameters
    ----------
    config : RunConfig
        With `prune`.
    steps : int
        Of the whole run.

    Raises
    ------
    ConfigError
        If they do not fit into the run.
    """

    def __init__(self, config: RunConfig, steps: int) -> None:
        self.config, self.steps, self.granularity = config, steps, config.granularity or "weight"
        self.schedule = _schedule(config, steps)

    def pruner(self, network: Network, earlier: Earlier) -> Pruner:
        """What prunes the run, whose network starts like this one."""
        config = self.config
        self._check_goal(network)

        def afterwards(trainer: Training) -> None:
            go_back(trainer.network, config, earlier, trainer.optimizer)

        return Pruner(self.schedule, self._rule(network), afterwards if config.rewind is not None else None)

    def restarted(self, make: Callable[[int], Schedule]) -> Schedule:
        """The learning rate of a run that goes back: one schedule up to the last pruning, then another.

        Parameters
        ----------
        make : callable
            The schedule of a run of so many steps.
        """
        end, back, steps = self.schedule.end, _rewound_to(self.config), self.steps
        if end == steps:
            raise ConfigError("{rewind}: leaves no steps to train after the last pruning, at {end:,} of {steps:,}",
                              end=end, steps=steps)  # fmt: skip
        if back > end:
            raise ConfigError("{rewind}: must be a step before the last pruning, at {end:,}, got {back:,}",
                              end=end, back=back)  # fmt: skip
        before, after = make(max(end, 1)), make(steps - end + back)
        return lambda step: before(step) if step < end else after(step - end + back)

    def _check_goal(self, network: Network) -> None:
        """Refuse at once what cannot be pruned or would lose all connections, not when the run gets there."""
        config = self.config
        for path in network.sparse:
            stored_units(network, path, self.granularity)
        if config.prune_to is None or config.prune_empty:
            return
        targets, patterns = self._targets(network), network.patterns
        if config.prune_global and not isinstance(targets, Mapping):
            groups = [(list(network.sparse), targets)]
        else:
            each = targets if isinstance(targets, Mapping) else dict.fromkeys(network.sparse, targets)
            groups = [([k], goal) for k, goal in each.items()]
        if config.prune_global and len({stored_units(network, k, self.granularity)[0].size for k in groups[0][0]}) > 1:
            raise ConfigError("{prune_global}: ranks what is of one size, and with {granularity} {unit} filters of "
                              "several sizes go; leave one of the two out", unit=self.granularity)  # fmt: skip
        for paths, goal in groups:
            held = [stored_units(network, k, self.granularity) for k in paths if k in patterns]
            possible = sum(units.possible for units, _ in held)
            if sum(p.nnz for _, p in held) and round((1 - float(goal)) * possible) < sum(p.nnz > 0 for _, p in held):
                layers = ", ".join(f"layer {k}, {network[k]!r}" for k in paths)
                raise ConfigError("{prune_to}: with {goal:g} all connections would go of {layers}; ask for less, or "
                                  "allow it with {prune_empty}", goal=goal, layers=layers)  # fmt: skip

    def _targets(self, network: Network) -> Targets:
        """The sparsity of each layer at the end."""
        goal = self.config.prune_to
        assert goal is not None
        if self.config.distribution == "erk" and not isinstance(goal, tuple):
            return shared_out(network, goal)
        return layer_targets(network, goal)

    def _rule(self, network: Network) -> Rule:
        config = self.config
        options: Any = {"allow_empty": config.prune_empty, "granularity": self.granularity}
        if config.prune_to is not None:
            initial: Targets = network.sparsity
            if config.distribution == "erk":
                initial = {path: network.patterns[path].sparsity for path in network.sparse}
            return sparsity_rule(
                self.schedule, self._targets(network), initial=initial,
                by=config.prune_by or "magnitude", globally=config.prune_global, **options,
            )  # fmt: skip
        if config.prune_threshold is not None:
            return threshold_rule(config.prune_threshold, **options)
        assert config.prune_quality is not None
        return quality_rule(config.prune_quality, **options)


def go_back(network: Network, config: RunConfig, earlier: Earlier, optimizer: Any = None) -> None:
    """Give a network the values that `rewind` says."""
    if config.rewind == "fresh":
        refresh(network, config.seed, optimizer)
    else:
        rewind(network, earlier(_rewound_to(config)), optimizer)


def _schedule(config: RunConfig, steps: int) -> PruningSchedule:
    """When to prune in a run of this many steps."""
    kind = config.prune
    assert kind is not None
    start = config.prune_start if config.prune_start is not None else round(START[kind] * steps)
    last = config.prune_end if config.prune_end is not None else max(round(END * steps), start)
    end = start if kind == "one-time" else last
    if not start <= end <= steps:
        raise ConfigError("{prune_start}, {prune_end}: must be in order and within the run's {steps:,} steps, "
                          "got {start:,} and {end:,}", steps=steps, start=start, end=end)  # fmt: skip
    if kind == "one-time":
        return one_time(start)
    if kind == "iterative":
        if config.prune_start is None:  # nobody asked for a first step: as near to ours as whole strides to the end are
            every = config.prune_every or max((end - start) // (ROUNDS - 1), 1)
            return in_rounds(range(end - (end - start) // every * every, end + 1, every))
        if config.prune_every is None:
            return iterative(start, end, min(ROUNDS, 1 + end - start))
        return in_rounds([*range(start, end, config.prune_every), end])
    every = config.prune_every or max((end - start) // PRUNINGS, 1)
    return gradual(start, end, every, config.prune_exponent if config.prune_exponent is not None else 3.0)


def _rewound_to(config: RunConfig) -> int:
    return config.rewind if isinstance(config.rewind, int) else 0
