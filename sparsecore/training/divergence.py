"""Numbers that are no longer finite: where they are, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import one_line
from ..network import Network
from .step import Step, Totals


class Diverged(FloatingPointError):
    """The loss or a parameter is no longer a finite number; one line that says where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, 1000))


class NotFiniteError(FloatingPointError):
    """A network that cannot be evaluated, since its parameters or its loss are no finite numbers; one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, 1000))


def explanation(
    step: Step, batch: int, totals: Totals, *, when: str, lr: float, every_step: bool, saved: str | None
) -> str:
    """The message that a run diverged: where, and what to do.

    Parameters
    ----------
    step : Step
        Just after it ran.
    batch : int
        Samples of its last run.
    totals : Totals
        Of the epoch so far.
    when : str
        Where the run stands, in words.
    lr : float
        The base rate.
    every_step : bool
        Whether every step is checked, so that the trouble began in the last one.
    saved : str, optional
        Where the last good checkpoint is.
    """
    found = not_finite(step, batch)
    where = f"; not finite: {found}" if found else ""
    if found and not every_step:
        where += "; with --check-every-step a run stops where it begins"
    kept = "" if saved is None else f"; the last good checkpoint is kept in {saved}"
    return (
        f"training diverged in {when} (loss {totals.mean_loss}{where}): lower the learning rate (--lr, now {lr:g}) or "
        f"limit the gradient (--clip-norm 1){kept}"
    )


def not_finite(step: Step, batch: int) -> str:
    """What the last step, of `batch` samples, left that is not finite: where it began, and the layers it has reached.

    An empty string if all is finite.
    """
    network = step.network
    began, layers = next(_in_order(step, batch), ""), broken_layers(network)
    return "; ".join([*([f"began in {began}"] if began else []), *([f"in {', '.join(layers)}"] if layers else [])])


def broken_layers(network: Network) -> list[str]:
    """The layers with a parameter, or a value that is kept, that is not finite."""
    values = network.device.get(network.table.values)
    broken = [row.path for row in network.table.rows if not np.isfinite(values[row.slice]).all()]
    return [repr(network[path]) for path in dict.fromkeys(path.rpartition(".")[0] for path in broken)]


def _in_order(step: Step, batch: int) -> Iterator[str]:
    """In the order of a step: the layers' outputs, then their gradients from the last layer to the first."""
    network: Network = step.network
    named = list(network.walk())
    for path, layer in named:
        y = step.output(batch, path)
        if y is not None and not _finite(step, y):
            yield f"the outputs of layer {path}, {layer!r}"
    if not hasattr(step, "grads"):
        return
    gradients = network.views(step.device.get(step.grads))
    for path, layer in reversed(named):
        if not all(np.isfinite(array).all() for array in gradients.get(path, {}).values()):
            yield f"the gradients of layer {path}, {layer!r}"


def _finite(step: Step, array: Any) -> bool:
    return bool(np.isfinite(step.device.get(array)).all())
