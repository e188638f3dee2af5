"""A layer, an optimizer and a loss of one's own in plain NumPy: right on every device, and slower than kernels."""

import warnings

import numpy as np

from sparsecore import Network, SparseLinear, Trainer
from sparsecore.data import load
from sparsecore.gradcheck import gradcheck
from sparsecore.layers import ArrayLayer, register
from sparsecore.topology import dense, uniform_random
from sparsecore.training.optimizers import Optimizer


@register("numpy-swish")
class Swish(ArrayLayer):
    """y = x · σ(slope · x), with a slope for each feature."""

    undecayed = frozenset({"slope"})

    def __init__(self, size: int) -> None:
        self.size = size
        self.in_shape = self.out_shape = (size,)
        self.params = {"slope": np.ones(size, np.float32)}

    def forward_array(self, x, *, training):  # type: ignore[no-untyped-def]
        s = 1 / (1 + np.exp(-self.params["slope"] * x))
        return x * s, (x, s)

    def backward_array(self, dy, cache):  # type: ignore[no-untyped-def]
        x, s = cache
        slope = self.params["slope"]
        return dy * s * (1 + slope * x * (1 - s)), {"slope": (dy * x * x * s * (1 - s)).sum(axis=0)}


class Lion(Optimizer):
    """Chen et al., Symbolic Discovery of Optimization Algorithms, 2023."""

    names = ("mean",)

    def rule(self, kernels, w, dw, columns, *, decays):  # type: ignore[no-untyped-def]
        mean = columns["mean"]
        w -= self.lr * (np.sign(0.9 * mean + 0.1 * dw) + decays * self.weight_decay * w)
        mean += 0.01 * (dw - mean)


def smoothed(z, labels):  # type: ignore[no-untyped-def]
    """Mean cross-entropy with a tenth of each label's weight spread over all classes, and its gradient."""
    z = z - z.max(axis=1, keepdims=True)
    log = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    share = np.full_like(z, 0.1 / z.shape[1])
    share[np.arange(len(z)), labels] += 0.9
    return -(share * log).sum() / len(z), (np.exp(log) - share) / len(z)


def network() -> Network:
    rng = np.random.default_rng(0)
    hidden = SparseLinear(uniform_random(100, 784, sparsity=0.9, rng=rng), rng=rng)
    return Network([hidden, Swish(100), SparseLinear(dense(10, 100), rng=rng)])


def main() -> None:
    rng = np.random.default_rng(0)
    gradcheck(Swish(5), rng.standard_normal((19, 5)))
    gradcheck(smoothed, rng.standard_normal((19, 5)), labels=rng.integers(0, 5, 19))
    warnings.simplefilter("ignore")  # which says once for each that it is plain Python
    trainer = Trainer(network(), load("mnist-subset"), Lion(1e-3, weight_decay=0.1), epochs=6, loss=smoothed)
    found = trainer.run() or {}
    print(f"test accuracy {found['test_accuracy']:.1%}")
    assert found["test_accuracy"] > 0.9


if __name__ == "__main__":
    main()
