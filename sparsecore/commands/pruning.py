"""The options of pruning on the command line of a training run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..network import Network
from ..prune.pruner import SALIENCIES, Pruner, Rule, quality_rule, sparsity_rule, threshold_rule
from ..prune.rewind import refresh, rewind
from ..prune.schedule import PruningSchedule, gradual, iterative, one_time
from ..prune.shrink import PruneError, Targets
from ..training.callbacks import Training
from ..training.schedules import Schedule

Options = dict[str, Any]

KINDS = ("one-time", "iterative", "gradual")
ROUNDS, PRUNINGS = 5, 50
"""Prunings of a run where the user does not say: iterative, gradual."""
START, END = {"one-time": 0.5, "iterative": 0.1, "gradual": 0.05}, 0.5
"""Where in a run, as a fraction of its steps, prunings begin and end where the user does not say."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a parser take what `pruner_of` reads."""
    group = parser.add_argument_group("pruning (none if not given)")
    group.add_argument("--prune", choices=KINDS, help="when: once, in rounds, or a little and often")
    group.add_argument(
        "--prune-to", type=targets, metavar="S",
        help="sparsity of each sparse layer afterwards, or of each layer: 0.9, or 0.9,0.9,0",
    )  # fmt: skip
    group.add_argument("--prune-threshold", type=positive, metavar="T", help="instead: |w| below this goes")
    group.add_argument(
        "--prune-quality", type=positive, metavar="Q", help="instead: |w| below Q of its layer's std goes"
    )
    group.add_argument("--prune-by", choices=tuple(SALIENCIES), help="what ranks connections: |w|, |w·dw|, ½·h·w²")
    group.add_argument("--prune-global", action="store_true", help="rank the connections of all sparse layers together")
    group.add_argument("--prune-start", type=_step, metavar="STEP", help="steps before the first pruning")
    group.add_argument("--prune-end", type=_step, metavar="STEP", help="steps before the last pruning")
    group.add_argument("--prune-every", type=_steps, metavar="STEPS", help="steps between prunings")
    group.add_argument(
        "--prune-exponent", type=positive, metavar="E", help="of the gradual curve (3 if not given); larger is sooner"
    )
    group.add_argument("--prune-empty", action="store_true", help="let a layer lose all its connections")
    group.add_argument(
        "--from", type=_path, metavar="FILE", help="start with the network in a checkpoint or a run's folder"
    )
    group.add_argument(
        "--rewind", type=_when, metavar="initial|fresh|STEP",
        help="after the last pruning, or before training on --from's structure, give the connections that are left the "
        "values that they had at the start or after so many steps, or new ones",
    )  # fmt: skip


def check_options(options: Mapping[str, Any], error: Callable[[str], Any]) -> None:
    """What options mean together; what is wrong goes to `error`."""
    kind, given = options.get("prune"), [name for name in options if name.startswith("prune_")]
    if kind is None:
        if given:
            error(f"{_flag(given[0])}: goes with --prune {'|'.join(KINDS)}")
        if "rewind" in options and "from" not in options:
            error("--rewind: goes with --prune, or with --from and the file of a pruned network")
        return
    goals = [name for name in ("prune_to", "prune_threshold", "prune_quality") if name in options]
    if len(goals) != 1:
        got = ", ".join(map(_flag, goals)) or "none"
        error(f"--prune: needs one of --prune-to, --prune-threshold and --prune-quality, got {got}; try --prune-to 0.9")
    if kind == "gradual" and goals != ["prune_to"]:
        error(f"{_flag(goals[0])}: not with --prune gradual, which goes to a sparsity; try --prune-to 0.9")
    if goals != ["prune_to"] and (other := {"prune_by", "prune_global"} & options.keys()):
        error(f"{_flag(other.pop())}: goes with --prune-to only")
    if "prune_exponent" in options and kind != "gradual":
        error("--prune-exponent: goes with --prune gradual only")
    if kind == "one-time" and (other := {"prune_end", "prune_every"} & options.keys()):
        error(f"{_flag(other.pop())}: not with --prune one-time, which takes --prune-start")
    if "," in options.get("prune_to", "") and options.get("prune_global"):
        error("--prune-global: takes one sparsity for all layers, got a list")


def schedule_of(options: Options, steps: int) -> PruningSchedule:
    """When to prune in a run of this many steps.

    Raises
    ------
    ValueError
        If it does not fit into the run.
    """
    kind = options["prune"]
    start = options.get("prune_start", round(START[kind] * steps))
    end = start if kind == "one-time" else options.get("prune_end", max(round(END * steps), start))
    if not start <= end <= steps:
        raise ValueError(f"--prune-start, --prune-end: must be in order and within the run's {steps:,} steps, "
                         f"got {start:,} and {end:,}")  # fmt: skip
    if kind == "one-time":
        return one_time(start)
    if kind == "iterative":
        every = options.get("prune_every", max((end - start) // (ROUNDS - 1), 1))
        return iterative(start, end, 1 + (end - start) // every)
    every = options.get("prune_every", max((end - start) // PRUNINGS, 1))
    return gradual(start, end, every, options.get("prune_exponent", 3.0))


def pruner_of(options: Options, network: Network, steps: int, earlier: Callable[[int], Network]) -> Pruner:
    """What prunes a run as its options say.

    Parameters
    ----------
    options : dict
        With "prune".
    network : Network
        As the run starts.
    steps : int
        Of the run.
    earlier : callable
        Gives the run's network as it was after a number of steps.
    """
    schedule, allow_empty = schedule_of(options, steps), options.get("prune_empty", False)
    rule: Rule
    if "prune_to" in options:
        rule = sparsity_rule(
            schedule, layer_targets(network, options["prune_to"]), initial=network.sparsity,
            by=options.get("prune_by", "magnitude"), globally=options.get("prune_global", False),
            allow_empty=allow_empty,
        )  # fmt: skip
    elif "prune_threshold" in options:
        rule = threshold_rule(options["prune_threshold"], allow_empty=allow_empty)
    else:
        rule = quality_rule(options["prune_quality"], allow_empty=allow_empty)

    def afterwards(trainer: Training) -> None:
        go_back(trainer.network, options, earlier, trainer.optimizer)

    return Pruner(schedule, rule, afterwards if "rewind" in options else None)


def go_back(network: Network, options: Options, earlier: Callable[[int], Network], optimizer: Any = None) -> None:
    """Give a network the values that `--rewind` says."""
    if options["rewind"] == "fresh":
        refresh(network, options["seed"], optimizer)
    else:
        rewind(network, earlier(_rewound_to(options)), optimizer)


def restarted(options: Options, steps: int, make: Callable[[int], Schedule]) -> Schedule:
    """The learning rate of a run that prunes and goes back: one schedule up to the last pruning, then another.

    Parameters
    ----------
    options : dict
        With "prune" and "rewind".
    steps : int
        Of the run.
    make : callable
        The schedule of a run of so many steps.
    """
    end, back = schedule_of(options, steps).end, _rewound_to(options)
    if end == steps:
        raise ValueError(f"--rewind: leaves no steps to train after the last pruning, at {end:,} of {steps:,}")
    if back > end:
        raise ValueError(f"--rewind: must be a step before the last pruning, at {end:,}, got {back:,}")
    before, after = make(max(end, 1)), make(steps - end + back)
    return lambda step: before(step) if step < end else after(step - end + back)


def layer_targets(network: Network, text: str) -> Targets:
    """One sparsity, or one for each layer with connections, where 0 leaves a layer as it is."""
    values = [float(each) for each in text.split(",")]
    if len(values) == 1:
        return values[0]
    if len(values) != len(network.patterns):
        names = ", ".join(repr(network.layers[k]) for k in network.patterns)
        raise PruneError(f"expected one sparsity, or one for each of {names}, got {text}")
    return {k: value for k, value in zip(network.patterns, values, strict=True) if value > 0}


def targets(text: str) -> str:
    """An argument's type: a sparsity, or several."""
    try:
        values = [float(each) for each in text.split(",")]
    except ValueError:
        values = [-1.0]
    if not all(0 <= value <= 1 for value in values) or not max(values) > 0:
        raise argparse.ArgumentTypeError(f"expected sparsities from 0 to 1, such as 0.9 or 0.9,0.9,0, got {text!r}")
    return text


def _rewound_to(options: Options) -> int:
    return int(options["rewind"]) if options["rewind"] not in ("initial", "fresh") else 0


def _when(text: str) -> str:
    if text not in ("initial", "fresh") and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected initial, fresh, or a number of steps such as 469, got {text!r}")
    return text


def _step(text: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"expected a number of steps, such as 1000, got {text!r}")
    return int(text)


def _steps(text: str) -> int:
    if not (count := _step(text)):
        raise argparse.ArgumentTypeError(f"expected a number of steps from 1, such as 200, got {text!r}")
    return count


def positive(text: str) -> float:
    """An argument's type: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, such as 0.05, got {text!r}")
    return value


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected a file or a run's folder, got {text!r}")
    return os.path.abspath(text)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
