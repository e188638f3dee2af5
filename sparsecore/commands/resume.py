"""Going on with a run: its configuration comes from its folder, and only what does not decide its result may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..runs.checkpoint import Checkpoint, read
from ..runs.config import RunConfig, settings
from ..runs.folder import RunFolder
from ..runs.kinds import ConfigError, spelled
from .recipes import kept_config, resolved


class Begun(NamedTuple):
    """A run in a folder: its configuration, and the checkpoint to go on from, as far as they are there."""

    config: RunConfig | None
    checkpoint: Checkpoint | None


def begun(folder: RunFolder) -> Begun:
    """What is in a folder.

    Raises
    ------
    ValueError
        If there is no such folder, or what is in it cannot be used.
    """
    if not folder.exists():
        raise ConfigError("{resume}: expected a run's folder, got {path}, where there is none; leave {resume} out to "
                          "start a run there", path=folder.path)  # fmt: skip
    checkpoint = read(folder.path) if folder.has_checkpoint() else None
    record = checkpoint.state.get("config") if checkpoint is not None else folder.config()
    return Begun(None if record is None else kept_config(record, folder.path), checkpoint)


def gone_on(kept: RunConfig, given: Mapping[str, Any], folder: RunFolder) -> RunConfig:
    """The configuration that a run keeps, with the fields that may change taken from `given`.

    Raises
    ------
    ConfigError
        If a field that decides what is learned is given otherwise.
    """
    free = {}
    for setting in settings():
        name = setting.name
        if name not in given or given[name] == getattr(kept, name):
            continue
        if not setting.decides:
            free[name] = given[name]
        elif not _asked_for(name, given[name], kept):
            was, now = (_shown(value) for value in (getattr(kept, name), given[name]))
            raise ConfigError(
                f"{{{name}}}: in {{path}} it was {{was}}, got {{now}}; leave it out, or start another run, which may "
                "go on from this one's network", {"start_from": str(folder.path)}, path=folder.path, was=was, now=now,
            )  # fmt: skip
    return resolved(replace(kept, **free))


def _asked_for(name: str, given: Any, kept: RunConfig) -> bool:
    """Whether a run was begun with this value, and keeps what it came to."""
    return (name == "dataset" and given == kept.dataset_name) or (name == "lr" and given == "auto" and kept.lr_found)


def _shown(value: Any) -> str:
    return "not given" if value is None or value is False else spelled(value)
