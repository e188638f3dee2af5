"""Small patterns, layers, batches and stores that several tests share, and ways to look into them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.relu import ReLU
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import LANES, Tiles, tiles_of
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import uniform_random
from sparsecore.topology.radix import radix_layer

Array = NDArray[Any]

FORMATS = ("csr", "coo")
BATCHES = (1, 5, 16, 33)


def numbers(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float64) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def pattern_of(matrix: Any) -> SparsityPattern:
    return SparsityPattern.from_dense(np.asarray(matrix, np.float64))[0]


def with_empty_rows_and_columns() -> SparsityPattern:
    kept = np.random.default_rng(1).random((13, 19)) < 0.3
    kept[[0, 4, 12]], kept[:, [0, 7, 18]] = False, False
    return pattern_of(kept)


PATTERNS = {
    "empty rows and columns": with_empty_rows_and_columns(),
    "no connections": pattern_of(np.zeros((3, 4))),
    "one connection": pattern_of([[0, 0, 1], [0, 0, 0]]),
    "one by one": pattern_of([[1]]),
    "one row": pattern_of(np.arange(37)[None, :] % 3),
    "one column": pattern_of(np.arange(37)[:, None] % 3),
    "full": SparsityPattern.full((7, 21)),
    "radix": radix_layer(3, 1, 12, 3, 5),
    "random": uniform_random(29, 50, 0.6, np.random.default_rng(2)),
}


def linear(pattern: SparsityPattern, *, seed: int = 0, dtype: Any = np.float64, **options: Any) -> SparseLinear:
    """A layer with random values, and with biases that keep every neuron off a ReLU's kink."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.standard_normal(pattern.nnz), rng.standard_normal(pattern.shape[0])
    return SparseLinear(pattern, weight, bias, dtype=dtype, **options)


def matrix_of(layer: SparseLinear) -> Array:
    return layer.to_scipy().toarray().astype(np.float64)


def network(sizes: tuple[int, ...] = (20, 12, 9, 5), *, seed: int = 0, dtype: Any = np.float32) -> Network:
    """Sparse layers with fused ReLUs, then a dense head without."""
    layers = [
        linear(uniform_random(out, into, 0.5, np.random.default_rng(seed + k)), seed=seed + k, dtype=dtype, relu=True)
        for k, (into, out) in enumerate(itertools.pairwise(sizes[:-1]))
    ]
    head = linear(SparsityPattern.full((sizes[-1], sizes[-2])), seed=seed + len(sizes), dtype=dtype)
    return Network([*layers, head])


def store(
    samples: int = 70,
    features: int = 20,
    classes: int = 5,
    *,
    kind: Any = np.uint8,
    dtype: Any = np.float32,
    seed: int = 0,
) -> Batches:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (samples, features)).astype(kind)
    y = rng.integers(0, classes, samples, dtype=np.int32)
    return Batches(Split(x, y), (features,), [0.3], [0.25 if kind == np.uint8 else 70.0], cpu(), dtype)


def tiled(x: Any, padding: float = 0.0, **flags: Any) -> Tiles:
    """Ordinary samples as tiles, sample by sample; lanes past the batch hold `padding`."""
    x = np.asarray(x)
    data = np.full((tiles_of(len(x)), *x.shape[1:], LANES), padding, x.dtype)
    for sample, values in enumerate(x):
        data[sample // LANES, ..., sample % LANES] = values
    return Tiles(data, len(x), **flags)


def untiled(tiles: Tiles) -> Array:
    return np.array([tiles.data[sample // LANES, ..., sample % LANES] for sample in range(tiles.batch)])


def refused(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    """The call raises exactly this, in one line."""
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message and "\n" not in message


class Counting:
    """Kernels that run, and count how often each was called."""

    def __init__(self) -> None:
        self._kernels = cpu().launcher()
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._kernels, name)

        def counted(*arguments: Any, **options: Any) -> None:
            self.calls.append(name + (" with mask" if options.get("mask") is not None else ""))
            kernel(*arguments, **options)

        return counted


def relu(shape: int) -> ReLU:
    return ReLU((shape,))
