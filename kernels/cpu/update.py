"""Flat-array arithmetic of a step: reordering values for the transposed pass, and stochastic gradient descent."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import carray

from .call import arguments, kernel, share
from .ir.vector import element, floats, ints

REORDER = arguments("data", "perm", "perm_size", "out", "rows", "columns")
SGD = arguments("w", "dw", "velocity", "count", "rates", "nesterov")
NORM = arguments("dw", "count", "rates")

# Rates of a step, float64, in memory so that a recorded step reads the current ones.
LR, MOMENTUM, WEIGHT_DECAY, LARGEST_NORM, SCALE = range(5)
RATES = 5


@cache
def reorder_kernel(size: int, index_size: int) -> Any:
    """out[q] = data[perm[q]]: a layer's values in the order of its transpose.

    Of a matrix of positions, sixteen rows are walked side by side, a few columns at a time: where it transposes a dense
    layer's values, what these rows read lies in the same cache lines.
    """

    def reorder(call, part, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, REORDER)[0]
        data, out, perm = floats(c.data, size), floats(c.out, size), ints(c.perm, index_size)
        if c.rows == 1:
            first, last = share(c.columns, part, parts)
            for q in range(first, last):
                out[q] = data[perm[q]]
            return
        first, last = share((c.rows + 15) // 16, part, parts)
        for block in range(first, last):
            for column in range(0, c.columns, 8):
                for row in range(16 * block, min(16 * block + 16, c.rows)):
                    for q in range(row * c.columns + column, row * c.columns + min(column + 8, c.columns)):
                        out[q] = data[perm[q]]

    return kernel(reorder)


@cache
def sgd_kernel(size: int) -> Any:
    """v ← momentum·v + g + weight_decay·w, then w ← w − lr·v (Nesterov: w ← w − lr·(g' + momentum·v)).

    Sutskever et al. 2013 in the form PyTorch and others use: the rate multiplies the velocity, not the gradient.
    """

    def sgd(call, part, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SGD)[0]
        # Pointers, not arrays: an array's index may be negative, and LLVM would not vectorise the loops.
        w, dw, velocity, rates = floats(c.w, size), floats(c.dw, size), floats(c.velocity, size), floats(c.rates, 8)
        lr, momentum = element(w, rates[LR]), element(w, rates[MOMENTUM])
        decay, scale = element(w, rates[WEIGHT_DECAY]), element(w, rates[SCALE])
        first, last = share(c.count, part, parts)
        if c.nesterov != 0:
            for k in range(first, last):
                g = dw[k] * scale + decay * w[k]
                v = momentum * velocity[k] + g
                velocity[k] = v
                w[k] -= lr * (g + momentum * v)
        else:
            for k in range(first, last):
                v = momentum * velocity[k] + (dw[k] * scale + decay * w[k])
                velocity[k] = v
                w[k] -= lr * v

    return kernel(sgd)


@cache
def norm_kernel(size: int) -> Any:
    """rates[SCALE] = min(1, largest / ‖dw‖): gradient clipping by the norm of all gradients together.

    Summed in float64, in order. A norm that is NaN or infinite leaves the scale NaN or zero: it must not pass for a
    step.
    """

    def norm(call, part, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, NORM)[0]
        rates, dw = floats(c.rates, 8), floats(c.dw, size)
        squares = np.float64(0)
        for k in range(c.count):
            squares += np.float64(dw[k]) * np.float64(dw[k])
        length = math.sqrt(squares)
        rates[SCALE] = 1.0 if length <= rates[LARGEST_NORM] else rates[LARGEST_NORM] / length

    return kernel(norm)
