"""Pruning while a run trains: what a trainer calls after each step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np

from ..network import Network
from ..runtime.tiles import LANES, Tiles
from ..runtime.workspace import Workspace
from ..training.callbacks import Callback, Training
from ..training.step import Totals
from .saliency import Saliencies, curvature, gradient
from .schedule import PruningSchedule
from .shrink import PrunedLayer, Targets, by_quality, by_threshold, shrink, to_sparsity

Rule = Callable[[Training, int], list[PrunedLayer]]
"""Prunes a trainer's network after a number of steps; returns what was done to each layer."""

SALIENCIES: Mapping[str, Callable[[Training], Saliencies | None]] = {
    "magnitude": lambda trainer: None,
    "gradient": lambda trainer: gradient(trainer.network, trainer.store),
    "curvature": lambda trainer: curvature(trainer.network, trainer.store),
}
"""|w|; |w·dw|; Optimal Brain Damage's ½·h·w². The last two use the first training samples of the epoch's order."""


class Pruner(Callback):
    """Prunes a run's network when a schedule says so, and writes a line of metrics each time.

    Parameters
    ----------
    schedule : PruningSchedule
    rule : Rule
        Such as `sparsity_rule`.
    afterwards : callable, optional
        Called with the trainer after the last pruning, for example to rewind.
    """

    def __init__(
        self, schedule: PruningSchedule, rule: Rule, afterwards: Callable[[Training], None] | None = None
    ) -> None:
        self.schedule, self.rule, self.afterwards = schedule, rule, afterwards

    def started(self, trainer: Training) -> None:
        """Compile what a pruned network runs; prune, if the schedule begins before the first step."""
        _compile_pruned(trainer.network)
        # A checkpoint of step 0 that has metrics already was written after this pruning.
        pruned = trainer.state.metrics.length > 0
        if trainer.steps_done == 0 and self.schedule.due(0) and not pruned:
            self._prune(trainer)

    def stepped(self, trainer: Training) -> None:
        if self.schedule.due(trainer.steps_done):
            self._prune(trainer)

    def _prune(self, trainer: Training) -> None:
        step = trainer.steps_done
        split, evaluation = next(iter(trainer.evaluations.items()))
        with trainer.aside():
            trainer.check()
            before = _told(trainer, split, evaluation(), "before")
        layers = self.rule(trainer, step)
        if step == self.schedule.end and self.afterwards is not None:
            self.afterwards(trainer)
        with trainer.aside():
            after = _told(trainer, split, evaluation(), "after")
        trainer.record(
            {
                "event": "prune",
                "epoch": step / trainer.steps,
                "step": step,
                "connections": trainer.network.connections,
                "sparsity": trainer.network.sparsity,
                "global_sparsity": trainer.network.global_sparsity,
                "split": split,
                **before,
                **after,
                "layers": [layer._asdict() for layer in layers],
            }
        )


def _told(trainer: Training, split: str, totals: Totals, when: str) -> dict[str, float]:
    """How well the network does, as `accuracy_before` for example."""
    scores = trainer.scores(split, totals).items()
    return {f"{name.removeprefix(f'{split}_')}_{when}": value for name, value in scores if not name.endswith("_loss")}


def sparsity_rule(
    schedule: PruningSchedule, final: Targets, *, initial: Targets = 0.0, by: str = "magnitude", globally: bool = False,
    allow_empty: bool = False, granularity: str = "weight",
) -> Rule:  # fmt: skip
    """Prune to the schedule's sparsities, each layer from its `initial` to its own `final`.

    Parameters
    ----------
    schedule : PruningSchedule
    final : float, or mapping of layer to float
        As for `to_sparsity`.
    initial : float, or mapping of layer to float
        The sparsity that the network, or each layer that `final` names, starts with.
    by : {"magnitude", "gradient", "curvature"}
        The saliency.
    globally, allow_empty, granularity
        As for `to_sparsity`.
    """
    saliencies = SALIENCIES[by]

    if isinstance(initial, Mapping) and not isinstance(final, Mapping):
        raise ValueError("initial: a sparsity for each layer goes with a final one for each")

    def rule(trainer: Training, step: int) -> list[PrunedLayer]:
        targets: Targets
        if isinstance(final, Mapping):
            first = initial if isinstance(initial, Mapping) else dict.fromkeys(final, initial)
            targets = {k: schedule.sparsity(step, end, min(first[k], end)) for k, end in final.items()}
        else:
            assert not isinstance(initial, Mapping)
            targets = schedule.sparsity(step, final, min(initial, final))
        return to_sparsity(
            trainer.network, targets, saliencies=saliencies(trainer), globally=globally, optimizer=trainer.optimizer,
            allow_empty=allow_empty, granularity=granularity,
        )  # fmt: skip

    return rule


def threshold_rule(threshold: Targets, *, allow_empty: bool = False, granularity: str = "weight") -> Rule:
    """At every pruning, remove the connections with |w| below `threshold`."""
    return lambda trainer, step: by_threshold(
        trainer.network, threshold, optimizer=trainer.optimizer, allow_empty=allow_empty, granularity=granularity
    )


def quality_rule(quality: Targets, *, allow_empty: bool = False, granularity: str = "weight") -> Rule:
    """At every pruning, remove the connections with |w| below `quality` standard deviations of their layer's."""
    return lambda trainer, step: by_quality(
        trainer.network, quality, optimizer=trainer.optimizer, allow_empty=allow_empty, granularity=granularity
    )


def _compile_pruned(network: Network) -> None:
    """Run a copy with half its connections forward and backward, so that no pruning waits for a compiler.

    Random halves: rows that shared their columns no longer do, and take other kernels.
    """
    twin = copy.deepcopy(network)
    rng = np.random.default_rng(0)
    shrink(twin, {k: rng.random(pattern.nnz) < 0.5 for k, pattern in twin.patterns.items()})
    workspace = Workspace(twin.device)
    x = workspace.array("x", (1, *twin.layers[0].in_shape, LANES), twin.dtype, zero=True)
    y, caches = twin.forward(Tiles(x, LANES), workspace)
    twin.backward(y, caches, workspace)
