"""Softmax cross-entropy by log-sum-exp, with its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .tiles import LANES, Tiles, tiles_of
from .workspace import Workspace


class CrossEntropy:
    """The mean over a batch of logsumexp(z) − z[label], for logits z.

    `totals` on the workspace collects (Σ losses, correct, samples) over calls, so that nothing need be read back at every step.
    """

    def __call__(self, z: Tiles, labels: Any, workspace: Workspace) -> Tiles:
        """The gradient of the mean loss with respect to z.

        Parameters
        ----------
        z : Tiles of shape (tiles, classes, LANES)
        labels : int32 array, shape (tiles · LANES,)
            Classes from 0; what stands beyond the batch does not matter.
        workspace : Workspace
            Afterwards holds "losses" and "correct" a sample; "totals" are added to.
        """
        tiles = tiles_of(z.batch)
        dz = workspace.array("dz", z.data.shape, z.data.dtype)
        losses = workspace.array("losses", (tiles * LANES,), np.float64)
        correct = workspace.array("correct", (tiles * LANES,), np.int32)
        scratch = workspace.array("scratch", (tiles, 2, LANES), z.data.dtype)
        workspace.kernels.cross_entropy(z.data, labels, z.batch, dz, losses, correct, scratch)
        workspace.kernels.tally(losses, correct, z.batch, workspace.array("totals", (3,), np.float64))
        return Tiles(dz, z.batch)
