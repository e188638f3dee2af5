"""How a step calls its loss and its optimizer: recorded if they are marked so, and otherwise as host calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..layers.hosted import copy_tiles, say_once
from ..network import Network
from ..runtime.arrays import real_numbers
from ..runtime.devices import cpu
from ..runtime.recording import buffer, check_known, is_recorded, recording, shallow
from ..runtime.tiles import Labels, Targets, Tiles, rows_of_tiles, tiled
from ..runtime.workspace import Workspace
from .losses import Loss
from .optimizers import Optimizer

Array = np.ndarray[Any, Any]


# ---------------------------------------------------------------------------------------------- losses


def loss_through(loss: Any, z: Tiles, wanted: Labels | Targets, workspace: Workspace) -> Tiles:
    """The gradient of a loss, which is a `Loss` or any callable of ordinary arrays."""
    divided = {} if workspace.share is None else {"divisor": workspace.share.batch}  # by the whole batch's size
    if isinstance(loss, Loss) and is_recorded(loss.__call__):
        with recording(loss, "__call__"):
            dz = loss(z, wanted, workspace, **divided)
        check_known(loss, "__call__", "dz", dz.data, [z.data, *workspace.arrays()])
        return dz
    say_once(loss, f"loss {name_of(loss)}")
    dz = Tiles(workspace.array("host dz", z.data.shape, z.data.dtype), z.batch)
    outputs = {"dz": dz.data, "totals": workspace.find("totals")}
    make = _of_tiles if isinstance(loss, Loss) else _of_arrays
    function = make(loss, z, wanted, workspace)
    workspace.kernels.host(name_of(loss), function, {"z": z.data, "wanted": wanted.data}, outputs)
    return dz


def _of_tiles(loss: Loss, given: Tiles, like: Labels | Targets, workspace: Workspace) -> Any:
    """A host call of a loss that takes tiles and a workspace."""
    played = workspace.played if workspace.device.name == "cpu" else Workspace(cpu(), training=workspace.training)
    divided = {} if workspace.share is None else {"divisor": workspace.share.batch}

    def call(z: Array, wanted: Array, dz: Array, totals: Array) -> None:
        played.put("totals", totals)
        goal = Labels(wanted, like.batch, like.classes) if isinstance(like, Labels) else Targets(wanted, like.batch)
        result = loss(Tiles(z, given.batch, rectified=given.rectified), goal, played, **divided)
        copy_tiles(loss, "__call__", result, dz, given.batch)

    return call


def _of_arrays(loss: Any, given: Tiles, like: Labels | Targets, workspace: Workspace) -> Any:
    """A host call of a function (batch, outputs), labels or targets → mean loss, gradient."""
    batch = given.batch
    part = None if workspace.share is None else batch / workspace.share.batch  # its mean is over this rank's rows

    def call(z: Array, wanted: Array, dz: Array, totals: Array) -> None:
        if part == 0:
            return  # this rank has no rows
        rows, name = rows_of_tiles(z, batch), name_of(loss)
        goal = wanted[:batch] if isinstance(like, Labels) else rows_of_tiles(wanted, batch)
        found = loss(rows, goal)
        if not (isinstance(found, tuple) and len(found) == 2 and np.ndim(found[0]) == 0):
            raise ValueError(f"{name}: a loss must give its mean over the batch, a number, and its gradient")
        gradient = real_numbers(found[1], name, "the gradient")
        if gradient.shape != rows.shape:
            raise ValueError(f"{name}: the gradient must have z's shape {rows.shape}, got {gradient.shape}")
        right = np.count_nonzero(rows.argmax(1) == goal) if batch and isinstance(like, Labels) else 0
        totals += batch * float(found[0]) if batch else 0.0, right, batch
        np.copyto(dz, tiled(gradient if part is None else gradient * part, dz.dtype).reshape(dz.shape))

    return call


def name_of(thing: Any) -> str:
    """A function's name, or that of an object's class."""
    return str(getattr(thing, "__name__", type(thing).__name__))


# ---------------------------------------------------------------------------------------------- optimizers


def update_through(optimizer: Any, network: Network, grads: Any, workspace: Workspace) -> None:
    """One step of an `Optimizer`, or of anything that has its method `step(params, grads, workspace)`."""
    if isinstance(optimizer, Optimizer):
        optimizer.attach(network)
        if is_recorded(optimizer.step, optimizer.begin, optimizer.rule):
            with recording(optimizer, "rule"):
                twin = shallow(optimizer)
                twin.rates = buffer(optimizer.rates)
                twin.columns = {name: buffer(column) for name, column in optimizer.columns.items()}
                twin.step(buffer(network.params), buffer(grads), workspace, network.table.decay_runs())
            return
    say_once(optimizer, f"optimizer {name_of(optimizer)}")
    _update_by_host(optimizer, network, grads, workspace)


def _update_by_host(optimizer: Any, network: Network, grads: Any, workspace: Workspace) -> None:
    runs = network.table.decay_runs()
    named = {} if all(decays for _, _, decays in runs) else {"runs": runs}
    on_cpu = workspace.device.name == "cpu"
    played = workspace.played if on_cpu else Workspace(cpu(), training=workspace.training)

    def step(params: Array, grads: Array, **kept: Array) -> None:
        with _on_host(optimizer, kept):
            optimizer.step(params, grads, played, **named)

    outputs = {"params": network.params, "grads": grads}
    if isinstance(optimizer, Optimizer):
        outputs |= {"rates": optimizer.rates} | {_COLUMN + name: array for name, array in optimizer.columns.items()}
    workspace.kernels.host(f"{name_of(optimizer)}.step", step, {}, outputs)


_COLUMN = "column "  # before the names of columns


@contextmanager
def _on_host(optimizer: Any, kept: dict[str, Array]) -> Iterator[None]:
    """For one step, give an optimizer these arrays as its rates and columns: its own, or a GPU's copied to the host.

    If it replaces a column, the new values are copied into the old array, whose address is recorded.
    """
    if not isinstance(optimizer, Optimizer):
        yield
        return
    before = optimizer.rates, optimizer.columns, optimizer._device
    columns = {name: kept[_COLUMN + name] for name in optimizer.columns}
    optimizer.rates, optimizer.columns, optimizer._device = kept["rates"], dict(columns), None
    try:
        yield
        for name, column in columns.items():
            if optimizer.columns[name] is not column:
                np.copyto(column, optimizer.columns[name])
    finally:
        optimizer.rates, optimizer.columns, optimizer._device = before
