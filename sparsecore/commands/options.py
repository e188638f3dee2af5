"""The command line of a training run: a flag for each field of its configuration, and a few for the command alone."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..console.arguments import Parser
from ..runs.config import RunConfig, Setting, settings
from ..runs.kinds import NAME, TRUTH, ConfigError, flag, spelled, typed

PROGRAM = "python -m sparsecore.train"
EXAMPLE = f"{PROGRAM} lenet300 --radix 10,10"
OLD_FLAGS = {"granularity": "--pattern", "evaluate_every": "--look-epochs"}
"""Flags of earlier versions, by the field that they still set."""
WITHOUT_VALUE = {"expander": "fixed"}
"""What a flag means that may stand without a value."""
FROM_RECIPE = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "schedule", "warm_up", "augment", "hidden",
               "padding", "width")  # fmt: skip
"""Fields whose default is the model's own."""
WITHOUT_FLAG = ("model", "dataset_name", "lr_found")
"""Fields that are no flags: the model comes first, and a command names its data set by `--dataset`."""


class CommandLine(NamedTuple):
    """What stood on a command line.

    Attributes
    ----------
    fields : dict
        Those of the configuration that were given.
    out : str or None
        The run's folder.
    resume, quiet, curves, tensorboard, plan, json : bool
    """

    fields: dict[str, Any]
    out: str | None
    resume: bool
    quiet: bool
    curves: bool
    tensorboard: bool
    plan: bool = False
    json: bool = False

    def config(self) -> RunConfig:
        """The configuration of these fields. Raises UsageError, which names flags."""
        try:
            return RunConfig(**self.fields)
        except ConfigError as error:
            parser().error(error.on_command_line())


def read(arguments: list[str]) -> CommandLine:
    """Read the words of a command line. Raises UsageError."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        parser(_of_help(arguments)).parse_args(["--help"])
    given = vars(parser().parse_args(arguments))
    fields = {setting.name: given[setting.name] for setting in settings() if given.get(setting.name) is not None}
    return CommandLine(
        fields, given.get("out"), resume="resume" in given, quiet="quiet" in given, curves="no_curves" not in given,
        tensorboard="tensorboard" in given, plan="plan" in given, json="json" in given,
    )


def written(fields: Mapping[str, Any]) -> list[str]:
    """The words that `read` reads as these fields."""
    return [flag(name) if value is True else f"{flag(name)}={spelled(value)}" for name, value in fields.items()]


def parser(run: RunConfig | None = None) -> Parser:
    """The parser of the training command; what is not given is not in its result.

    Its help has the defaults of a run, where one is given.
    """
    about = "Train a network in sparse storage." + (f" [In brackets: what {run.model} gets here.]" if run else "")
    made = Parser(PROGRAM, about, EXAMPLE)
    groups: dict[str, Any] = {}
    for setting in settings():
        group = groups.get(setting.group) or made.add_argument_group(setting.group)
        groups[setting.group] = group
        if setting.name == "model":
            made.add_argument("model", nargs="?", default=None, type=typed(setting.kind), metavar="MODEL",
                              help=setting.help + "; before --help, it shows its recipe")  # fmt: skip
        elif setting.name not in WITHOUT_FLAG:
            _add(group, setting, run)
    command = made.add_argument_group("this command")
    command.add_argument(
        "--out", type=typed(NAME), metavar="DIR",
        help="folder for config.json, metrics.jsonl, model.safetensors, curves.png; nothing is kept if not given",
    )  # fmt: skip
    command.add_argument("--resume", action="store_true", help="go on with the run in --out")
    command.add_argument("--no-curves", action="store_true", help="draw no curves.png, which takes half a second")
    command.add_argument("--tensorboard", action="store_true", help="write event files for TensorBoard, in --out")
    command.add_argument("--plan", action="store_true", help="say what the run will take of memory, and stop")
    command.add_argument("--json", action="store_true", help="with --plan: print one JSON object")
    command.add_argument("--quiet", action="store_true", help="print the result only")
    return made


def _add(group: Any, setting: Setting, run: RunConfig | None) -> None:
    name = setting.name
    about: dict[str, Any] = {"dest": name, "help": f"{setting.help}{_default(setting, run)}"}
    if setting.kind is TRUTH:
        group.add_argument(flag(name), action="store_true", **about)
        return
    about |= {"type": typed(setting.kind), "metavar": setting.metavar}
    bare = {"nargs": "?", "const": WITHOUT_VALUE[name]} if name in WITHOUT_VALUE else {}
    group.add_argument(flag(name), **about, **bare)
    if name in OLD_FLAGS:
        group.add_argument(OLD_FLAGS[name], **about | {"help": argparse.SUPPRESS})


def _default(setting: Setting, run: RunConfig | None) -> str:
    """What holds where an option is not given, as far as its help does not say so."""
    if run is not None and (value := getattr(run, setting.name)) not in (None, False):
        return f" [{spelled(value)}]"
    if setting.kind is TRUTH or re.search(r"default|if not given|\(\d", setting.help):
        return ""
    if setting.default is not None:
        return f" ({spelled(setting.default)} if not given)"
    return " (the recipe's if not given)" if setting.name in FROM_RECIPE else " (none if not given)"


def _of_help(arguments: list[str]) -> RunConfig | None:
    """The run that a command line describes which asks for help; None if it does not describe one."""
    from .recipes import resolved

    try:
        given = vars(parser().parse_args([word for word in arguments if word not in ("-h", "--help")]))
        return resolved(RunConfig(**{each.name: given[each.name] for each in settings() if each.name in given}))
    except ValueError:
        return None
