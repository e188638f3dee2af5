"""Whole training steps, sparse between dense ones: `pytest --benchmark`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.engines import contenders
from bench.problem import MODELS, SPARSITIES, training_problem
from bench.steps import entries_of, networks
from bench.timing import Entry

pytestmark = pytest.mark.benchmark(max_time=0.5, warmup=True, warmup_iterations=2, disable_gc=True)

WAYS = [("numpy-hand", "batch last"), ("numpy-hand", "batch first"), ("sparsecore", "")]
CASES = [
    (way, topology, sparsity)
    for topology, sparsity in networks(SPARSITIES)
    for way in WAYS
    if topology == "dense" or way[0] == "sparsecore"
]


@pytest.mark.parametrize(("way", "topology", "sparsity"), CASES)
@pytest.mark.parametrize("batch", [32, 128, 1024])
def test_step(
    way: tuple[str, str], topology: str, sparsity: float, batch: int, small: bool, timed: Callable[[Entry], None]
) -> None:
    problem = training_problem(MODELS["lenet300"], topology, sparsity, 8 if small else batch)
    among = [each for each in contenders("step", 1) if (each.engine, each.variant) == way]
    (entry,) = entries_of(problem, "lenet300", topology, sparsity, among, 1)
    timed(entry)
