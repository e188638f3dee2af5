"""Where connections have been in a run that moved them: its checkpoint has a bit for each place that was ever tried."""

from __future__ import annotations

import numpy as np

from ..prune.rewirer import TRIED
from ..runs.checkpoint import Checkpoint, CheckpointError
from ..storage.pattern import SparsityPattern


def tried_of(checkpoint: Checkpoint) -> dict[str, SparsityPattern]:
    """The places that were ever tried, as connections, by the path of each layer that moved; empty if none did.

    Raises
    ------
    CheckpointError
        If what the file keeps does not have the size of its layer.
    """
    found = {}
    for path, pattern in checkpoint.network.patterns.items():
        bits, places = checkpoint.arrays.get(f"{TRIED}{path}"), pattern.shape[0] * pattern.shape[1]
        if bits is None:
            continue
        if len(bits) != -(-places // 8):
            raise CheckpointError(
                f"layer {path}: expected a bit for each of {places:,} places, got {len(bits):,} bytes"
            )
        matrix = np.unpackbits(bits, count=places, bitorder="little").reshape(pattern.shape)
        found[str(path)] = SparsityPattern.from_dense(matrix)[0]
    return found
