"""A layer of one's own: a step of smoothing on a graph, y = x − L x, with a learned weight for every edge.

(L x)[i] = Σ_j w[i, j]·(x[i] − x[j]) over the neighbours j of i. Signals on the nodes lie in tiles of 16.
"""

import numpy as np
from numba import njit
from sparsecore.kernels.cpu import sddmm, spmm

from sparsecore.runtime.tiles import LANES
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import Plan


@njit(nogil=True)
def fit(layout, grid, indptr, x, clean, weight, steps, rate):  # type: ignore[no-untyped-def]
    """Learn edge weights that take the noise out of signals."""
    mixed, dy, grad, own = np.empty_like(x), np.empty_like(x), np.empty_like(weight), np.empty(x.shape[1], x.dtype)
    losses = np.empty(steps)
    for step in range(steps):
        spmm(layout, grid, weight, x, None, mixed)  # Σ_j w[i, j]·x[j]
        for i in range(x.shape[1]):
            own[i] = weight[indptr[i] : indptr[i + 1]].sum()
        for tile in range(x.shape[0]):
            for i in range(x.shape[1]):
                y = x[tile, i] * (1 - own[i]) + mixed[tile, i]
                dy[tile, i] = (y - clean[tile, i]) / (x.shape[0] * x.shape[2])
        losses[step] = 0.5 * np.sum(dy * dy) * x.shape[0] * x.shape[2]
        sddmm(layout, grid, dy, x, grad)  # ⟨dy[i], x[j]⟩ for every edge
        for i in range(x.shape[1]):
            grad[indptr[i] : indptr[i + 1]] -= np.sum(dy[:, i] * x[:, i])
        weight -= rate * grad
    return losses


def main() -> None:
    rng = np.random.default_rng(0)
    nodes, tiles = 40, 8
    ring = np.arange(nodes)
    neighbours = np.concatenate([(ring + step) % nodes for step in (-2, -1, 1, 2)])
    plan = Plan(SparsityPattern.from_coo((nodes, nodes), np.tile(ring, 4), neighbours))
    phase = rng.uniform(0, 2 * np.pi, (tiles, 1, LANES))
    clean = np.sin(2 * np.pi * ring[None, :, None] / nodes + phase).astype(np.float32)
    noisy = clean + 0.3 * rng.standard_normal(clean.shape).astype(np.float32)
    weight = np.zeros(plan.pattern.nnz, np.float32)
    indptr = plan.pattern.indptr.astype(np.int64)
    losses = fit(plan.forward, plan.grid(tiles), indptr, noisy, clean, weight, 200, np.float32(0.3))
    print(f"loss {losses[0]:.3f} → {losses[-1]:.3f}; mean weight of an edge {weight.mean():.2f}")
    assert losses[-1] < 0.4 * losses[0]


if __name__ == "__main__":
    main()
