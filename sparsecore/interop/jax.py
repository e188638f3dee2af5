"""JAX: a sparse layer as a function that JAX can differentiate, compile and map like any other.

Needs JAX: pip install 'sparsecore[jax]'. The layer computes on the host, whatever device JAX uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np

from ..layers.replay import backward_of, forward_of
from ..layers.sparse import SparseLayer
from ..runtime.arrays import narrowed, real_numbers
from ..runtime.recording import shallow
from ..runtime.replay import addresses


def as_function(layer: SparseLayer) -> Callable[[Any, Any, Any], Any]:
    """f(x, weight, bias): a layer's output for x, with these parameters instead of its own.

    It can be differentiated once, in reverse mode, by all three arguments. Start from `layer.weight` and `layer.bias`.

    Parameters
    ----------
    layer : SparseLinear or SparseConv2d
        Without ReLU: use `jax.nn.relu`. Only its pattern and shapes are used, as they are now: connections that it
        loses or gets later are not the function's.

    Returns
    -------
    function
        Of x (batch, *in_shape), weight (nnz,) in CSR order and bias (out_features,) or None, which gives y
        (batch, *out_shape).
        Weight and bias are of one dtype, float32 or float64; x is converted to it.

    Raises
    ------
    ValueError
        If the layer has a ReLU; when called, if an argument has another shape.
    TypeError
        When called, if weight and bias have another dtype.
    """
    if layer.relu:
        raise ValueError(f"as_function: {layer!r} must have no ReLU: make it without, and call jax.nn.relu")
    layer = _as_it_is(layer)
    parameters = [(layer.pattern.nnz,), (layer.pattern.shape[0],)]

    @jax.custom_vjp
    def function(x: Any, weight: Any, bias: Any) -> Any:
        return forward(x, weight, bias)[0]

    def forward(x: Any, weight: Any, bias: Any) -> Any:
        def run(x: Any, weight: Any, bias: Any, y: Any) -> None:
            forward_of(layer, len(x), x.dtype.name, biased=True).run(*addresses(x, weight, bias, y, None))

        (y,) = _call(run, (x, weight, bias), [(len(x), *layer.out_shape)])
        return y, (x, weight)

    def backward(left: Any, dy: Any) -> Any:
        def run(dy: Any, x: Any, weight: Any, dx: Any, dw: Any, db: Any) -> None:
            replay = backward_of(layer, len(x), x.dtype.name, biased=True, need_dx=True)
            replay.run(*addresses(dy, x, None, weight, dx, dw, db))

        return _call(run, (dy, *left), [(len(dy), *layer.in_shape), *parameters])

    function.defvjp(forward, backward)

    def checked(x: Any, weight: Any, bias: Any) -> Any:
        weight = _numbers(weight, layer, "weight")
        bias = jax.numpy.zeros(parameters[1], weight.dtype) if bias is None else _numbers(bias, layer, "bias")
        if weight.dtype not in (np.float32, np.float64) or bias.dtype != weight.dtype:
            raise TypeError(f"{layer!r}: weight and bias must be float32 or float64, got {weight.dtype}, {bias.dtype}")
        x = _numbers(x, layer, "x", weight.dtype)
        if x.shape != (*x.shape[:1], *layer.in_shape):  # a single sample too, whose first size is not a batch's
            batch = len(x) if x.ndim == 1 + len(layer.in_shape) else "batch"
            wanted = ", ".join(map(str, (batch, *layer.in_shape)))
            raise ValueError(f"{layer!r}: x must have shape ({wanted}), got {x.shape}")
        for name, array, shape in zip(("weight", "bias"), (weight, bias), parameters, strict=True):
            if array.shape != shape:
                raise ValueError(f"{layer!r}: {name} must have shape {shape}, got {array.shape}")
        return function(x.astype(weight.dtype), weight, bias)

    return checked


_twins: WeakKeyDictionary[SparseLayer, SparseLayer] = WeakKeyDictionary()


def _as_it_is(layer: SparseLayer) -> SparseLayer:
    """A twin that keeps its connections: a network moves those of a layer within the plan that it has."""
    twin = _twins.get(layer)
    if twin is None or twin.pattern is not layer.pattern:
        twin = _twins[layer] = shallow(layer)
        twin.take_pattern(layer.pattern, layer.plan_of(layer.pattern))
    return twin


def _numbers(given: Any, layer: SparseLayer, name: str, dtype: Any = None) -> Any:
    """JAX's array of what is given as real numbers, in a dtype or in JAX's own choice of one."""
    if not isinstance(given, jax.Array):
        given = real_numbers(given, layer, name)
        given = narrowed(given, jax.dtypes.canonicalize_dtype(given.dtype) if dtype is None else dtype, layer, name)
    elif not any(jax.numpy.issubdtype(given.dtype, kind) for kind in (np.floating, np.integer, np.bool_)):
        raise TypeError(f"{layer!r}: {name} must hold real numbers, got {given.dtype}")
    return jax.numpy.asarray(given)


def _call(run: Callable[..., None], arrays: Any, shapes: Any) -> Any:
    """Run a pass on the host; `shapes` are those of its results, which it is given behind the arrays."""

    def call(*arguments: Any) -> Any:
        inputs = [np.ascontiguousarray(each) for each in arguments]
        outputs = tuple(np.empty(shape, inputs[0].dtype) for shape in shapes)
        run(*inputs, *outputs)
        return outputs

    results = tuple(jax.ShapeDtypeStruct(shape, arrays[0].dtype) for shape in shapes)
    return jax.pure_callback(call, results, *arrays, vmap_method="sequential")
