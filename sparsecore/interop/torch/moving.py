"""Moving the connections of sparse modules, and all that an optimizer knows about them, while PyTorch trains."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...prune.methods import Scores
from ...prune.moving import Movement, sparsities
from ...storage.pattern import SparsityPattern
from .caught import Caught
from .modules import SparseModule
from .ranks import mean
from .trained import check_optimizer


class Moved(NamedTuple):
    """What an update did to a module.

    Attributes
    ----------
    name : str
        The module's.
    went, came : int
        Connections.
    stayed : int
        Connections that were to go, and were chosen again.
    connections : int
        That are there now.
    """

    name: str
    went: int
    came: int
    stayed: int
    connections: int


class Moving:
    """What `rewire` returns: moves connections when its schedule says so.

    Attributes
    ----------
    steps : int
        Calls of `step()` so far.
    """

    def __init__(
        self, modules: dict[str, SparseModule], optimizer: torch.optim.Optimizer, movement: Movement
    ) -> None:
        self.steps = 0
        self._modules, self._optimizer, self._movement = modules, optimizer, movement
        self._caught = {name: Caught(module) for name, module in modules.items()}
        for module in modules.values():
            module.let_move(movement.together)
        self._await()

    def step(self) -> list[Moved]:
        """Count a step of training, after which connections may move: call it after `optimizer.step()`.

        An update of equal size keeps parameters, buffers and the optimizer's state in their memory; any other keeps the
        Parameter objects. Gradients of the weights are gone afterwards. Where a gradient or a weight is not finite, as
        it happens where a `GradScaler` looks for its scale, the update is left out, with a warning.

        Returns
        -------
        list of Moved
            Empty where no update was due. A module that took no part in the step, or was frozen, stays as it is, and
            out of the list.

        Raises
        ------
        RuntimeError
            If an update is due, and no gradient has come through any of the modules since the last call.
        ValueError
            If since then one's weight has become another, which the optimizer does not train, or is computed anew in
            each call, by a parametrization or a mask. Nothing has moved then.
        """
        self.steps += 1
        try:
            return self._update() if self._movement.schedule.due(self.steps) else []
        finally:
            self._await()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_caught"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._caught = {name: Caught(module) for name, module in self._modules.items()}
        self._await()  # a copy's modules are caught for the copy

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the states of the model and the optimizer."""
        return {"steps": self.steps, "seed": self._movement.seed, "initial": self._initial()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the same connections will move as if nothing had come between.

        Raises
        ------
        ValueError
            If it is not the state of one that moves as many modules. Nothing has changed then.
        """
        steps, seed, initial = (state.get(name) for name in ("steps", "seed", "initial"))
        counts = all(type(each) is int and 0 <= each < 1 << 62 for each in (steps, seed))
        if not counts or not isinstance(initial, list) or len(initial) != len(self._initial()):
            raise ValueError(f"rewire: expected the state of one that moves {len(self._modules)} modules, got steps "
                             f"{steps!r}, seed {seed!r}, initial {initial!r}")  # fmt: skip
        began = sparsities("rewire: initial", dict(zip(self._modules, initial, strict=True))) if initial else None
        self.steps, self._movement.seed = int(state["steps"]), int(state["seed"])
        self._movement.initial = began if initial else self._movement.initial
        self._await()

    def _initial(self) -> list[float]:
        """At which sparsity each module began, for methods that change it; without names, which a wrapper changes."""
        initial = self._movement.initial
        return list(initial.values()) if isinstance(initial, Mapping) else []

    def _await(self) -> None:
        """Have the modules' passes caught if an update follows on the next step, and only then."""
        due = self._movement.schedule.due(self.steps + 1)
        for module, caught in zip(self._modules.values(), self._caught.values(), strict=True):
            caught.clear()
            module.caught = weakref.ref(caught) if due else None  # weakly: it ends with this object

    def _update(self) -> list[Moved]:
        took_part = mean(torch.tensor([float(len(each) > 0) for each in self._caught.values()], device=self._device))
        if not took_part.any():
            raise RuntimeError(f"rewire: no gradient has come through the sparse modules before step {self.steps}: "
                               "call step() once after each optimizer.step()")  # fmt: skip
        those = [(k, name, each) for k, (name, each) in enumerate(self._modules.items()) if took_part[k]]
        check_optimizer({name: module for _, name, module in those}, self._optimizer)
        moved, ready = [], []
        try:
            for number, name, module in those:
                result, write = self._moved(number, name, module)
                moved.append(result)
                ready.append(write)
        except FloatingPointError as error:
            warnings.warn(f"rewire: {error} at step {self.steps}: no connections moved", RuntimeWarning, stacklevel=3)
            return []
        for write in ready:
            write()
        return moved

    def _moved(self, number: int, name: str, module: SparseModule) -> tuple[Moved, Callable[[], None]]:
        """What becomes of a module, and what writes it."""
        before = module.pattern
        pattern, sources, stayed = self._movement.moved(
            before, self._movement.units_in(module), _finite(module.weight.detach(), f"a weight of {name}"),
            self._gradient_of(name), step=self.steps, path=name, number=number,
        )  # fmt: skip
        came = int(np.count_nonzero(sources < 0))
        result = Moved(name, before.nnz - pattern.nnz + came, came, stayed, pattern.nnz)
        return result, _writer(module, pattern, sources, self._optimizer)

    def _gradient_of(self, name: str) -> Callable[[SparsityPattern], Scores]:
        caught = self._caught[name]
        return lambda pattern: _finite(mean(caught.gradient(pattern)), f"a gradient of {name}")

    @property
    def _device(self) -> torch.device:
        return next(iter(self._modules.values())).weight.device


def _writer(
    module: SparseModule, pattern: SparsityPattern, sources: NDArray[np.int64], optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """What wires a module anew and moves its values and its optimizer's state; the memory for it is taken before."""
    weight = module.weight
    state = optimizer.state.get(weight, {})
    at = torch.from_numpy(sources).to(weight.device)
    new, at = at < 0, at.clamp(min=0)

    def taken(numbers: torch.Tensor) -> torch.Tensor:
        return numbers.detach()[at.to(numbers.device)].masked_fill_(new.to(numbers.device), 0)

    values = taken(weight)
    states = {key: taken(each) for key, each in state.items() if _of_connections(each, weight)}
    take_pattern = module.moved_to(pattern)

    def write() -> None:
        with torch.no_grad():
            take_pattern()
            weight.copy_(values)
            for key, numbers in states.items():
                if state[key].shape == numbers.shape:
                    state[key].copy_(numbers)
                else:
                    state[key] = numbers

    return write


def _of_connections(held: Any, weight: torch.Tensor) -> bool:
    """Whether what an optimizer's state holds is a number for each connection."""
    return isinstance(held, torch.Tensor) and held.shape == weight.shape


def _finite(numbers: torch.Tensor, what: str) -> Scores:
    """Numbers on the host.

    Raises
    ------
    FloatingPointError
        If one of them is not finite.
    """
    if not bool(torch.isfinite(numbers).all()):
        raise FloatingPointError(f"{what} is not finite")
    found: Scores = numbers.cpu().numpy()
    return found
