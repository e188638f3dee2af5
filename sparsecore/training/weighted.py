"""Losses of samples that do not all count the same: the mean over a batch of weight · loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.compile import njit
from ..runtime.recording import recorded
from ..runtime.tiles import LANES, Targets, Tiles
from ..runtime.workspace import Workspace
from .losses import Loss


class Weighted(Loss):
    """Cross-entropy or half the squared error of each sample, times its weight.

    A sample's targets end with its weight. Before that they are its class, or its targets proper.

    Parameters
    ----------
    classes : bool
        Whether they are classes.
    """

    def __init__(self, *, classes: bool) -> None:
        self.classes = classes

    @recorded
    def __call__(self, z: Tiles, wanted: Any, workspace: Workspace, *, divisor: int | None = None) -> Tiles:
        """The gradient of the mean over a batch of weight · loss with respect to z.

        Raises
        ------
        TypeError
            If the samples have labels instead of targets.
        ValueError
            If targets are not z's, or a class, and a weight.
        """
        if not isinstance(wanted, Targets):
            raise TypeError(f"a weighted loss needs targets, and the samples have {type(wanted).__name__.lower()}")
        columns = 2 if self.classes else z.features + 1
        if wanted.batch != z.batch or wanted.data.shape[1] != columns or wanted.data.dtype != z.data.dtype:
            raise ValueError(
                f"outputs of {z.batch} samples, {z.features} of {z.data.dtype} each, go with {columns} targets, a "
                f"weight the last, got {wanted.data.shape[1]} of {wanted.data.dtype} for {wanted.batch} samples"
            )
        kernels, tiles, dtype = workspace.kernels, len(z.data), z.data.dtype
        dz = workspace.array("dz", z.data.shape, dtype)
        losses = workspace.array("losses", (tiles * LANES,), np.float64)
        correct = workspace.array("correct", (tiles * LANES,), np.int32, zero=True)
        totals = workspace.array("totals", (3,), np.float64, zero=True)
        if self.classes:
            labels = workspace.array("unpacked labels", (tiles * LANES,), np.int32)
            kernels.compiled(_labels, tiles, (wanted.data, z.features), (labels,))
            scratch = workspace.array("scratch", (tiles, 2, LANES), dtype)
            kernels.cross_entropy(z.data, labels, z.batch, dz, losses, correct, scratch, divisor)
        else:
            targets = workspace.array("unpacked targets", z.data.shape, dtype)
            kernels.compiled(_targets, tiles, (wanted.data,), (targets,))
            kernels.squared_error(z.data, targets, z.batch, dz, losses, divisor)
        kernels.compiled(_weigh, tiles, (wanted.data,), (dz, losses))
        kernels.tally(losses, correct, z.batch, totals)
        return Tiles(dz, z.batch)


@njit
def _labels(wanted, classes, labels, first, last):  # type: ignore[no-untyped-def]
    """The classes in front of the weights, as numbers that cross-entropy may trust."""
    lanes = wanted.shape[2]
    for tile in range(first, last):
        for lane in range(lanes):
            labels[tile * lanes + lane] = min(max(int(wanted[tile, 0, lane]), 0), classes - 1)


@njit
def _targets(wanted, targets, first, last):  # type: ignore[no-untyped-def]
    """The targets in front of the weights."""
    for tile in range(first, last):
        targets[tile] = wanted[tile, :-1]


@njit
def _weigh(wanted, dz, losses, first, last):  # type: ignore[no-untyped-def]
    """Gradients and losses times the weights; in lanes past the batch all are zero."""
    outputs, lanes = dz.shape[1], dz.shape[2]
    for tile in range(first, last):
        for lane in range(lanes):
            losses[tile * lanes + lane] *= wanted[tile, -1, lane]
        for k in range(outputs):
            for lane in range(lanes):
                dz[tile, k, lane] *= wanted[tile, -1, lane]
