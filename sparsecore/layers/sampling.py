"""The gradient of connections that need not be there, from the operands of a layer's last dW."""

from __future__ import annotations

from typing import Any

from ..runtime.device import Device
from ..runtime.workspace import Sampled
from ..storage.pattern import SparsityPattern
from ..storage.plan import Plan


class Sampling:
    """A call that samples the gradient of some connections: recorded once, and told others from then on.

    Parameters
    ----------
    plan : Plan or ConvPlan
        Of the connections whose gradient is wanted first, and of nobody else.
    sampled : Sampled
        The operands.
    device : Device
    dtype : dtype
        Of the gradient.
    """

    def __init__(self, plan: Any, sampled: Sampled, device: Device, dtype: Any) -> None:
        self._plan, self._sampled, self._held = plan, sampled, plan.pattern
        self._found = device.empty((plan.pattern.nnz,), dtype)
        walked = plan if sampled.strips == 1 else plan.folded(sampled.strips)
        self._call = walked.forward, sampled.grid, sampled.dy, sampled.x, self._found
        self._tape: Any = None
        if device.name == "cpu":
            kernels, self._tape = device.recorder()
            kernels.sddmm(*self._call)

    def takes(self, pattern: SparsityPattern, sampled: Any) -> bool:
        """Whether this is the call for a pattern, or can be made so: its operands are these, and it has room."""
        if sampled is not self._sampled or pattern is self._held:
            return sampled is self._sampled
        return self._tape is not None and isinstance(self._plan, Plan) and self._plan.holds(pattern)

    def gradient(self, pattern: SparsityPattern, kernels: Any) -> Any:
        """The gradient of the connections of a pattern that it takes: shape (nnz,), written over by the next call."""
        if pattern is not self._held:
            self._plan.hold(pattern)
            self._held = pattern
        if self._tape is None:
            kernels.sddmm(*self._call)
        else:
            kernels.replay(self._tape)
        return self._found[: pattern.nnz]
