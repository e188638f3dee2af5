"""A layer's step at fewer and fewer connections, and on two threads: `pytest --benchmark`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.scaling import SPARSITIES, dense_layers, layer, network_threads
from bench.timing import Entry

pytestmark = pytest.mark.benchmark(max_time=0.5, warmup=True, warmup_iterations=2, disable_gc=True)


@pytest.mark.parametrize("which", range(3), ids=["numpy batch last", "numpy batch first", "sparsecore"])
def test_dense_layer(which: int, small: bool, timed: Callable[[Entry], None]) -> None:
    size, batch = (96, 24) if small else (4096, 128)
    timed(dense_layers(size, batch, threads=1)[which])


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_layer(sparsity: float, small: bool, timed: Callable[[Entry], None]) -> None:
    size, batch = (96, 24) if small else (4096, 128)
    timed(layer("scaling", size, "random", sparsity, batch, threads=1))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_of_a_layer(threads: int, small: bool, timed: Callable[[Entry], None]) -> None:
    size, batch = (96, 24) if small else (4096, 1024)
    timed(layer("threads", size, "random", 0.9, batch, threads))


@pytest.mark.parametrize("which", range(4), ids=["random 1", "random 2", "radix 1", "radix 2"])
def test_threads_of_a_network(which: int, small: bool, timed: Callable[[Entry], None]) -> None:
    timed(network_threads("lenet300", 8 if small else 256)[which])
