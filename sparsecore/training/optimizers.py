"""Stochastic gradient descent on one flat array."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..kernels.rates import LARGEST_NORM, LR, MOMENTUM, SCALE, SGD_RATES, WEIGHT_DECAY
from ..runtime import devices
from ..runtime.device import Device, place_of
from ..runtime.workspace import Workspace


class Optimizer:
    """Stand-in until the optimizers of branch `steps` land."""

    names: tuple[str, ...] = ("velocity",)
    columns: dict[str, Any]

    def description(self) -> dict[str, Any]:
        return {"kind": type(self).__name__.lower()}

    def attach(self, network: Any) -> None:
        network.table.columns = self.columns


class SGD(Optimizer):
    """w ← w − lr·v with v ← momentum·v + dw + weight_decay·w.

    With Nesterov's momentum, w ← w − lr·(dw' + momentum·v), where dw' includes the decay (Sutskever et al., On the
    importance of initialization and momentum in deep learning, 2013).

    Parameters
    ----------
    lr : float
        Learning rate; may be changed between steps.
    momentum : float in [0, 1)
    weight_decay : float
        At least 0; applied to all parameters.
    nesterov : bool
    clip_norm : float, optional
        Scale all gradients down together when their norm is larger than this.

    Attributes
    ----------
    velocity : array of the parameters' shape
        Made at the first step, and anew when that shape changes.
    """

    def __init__(
        self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, *, nesterov: bool = False,
        clip_norm: float | None = None,
    ) -> None:  # fmt: skip
        for name, value, good, wanted in (
            ("lr", lr, 0 <= lr < np.inf, "at least 0 and finite"),
            ("momentum", momentum, 0 <= momentum < 1, "at least 0 and less than 1"),
            ("weight_decay", weight_decay, 0 <= weight_decay < np.inf, "at least 0 and finite"),
            ("clip_norm", clip_norm, clip_norm is None or clip_norm > 0, "more than 0, or None"),
        ):
            if not good:
                raise ValueError(f"SGD: {name} must be {wanted}, got {value}")
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov needs momentum > 0, got momentum 0")
        self.nesterov = nesterov
        self.clip_norm = clip_norm
        # In memory and not in the calls, so that a recorded step reads the present rates.
        self._given = [0.0] * SGD_RATES
        self._given[LR], self._given[MOMENTUM] = float(lr), float(momentum)
        self._given[WEIGHT_DECAY], self._given[LARGEST_NORM] = float(weight_decay), float(clip_norm or np.inf)
        self._given[SCALE] = 1.0
        self.rates: Any = np.array(self._given)
        self.columns = {}
        self._device: Device | None = None

    @property
    def velocity(self) -> Any:
        return self.columns.get("velocity")

    @velocity.setter
    def velocity(self, value: Any) -> None:
        if value is None:
            self.columns.pop("velocity", None)
        else:
            self.columns["velocity"] = value

    @property
    def lr(self) -> float:
        return self._given[LR]

    @lr.setter
    def lr(self, value: float) -> None:
        if value != self._given[LR]:  # on a GPU it takes a launch
            self._given[LR] = float(value)
            self.rates[LR] = self._given[LR]

    @property
    def device(self) -> Device:
        """Where rates and velocity are."""
        return self._device if self._device is not None else devices.cpu()

    def to(self, device: str | Device) -> Self:
        """Move what the optimizer keeps to a device, as `Network.to` does. The first step does so by itself.

        Raises
        ------
        DeviceError
            If there is no such device. Nothing has moved then.
        """
        target, here = devices.device(device), self.device
        if target.name != here.name:
            self.rates = target.put(np.array(self._given))
            self.velocity = None if self.velocity is None else target.put(here.get(self.velocity))
            self._device = target
        return self

    def step(self, params: Any, grads: Any, workspace: Workspace) -> None:
        """Change `params` in place.

        Raises
        ------
        ValueError
            If they are not contiguous arrays of one shape and of one dtype, float32 or float64.
        TypeError
            If they and the velocity are not on the workspace's device.
        """
        if self.velocity is None:
            self.to(workspace.device)
        arrays = {"params": params, "grads": grads, "velocity": self.velocity, "rates": self.rates}
        for name, array in arrays.items():
            if array is not None and not workspace.device.owns(array):
                raise TypeError(
                    f"SGD: steps on {workspace.device.name}, and {name} are on {place_of(array)}: move all with to()"
                )
        kind = params.shape, params.dtype
        if (
            params.dtype not in (np.float32, np.float64)
            or (grads.shape, grads.dtype) != kind
            or not (params.flags.c_contiguous and grads.flags.c_contiguous)
        ):
            raise ValueError(
                f"SGD: params and grads must be contiguous floats and alike, got {params.dtype} {params.shape} and "
                f"{grads.dtype} {grads.shape}"
            )
        if self.velocity is None or (self.velocity.shape, self.velocity.dtype) != kind:
            self.velocity = workspace.device.zeros(params.shape, params.dtype)
        if self.clip_norm is not None:
            workspace.kernels.norm(grads, self.rates)
        workspace.kernels.sgd(params, grads, self.velocity, self.rates, nesterov=self.nesterov)
