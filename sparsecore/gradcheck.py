"""A gradient check for any layer or network: what `backward` gives, held against central differences in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .layers.layer import Layer
from .network import Network
from .runtime.arrays import real_numbers
from .runtime.tiles import Labels
from .runtime.workspace import Workspace
from .training.losses import CrossEntropy

Array = NDArray[np.float64]

_CLOSER = 0.01  # of ε: a smaller step where the first disagrees, which gets past a ReLU's kink, but past no mistake
_SMALL = 1e-4  # gradients below this are compared as if they were as large: rounding in f is about 1e-15/ε


class GradientError(AssertionError):
    """`backward` does not give the derivative."""


class GradCheck(NamedTuple):
    """Where the gradient and the central difference differ most.

    Attributes
    ----------
    error : float
        Their difference, relative to the largest of: either of them, the root mean square of that array's gradient, and
        1e-4.
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
    """f = Σ weights · outputs(), the arrays it depends on, and what `backward` says of each."""

    outputs: Callable[[], Array]
    weights: Any
    arrays: dict[str, tuple[Array, Array]]


def gradcheck(
    subject: Layer | Network, x: Any, *, labels: Any = None, eps: float = 1e-5, rtol: float = 1e-5,
    samples: int | None = 1000, seed: int = 0,
) -> GradCheck:  # fmt: skip
    """Compare gradients with central differences, (f(v + ε) − f(v − ε)) / 2ε.

    For a layer, f is a random linear function of its output, differentiated by the input and all parameters; for a
    network, it is the mean cross-entropy, differentiated by all parameters. Everything is computed in float64 on a
    copy on the processor, so the parameters may be float32 or on a GPU, and are not changed.

    Parameters
    ----------
    subject : Layer or Network
        Yours or the engine's. It must be deterministic.
    x : array of shape (batch, features) or (batch, *in_shape)
        Random numbers are best: exactly where the derivative jumps (a ReLU at 0) there is nothing to agree on.
    labels : integer array of shape (batch,)
        Classes: for a network only, which needs them.
    eps : float
        ε, relative to values larger than 1.
    rtol : float
        The largest relative error that passes; `GradCheck.error` says relative to what.
    samples : int, optional
        Coordinates checked in each array, drawn at random where there are more; None for all. Each takes two forward
        passes.
    seed : int
        Of the linear function and of the drawn coordinates.

    Returns
    -------
    GradCheck
        The worst coordinate.

    Raises
    ------
    GradientError
        If the error there is larger than `rtol`, or a parameter has no gradient. It is an AssertionError: a test need
        only call `gradcheck`.
    TypeError, ValueError
        If an argument is wrong.
    """
    for name, value in (("eps", eps), ("rtol", rtol), ("samples", samples)):
        if value is not None and not value > 0:
            raise ValueError(f"gradcheck: {name} must be more than 0, got {value}")
    rng = np.random.default_rng(seed)
    x = np.array(real_numbers(x, "gradcheck", "x"), np.float64)
    if isinstance(subject, Network):
        if labels is None:
            raise ValueError("gradcheck: a network is checked through its loss, which needs labels")
        function = _of_network(subject, x, labels)
    elif isinstance(subject, Layer):
        if labels is not None:
            raise ValueError("gradcheck: labels are for networks, and this is a layer")
        function = _of_layer(subject, x, rng)
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
    return worst._replace(checked=checked)


def _compare(function: _Function, name: str, at: int, eps: float, rtol: float) -> GradCheck:
    array, gradients = function.arrays[name]
    where = f"{name}[{', '.join(str(k) for k in np.unravel_index(at, array.shape))}]"
    gradient, size = float(gradients.flat[at]), max(float(np.sqrt(np.mean(gradients**2))), _SMALL)
    candidates = []
    for step in (eps, eps * _CLOSER):
        difference = _difference(function, array, at, step)
        error = abs(gradient - difference) / max(abs(gradient), abs(difference), size)
        candidates.append(GradCheck(np.inf if np.isnan(error) else error, where, gradient, difference, 1))
        if error <= rtol:
            break
    return min(candidates, key=lambda one: one.error)


def _difference(function: _Function, array: Array, at: int, eps: float) -> float:
    """The central difference quotient of f in one coordinate."""
    value = array.flat[at]
    step = eps * max(1.0, abs(float(value)))
    sides = []
    for moved in (value + step, value - step):
        array.flat[at] = moved
        sides.append(function.outputs())
    array.flat[at] = value
    # Outputs are subtracted before they are summed, which loses fewer digits.
    return float(np.sum(function.weights * (sides[0] - sides[1]))) / (2 * step)


def _of_layer(layer: Layer, x: Array, rng: np.random.Generator) -> _Function:
    layer, workspace = _in_float64(layer), Workspace()
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
    return _Function(lambda: layer.forward(x, workspace)[0], weights, arrays)


def _of_network(network: Network, x: Array, labels: Any) -> _Function:
    network = Network(_in_float64(network.root).children)
    first, last = network.layers[0], network.layers[-1]
    targets, loss, workspace = Labels.pack(labels, int(np.prod(last.out_shape))), CrossEntropy(), Workspace()
    tiles = first._pack(x, first.in_shape, "x", workspace.child("x"))
    grads = network.views(np.full(network.params.shape, np.nan))  # NaN stays where a layer does not write
    for path, pieces in grads.items():
        for name, piece in pieces.items():
            workspace.at(path).put(name, piece)
    logits, caches = network.forward(tiles, workspace)
    network.backward(loss(logits, targets, workspace), caches, workspace)

    def losses() -> Array:
        loss(network.forward(tiles, workspace)[0], targets, workspace)
        return np.array(workspace.array("losses", targets.data.shape, np.float64))

    arrays = {
        f"layer {path} {layer!r} {name}": (array, grads[path][name])
        for path, layer in network.walk()
        for name, array in layer.params.items()
    }
    return _Function(losses, 1 / max(targets.batch, 1), arrays)


def _in_float64(layer: Layer) -> Layer:
    """The same layer, with all that it holds, on the host and on float64 copies of its parameters."""
    twin = copy.deepcopy(layer).to("cpu")
    for _, part in twin.walk():
        part.params = {name: np.array(array, np.float64) for name, array in part.params.items()}
        if part.kept:
            part.kept = {name: np.array(array, np.float64) for name, array in part.kept.items()}
    return twin
