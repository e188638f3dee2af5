"""What a run leaves: lines of metrics, and checkpoints to go on from, in its folder if it has one."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._package import source
from ..network import Network
from ..scalars import number, whole
from ..training.best import NAME, best_of
from ..training.optimizers import SGD, Optimizer
from ..training.state import Record, RunState
from .checkpoint import Checkpoint, CheckpointError, previous, read, save
from .folder import RunFolder
from .lock import FolderLock
from .metrics import Metrics
from .state import as_json, from_json
from .strict import plain, strict


class Recorder:
    """Keeps a run's metrics and where it stands.

    Parameters
    ----------
    folder : RunFolder, optional
        Without one the metrics are kept in memory, and nothing else is.
    config : mapping
        What config.json and the checkpoints say of the run, as JSON.
    identity : mapping
        What must be the same in a run that goes on, or its bits would differ.
    save_every : float
        Seconds between checkpoints.
    save_epochs : int, optional
        A checkpoint after every so many epochs too.
    data : callable, optional
        Gives a checksum of the data and the labels, which must be the same too; asked for once, when it is needed.
    settings : callable, optional
        Gives what decides how the run goes on and may be changed where that is said, as JSON.

    Attributes
    ----------
    begun : bool
        Whether the run in the folder is this one.
    metrics : Metrics
        The lines so far, as dictionaries.
    """

    def __init__(
        self, folder: RunFolder | None, config: Mapping[str, Any], identity: Mapping[str, Any], *,
        save_every: float = 5.0, save_epochs: int | None = None, data: Callable[[], str] | None = None,
        settings: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        if not number("save_every", save_every) >= 0:
            raise ValueError(f"save_every must be at least 0 seconds, got {save_every}")
        if save_epochs is not None and whole("save_epochs", save_epochs) < 1:
            raise ValueError(f"save_epochs must be at least 1, got {save_epochs:,}")
        self.folder, self.config, self.identity = folder, dict(config), dict(identity)
        self.save_every, self.save_epochs = save_every, save_epochs
        self.metrics = Metrics(folder.metrics if folder is not None else None)
        self._lock = FolderLock(folder.path) if folder is not None else None
        self._saved_at = 0.0
        self.begun = self._prepared = False
        self._data, self._settings = data, settings
        self._known: str | None = None
        self._changes: list[Record] = []
        self._source = source() if folder is not None else {}

    def __getstate__(self) -> dict[str, Any]:
        if self.folder is not None:
            raise ValueError(f"a run that writes to {self.folder.path} cannot be copied: two would write there")
        return vars(self)

    def prepare(self, network: Network, optimizer: Optimizer, state: RunState) -> None:
        """Make the folder and check that the disk has space; drop the lines of metrics past `state`'s.

        From here to `release` nobody else can do so.
        """
        if self.folder is not None and self._lock is not None:
            self._check_new()
            columns = 1 + len(optimizer.names)
            patterns = network.patterns.values()
            size = columns * network.table.values.nbytes + sum(p.indptr.nbytes + p.indices.nbytes for p in patterns)
            self.folder.make(3 * size + (1 << 20))
            self._lock.take()
        try:
            if self.folder is not None:
                self._check_new()  # another run may have begun, and ended, while this one had no lock
                self.folder.configure(self.config)
                self.begun = True
            self.metrics.cut(state.metrics)
            if self.folder is not None:
                self._go_back_to_best(best_of(state))
        except BaseException:
            self.release()
            raise
        self._prepared = True
        self._saved_at = time.monotonic()

    def take(self) -> None:
        """Keep others from the folder again, after `release`.

        Raises
        ------
        RunFolderError
            If another run is at work there, or was since.
        """
        if self._prepared and self._lock is not None and not self._lock.held:
            self._lock.take()
            try:
                self.metrics.check_own()
            except BaseException:
                self.release()
                raise

    def release(self) -> None:
        """Leave the folder to others, who may go on with the run."""
        if self._lock is not None:
            self._lock.release()

    def append(self, record: Record) -> None:
        """Keep a line of metrics."""
        with self._alone():
            self.metrics.append(record)

    def due(self, epoch: int | None = None) -> bool:
        """Whether it is time for a checkpoint: between two steps, or at the end of an epoch, from 1."""
        if epoch is not None and self.save_epochs and epoch % self.save_epochs == 0:
            return True
        return self.folder is not None and time.monotonic() - self._saved_at >= self.save_every

    def save(self, network: Network, optimizer: Optimizer, state: RunState) -> None:
        """Write a checkpoint of where the run stands, if it has a folder."""
        if self.folder is not None:
            with self._alone():
                state.metrics = self.metrics.mark()
                identity = self.identity if self._data is None else self.identity | {"data": self.checksum()}
                run: dict[str, Any] = {"config": self.config, "identity": identity, "run": as_json(state)}
                run |= {"source": self._source, "changes": self._changes}
                if self._settings is not None:
                    run["settings"] = dict(self._settings())
                save(network, self.folder.checkpoint, state=strict(run), optimizer=optimizer, arrays=state.arrays)
        self._saved_at = time.monotonic()

    def keep_best(self, network: Network, record: Record) -> None:
        """Keep the network of the best epoch so far beside the checkpoint, if there is a folder."""
        if self.folder is not None:
            with self._alone():
                state = {"config": self.config, NAME: record, "source": self._source}
                save(network, self.folder.best, state=strict(state))

    def saved(self) -> str | None:
        """The folder that has a checkpoint in it; None if there is none."""
        return str(self.folder.path) if self.folder is not None and self.folder.has_checkpoint() else None

    def restored(self, checkpoint: Checkpoint, optimizer: Optimizer, changing: Collection[str] = ()) -> RunState:
        """Where a checkpoint of this run stands; the optimizer takes the state that it had there.

        Another version or commit of this package than the one that wrote it is warned of. `config` goes on to name
        those that the run began with, and later checkpoints' "changes" each one that followed.

        Parameters
        ----------
        checkpoint : Checkpoint
        optimizer : Optimizer
        changing : collection of str
            The settings that may be others from here on; what they were is kept in later checkpoints as "changes".

        Raises
        ------
        CheckpointError
            If it is of another run, or a setting is another one and not in `changing`.
        """
        state = from_json(checkpoint.state.get("run"))
        state.arrays = dict(checkpoint.arrays)
        found, epochs = checkpoint.state.get("identity"), self.identity["epochs"]
        steps = -(-self.identity["train"] // self.identity["batch_size"])
        data = None
        if isinstance(found, dict):
            data, found = found.get("data"), {name: value for name, value in found.items() if name != "data"}
        if found != self.identity or state.epoch > epochs or state.batch > steps:
            raise CheckpointError(f"expected a checkpoint of this run, {self.identity}, got one of {found}")
        if data is not None and self._data is not None and data != self.checksum():
            raise CheckpointError("expected a checkpoint of a run on these data, got one on other samples or labels")
        change = self._changed(checkpoint, changing) | self._moved(checkpoint)
        # Format 1 had SGD alone, and did not name it.
        description = checkpoint.optimizer if checkpoint.optimizer is not None else {"kind": SGD.__name__}
        try:
            optimizer.restore(checkpoint.columns, description, checkpoint.network.device)
        except ValueError as error:
            raise CheckpointError(f"expected a checkpoint of this run's optimizer: {error}") from None
        changes = checkpoint.state.get("changes")
        self._changes = list(changes) if isinstance(changes, list) else []
        if change:
            self._changes.append({"epoch": state.epoch, "batch": state.batch, **change})
        self.begun = True
        return state

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """With the folder to oneself: also where something is written when no run is under way."""
        held = self._lock is not None and self._lock.held
        self.take()
        try:
            yield
        finally:
            if not held:
                self.release()

    def _go_back_to_best(self, known: Record | None) -> None:
        """See to it that the best network is the one that the run's state knows of, not one of an epoch to come again.

        A checkpoint follows each best network at once. If it could not, the one before is still there.
        """
        assert self.folder is not None
        file, before = self.folder.best, previous(self.folder.best)
        if known is None:
            for each in (file, before):
                each.unlink(missing_ok=True)
        elif _epoch_in(file) != known["epoch"] and _epoch_in(before) == known["epoch"]:
            before.replace(file)

    def _check_new(self) -> None:
        if self.folder is not None and not self.begun:
            self.folder.check_new()

    def _changed(self, checkpoint: Checkpoint, changing: Collection[str]) -> Record:
        """The settings that are others than those that a checkpoint tells: what they were, and are."""
        if self._settings is None:
            return {}
        now = json.loads(json.dumps(self._settings(), default=plain))
        if unknown := [name for name in changing if name not in now]:
            raise CheckpointError(f"changing: expected some of {', '.join(now)}, got {', '.join(unknown)}")
        before = checkpoint.state.get("settings")
        if not isinstance(before, dict):  # older files have an optimizer's numbers, the rate among them as it was last
            before = {name: value for name, value in (checkpoint.optimizer or {}).items() if name != "lr"}
        change = {name: [before[name], now[name]] for name in now if name in before and before[name] != now[name]}
        if refused := [name for name in change if name not in changing]:
            said = "; ".join(f"{name} was {change[name][0]!s:.60}, got {change[name][1]!s:.60}" for name in refused)
            raise CheckpointError(
                f"expected this run's settings: {said}: give what it had, or allow it: restore(…, changing={refused})"
            )
        return change

    def _moved(self, checkpoint: Checkpoint) -> Record:
        """The version and the commit of this package, where they were others: what they were, and are."""
        config, before = checkpoint.state.get("config"), checkpoint.state.get("source")
        config = config if isinstance(config, dict) else {}
        self.config |= {name: config[name] for name in ("version", "commit") if name in config}
        before, now = before if isinstance(before, dict) else config, source()  # older files name no commit
        moved = {name: [before[name], now[name]] for name in now if name in before and before[name] != now[name]}
        if moved:
            was, becomes = (", ".join(f"{name} {moved[name][k]!s:.60}" for name in moved) for k in (0, 1))
            warnings.warn(
                f"the run was made by {was} of sparsecore and goes on by {becomes}: both are kept with it, and its "
                "bits may be others from here on", stacklevel=4,
            )  # fmt: skip
        return moved

    def checksum(self) -> str:
        """Of the data and the labels."""
        if self._known is None and self._data is not None:
            self._known = self._data()
        return str(self._known)


def _epoch_in(file: Path) -> int | None:
    """The epoch of the best network in a file, or None where there is none."""
    try:
        found = read(file).state[NAME]["epoch"] if file.is_file() else None
    except (CheckpointError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None
