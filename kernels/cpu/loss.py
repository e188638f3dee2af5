"""Losses and their gradients: softmax cross-entropy, by log-sum-exp, and half the squared error."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import carray

from ..layout import LANES
from .call import arguments, kernel, share
from .ir.exponential import softmax_tile
from .ir.vector import advance, floats, ints

TALLY = arguments("losses", "correct", "batch", "totals")
CROSS_ENTROPY = arguments("z", "labels", "classes", "batch", "dz", "losses", "correct", "scratch", "divisor")
SQUARED_ERROR = arguments("z", "targets", "features", "batch", "dz", "losses", "divisor")


@cache
def cross_entropy_kernel(size: int, width: int) -> Any:
    """losses[s] = logsumexp(z[s]) − z[s, label]; dz = (softmax(z) − onehot) / divisor; correct[s] = 1 if argmax is the
    label.

    The first of equal logits is the answer; where one is NaN, none is. Lanes that hold no sample get zero everywhere.
    `scratch` holds two lines a tile.
    """

    def cross_entropy(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, CROSS_ENTROPY)[0]
        labels, correct = ints(c.labels, 4), ints(c.correct, 4)
        losses = floats(c.losses, 8)
        tiles = (c.batch + LANES - 1) // LANES
        first, last = share(tiles, part, until, parts)
        for tile in range(first, last):
            z = advance(floats(c.z, size), tile * c.classes * LANES)
            dz = advance(floats(c.dz, size), tile * c.classes * LANES)
            peak = advance(floats(c.scratch, size), tile * 2 * LANES)
            sums = advance(peak, LANES)
            softmax_tile(width, z, c.classes, dz, peak, sums)
            valid = min(LANES, c.batch - tile * LANES)
            for lane in range(LANES):
                at = tile * LANES + lane
                label = np.int64(labels[at]) if lane < valid else 0
                if lane < valid:
                    losses[at] = math.log(np.float64(sums[lane])) + (np.float64(peak[lane]) - z[label * LANES + lane])
                    right = z[label * LANES + lane] == peak[lane] and not math.isnan(sums[lane])
                    for k in range(label):  # the first of equal logits is the answer
                        right = right and z[k * LANES + lane] != peak[lane]
                    correct[at] = np.int32(right)
                    sums[lane] = 1 / (sums[lane] * c.divisor)
                else:
                    losses[at] = 0.0
                    correct[at] = 0
                    sums[lane] = 0
            for k in range(c.classes):
                for lane in range(LANES):
                    dz[k * LANES + lane] = dz[k * LANES + lane] * sums[lane]
            for lane in range(valid):
                dz[np.int64(labels[tile * LANES + lane]) * LANES + lane] -= 1.0 / c.divisor
            if valid < LANES:  # garbage times zero may be NaN: unused lanes are zeroed outright
                for k in range(c.classes):
                    for lane in range(valid, LANES):
                        dz[k * LANES + lane] = 0

    return kernel(cross_entropy)


@cache
def squared_error_kernel(size: int) -> Any:
    """losses[s] = ½·Σ (z[s] − target[s])², summed in float64; dz = (z − target) / divisor.

    Lanes that hold no sample get zero everywhere.
    """

    def squared_error(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SQUARED_ERROR)[0]
        losses = floats(c.losses, 8)
        first, last = share((c.batch + LANES - 1) // LANES, part, until, parts)
        for tile in range(first, last):
            z = advance(floats(c.z, size), tile * c.features * LANES)
            dz = advance(floats(c.dz, size), tile * c.features * LANES)
            targets = advance(floats(c.targets, size), tile * c.features * LANES)
            valid = min(LANES, c.batch - tile * LANES)
            for lane in range(LANES):
                loss = np.float64(0)
                for k in range(lane, c.features * LANES, LANES):
                    apart = z[k] - targets[k]
                    loss += np.float64(apart) * np.float64(apart)
                    dz[k] = apart / c.divisor if lane < valid else 0
                losses[tile * LANES + lane] = 0.5 * loss if lane < valid else 0.0

    return kernel(squared_error)


@cache
def tally_kernel() -> Any:
    """totals += (Σ losses, Σ correct, batch): what an epoch's progress is read from, summed in order."""

    def tally(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, TALLY)[0]
        losses, correct, totals = floats(c.losses, 8), ints(c.correct, 4), floats(c.totals, 8)
        loss, right = 0.0, np.int64(0)
        for k in range(c.batch):
            loss += losses[k]
            right += correct[k]
        totals[0] += loss
        totals[1] += right
        totals[2] += c.batch

    return kernel(tally)
