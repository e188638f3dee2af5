"""Numbers that are no longer finite: where they are, said so that somebody can do something about it."""

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


def explanation(
    step: Step, batch: int, totals: Totals, *, when: str, lr: float, every_step: bool, saved: str | None
) -> str:
    """That a run diverged, where, and what to do.

    Parameters
    ----------
    step : Step
        Just after it ran.
    batch : int
        Samples of its last run.
    totals : Totals
        Of the epoch so far.
    when : str
        Where the run stands, for people.
    lr : float
        The base rate.
    every_step : bool
        Whether every step is checked, so that it began in the last one.
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
    network, device = step.network, step.device
    began = next(_in_order(step, batch), "")
    reached = []
    for layer, arrays in zip(network.layers, network.views(device.get(network.params)), strict=True):
        if not all(np.isfinite(array).all() for array in arrays.values()):
            reached.append(repr(layer))
    return "; ".join([*([f"began in {began}"] if began else []), *([f"in {', '.join(reached)}"] if reached else [])])


def _in_order(step: Step, batch: int) -> Iterator[str]:
    """In the order of a step: the layers' outputs, then their gradients from the last layer to the first."""
    network: Network = step.network
    named = list(enumerate(network.layers))
    for k, layer in named:
        y = step.output(batch, k)
        if y is not None and not _finite(step, y):
            yield f"the outputs of layer {k}, {layer!r}"
    if not hasattr(step, "grads"):
        return
    gradients = network.views(step.device.get(step.grads))
    for k, layer in reversed(named):
        if not all(np.isfinite(array).all() for array in gradients[k].values()):
            yield f"the gradients of layer {k}, {layer!r}"


def _finite(step: Step, array: Any) -> bool:
    return bool(np.isfinite(step.device.get(array)).all())
