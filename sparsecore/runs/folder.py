"""A run's folder: config.json, metrics.jsonl, model.safetensors and, with matplotlib, curves.png."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import OneLineError
from ..files import content, replace
from .checkpoint import BEST
from .checkpoint import NAME as CHECKPOINT
from .strict import plain

CONFIG, METRICS, CURVES = "config.json", "metrics.jsonl", "curves.png"

LARGEST = 64 << 20  # bytes of a configuration

Record = dict[str, Any]


class RunFolderError(OneLineError):
    """A folder that a run cannot use; one line that names it and says what to do."""


class RunFolder:
    """The folder that a run writes to.

    Parameters
    ----------
    path : str or Path
        Nothing is created before `make`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def best(self) -> Path:
        return self.path / BEST

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    def exists(self) -> bool:
        with path_errors(self.path):
            return self.path.is_dir()

    def has_checkpoint(self) -> bool:
        return any((self.path / name).is_file() for name in (CHECKPOINT, f"{CHECKPOINT}.previous"))

    def check_new(self) -> None:
        """Refuse a folder that has a run in it, or a path that is not a folder's."""
        with path_errors(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise RunFolderError(f"{self.path}: expected a folder, got a file: choose another")
            names = CONFIG, METRICS, CHECKPOINT, f"{CHECKPOINT}.previous", BEST
            if any((self.path / name).exists() for name in names):
                raise RunFolderError(
                    f"{self.path}: there is a run in it: go on with it (--resume) or choose another folder"
                )

    def make(self, space: int) -> None:
        """Make the folder, if the disk has as many bytes free as the run will need."""
        with path_errors(self.path):
            path = self.path.absolute()
            free = shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free
            if free < space:
                raise RunFolderError(
                    f"{self.path}: a run needs {space:,} bytes there, got {free:,} free: choose another folder"
                )
            self.path.mkdir(parents=True, exist_ok=True)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration, which JSON can hold, so that what cannot be written fails before training."""
        with path_errors(self.path):
            replace(self.path / CONFIG, (json.dumps(config, indent=2, default=plain) + "\n").encode())

    def config(self) -> Record | None:
        """What `configure` wrote, or None if nothing was."""
        path = self.path / CONFIG
        with path_errors(path):
            if not path.exists():
                return None
            text = content(path, LARGEST)
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):
                found = None
        if not isinstance(found, dict):
            raise RunFolderError(f"{path}: expected a run's configuration as a JSON object, got something else")
        return found


class path_errors:
    """A context in which the system's errors about a path become a RunFolderError of one line."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, OSError) or (isinstance(error, ValueError) and not isinstance(error, RunFolderError)):
            reason = getattr(error, "strerror", None) or error
            raise RunFolderError(f"{self.path!s:.200}: cannot be used ({reason}): choose another folder") from None
