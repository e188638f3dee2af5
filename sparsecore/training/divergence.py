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
    values = device.get(network.table.values)
    broken = [row.path for row in network.table.rows if not np.isfinite(values[row.slice]).all()]
    layers = [repr(network[path]) for path in dict.fromkeys(path.rpartition(".")[0] for path in broken)]
    return "; ".join([*([f"began in {began}"] if began else []), *([f"in {', '.join(layers)}"] if layers else [])])


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
