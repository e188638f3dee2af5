"""One run as a value: a command of this package without a place, known by a hash of what decides its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...commands.options import written
from ...runs.config import RunConfig, settings
from ...runs.kinds import spelled

VERSION = 1
"""Raised when what a run means changes, so that what was computed before is not taken for it."""

Kind = Literal["train", "prune"]


@dataclass(frozen=True)
class Cut:
    """What `python -m sparsecore.prune` does to a trained network."""

    sparsity: float


@dataclass(frozen=True)
class Run:
    """A network that is trained, or pruned from another run's.

    Parameters
    ----------
    what : RunConfig or Cut
        Without a seed, and without where data, threads and folders are.
    source : Run, optional
        Where its network comes from.
    seed : int, optional
        Only a run that has one can be made.
    data : str
        The fingerprint of a user's own data, which may be others one day.
    """

    what: RunConfig | Cut
    source: Run | None = None
    seed: int | None = None
    data: str = ""

    @property
    def kind(self) -> Kind:
        """The command: `python -m sparsecore.KIND`."""
        return "prune" if isinstance(self.what, Cut) else "train"

    @property
    def options(self) -> dict[str, Any]:
        """The command's options that say something, by name: numbers, and lists as on a command line."""
        if isinstance(self.what, Cut):
            return {"sparsity": f"{self.what.sparsity:g}"}
        found = {setting.name: getattr(self.what, setting.name) for setting in settings()
                 if setting.name != "start_from" and getattr(self.what, setting.name) != setting.default}  # fmt: skip
        found = {name: _worded(name, value) for name, value in found.items()}
        return dict(sorted((found | ({} if self.seed is None else {"seed": self.seed})).items()))

    @property
    def dataset(self) -> str:
        """What it, or what it comes from, is trained on."""
        if isinstance(self.what, RunConfig) and self.what.dataset is not None:
            return self.what.dataset
        assert self.source is not None
        return self.source.dataset

    @property
    def key(self) -> str:
        """The same for the same configuration, sources included; another for any other."""
        source = None if self.source is None else self.source.key
        data = [self.data] if self.data else []
        text = json.dumps([VERSION, self.kind, sorted(self.options.items()), source, *data])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def seeded(self, seed: int) -> Run:
        """This run, and those that it comes from, with a seed, but for those that have one."""
        if self.seed is not None:
            return self
        source = None if self.source is None else self.source.seeded(seed)
        return replace(self, source=source, seed=None if self.kind == "prune" else seed)

    def sources(self) -> Iterator[Run]:
        """The runs that must come before, first things first."""
        if self.source is not None:
            yield from self.source.sources()
            yield self.source

    def arguments(self, runs: Path) -> list[str]:
        """The command's arguments, where every run has the folder of its key in `runs`."""
        options = self.options
        source = None if self.source is None else runs / self.source.key
        if self.kind == "prune":
            return [str(source), *written(options), "--out", str(runs / self.key / "model.safetensors")]
        start = {} if source is None else {"start_from": source}
        return [*written(start | {k: v for k, v in options.items() if k != "model"}), "--", options["model"]]

    def __str__(self) -> str:
        """A command that a user can type, once the sources are there."""
        return " ".join(["python -m", f"sparsecore.{self.kind}", *self.arguments(Path("runs"))])


def train(model: str, dataset: str, recipe: Mapping[str, Any], source: Run | None = None, **options: Any) -> Run:
    """A training run; what is None in the recipe or the options is left out."""
    given = {"model": model, "dataset": dataset, **recipe, **options}
    start = {} if source is None else {"start_from": "source"}  # where it is depends on the folder of the runs
    config = RunConfig.from_dict({name: value for name, value in given.items() if value is not None} | start)
    return Run(config, source)


def prune(source: Run, *, sparsity: float | str) -> Run:
    """A trained network with fewer connections, not trained further."""
    return Run(Cut(float(sparsity)), source)


def _worded(name: str, value: Any) -> Any:
    """A value as keys have had it from the beginning: lists, and goals of pruning, are words."""
    if name == "prune_to" and not isinstance(value, tuple):
        return f"{value:g}"
    return spelled(value) if isinstance(value, tuple) or name == "rewind" else value
