"""A training loop of one's own, compiled by Numba around the engine's kernels: sparse least squares."""

import numpy as np
from numba import njit
from sparsecore.kernels.cpu import sddmm, spmm

from sparsecore.runtime.tiles import LANES
from sparsecore.storage.plan import Plan
from sparsecore.topology import uniform_random


@njit(nogil=True)
def train(layout, grid, weight, bias, x, target, steps, rate):  # type: ignore[no-untyped-def]
    """Descend on ½·|W x + b − target|², averaged over samples, without coming back to Python."""
    y, grad, db = np.empty_like(target), np.empty_like(weight), np.empty_like(bias)
    samples = y.shape[0] * y.shape[2]
    losses = np.empty(steps)
    for step in range(steps):
        spmm(layout, grid, weight, x, bias, y)
        y -= target  # now the gradient of the loss by y, times the number of samples
        losses[step] = 0.5 * np.sum(y * y) / samples
        sddmm(layout, grid, y, x, grad, db)
        weight -= rate / samples * grad
        bias -= rate / samples * db
    return losses


def main() -> None:
    rng = np.random.default_rng(0)
    plan = Plan(uniform_random(30, 50, 0.8, rng))
    tiles = 8
    grid = plan.grid(tiles)
    truth = rng.standard_normal(plan.pattern.nnz, np.float32)
    x = rng.standard_normal((tiles, 50, LANES), np.float32)
    target = np.zeros((tiles, 30, LANES), np.float32)
    spmm(plan.forward, grid, truth, x, None, target, False, None)
    weight, bias = np.zeros_like(truth), np.zeros(30, np.float32)
    losses = train(plan.forward, grid, weight, bias, x, target, 200, np.float32(0.5))
    print(f"loss {losses[0]:.3f} → {losses[-1]:.2e}; largest error of a weight {abs(weight - truth).max():.1e}")
    assert losses[-1] < 1e-4 * losses[0]


if __name__ == "__main__":
    main()
