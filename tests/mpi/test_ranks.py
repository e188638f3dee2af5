"""Ranks that share a batch come to what one process does that has all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .given import needs_mpi, started
from .job import BATCH, CASES, EPOCHS, STEPS

pytestmark = needs_mpi
ALONE = ("-m", "mpi4py")
"""With these words a rank that fails ends the job."""
TOGETHER = [name for name in CASES if name != "local norms" and "bfloat16" not in name]


@pytest.fixture(scope="module")
def came_to(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, Any]]:
    """What each case came to, by the number of ranks, the rank and the case; of two ranks twice."""
    found = {}
    for ranks, again in ((1, 0), (2, 0), (2, 1), (3, 0)):
        folder = tmp_path_factory.mktemp(f"of {ranks}")
        done = started(ranks, *ALONE[: 2 * (ranks > 1)], "-m", "tests.mpi.job", str(folder), *CASES)
        assert done.returncode == 0, done.stdout + done.stderr
        for name in CASES:
            for rank in range(ranks):
                with np.load(folder / f"{name}, rank {rank}.npz") as file:
                    found[ranks, again, rank, name] = dict(file)
    return found


def same_bits(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[key].tobytes() == other[key].tobytes() for key in one)


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("ranks", (2, 3))
def test_ranks_come_to_what_one_process_does(came_to: dict[Any, Any], name: str, ranks: int) -> None:
    alone, shared = came_to[1, 0, 0, name], came_to[ranks, 0, 0, name]
    assert STEPS * EPOCHS >= 50
    for key, expected in alone.items():
        if key.startswith("indices"):
            np.testing.assert_array_equal(shared[key], expected)
        else:
            np.testing.assert_allclose(shared[key], expected, rtol=1e-9, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ranks", (2, 3))
def test_all_ranks_have_the_same_bits(came_to: dict[Any, Any], name: str, ranks: int) -> None:
    for rank in range(1, ranks):
        assert same_bits(came_to[ranks, 0, rank, name], came_to[ranks, 0, 0, name])


@pytest.mark.parametrize("name", CASES)
def test_runs_on_as_many_ranks_have_the_same_bits(came_to: dict[Any, Any], name: str) -> None:
    assert same_bits(came_to[2, 0, 0, name], came_to[2, 1, 0, name])


@pytest.mark.parametrize("name", ("dropout and norms", "augmented residual", "own layer and loss"))
def test_what_is_handed_to_sums_is_each_gradient_once(came_to: dict[Any, Any], name: str) -> None:
    trained = CASES[name].network().params.size
    found = came_to[3, 0, 0, name]
    assert found["elements"] == trained * found["steps"]


def test_local_norms_are_others(came_to: dict[Any, Any]) -> None:
    """So that the promise above is one that could be broken."""
    alone, shared = came_to[1, 0, 0, "local norms"], came_to[2, 0, 0, "local norms"]
    assert np.abs(alone["values"] - shared["values"]).max() > 1e-3
    assert np.isfinite(shared["values"]).all() and BATCH % 2 == 0


@pytest.mark.parametrize("name", ("cut", "cut, apart"))
@pytest.mark.parametrize("ranks", (2, 3))
def test_bits_do_not_depend_on_how_sums_are_shared_out(came_to: dict[Any, Any], name: str, ranks: int) -> None:
    assert same_bits(came_to[ranks, 0, 0, name], came_to[ranks, 0, 0, "whole"])
