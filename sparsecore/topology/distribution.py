"""How sparsity is shared out among layers: alike, or so that layers with many weights are the sparsest."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

Distribution = Literal["uniform", "erk"]
ROUNDING = 1e-12


def erk(sizes: Sequence[Sequence[int]], sparsity: float) -> tuple[float, ...]:
    """The sparsity of each layer by the Erdős–Rényi–Kernel rule.

    A layer's density is proportional to the sum of its sizes over their product, and all together have the sparsity
    that is asked for. Layers that would have more than all connections have all, and the others share what is left.

    Parameters
    ----------
    sizes : sequence of sequences of int
        Of each layer: outputs, inputs and, for a convolution, height and width of its filters.
    sparsity : float
        Of all layers together, at least 0 and below 1.

    References
    ----------
    U. Evci, T. Gale, J. Menick, P. Castro, E. Elsen, Rigging the Lottery: Making All Tickets Winners, ICML 2020,
    section 3; for fully connected layers, Erdős–Rényi: D. Mocanu et al., Nature Communications 9, 2018.
    """
    full: set[int] = set()
    left = (1 - sparsity) * sum(map(prod, sizes))  # connections
    while True:
        others = [k for k in range(len(sizes)) if k not in full]
        shared = left - sum(prod(sizes[k]) for k in full)
        scale = shared / max(sum(sum(sizes[k]) for k in others), 1)
        over = {k for k in others if scale * sum(sizes[k]) > (1 - ROUNDING) * prod(sizes[k])}
        if not over:
            return tuple(0.0 if k in full else 1 - scale * sum(each) / prod(each) for k, each in enumerate(sizes))
        full |= over
