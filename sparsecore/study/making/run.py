"""One run as a value: a command line of this package without a place, known by a hash of what decides its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...commands.options import command_line

VERSION = 1
"""Raised when what a run means changes, so that what was computed before is not taken for it."""

Kind = Literal["train", "prune"]
Items = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Run:
    """A network that is trained, or pruned from another run's.

    Parameters
    ----------
    kind : {"train", "prune"}
        The command: `python -m sparsecore.KIND`.
    items : tuple of (str, value)
        Its options as in `sparsecore.options.command_line`, sorted, but for where data, threads and folders are.
    source : Run, optional
        Where its network comes from.
    """

    kind: Kind
    items: Items
    source: Run | None = None

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.items)

    @property
    def dataset(self) -> str:
        """What it, or what it comes from, is trained on."""
        own = self.options.get("dataset")
        if own is not None or self.source is None:
            return str(own)
        return self.source.dataset

    @property
    def key(self) -> str:
        """The same for the same configuration, sources included; another for any other."""
        source = None if self.source is None else self.source.key
        text = json.dumps([VERSION, self.kind, sorted(self.items), source])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def seeded(self, seed: int) -> Run:
        """This run, and those that it comes from, with a seed, but for those that have one."""
        if "seed" in self.options:
            return self
        source = None if self.source is None else self.source.seeded(seed)
        items = self.items if self.kind == "prune" else _sorted(self.options | {"seed": seed})
        return Run(self.kind, items, source)

    def sources(self) -> Iterator[Run]:
        """The runs that must come before, first things first."""
        if self.source is not None:
            yield from self.source.sources()
            yield self.source

    def arguments(self, runs: Path) -> list[str]:
        """The command's arguments, where every run has the folder of its key in `runs`."""
        if self.kind == "train":
            start = {} if self.source is None else {"from": runs / self.source.key}
            return command_line(start | self.options)
        assert self.source is not None
        flags = [word for word in command_line({"model": "", **self.options}) if word not in ("--", "")]
        return [str(runs / self.source.key), *flags, "--out", str(runs / self.key / "model.safetensors")]

    def __str__(self) -> str:
        """A command that a user can type, once the sources are there."""
        return " ".join(["python -m", f"sparsecore.{self.kind}", *self.arguments(Path("runs"))])


def train(model: str, dataset: str, recipe: dict[str, Any], source: Run | None = None, **options: Any) -> Run:
    """A training run; what is None in the recipe or the options is left out."""
    given = {"model": model, "dataset": dataset} | recipe | options
    return Run("train", _sorted({name: value for name, value in given.items() if value is not None}), source)


def prune(source: Run, **options: Any) -> Run:
    """A trained network with fewer connections, not trained further."""
    return Run("prune", _sorted(options), source)


def _sorted(options: dict[str, Any]) -> Items:
    return tuple(sorted(options.items()))
