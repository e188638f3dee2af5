"""`sparsecore`, and `python -m sparsecore`: every command of this package behind one door.

A command is imported when it is called, so none starts later than by its own name. Exit status: the command's own, or 2
where there is no such command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .._package import VERSION, source
from ..console.called import through
from ..console.output import complain, print_lines, write_anything

if TYPE_CHECKING:
    from ..console.arguments import Parser

SHELLS = ("bash", "zsh", "tcsh")


class Command(NamedTuple):
    """A command: the modules that have its `main` and its `parser`, and what it does."""

    main: str
    parser: str
    about: str


COMMANDS = {
    "train": Command("train", "commands.options", "train a network in sparse storage"),
    "evaluate": Command("evaluate", "commands.evaluation", "how well a trained network does"),
    "compare": Command("commands.compare", "commands.compare", "runs beside each other: a table, a page"),
    "inspect": Command("inspect.__main__", "inspect.__main__", "a network's structure, in numbers and pictures"),
    "prune": Command("prune.__main__", "prune.__main__", "prune a network that was trained earlier"),
    "export": Command("commands.export", "commands.export", "write a network as ONNX, or as arrays"),
    "data": Command("data.__main__", "data.__main__", "fetch data sets, and list them"),
    "sweep": Command("study.sweep", "study.sweep", "train a network with many settings, and compare"),
    "challenge": Command("study.challenge.command", "study.challenge.command", "the Sparse DNN Graph Challenge, timed"),
    "study": Command("study.__main__", "study.__main__", "train the networks of the studies, and report"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    write_anything()
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = _called()
    if words and words[0] in COMMANDS:
        with through(program):
            return cast(int, _module(COMMANDS[words[0]].main).main(words[1:]))
    try:
        given = vars(parser(program).parse_args(words))
        if "completion" in given:
            return print_lines(program, [completion(given["completion"])])
        return print_lines(program, [_version()] if "version" in given else [parser(program).format_help()])
    except ValueError as error:
        return complain(program, error, 2)


def parser(program: str = "sparsecore", *, whole: bool = False) -> Parser:
    """The door's own parser; with those of all commands, which are imported for it, if it is to be the whole one."""
    from ..console.arguments import Parser

    made = Parser(program, "Train neural networks in sparse storage.", f"{program} train lenet300 --radix 10,10")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--version", action="store_true", help="say which version this is, and stop")
    what.add_argument(
        "--completion", choices=SHELLS, help="print what completes commands and options in a shell (none if not given)"
    )
    commands: Any = made.add_subparsers(metavar="COMMAND", help="one of these; each has its own --help")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.about, prog=name, description=command.about, example=name)
        if whole:
            commands.choices[name] = _module(command.parser).parser()
    return made


def completion(shell: str) -> str:
    """A script that completes words in a shell. Raises ValueError where shtab is not installed."""
    if find_spec("shtab") is None:
        raise ValueError("--completion: needs shtab, not installed here: pip install 'sparsecore[completion]'")
    import shtab

    made = parser(whole=True)
    kinds = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}
    for part in made.walk():
        for action in part.actions():
            if isinstance(action.metavar, str) and action.metavar in kinds:
                action.complete = kinds[action.metavar]  # type: ignore[attr-defined]
    return cast(str, shtab.complete(made, shell))


def _module(name: str) -> Any:
    return import_module(f"..{name}", __package__)


def _version() -> str:
    commit = source()["commit"]
    return f"sparsecore {VERSION}" + ("" if commit == "unknown" else f" ({commit})")


def _called() -> str:
    """The name of the script that a package brings, or what started this module."""
    return "sparsecore" if Path(sys.argv[0]).stem == "sparsecore" else "python -m sparsecore"
