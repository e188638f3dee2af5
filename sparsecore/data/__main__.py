"""`python -m sparsecore.data`: fetch data sets into the cache, list them, draw the embedded subset anew.

Exit status: 0, 1 if data cannot be fetched or used, 2 for a command that cannot be followed, 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from sparsecore.console.arguments import CACHE, Parser, UsageError
from sparsecore.console.output import complain, print_lines, write_anything
from sparsecore.data import cache
from sparsecore.data.catalogue import CATALOGUE, EMBEDDED, MNIST
from sparsecore.data.dataset import DataError
from sparsecore.data.loading import load_cached
from sparsecore.data.sources.fetch import KINDS, fetch
from sparsecore.data.subset import TEST, TRAIN, write_subset

PROGRAM = "python -m sparsecore.data"
EXAMPLE = f"{PROGRAM} fetch fashion-mnist"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        options = parser().parse_args(arguments)
    except UsageError as error:
        return complain(PROGRAM, error, 2)
    try:
        root = cache.folder(options.data_dir)
        lines = []
        if options.command == "fetch":
            lines = [_fetch(options.name, root, options.source, again="again" in options)]
        elif options.command == "list":
            lines = _list(root)
        else:
            write_subset(load_cached(MNIST, root), options.path)
    except (ValueError, OSError) as error:
        return complain(PROGRAM, error, 1)
    except KeyboardInterrupt:
        return complain(PROGRAM, "interrupted; the cache is as it was", 130)
    return print_lines(PROGRAM, lines)


class _Parser(Parser):
    """The parser of this command line, and of each of its commands."""

    def __init__(self, prog: str = PROGRAM, **others: Any) -> None:
        super().__init__(prog, "Fetch data sets into the cache, list them, draw the embedded subset anew.", EXAMPLE,
                         **others)  # fmt: skip


def parser() -> Parser:
    """The parser of this command."""
    made = _Parser()
    commands = made.add_subparsers(dest="command", required=True, help="what to do")
    cached = _Parser(add_help=False)
    cached.add_argument("--data-dir", type=Path, default=None, help=CACHE)
    get = commands.add_parser("fetch", parents=[cached], help="fetch a data set, verify it and keep it in the cache")
    get.add_argument("name", choices=tuple(CATALOGUE), help="of the data set")
    get.add_argument("--source", choices=KINDS, default=None, help="only this kind; each in turn if not given")
    get.add_argument("--again", action="store_true", help="fetch it even if it is here and whole")
    commands.add_parser("list", parents=[cached], help="the data sets, and which of them are at hand")
    draw = commands.add_parser("make-subset", parents=[cached], help="draw the embedded subset from the cached MNIST")
    draw.add_argument("path", type=Path, metavar="FILE", help="to write, an .npz")
    return made


def _fetch(name: str, root: Path, kind: str | None, *, again: bool) -> str:
    if not again and _is_whole(name, root):
        return f"{name}: is in {root / name}, verified; nothing was fetched"
    start = time.monotonic()
    source = fetch(CATALOGUE[name], root, kind)
    return f"{name}: fetched from {source} in {time.monotonic() - start:.1f} s, verified, kept in {root / name}"


def _is_whole(name: str, root: Path) -> bool:
    """Whether a set is in the cache, each file as its hash says."""
    try:
        cache.read(CATALOGUE[name], root)
    except DataError:
        return False
    return True


def _list(root: Path) -> list[str]:
    lines = [f"cache: {root}"]
    for entry in CATALOGUE.values():
        state = "cached" if cache.holds(entry, root) else "not cached"
        sources = ", ".join(source.title for source in entry.sources)
        lines.append(f"{entry.name:14} {state:11} sources: {sources}")
    return [*lines, f"{EMBEDDED:14} {'embedded':11} {TRAIN:,} train and {TEST:,} test digits of MNIST"]


if __name__ == "__main__":
    write_anything()
    sys.exit(main())
