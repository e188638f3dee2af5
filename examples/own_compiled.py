"""A layer, an optimizer and a loss of one's own from functions compiled by Numba: kernels like the engine's."""

import numpy as np
from numba import njit
from sparsecore.kernels.rates import LR, SCALE, WEIGHT_DECAY

from sparsecore import Layer, Network, SparseLinear, Trainer
from sparsecore.data import load
from sparsecore.gradcheck import gradcheck
from sparsecore.layers import register
from sparsecore.runtime.recording import recorded
from sparsecore.runtime.tiles import Tiles
from sparsecore.topology import dense, uniform_random
from sparsecore.training.losses import Loss
from sparsecore.training.optimizers import Optimizer


@njit
def swish(x, slope, y, first, last):  # type: ignore[no-untyped-def]
    """y = x · σ(slope · x) for some of the features."""
    for i in range(first, last):
        for tile in range(x.shape[0]):
            for k in range(x.shape[2]):
                y[tile, i, k] = x[tile, i, k] / (1 + np.exp(-slope[i] * x[tile, i, k]))


@njit
def swish_back(x, slope, dy, dx, dslope, first, last):  # type: ignore[no-untyped-def]
    """The gradients of x and of the slopes; each sum is one feature's, in order."""
    for i in range(first, last):
        total = 0.0
        for tile in range(x.shape[0]):
            for k in range(x.shape[2]):
                v = x[tile, i, k]
                s = 1 / (1 + np.exp(-slope[i] * v))
                dx[tile, i, k] = dy[tile, i, k] * s * (1 + slope[i] * v * (1 - s))
                total += dy[tile, i, k] * v * v * s * (1 - s)
        dslope[i] = total


@register("swish")
class Swish(Layer):
    """y = x · σ(slope · x), with a slope for each feature (Ramachandran et al., Searching for Activation Functions)."""

    undecayed = frozenset({"slope"})

    def __init__(self, size: int) -> None:
        self.size = size
        self.in_shape = self.out_shape = (size,)
        self.params = {"slope": np.ones(size, np.float32)}

    @recorded
    def forward_tiles(self, x, workspace):  # type: ignore[no-untyped-def]
        y = workspace.array("y", x.data.shape, x.data.dtype)
        workspace.kernels.compiled(swish, self.size, (x.data, self.params["slope"]), (y,))
        return Tiles(y, x.batch), x

    @recorded
    def backward_tiles(self, dy, x, workspace, *, need_dx=True):  # type: ignore[no-untyped-def]
        dx = workspace.array("dx", dy.data.shape, dy.data.dtype)
        dslope = workspace.array("slope", (self.size,), dy.data.dtype)
        workspace.kernels.compiled(swish_back, self.size, (x.data, self.params["slope"], dy.data), (dx, dslope))
        return Tiles(dx, dy.batch), {"slope": dslope}


@njit
def lion(dw, rates, decays, w, mean, first, last):  # type: ignore[no-untyped-def]
    """One step for some of the parameters."""
    lr, decay, scale = rates[LR], decays * rates[WEIGHT_DECAY], rates[SCALE]
    for k in range(first, last):
        g = dw[k] * scale
        w[k] -= lr * (np.sign(0.9 * mean[k] + 0.1 * g) + decay * w[k])
        mean[k] += 0.01 * (g - mean[k])


class Lion(Optimizer):
    """Chen et al., Symbolic Discovery of Optimization Algorithms, 2023."""

    names = ("mean",)

    @recorded
    def rule(self, kernels, w, dw, columns, *, decays):  # type: ignore[no-untyped-def]
        kernels.compiled(lion, w.size, (dw, self.rates, decays), (w, columns["mean"]))


@njit
def smoothed(z, labels, batch, divisor, dz, losses, correct, first, last):  # type: ignore[no-untyped-def]
    """Cross-entropy with a tenth of each label's weight spread over all classes, for some of the lanes."""
    classes = z.shape[1]
    for lane in range(first, last):
        tile, k = divmod(lane, z.shape[2])
        if lane >= batch:  # nobody's
            dz[tile, :, k] = 0
            continue
        best = np.argmax(z[tile, :, k])
        total = 0.0
        for i in range(classes):
            total += np.exp(z[tile, i, k] - z[tile, best, k])
        loss = 0.0
        for i in range(classes):
            log = z[tile, i, k] - z[tile, best, k] - np.log(total)
            share = 0.1 / classes + (0.9 if i == labels[lane] else 0.0)
            loss -= share * log
            dz[tile, i, k] = (np.exp(log) - share) / divisor
        losses[lane], correct[lane] = loss, best == labels[lane]


class Smoothed(Loss):
    """Szegedy et al., Rethinking the Inception Architecture, 2016, section 7."""

    @recorded
    def __call__(self, z, wanted, workspace, *, divisor=None):  # type: ignore[no-untyped-def]
        dz = workspace.array("dz", z.data.shape, z.data.dtype)
        losses = workspace.array("losses", wanted.data.shape, np.float64)
        correct = workspace.array("correct", wanted.data.shape, np.int32)
        totals = workspace.array("totals", (3,), np.float64, zero=True)
        given = z.data, wanted.data, z.batch, divisor or z.batch
        workspace.kernels.compiled(smoothed, len(wanted.data), given, (dz, losses, correct))
        workspace.kernels.tally(losses, correct, z.batch, totals)
        return Tiles(dz, z.batch)


def network() -> Network:
    rng = np.random.default_rng(0)
    hidden = SparseLinear(uniform_random(100, 784, sparsity=0.9, rng=rng), rng=rng)
    return Network([hidden, Swish(100), SparseLinear(dense(10, 100), rng=rng)])


def main() -> None:
    rng = np.random.default_rng(0)
    gradcheck(Swish(5), rng.standard_normal((19, 5)))
    gradcheck(Smoothed(), rng.standard_normal((19, 5)), labels=rng.integers(0, 5, 19))
    trainer = Trainer(network(), load("mnist-subset"), Lion(1e-3, weight_decay=0.1), epochs=6, loss=Smoothed())
    found = trainer.run() or {}
    print(f"test accuracy {found['test_accuracy']:.1%}")
    assert found["test_accuracy"] > 0.9


if __name__ == "__main__":
    main()
