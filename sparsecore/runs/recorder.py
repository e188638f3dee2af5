"""What a run leaves: lines of metrics, and checkpoints to go on from, in its folder if it has one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..network import Network
from ..training.optimizers import SGD, Optimizer
from ..training.state import Record, RunState
from .checkpoint import Checkpoint, CheckpointError, save
from .folder import RunFolder
from .metrics import Metrics
from .state import as_json, from_json


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

    Attributes
    ----------
    metrics : Metrics
        The lines so far, as dictionaries.
    """

    def __init__(
        self, folder: RunFolder | None, config: Mapping[str, Any], identity: Mapping[str, Any], *,
        save_every: float = 5.0, save_epochs: int | None = None,
    ) -> None:  # fmt: skip
        if save_epochs is not None and save_epochs < 1:
            raise ValueError(f"save_epochs must be at least 1, got {save_epochs:,}")
        self.folder, self.config, self.identity = folder, dict(config), dict(identity)
        self.save_every, self.save_epochs = save_every, save_epochs
        self.metrics = Metrics(folder.metrics if folder is not None else None)
        self._saved_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        if self.folder is not None:
            raise ValueError(f"a run that writes to {self.folder.path} cannot be copied: two would write there")
        return vars(self)

    def prepare(self, network: Network, optimizer: Optimizer, state: RunState) -> None:
        """Make the folder and check that the disk has space; drop the lines of metrics past `state`'s."""
        if self.folder is not None:
            columns = 1 + len(optimizer.names)
            patterns = network.patterns.values()
            size = columns * network.table.values.nbytes + sum(p.indptr.nbytes + p.indices.nbytes for p in patterns)
            self.folder.create(self.config, 3 * size + (1 << 20))
        self.metrics.cut(state.metrics)
        self._saved_at = time.monotonic()

    def append(self, record: Record) -> None:
        """Keep a line of metrics."""
        self.metrics.append(record)

    def due(self, epoch: int | None = None) -> bool:
        """Whether it is time for a checkpoint: between two steps, or at the end of an epoch, from 1."""
        if epoch is not None and self.save_epochs and epoch % self.save_epochs == 0:
            return True
        return self.folder is not None and time.monotonic() - self._saved_at >= self.save_every

    def save(self, network: Network, optimizer: Optimizer, state: RunState) -> None:
        """Write a checkpoint of where the run stands, if it has a folder."""
        if self.folder is not None:
            state.metrics = self.metrics.mark()
            run = {"config": self.config, "identity": self.identity, "run": as_json(state)}
            save(network, self.folder.checkpoint, state=run, optimizer=optimizer)
        self._saved_at = time.monotonic()

    def saved(self) -> str | None:
        """The folder that has a checkpoint in it; None if there is none."""
        return str(self.folder.path) if self.folder is not None and self.folder.has_checkpoint() else None

    def restored(self, checkpoint: Checkpoint, optimizer: Optimizer) -> RunState:
        """Where a checkpoint of this run stands; the optimizer takes the state that it had there.

        Raises
        ------
        CheckpointError
            If it is of another run.
        """
        state = from_json(checkpoint.state.get("run"))
        found, epochs = checkpoint.state.get("identity"), self.identity["epochs"]
        steps = -(-self.identity["train"] // self.identity["batch_size"])
        if found != self.identity or state.epoch > epochs or state.batch > steps:
            raise CheckpointError(f"expected a checkpoint of this run, {self.identity}, got one of {found}")
        # Format 1 had SGD alone, and did not name it.
        description = checkpoint.optimizer if checkpoint.optimizer is not None else {"kind": SGD.__name__}
        try:
            optimizer.restore(checkpoint.columns, description, checkpoint.network.device)
        except ValueError as error:
            raise CheckpointError(f"expected a checkpoint of this run's optimizer: {error}") from None
        return state

