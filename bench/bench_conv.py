"""Steps of LeNet-5, and one wide convolution forward and backward, sparse between dense ones: `pytest --benchmark`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import conv
from bench.conv_problem import WIDE, WIDE_BATCH, lenet5_problem
from bench.engines import conv_contenders
from bench.problem import SPARSITIES
from bench.steps import entries_of, networks
from bench.timing import Entry

pytestmark = pytest.mark.benchmark(max_time=0.5, warmup=True, warmup_iterations=1, disable_gc=True)


@pytest.mark.parametrize(("topology", "sparsity"), networks(SPARSITIES, "lenet5"))
def test_step(topology: str, sparsity: float, small: bool, timed: Callable[[Entry], None]) -> None:
    problem = lenet5_problem(topology, sparsity, 8 if small else 128)
    (entry,) = entries_of(problem, "lenet5", topology, sparsity, conv_contenders("step", 1)[:1], 1)
    timed(entry)


@pytest.mark.parametrize(("topology", "sparsity"), conv.layers(SPARSITIES, WIDE))
def test_layer(topology: str, sparsity: float, small: bool, timed: Callable[[Entry], None]) -> None:
    batch = 1 if small else WIDE_BATCH
    (entry,) = conv.entries_of(WIDE, topology, sparsity, batch, conv_contenders("layer", 1)[:1], 1)
    timed(entry)
