"""Softmax cross-entropy by log-sum-exp, with its gradient."""

from __future__ import annotations

import numpy as np

from ..runtime.tiles import LANES, Labels, Tiles, tiles_of
from ..runtime.workspace import Workspace


class CrossEntropy:
    """The mean over a batch of logsumexp(z) − z[label], for logits z.

    `totals` on the workspace collects (Σ losses, correct, samples) over calls, so that nothing need be read back at
    every step.
    """

    def __call__(self, z: Tiles, labels: Labels, workspace: Workspace) -> Tiles:
        """The gradient of the mean loss with respect to z.

        Parameters
        ----------
        z : Tiles of shape (tiles, classes, LANES)
        labels : Labels
        workspace : Workspace
            Afterwards holds "losses" and "correct" a sample; "totals" are added to.

        Raises
        ------
        ValueError
            If z is not of logits, or the labels are those of another batch or know more classes.
        """
        if z.data.ndim != 3 or not z.data.flags.c_contiguous:
            raise ValueError(f"logits must be contiguous, of shape (tiles, classes, {LANES}), got {z.data.shape}")
        if labels.batch != z.batch or labels.classes > z.features:
            raise ValueError(
                f"logits of {z.batch} samples and {z.features} classes do not go with labels of {labels.batch} samples "
                f"and {labels.classes} classes"
            )
        tiles = tiles_of(z.batch)
        dz = workspace.array("dz", z.data.shape, z.data.dtype)
        losses = workspace.array("losses", (tiles * LANES,), np.float64)
        correct = workspace.array("correct", (tiles * LANES,), np.int32)
        scratch = workspace.array("scratch", (tiles, 2, LANES), z.data.dtype)
        totals = workspace.array("totals", (3,), np.float64, zero=True)
        workspace.kernels.cross_entropy(z.data, labels.data, z.batch, dz, losses, correct, scratch)
        workspace.kernels.tally(losses, correct, z.batch, totals)
        return Tiles(dz, z.batch)
