"""Numbers that are no longer finite: where they are, said so that somebody can do something about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import one_line
from ..network import Network
from .step import Step, Totals

if TYPE_CHECKING:
    from ..runs.trainer import Trainer


class Diverged(FloatingPointError):
    """The loss or a parameter is no longer a finite number; one line that says where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, 1000))


def explanation(trainer: Trainer, step: Step, totals: Totals) -> str:
    """When a run diverged, where, and what to do."""
    state, size = trainer.state, trainer.batch_size
    last = min(size, len(trainer.store) - max(state.batch - 1, 0) * size)
    found, kept = not_finite(step, last), ""
    where = f"; not finite: {found}" if found else ""
    if found and not trainer.check_every_step:
        where += "; with --check-every-step a run stops where it begins"
    if trainer.folder is not None and trainer.folder.has_checkpoint():
        kept = f"; the last good checkpoint is kept in {trainer.folder.path}"
    return (
        f"training diverged in epoch {state.epoch + 1}, by step {state.batch} of {trainer.steps} "
        f"(loss {totals.mean_loss}{where}): lower the learning rate (--lr, now {trainer.base_lr:g}) or limit the "
        f"gradient (--clip-norm 1){kept}"
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
