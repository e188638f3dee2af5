"""Losses, which training makes small: with their gradients, and added up on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ..runtime.recording import recorded
from ..runtime.tiles import LANES, Labels, Targets, Tiles, tiles_of
from ..runtime.workspace import Workspace


class Loss(ABC):
    """The mean over a batch of some loss of each sample.

    A step is also given any other callable as its loss. It is called with ordinary NumPy arrays, `loss(z, wanted)`: z
    of shape (batch, outputs), and labels of shape (batch,) or targets of shape (batch, outputs). It returns the mean
    loss and its gradient with respect to z.
    """

    @abstractmethod
    def __call__(self, z: Tiles, wanted: Any, workspace: Workspace, *, divisor: int | None = None) -> Tiles:
        """The gradient of the mean loss with respect to z; adds (Σ losses, correct, samples) to "totals".

        Parameters
        ----------
        z : Tiles of shape (tiles, outputs, LANES)
        wanted : Labels or Targets
        workspace : Workspace
            Its array "totals", float64 of shape (3,), collects over calls, so that nothing need be read back at every
            step.
        divisor : int, optional
            What the sum over the batch is divided by: the batch's size if not given. Where a batch is shared out among
            several machines, each divides by the size of the whole.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class CrossEntropy(Loss):
    """The mean over a batch of logsumexp(z) − z[label], for logits z."""

    @recorded
    def __call__(self, z: Tiles, wanted: Labels, workspace: Workspace, *, divisor: int | None = None) -> Tiles:
        """The gradient of the mean loss with respect to z.

        Parameters
        ----------
        z : Tiles of shape (tiles, classes, LANES)
        wanted : Labels
        workspace : Workspace
            Afterwards holds "losses" and "correct" for each sample; "totals" are added to.
        divisor : int, optional
            What the sum over the batch is divided by: the batch's size if not given.

        Raises
        ------
        TypeError
            If the samples have targets instead of labels.
        ValueError
            If z is not of logits, the labels are of another batch or of more classes, or the divisor is not positive.
        """
        _check(z, "logits", divisor)
        if not isinstance(wanted, Labels):
            raise TypeError(f"cross-entropy needs labels, and the samples have {type(wanted).__name__.lower()}")
        if wanted.batch != z.batch or wanted.classes > z.features:
            raise ValueError(
                f"logits of {z.batch} samples and {z.features} classes do not go with labels of {wanted.batch} samples "
                f"and {wanted.classes} classes"
            )
        dz, losses, correct, totals = _arrays(z, workspace)
        scratch = workspace.array("scratch", (len(z.data), 2, LANES), z.data.dtype)
        workspace.kernels.cross_entropy(z.data, wanted.data, z.batch, dz, losses, correct, scratch, divisor)
        workspace.kernels.tally(losses, correct, z.batch, totals)
        return Tiles(dz, z.batch)


class SquaredError(Loss):
    """The mean over a batch of ½·Σ (z − target)². No answer counts as correct."""

    @recorded
    def __call__(self, z: Tiles, wanted: Targets, workspace: Workspace, *, divisor: int | None = None) -> Tiles:
        """The gradient of the mean loss with respect to z.

        Parameters
        ----------
        z : Tiles of shape (tiles, outputs, LANES)
        wanted : Targets
        workspace : Workspace
            Afterwards holds "losses" for each sample; "totals" are added to.
        divisor : int, optional
            What the sum over the batch is divided by: the batch's size if not given.

        Raises
        ------
        TypeError
            If the samples have labels instead of targets.
        ValueError
            If the targets are not of z's shape and dtype, or the divisor is not positive.
        """
        _check(z, "outputs", divisor)
        if not isinstance(wanted, Targets):
            raise TypeError(f"a squared error needs targets, and the samples have {type(wanted).__name__.lower()}")
        if wanted.batch != z.batch or (wanted.data.shape, wanted.data.dtype) != (z.data.shape, z.data.dtype):
            raise ValueError(
                f"outputs of {z.batch} samples, {z.features} of {z.data.dtype} each, do not go with targets of "
                f"{wanted.batch} samples, {wanted.data.shape[1]} of {wanted.data.dtype} each"
            )
        dz, losses, correct, totals = _arrays(z, workspace)
        workspace.kernels.squared_error(z.data, wanted.data, z.batch, dz, losses, divisor)
        workspace.kernels.tally(losses, correct, z.batch, totals)
        return Tiles(dz, z.batch)


def _check(z: Tiles, name: str, divisor: int | None) -> None:
    if z.data.ndim != 3 or not z.data.flags.c_contiguous:
        kind = "classes" if name == "logits" else "outputs"
        raise ValueError(f"{name} must be contiguous, of shape (tiles, {kind}, {LANES}), got {z.data.shape}")
    if z.data.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64, got {z.data.dtype}")
    if divisor is not None and divisor < 1:
        raise ValueError(f"the divisor of a loss must be at least 1, got {divisor}")


def _arrays(z: Tiles, workspace: Workspace) -> tuple[Any, Any, Any, Any]:
    """dz, losses, correct and totals; `correct` is zero for a loss that counts no answers."""
    lanes = (tiles_of(z.batch) * LANES,)
    return (
        workspace.array("dz", z.data.shape, z.data.dtype),
        workspace.array("losses", lanes, np.float64),
        workspace.array("correct", lanes, np.int32, zero=True),
        workspace.array("totals", (3,), np.float64, zero=True),
    )
