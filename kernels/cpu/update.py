"""Flat-array arithmetic of a step: reordering values for the transposed pass, and the optimizers."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import carray

from ..rates import (
    BETA1,
    BETA2,
    CORRECTION1,
    CORRECTION2,
    EPS,
    LARGEST_NORM,
    LR,
    MOMENTUM,
    SCALE,
    STEPS,
    WEIGHT_DECAY,
)
from ..tuning import REORDER_COLUMNS, REORDER_ROWS
from .call import arguments, kernel, share
from .ir.vector import element, floats, ints, square_root

REORDER = arguments("data", "perm", "perm_size", "out", "rows", "columns")
NORM = arguments("dw", "count", "rates")
SGD = arguments("w", "dw", "velocity", "count", "rates", "nesterov", "decays")
TICK = arguments("rates")
ADAM = arguments("w", "dw", "m", "v", "count", "rates", "decoupled", "decays")


@cache
def reorder_kernel(size: int, index_size: int) -> Any:
    """out[q] = data[perm[q]]: a layer's values in the order of its transpose.

    A matrix of positions is walked in blocks: where it transposes a dense layer's values, what the rows of a block read
    lies in the same cache lines.
    """

    def reorder(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, REORDER)[0]
        data, out, perm = floats(c.data, size), floats(c.out, size), ints(c.perm, index_size)
        if c.rows == 1:
            first, last = share(c.columns, part, until, parts)
            for q in range(first, last):
                out[q] = data[perm[q]]
            return
        first, last = share((c.rows + REORDER_ROWS - 1) // REORDER_ROWS, part, until, parts)
        for block in range(first, last):
            for column in range(0, c.columns, REORDER_COLUMNS):
                for row in range(REORDER_ROWS * block, min(REORDER_ROWS * (block + 1), c.rows)):
                    stop = row * c.columns + min(column + REORDER_COLUMNS, c.columns)
                    for q in range(row * c.columns + column, stop):
                        out[q] = data[perm[q]]

    return kernel(reorder)


@cache
def norm_kernel(size: int) -> Any:
    """rates[SCALE] = min(1, largest / ‖dw‖): gradient clipping by the norm of all gradients together.

    Summed in float64, in order. A norm that is NaN or infinite leaves the scale NaN or zero: it must not pass for a
    step.
    """

    def norm(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, NORM)[0]
        rates, dw = floats(c.rates, 8), floats(c.dw, size)
        squares = np.float64(0)
        for k in range(c.count):
            squares += np.float64(dw[k]) * np.float64(dw[k])
        length = math.sqrt(squares)
        rates[SCALE] = 1.0 if length <= rates[LARGEST_NORM] else rates[LARGEST_NORM] / length

    return kernel(norm)


@cache
def sgd_kernel(size: int) -> Any:
    """v ← momentum·v + g + weight_decay·w, then w ← w − lr·v (Nesterov: w ← w − lr·(g' + momentum·v)).

    Sutskever et al. 2013 in the form PyTorch and others use: the rate multiplies the velocity, not the gradient. Where
    `decays` is 0, weight_decay counts as 0.
    """

    def sgd(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SGD)[0]
        # Pointers, not arrays: an array's index may be negative, and LLVM would not vectorise the loops.
        w, dw, velocity, rates = floats(c.w, size), floats(c.dw, size), floats(c.velocity, size), floats(c.rates, 8)
        lr, momentum, scale = element(w, rates[LR]), element(w, rates[MOMENTUM]), element(w, rates[SCALE])
        decay = element(w, rates[WEIGHT_DECAY] if c.decays != 0 else 0.0)
        first, last = share(c.count, part, until, parts)
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
def tick_kernel() -> Any:
    """Count a step of Adam, and correct the bias of its means: 1 − βᵗ after t steps."""

    def tick(call, part, until, parts):  # type: ignore[no-untyped-def]
        rates = floats(carray(call, 1, TICK)[0].rates, 8)
        rates[STEPS] += 1
        rates[CORRECTION1] = 1 - rates[BETA1] ** rates[STEPS]
        rates[CORRECTION2] = 1 - rates[BETA2] ** rates[STEPS]

    return kernel(tick)


@cache
def adam_kernel(size: int) -> Any:
    """m ← β₁·m + (1−β₁)·g, v ← β₂·v + (1−β₂)·g², then w ← w − lr/(1−β₁ᵗ) · m / (√(v/(1−β₂ᵗ)) + ε).

    Kingma and Ba, Adam, ICLR 2015: g includes weight_decay·w. With `decoupled`, w ← (1 − lr·weight_decay)·w comes first
    instead (Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019). Where `decays` is 0, weight_decay
    counts as 0.
    """

    def adam(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, ADAM)[0]
        w, dw, m, v = floats(c.w, size), floats(c.dw, size), floats(c.m, size), floats(c.v, size)
        rates = floats(c.rates, 8)
        decay = rates[WEIGHT_DECAY] if c.decays != 0 else 0.0
        # One loop for both: a decay that is not meant multiplies by one, or adds zero.
        kept = element(w, 1 - rates[LR] * decay if c.decoupled != 0 else 1.0)
        added = element(w, 0.0 if c.decoupled != 0 else decay)
        scale, eps = element(w, rates[SCALE]), element(w, rates[EPS])
        beta1, rest1 = element(w, rates[BETA1]), element(w, 1 - rates[BETA1])
        beta2, rest2 = element(w, rates[BETA2]), element(w, 1 - rates[BETA2])
        rate, root = element(w, rates[LR] / rates[CORRECTION1]), element(w, 1 / math.sqrt(rates[CORRECTION2]))
        first, last = share(c.count, part, until, parts)
        for k in range(first, last):
            g = dw[k] * scale + added * w[k]
            m[k] = mean = beta1 * m[k] + rest1 * g
            v[k] = square = beta2 * v[k] + rest2 * g * g
            w[k] = kept * w[k] - rate * (mean / (square_root(square) * root + eps))

    return kernel(adam)
