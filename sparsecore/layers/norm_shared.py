"""Batch normalisation of a batch that is shared out: each channel's sums over all ranks, joined in their order."""

from __future__ import annotations

from functools import partial as bound
from typing import Any

import numpy as np

from ..runtime.workspace import Share, Workspace

Array = np.ndarray[Any, Any]


def moments_of_all(partial: Any, pixels: int, batch: int, of_tile: int, workspace: Workspace) -> Any:
    """From a rank's own segments to one of all ranks: (mean, squares around it) a channel, shape (channels, 1, 2).

    As `kernels.settle` takes it, for a batch of all ranks' samples. Tiles hold so many samples.
    """
    joined = workspace.array("joined", (len(partial), 1, 2), np.float64)
    assert workspace.share is not None
    call = bound(_join, workspace.share, pixels, batch, of_tile)
    workspace.kernels.host("moments of all ranks", call, {"partial": partial}, {"joined": joined})
    return joined


def slopes_of_all(totals: Any, batch: int, workspace: Workspace) -> None:
    """Replace a rank's sums by all ranks', in proportion to its rows: `kernels.normalise_back` divides by these."""
    share = workspace.share
    assert share is not None
    call = bound(_sum_slopes, share, batch / share.batch)
    workspace.kernels.host("slopes of all ranks", call, {}, {"totals": totals})


def _join(share: Share, pixels: int, batch: int, of_tile: int, partial: Array, joined: Array) -> None:
    segments = partial.shape[1]
    own, total = np.zeros((len(partial), 2)), 0
    tiles = -(-batch // of_tile)
    rows = -(-tiles // segments) * of_tile if segments else 0  # of a segment: as kernels/cpu/norm.py cuts them
    for segment in range(segments):
        count = max(min((segment + 1) * rows, batch) - segment * rows, 0) * pixels
        total = _joined(own, total, partial[:, segment], count)
    joined[...] = 0
    total = 0
    for found, samples in zip(share.ranks.gather(own), share.rows, strict=True):
        total = _joined(joined[:, 0], total, found, samples * pixels)


def _joined(whole: Array, total: int, part: Array, count: int) -> int:
    """Join (mean, squares around it) of `count` more values to those of `total`; returns how many there are now.

    T. Chan, G. Golub, R. LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
    """
    if count:
        apart = part[:, 0] - whole[:, 0]
        whole[:, 1] += part[:, 1] + apart * apart * (total * count / (total + count))
        whole[:, 0] += apart * (count / (total + count))
    return total + count


def _sum_slopes(share: Share, part: float, totals: Array) -> None:
    totals[...] = share.ranks.total(totals) * part
