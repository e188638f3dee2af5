"""Layers of one's own by composing layers: a function that makes a block, and a class that holds layers."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from sparsecore import Layer, Network, SparseLinear, Trainer, load, save
from sparsecore.data import load as load_data
from sparsecore.gradcheck import gradcheck
from sparsecore.layers import Residual, Sequential, register
from sparsecore.layers.call import backward_through, forward_through
from sparsecore.runtime.recording import recorded
from sparsecore.runtime.tiles import Tiles
from sparsecore.topology import dense, uniform_random
from sparsecore.training.optimizers import Adam


def block(size: int, rng: np.random.Generator) -> Layer:
    """A block is a function: a file that holds one needs no name for it."""
    first, second = (uniform_random(size, size, sparsity=0.9, rng=rng) for _ in range(2))
    return Residual(Sequential([SparseLinear(first, relu=True, rng=rng), SparseLinear(second, rng=rng)]), relu=True)


@njit
def product(a, b, y, first, last):  # type: ignore[no-untyped-def]
    for tile in range(first, last):
        y[tile] = a[tile] * b[tile]


@register("product")
class Product(Layer):
    """y = main(x) · gate(x), as of a gated linear unit."""

    def __init__(self, main: Layer, gate: Layer) -> None:
        self.params = {}
        self.main, self.gate = main, gate
        self.children = {"main": main, "gate": gate}
        self.in_shape, self.out_shape = main.in_shape, main.out_shape

    @recorded
    def forward_tiles(self, x, workspace):  # type: ignore[no-untyped-def]
        a, main = forward_through(self.main, x, workspace.child("main"))
        b, gate = forward_through(self.gate, x, workspace.child("gate"))
        y = workspace.array("y", a.data.shape, a.data.dtype)
        workspace.kernels.compiled(product, len(y), (a.data, b.data), (y,))
        return Tiles(y, x.batch), (a, b, main, gate)

    @recorded
    def backward_tiles(self, dy, cache, workspace, *, need_dx=True):  # type: ignore[no-untyped-def]
        a, b, main, gate = cache
        da, db = (workspace.array(name, dy.data.shape, dy.data.dtype) for name in ("da", "db"))
        workspace.kernels.compiled(product, len(da), (dy.data, b.data), (da,))
        workspace.kernels.compiled(product, len(db), (dy.data, a.data), (db,))
        grads: dict[str, Any] = {}
        ways: list[Any] = []
        for name, layer, slope, own in (("main", self.main, da, main), ("gate", self.gate, db, gate)):
            here = workspace.child(name)
            back, found = backward_through(layer, Tiles(slope, dy.batch), own, here, need_dx=need_dx)
            grads |= {f"{name}.{key}": array for key, array in found.items()}
            ways.append(back)
        if not need_dx:
            return None, grads
        dx = workspace.array("dx", ways[0].data.shape, dy.data.dtype)
        workspace.kernels.add(ways[0].data, ways[1].data, dx)
        return Tiles(dx, dy.batch), grads


def gated(outputs: int, inputs: int, rng: np.random.Generator) -> Product:
    return Product(*(SparseLinear(uniform_random(outputs, inputs, sparsity=0.9, rng=rng), rng=rng) for _ in range(2)))


def main() -> None:
    rng = np.random.default_rng(0)
    gradcheck(gated(6, 8, rng), rng.standard_normal((19, 8)))
    network = Network([gated(100, 784, rng), block(100, rng), SparseLinear(dense(10, 100), rng=rng)])
    digits = load_data("mnist-subset")
    trainer = Trainer(network, digits, Adam(3e-3), epochs=6)
    found = trainer.run() or {}
    print(f"test accuracy {found['test_accuracy']:.1%}")
    assert found["test_accuracy"] > 0.9
    with tempfile.TemporaryDirectory() as folder:
        save(network, Path(folder) / "gated.safetensors")
        again = load(Path(folder) / "gated.safetensors")
    x = digits.test.x[:100]
    assert np.array_equal(again.logits(x), network.logits(x))


if __name__ == "__main__":
    main()
