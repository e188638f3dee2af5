"""How parameters follow their gradients: an optimizer is one rule on one flat array, and the columns that it keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ..kernels.rates import (
    ADAM_RATES,
    BETA1,
    BETA2,
    EPS,
    LARGEST_NORM,
    LR,
    MOMENTUM,
    SCALE,
    SGD_RATES,
    STEPS,
    WEIGHT_DECAY,
)
from ..network import Network
from ..runtime import devices
from ..runtime.arrays import real_numbers, unfit
from ..runtime.copies import Whole
from ..runtime.device import Device, moved, place_of
from ..runtime.recording import Buffer, is_recorded, recorded
from ..runtime.workspace import Workspace
from ..scalars import number

Runs = tuple[tuple[int, int, bool], ...]
"""Stretches (start, stop, whether they decay) that make up the parameters, in order."""


class Optimizer(Whole, ABC):
    """A rule that changes parameters by their gradients, and the columns that it keeps for that.

    A subclass names its columns and writes `rule`. Written with NumPy, the rule runs in Python at every step, on every
    device; one that only calls kernels is marked `@recorded`.

    Parameters
    ----------
    lr : float
        Learning rate; may be changed between steps. A run's schedule changes it without this one being forgotten.
    weight_decay : float
        At least 0; of the parameters that decay.
    clip_norm : float, optional
        Scale all gradients down together when their norm is larger than this.

    Notes
    -----
    A second run that is given an optimizer starts at the rate that the optimizer was given, not at the one that the
    first run's schedule ended with, and with columns of zero; the same run going on keeps all.

    Attributes
    ----------
    names : tuple of str
        Of the columns.
    columns : dict of str to array
        One flat array each, of the parameters' shape and dtype. They are made, as zeros, at the first step, and
        again when that shape or dtype changes.
    rates : float64 array
        The rule's numbers on the device, at the indices in `kernels.rates`. A recorded step reads them there, so they
        may change between steps.
    """

    names: ClassVar[tuple[str, ...]] = ()
    _RATES: ClassVar[int] = SCALE + 1

    def __init__(self, lr: float, weight_decay: float = 0.0, *, clip_norm: float | None = None) -> None:
        self._check("lr", lr, lambda value: 0 <= value < np.inf, "at least 0 and finite")
        self._check("weight_decay", weight_decay, lambda value: 0 <= value < np.inf, "at least 0 and finite")
        if clip_norm is not None:
            self._check("clip_norm", clip_norm, lambda value: value > 0, "more than 0, or None")
        self.clip_norm = None if clip_norm is None else float(clip_norm)
        self._numbers = [0.0] * self._RATES
        self._base_lr = float(lr)
        self.rates: Any = None
        self._set_rates({LR: lr, WEIGHT_DECAY: weight_decay, LARGEST_NORM: clip_norm or np.inf, SCALE: 1.0})
        self.columns: dict[str, Any] = {}
        self._device: Device | None = None
        self.of_run: Any = None  # the key of the run that uses it

    @abstractmethod
    def rule(self, kernels: Any, w: Any, dw: Any, columns: Mapping[str, Any], *, decays: bool) -> None:
        """Change parameters `w` and their columns in place.

        Parameters
        ----------
        kernels
            The device's. A kernel multiplies gradients by rates[SCALE]; for plain Python that is done already.
        w, dw : flat arrays
        columns : mapping of str to flat array
        decays : bool
            Whether these parameters are subject to weight decay.
        """

    @recorded
    def begin(self, kernels: Any) -> None:
        """Called once a step, before the rule, which may be called for several stretches of the parameters."""
        del kernels  # most rules need nothing

    @recorded
    def step(self, params: Any, grads: Any, workspace: Workspace, runs: Runs | None = None) -> None:
        """Change `params` in place.

        Parameters
        ----------
        params, grads : flat arrays
        workspace : Workspace
        runs : tuple of (start, stop, decays), optional
            Which of them decay; all if not given.

        Raises
        ------
        ValueError
            If they are not contiguous arrays of one shape and of one dtype, float32 or float64; or if what is written
            is read-only, reversed or broadcast, or shares memory with another.
        TypeError
            If they and the optimizer are not on the workspace's device.
        """
        self._fit(params, grads, workspace.device)
        kernels = workspace.kernels
        if self.clip_norm is not None:
            kernels.norm(grads, self.rates)
            if not is_recorded(self.rule):
                grads = grads * params.dtype.type(self.rates[SCALE])
        self.begin(kernels)
        for start, stop, decays in runs if runs is not None else ((0, params.size, True),):
            if stop - start == params.size:
                self.rule(kernels, params, grads, self.columns, decays=decays)
                continue
            part = slice(start, stop)
            columns = {name: column[part] for name, column in self.columns.items()}
            self.rule(kernels, params[part], grads[part], columns, decays=decays)

    def attach(self, network: Network) -> None:
        """Let these columns move with a network's connections; those that are missing are made, zero."""
        self._fit(network.params, network.params, network.device)
        network.table.columns = self.columns

    @property
    def lr(self) -> float:
        return self._numbers[LR]

    @lr.setter
    def lr(self, value: float) -> None:
        self._base_lr = float(value)
        self.follow(value)

    @property
    def base_lr(self) -> float:
        """The learning rate that was given: what a schedule's factors apply to."""
        return self._base_lr

    def follow(self, value: float) -> None:
        """Take a schedule's learning rate for now; `base_lr` stays."""
        if value != self._numbers[LR]:  # on a GPU it takes a launch
            self._numbers[LR] = float(value)
            self.rates[LR] = self._numbers[LR]

    @property
    def weight_decay(self) -> float:
        return self._numbers[WEIGHT_DECAY]

    @property
    def device(self) -> Device:
        """Where rates and columns are."""
        return self._device if self._device is not None else devices.cpu()

    def to(self, device: str | Device) -> Self:
        """Move rates and columns to a device, as `Network.to` does. The first step does so by itself.

        Raises
        ------
        DeviceError
            If there is no such device. Nothing has moved then.
        """
        target, here = devices.device(device), self.device
        if target is not here:
            columns = moved(self.columns, here, target)
            self.rates, self._device = target.put(here.get(self.rates)), target
            self.columns.update(columns)
        return self

    def description(self) -> dict[str, Any]:
        """What a file says of the optimizer, beside its columns: its kind, its numbers and how many steps it has taken.

        JSON's types only.
        """
        numbers = {"lr": self.lr, "weight_decay": self.weight_decay, "clip_norm": self.clip_norm}
        return {"kind": type(self).__name__, **numbers}

    def restore(self, columns: Mapping[str, Any], description: Mapping[str, Any], device: str | Device) -> None:
        """Go on from saved columns, host arrays by name, and a description. The numbers stay this optimizer's own.

        Raises
        ------
        ValueError
            If they are another optimizer's, or columns are missing or no flat arrays. Nothing has changed then.
        TypeError
            If a column does not hold real numbers.
        """
        kind = type(self).__name__
        if description.get("kind") != kind:
            raise ValueError(f"{kind}: expected what {kind} has kept, got {description.get('kind')}'s")
        if set(columns) != set(self.names):
            raise ValueError(f"{kind}: expected the columns {list(self.names)}, got {sorted(columns)}")
        target = devices.device(device)
        put = {name: target.put(self._column(name, columns[name])) for name in self.names}
        self.columns.clear()
        self.to(target)
        self.columns.update(put)

    def begin_anew(self) -> None:
        """Be as it was made: at the rate it was given, with columns of zero. What a run does with another's optimizer.

        The old columns' arrays stay as they are, for whoever has them.
        """
        self.follow(self._base_lr)
        self.columns = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lr={self.lr:g})"

    def _check(self, name: str, value: Any, good: Callable[[float], bool], wanted: str) -> None:
        self._refuse(name, value, good(number(f"{type(self).__name__}: {name}", value)), wanted)

    def _refuse(self, name: str, value: Any, good: bool, wanted: str) -> None:
        if not good:
            raise ValueError(f"{type(self).__name__}: {name} must be {wanted}, got {value}")

    def _column(self, name: str, values: Any) -> Any:
        """A saved column, as steps can use it: what they cannot use they would begin anew."""
        kind = type(self).__name__
        array = real_numbers(values, kind, name, truths=False)
        if array.ndim != 1 or array.dtype not in (np.float32, np.float64):
            raise ValueError(f"{kind}: {name} must be a flat array of floats, got {array.dtype} {array.shape}")
        return array

    def _set_rates(self, numbers: Mapping[int, float]) -> None:
        """Set rates by their indices; before the first step."""
        for index, value in numbers.items():
            self._numbers[index] = float(value)
        self.rates = np.array(self._numbers)

    def _fit(self, params: Any, grads: Any, device: Device) -> None:
        """Refuse arrays that a kernel would misread; then make the columns that are missing."""
        kind = type(self).__name__
        if not self.columns:
            self.to(device)
        arrays = {"params": params, "grads": grads, **self.columns, "rates": self.rates}
        for name, array in arrays.items():
            if not device.owns(array):
                raise TypeError(
                    f"{kind}: steps on {device.name}, and {name} are on {place_of(array)}: move all with to()"
                )
        wanted = params.shape, params.dtype
        if (
            params.dtype not in (np.float32, np.float64)
            or (grads.shape, grads.dtype) != wanted
            or not (params.flags.c_contiguous and grads.flags.c_contiguous)
        ):
            raise ValueError(
                f"{kind}: params and grads must be contiguous floats and alike, got {params.dtype} {params.shape} and "
                f"{grads.dtype} {grads.shape}"
            )
        for name in self.names:
            column = self.columns.get(name)
            if column is None or (column.shape, column.dtype.newbyteorder("=")) != wanted:
                self.columns[name] = device.zeros(params.shape, params.dtype)
        if not isinstance(params, Buffer):  # which stands for what was looked at before
            self._check_memory(params, grads)

    def _check_memory(self, params: Any, grads: Any) -> None:
        """Refuse what a rule cannot write to in place: anyone may give columns and rates, and kernels trust them."""
        kind, rates = type(self).__name__, self.rates
        if rates.dtype != np.float64 or rates.ndim != 1 or rates.size < self._RATES:
            raise ValueError(
                f"{kind}: rates must be {self._RATES} float64 numbers, got {rates.dtype} of shape {rates.shape}"
            )
        written = {"params": params, "rates": rates, **{name: self.columns[name] for name in self.names}}
        for name, array in written.items():
            if why := unfit(array):
                raise ValueError(f"{kind}: {name} must be a contiguous array that can be written to, got {why}")
        if why := unfit(grads, written=False):
            raise ValueError(f"{kind}: grads must be a contiguous array, got {why}")
        if isinstance(params, np.ndarray):
            named = list((written if grads is params else written | {"grads": grads}).items())
            for k, (name, array) in enumerate(named):
                for other, another in named[:k]:
                    if np.may_share_memory(array, another):
                        raise ValueError(f"{kind}: {name} must have memory of its own, got some of {other}'s")


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
        At least 0; of the parameters that decay.
    nesterov : bool
    clip_norm : float, optional
        Scale all gradients down together when their norm is larger than this.
    """

    names = ("velocity",)
    _RATES = SGD_RATES

    def __init__(
        self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, *, nesterov: bool = False,
        clip_norm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(lr, weight_decay, clip_norm=clip_norm)
        self._check("momentum", momentum, lambda value: 0 <= value < 1, "at least 0 and less than 1")
        if nesterov and momentum == 0:
            raise ValueError(f"{type(self).__name__}: nesterov needs momentum > 0, got momentum 0")
        self.nesterov = bool(nesterov)
        self._set_rates({MOMENTUM: momentum})

    @recorded
    def rule(self, kernels: Any, w: Any, dw: Any, columns: Mapping[str, Any], *, decays: bool) -> None:
        kernels.sgd(w, dw, columns["velocity"], self.rates, nesterov=self.nesterov, decays=decays)

    @property
    def velocity(self) -> Any:
        """The column of that name, or None before the first step. May be set."""
        return self.columns.get("velocity")

    @velocity.setter
    def velocity(self, array: Any) -> None:
        if array is None:
            self.columns.pop("velocity", None)
        else:
            self.columns["velocity"] = array

    def description(self) -> dict[str, Any]:
        return {**super().description(), "momentum": self._numbers[MOMENTUM], "nesterov": self.nesterov}


class Adam(Optimizer):
    """w ← w − lr·m̂ / (√v̂ + eps), with the means m̂ and v̂ of the gradient and of its square, corrected for their zero
    beginnings.

    m ← β₁·m + (1−β₁)·g and v ← β₂·v + (1−β₂)·g², where g = dw + weight_decay·w; m̂ = m / (1−β₁ᵗ) and v̂ = v / (1−β₂ᵗ) in
    step t (Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015).

    Parameters
    ----------
    lr : float
        Learning rate; may be changed between steps.
    betas : (float, float), each in [0, 1)
        β₁ and β₂.
    eps : float
        More than 0.
    weight_decay : float
        At least 0; of the parameters that decay.
    clip_norm : float, optional
        Scale all gradients down together when their norm is larger than this.
    """

    names = ("m", "v")
    _RATES = ADAM_RATES
    _DECOUPLED: ClassVar[bool] = False

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, *, clip_norm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(lr, weight_decay, clip_norm=clip_norm)
        wanted = "two numbers, at least 0 and less than 1"
        self._refuse("betas", betas, hasattr(betas, "__len__") and len(betas) == 2, wanted)
        numbers = [number(f"{type(self).__name__}: betas", beta) for beta in betas]
        self._refuse("betas", betas, all(0 <= beta < 1 for beta in numbers), wanted)
        self._check("eps", eps, lambda value: 0 < value < np.inf, "more than 0 and finite")
        self._set_rates({BETA1: betas[0], BETA2: betas[1], EPS: eps})

    @recorded
    def begin(self, kernels: Any) -> None:
        kernels.tick(self.rates)

    @recorded
    def rule(self, kernels: Any, w: Any, dw: Any, columns: Mapping[str, Any], *, decays: bool) -> None:
        kernels.adam(w, dw, columns["m"], columns["v"], self.rates, decoupled=self._DECOUPLED, decays=decays)

    @property
    def steps(self) -> int:
        """How many steps were taken; counted on the device, so that a recorded step counts, too."""
        return int(self.device.get(self.rates)[STEPS])

    def description(self) -> dict[str, Any]:
        numbers = {"betas": [self._numbers[BETA1], self._numbers[BETA2]], "eps": self._numbers[EPS]}
        return super().description() | numbers | {"steps": self.steps}

    def begin_anew(self) -> None:
        super().begin_anew()
        self.device.fill(self.rates[STEPS : STEPS + 1], np.zeros(1))

    def restore(self, columns: Mapping[str, Any], description: Mapping[str, Any], device: str | Device) -> None:
        steps = description.get("steps", 0)
        self._refuse("steps", steps, isinstance(steps, int) and steps >= 0, "a whole number of at least 0")
        super().restore(columns, description, device)
        self.device.fill(self.rates[STEPS : STEPS + 1], np.array([float(steps)]))

    def _fit(self, params: Any, grads: Any, device: Device) -> None:
        before = set(map(id, self.columns.values()))
        super()._fit(params, grads, device)
        if before and before != set(map(id, self.columns.values())):  # new means, which need a new correction
            self.device.fill(self.rates[STEPS : STEPS + 1], np.zeros(1))


class AdamW(Adam):
    """Adam whose decay is no part of the gradient: first w ← (1 − lr·weight_decay)·w, then Adam's rule with g = dw.

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019. Parameters are Adam's.
    """

    _DECOUPLED = True

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, *, clip_norm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(lr, betas, eps, weight_decay, clip_norm=clip_norm)
