"""A gradient check for any layer, network or loss: what `backward` gives, against central differences in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .layers.layer import Layer
from .network import Network
from .runtime.arrays import real_numbers
from .runtime.tiles import LANES, Labels, Targets, Tiles, rows_of_tiles, tiled
from .runtime.workspace import Workspace
from .scalars import number
from .training.losses import CrossEntropy, Loss

Array = NDArray[np.float64]

_CLOSER = 0.01  # of ε: a smaller step where the first disagrees, which gets past a ReLU's kink, but past no mistake
_SMALL = 1e-4  # gradients below this are compared as if they were as large: rounding in f is about 1e-15/ε
_OF_OUTPUTS = 1e-3  # and so are those below this part of the outputs that they move, whose rounding is theirs
_OFF_ZERO = 0.01  # how far parameters of 0 are moved, which hold neurons that get nothing exactly on a ReLU's kink
_SAME = 1e-9  # of an array's largest number: what two ways to one gradient may differ by


_WAYS: dict[str, dict[str, bool]] = {
    "a second time": {},
    "without dx": {"need_dx": False},
    "from a dy that is masked, since y is said to be rectified": {"masked": True},
}


class GradientError(AssertionError):
    """`backward` does not give the derivative."""


class GradCheck(NamedTuple):
    """Where the gradient and the central difference differ most.

    Attributes
    ----------
    error : float
        Their difference, relative to the largest of: either of them, a thousandth of the outputs that the coordinate
        moves, and 1e-4.
    where : str
        Such as "x[3, 17]" or "layer 1 SparseLinear(300→100) weight[42]".
    gradient, difference : float
        What `backward` gave there, and what central differences gave.
    checked : int
        How many coordinates were compared.
    """

    error: float
    where: str
    gradient: float
    difference: float
    checked: int


class _Function(NamedTuple):
    """f = Σ weights · outputs(), the arrays it depends on, what `backward` says of each, and what else it must keep."""

    outputs: Callable[[], Array]
    weights: Any
    arrays: dict[str, tuple[Array, Array]]
    contract: Callable[[], None]


def gradcheck(
    subject: Layer | Network | Loss | Callable[..., Any], x: Any, *, labels: Any = None, eps: float = 1e-5,
    rtol: float = 1e-5, samples: int | None = 1000, seed: int = 0, training: bool = False,
) -> GradCheck:  # fmt: skip
    """Compare gradients with central differences, (f(v + ε) − f(v − ε)) / 2ε.

    For a layer, f is a random linear function of its output, differentiated by the input and all parameters; for a
    network, it is the mean cross-entropy, differentiated by all parameters; for a loss, it is the loss, differentiated
    by x, which stands for a network's outputs. Everything is computed in float64 on a
    copy on the processor, so the parameters may be float32 or on a GPU, and are not changed. In the copy, parameters of
    exactly 0, such as fresh biases, are small random numbers instead.

    Beyond that, gradients must be the same when `backward` is called again and when it need not give dx; and what a
    layer says of its tiles must be true: that y is rectified, or dx masked. A `Loss` must divide by the divisor it is
    given, and not see what is in lanes past the batch.

    Parameters
    ----------
    subject : Layer, Network, Loss, or function (outputs, labels) → loss, gradient
        Yours or the engine's. It must be deterministic.
    x : array of shape (batch, features) or (batch, *in_shape)
        Random numbers are best: exactly where the derivative jumps (a ReLU at 0) there is nothing to agree on.
    labels : integer array of shape (batch,), or float array of shape (batch, outputs)
        Classes, for a network or a loss, which need them; or a loss's targets.
    eps : float
        ε, relative to values larger than 1.
    rtol : float
        The largest relative error that passes; `GradCheck.error` says relative to what.
    samples : int, optional
        Coordinates checked in each array, drawn at random where there are more; None for all. Each takes two forward
        passes.
    seed : int
        Of the linear function and of the drawn coordinates.
    training : bool
        Check what is computed in a step of training: batch normalisation then depends on the batch. What is dropped in
        training is not: there a layer such as Dropout is refused.

    Returns
    -------
    GradCheck
        The worst coordinate.

    Raises
    ------
    GradientError
        If the error there is larger than `rtol`, a parameter has no gradient, or the gradients depend on what they must
        not. It is an AssertionError: a test need only call `gradcheck`.
    TypeError, ValueError
        If an argument is wrong.
    """
    for name, value in (("eps", eps), ("rtol", rtol), ("samples", samples)):
        if (name != "samples" or value is not None) and not number(f"gradcheck: {name}", value) > 0:
            raise ValueError(f"gradcheck: {name} must be more than 0, got {value}")
    rng = np.random.default_rng(seed)
    x = np.array(real_numbers(x, "gradcheck", "x"), np.float64)
    if isinstance(subject, Network):
        if labels is None:
            raise ValueError("gradcheck: a network is checked through its loss, which needs labels")
        function = _of_network(subject, x, labels, seed, training)
    elif isinstance(subject, Layer):
        if labels is not None:
            raise ValueError("gradcheck: labels are for networks, and this is a layer")
        function = _of_layer(subject, x, rng, seed, training)
    elif isinstance(subject, Loss):
        if labels is None:
            raise ValueError("gradcheck: a loss needs labels, or targets under that name")
        function = _of_loss(subject, x, labels)
    elif labels is not None and callable(subject) and not isinstance(subject, type):
        function = _of_function(subject, x, labels)
    else:
        raise TypeError(f"gradcheck: a Layer or a Network is needed, got {type(subject).__name__}")
    worst, checked = GradCheck(-1.0, "", 0.0, 0.0, 0), 0
    for name, (array, gradient) in function.arrays.items():
        if gradient.shape != array.shape:
            raise GradientError(f"{subject!r}: gradient of {name} has shape {gradient.shape}, but {name} {array.shape}")
        all_of_them = samples is None or array.size <= samples
        for at in np.arange(array.size) if all_of_them else np.sort(rng.choice(array.size, samples, replace=False)):
            found = _compare(function, name, int(at), eps, rtol)
            checked += 1
            worst = max(worst, found, key=lambda one: one.error)
    if checked == 0:
        raise ValueError(f"gradcheck: {subject!r} and x hold no number to differentiate by")
    if worst.error > rtol:
        raise GradientError(
            f"{subject!r}: backward gives {worst.gradient:.6g} for {worst.where}, central differences "
            f"{worst.difference:.6g} (relative error {worst.error:.2g}, allowed {rtol:.2g})"
        )
    function.contract()
    return worst._replace(checked=checked)


def _compare(function: _Function, name: str, at: int, eps: float, rtol: float) -> GradCheck:
    array, gradients = function.arrays[name]
    where = f"{name}[{', '.join(str(k) for k in np.unravel_index(at, array.shape))}]"
    gradient = float(gradients.flat[at])
    candidates = []
    for step in (eps, eps * _CLOSER):
        difference, moved = _difference(function, array, at, step)
        error = abs(gradient - difference) / max(abs(gradient), abs(difference), _OF_OUTPUTS * moved, _SMALL)
        candidates.append(GradCheck(np.inf if np.isnan(error) else error, where, gradient, difference, 1))
        if error <= rtol:
            break
    return min(candidates, key=lambda one: one.error)


def _difference(function: _Function, array: Array, at: int, eps: float) -> tuple[float, float]:
    """The central difference quotient of f in one coordinate, and how large the terms are that it moves."""
    value = float(array.flat[at])
    step = eps * max(1.0, abs(value))
    sides = []
    for moved in (value + step, value - step):
        array.flat[at] = moved
        sides.append(function.outputs())
    array.flat[at] = value
    # Outputs are subtracted before they are summed, which loses fewer digits.
    change = sides[0] - sides[1]
    moved = float(np.sum(np.abs(function.weights * sides[0])[change != 0]))
    return float(np.sum(function.weights * change)) / (2 * step), moved


def _of_layer(layer: Layer, x: Array, rng: np.random.Generator, seed: int, training: bool) -> _Function:
    layer, workspace = _in_float64(layer, seed), Workspace(training=training)
    y, cache = layer.forward(x, workspace)
    weights = rng.standard_normal(y.shape)
    dx, grads = layer.backward(weights, cache, workspace)
    arrays = {"x": (x, np.reshape(dx, x.shape).copy())}
    for path, part in layer.walk():
        for name, array in part.params.items():
            name = f"{path}.{name}" if path else name
            if name not in grads:
                raise GradientError(f"{layer!r}: backward gives no gradient of {name}")
            arrays[name] = array, np.array(grads[name])
    contract = partial(_check_contract, layer, x, weights, workspace)
    return _Function(lambda: layer.forward(x, workspace)[0], weights, arrays, contract)


def _of_network(network: Network, x: Array, labels: Any, seed: int, training: bool) -> _Function:
    network = Network(_in_float64(network.root, seed).children)
    first, last = network.layers[0], network.layers[-1]
    targets, loss = Labels.pack(labels, int(np.prod(last.out_shape))), CrossEntropy()
    workspace = Workspace(training=training)
    place = workspace.child("x")
    tiles = first._pack(first._rows(x, first.in_shape, "x", place), first.in_shape, "x", place)
    flat = np.full(network.params.shape, np.nan)  # NaN stays where a layer does not write
    grads = network.views(flat)
    for path, pieces in grads.items():
        for name, piece in pieces.items():
            workspace.at(path).put(name, piece)

    def backward() -> Array:
        logits, caches = network.forward(tiles, workspace)
        network.backward(loss(logits, targets, workspace), caches, workspace)
        return flat.copy()

    def losses() -> Array:
        loss(network.forward(tiles, workspace)[0], targets, workspace)
        return np.array(workspace.array("losses", targets.data.shape, np.float64))

    found = backward()
    arrays = {
        f"layer {path} {layer!r} {name}": (array, network.views(found)[path][name])
        for path, layer in network.walk()
        for name, array in layer.params.items()
    }

    def contract() -> None:
        again = network.views(backward())
        for path, pieces in network.views(found).items():
            _check_same(f"layer {path} {network[path]!r}", pieces, again[path], "a second time")

    return _Function(losses, 1 / max(targets.batch, 1), arrays, contract)


def _of_loss(loss: Loss, z: Array, labels: Any) -> _Function:
    z = z.reshape(len(z), -1)
    goal: Any = np.asarray(labels)
    wanted = Labels.pack(goal, z.shape[1]) if goal.ndim == 1 else Targets.pack(goal)
    workspace, batch = Workspace(training=True), len(z)
    totals = workspace.array("totals", (3,), np.float64, zero=True)

    def computed(beyond: float = 0.0, **how: Any) -> Array:
        tiles = tiled(z, np.float64)
        tiles[-1, :, batch % LANES or LANES :] = beyond
        totals[:] = 0
        return rows_of_tiles(loss(Tiles(tiles, batch), wanted, workspace, **how).data, batch)

    def mean() -> Array:
        computed()
        return np.array([totals[0] / batch])

    gradient = computed()

    def contract() -> None:
        found = {"z": computed(), "totals": totals.copy()}
        _check_same(repr(loss), found, {"z": computed(7.0), "totals": totals}, "when lanes past the batch hold numbers")
        _check_same(repr(loss), {"z": gradient / 2}, {"z": computed(divisor=2 * batch)}, "for a divisor of 2 batches")

    return _Function(mean, 1.0, {"z": (z, gradient)}, contract)


def _of_function(loss: Callable[..., Any], z: Array, labels: Any) -> _Function:
    goal = np.asarray(labels)
    gradient = np.array(loss(z, goal)[1], np.float64)

    def contract() -> None:
        _check_same(getattr(loss, "__name__", repr(loss)), {"z": gradient}, {"z": loss(z, goal)[1]}, "a second time")

    return _Function(lambda: np.array([float(loss(z, goal)[0])]), 1.0, {"z": (z, gradient)}, contract)


def _check_contract(layer: Layer, x: Array, weights: Array, workspace: Workspace) -> None:
    """Hold a layer to what those around it rely on, given that its gradients are right for ordinary arrays.

    Whatever way a gradient goes through it, it comes to the same once the ReLU that x came out of has masked dx, unless
    dx is said to be masked. A dy may be masked only where y is said to be rectified.
    """
    batch, dy = len(x), weights.reshape(len(x), -1)

    def passed(x: Array, *, rectified: bool, masked: bool = False, need_dx: bool = True) -> dict[str, Array] | None:
        """The gradients, that of x among them; None if there is no such way."""
        tiles = tiled(x, np.float64).reshape(-1, *layer.in_shape, LANES)
        y, cache = layer.forward(Tiles(tiles, batch, rectified=rectified), workspace)
        if masked and not y.rectified:
            return None
        on = rows_of_tiles(y.data, batch) > 0 if masked else True
        given = tiled(np.where(on, dy, 0.0), np.float64).reshape(-1, *layer.out_shape, LANES)
        dx, grads = layer.backward(Tiles(given, batch, masked=masked), cache, workspace, need_dx=need_dx)
        found = {name: np.array(array) for name, array in grads.items()}
        if dx is None or not need_dx:
            return found
        below = x > 0 if rectified and not dx.masked else True
        return found | {"x": np.where(below, rows_of_tiles(dx.data, batch), 0.0)}

    rows = x.reshape(batch, -1)
    for given, rectified in ((rows, False), (np.maximum(rows, 0.0), True)):
        wanted = passed(given, rectified=False) or {}
        if rectified:
            wanted["x"] = np.where(given > 0, wanted["x"], 0.0)
        for when, way in _WAYS.items():
            found = passed(given, rectified=rectified, **way)
            if found is not None:
                _check_same(repr(layer), wanted, found, when + (", of a rectified x" if rectified else ""))


def _check_same(owner: str, first: Mapping[str, Array], second: Mapping[str, Array], when: str) -> None:
    for name in first.keys() & second.keys():
        array, other = first[name], np.asarray(second[name])
        size = float(np.abs(array).max(initial=0.0))
        if other.shape != array.shape or not np.allclose(array, other, rtol=0, atol=_SAME * size, equal_nan=True):
            raise GradientError(f"{owner}: backward gives another gradient of {name} {when}")


def _in_float64(layer: Layer, seed: int) -> Layer:
    """The same layer, with all that it holds, on the host and on float64 copies of its parameters, none of them 0."""
    twin, rng = copy.deepcopy(layer).to("cpu"), np.random.default_rng([seed, 1])
    for _, part in twin.walk():
        part.params = {name: np.array(array, np.float64) for name, array in part.params.items()}
        for array in part.params.values():
            array[array == 0] = _OFF_ZERO * rng.standard_normal(np.count_nonzero(array == 0))
        if part.kept:
            part.kept = {name: np.array(array, np.float64) for name, array in part.kept.items()}
    return twin
