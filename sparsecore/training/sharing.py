"""A batch shared out among ranks: who takes which of its rows, and when gradients are summed."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..network import Network
from ..runtime.ranks import Ranks, Summing
from ..runtime.recording import extent
from ..runtime.workspace import Share

BUCKET = 1 << 18
"""Bytes of gradients that are summed at once, at least: neighbouring layers go together up to there."""


class Sharing:
    """How each batch of a run is shared out.

    Rank r takes rows r·B to before (r + 1)·B of a batch, so that the last, which may be smaller, may leave ranks none.
    They take part in the sums all the same.

    Parameters
    ----------
    ranks : Ranks
    batch_size : int
        Samples of a step, of all ranks together.
    local_norms : bool
        Let batch normalisation go by each rank's own rows. Its running rows are then the mean over ranks, each counting
        by its rows.
    bucket : int
        Bytes of gradients that are summed at once, at least.

    Attributes
    ----------
    rows : int
        B, that a rank takes at most.
    elements : int
        Gradients that this rank has handed to sums so far.
    """

    def __init__(self, ranks: Ranks, batch_size: int, *, local_norms: bool = False, bucket: int = BUCKET) -> None:
        self.ranks, self.rows = ranks, -(-batch_size // ranks.size)
        self.local_norms, self.bucket = local_norms, bucket
        self.elements = 0

    def rows_of(self, batch: int) -> list[int]:
        """How many rows of a batch each rank takes."""
        return [max(min(batch - rank * self.rows, self.rows), 0) for rank in range(self.ranks.size)]

    def part(self, batch: int) -> tuple[int, int]:
        """The first row of this rank, and how many it takes."""
        return min(self.ranks.rank * self.rows, batch), self.rows_of(batch)[self.ranks.rank]

    def share(self, batch: int) -> Share:
        """What layers and the loss are told of a batch."""
        return Share(self.ranks, batch, tuple(self.rows_of(batch)), not self.local_norms)


class Buckets:
    """The sums of one recorded step, begun as soon as the backward pass has written what they sum.

    Parameters
    ----------
    sharing : Sharing
    network : Network
    grads : flat array
        On the host, in the order of `network.params`.
    """

    def __init__(self, sharing: Sharing, network: Network, grads: Any) -> None:
        self._sharing, self._grads = sharing, grads
        self._begun: list[Summing] = []
        self._edges = _edges(network, sharing.bucket // grads.itemsize)

    def record(self, kernels: Any, tape: Any, since: _Place) -> None:
        """Put a call that begins a bucket behind the last call that writes to it, of those recorded since a place.

        The backward pass goes from the last layer to the first, and so do the buckets: in one order on all ranks.
        """
        done = since.calls
        for first, last in reversed(self._edges):
            piece = self._grads[first:last]
            done = max(done, _last_use(tape, since, piece))
            summing = self._sharing.ranks.summing(piece)
            kernels.host("begin sum over ranks", partial(self._begin, summing), {}, {"piece": piece})
            _, call = tape.hosts.pop()
            where = sum(count <= done for count, _ in tape.hosts)
            tape.hosts.insert(where, (done, call))

    def finish(self, grads: Any) -> None:
        """Wait for all sums."""
        for each in self._begun:
            each.finish()
        self._begun.clear()

    def _begin(self, summing: Summing, piece: Any) -> None:
        for each in self._begun:
            each.look()
        summing.begin()
        self._begun.append(summing)
        self._sharing.elements += piece.size


class _Place(NamedTuple):
    """How far a tape was recorded: kernels' calls, and host calls."""

    calls: int
    hosts: int


def place(tape: Any) -> _Place:
    """How far a tape is recorded now."""
    return _Place(tape.count, len(tape.hosts))


def _last_use(tape: Any, since: _Place, piece: Any) -> int:
    """After how many calls of kernels nothing on the tape has to do with a piece of the gradients any more."""
    first, last = extent(piece)
    words = tape.calls[since.calls : tape.count]
    used = ((words >= first) & (words < last)).any(axis=1).nonzero()[0]
    found = since.calls + int(used[-1]) + 1 if used.size else since.calls
    for count, call in tape.hosts[since.hosts :]:
        spans = (extent(array) for array in call.outputs.values())
        if any(start < last and first < stop for start, stop in spans):
            found = max(found, count)
    return found


def _edges(network: Network, least: int) -> list[tuple[int, int]]:
    """Where buckets begin and end: whole layers, from the last one, so many numbers together at least."""
    layers: dict[str, int] = {}
    for row in network.table.rows:
        if row.trained:
            layers.setdefault(row.path.rpartition(".")[0], row.slice.start)
    edges = [int(network.params.size)]
    for start in sorted(layers.values(), reverse=True):
        if start == 0 or edges[-1] - start >= least:
            edges.append(start)
    return [(first, last) for last, first in pairwise(edges) if first < last][::-1]


def total_of(ranks: Ranks, own: Any, totals: Any) -> None:
    """Add what all ranks' own totals come to, and begin these anew."""
    totals += ranks.total(own)
    own[...] = 0


def mean_of_kept(share: Share, kept: Any) -> None:
    """Running rows as the mean over ranks, each counting by its rows."""
    weights = np.array(share.rows, np.float64) / share.batch
    weighted = kept.astype(np.float64) * weights[share.ranks.rank]
    kept[...] = share.ranks.total(weighted)
