"""Initial values: their distribution, by each neuron's own fan-in."""

import math

import numpy as np
import pytest
import scipy.stats

from sparsecore.layers.initial import initial_values
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import uniform_random


def generator(seed=0):
    return np.random.default_rng(seed)


def uneven_pattern():
    """Fan-ins 0, 1, 4, 400 and 40,000."""
    fan_in = np.array([0, 1, 4, 400, 40_000])
    return SparsityPattern(
        (5, 50_000), np.concatenate([[0], np.cumsum(fan_in)]), np.concatenate([*map(np.arange, fan_in)])
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_row_is_scaled_by_its_own_fan_in(dtype):
    pattern = uneven_pattern()
    data = initial_values(pattern, generator(), dtype)
    assert data.dtype == dtype and data.shape == (pattern.nnz,) and data.flags.writeable
    standard = data * np.sqrt(np.repeat(pattern.fan_in, pattern.fan_in) / 2)
    assert np.allclose(standard, generator().standard_normal(pattern.nnz, dtype=dtype), rtol=1e-5)
    for row in (3, 4):
        values = standard[pattern.indptr[row] : pattern.indptr[row + 1]]
        assert scipy.stats.kstest(values, "norm").pvalue > 1e-3


def test_a_layer_keeps_the_scale_of_its_signals():
    """Half of standard normal inputs zeroed, as by ReLU: outputs of variance one, whatever the fan-ins (He's claim)."""
    pattern = uniform_random(2000, 3000, 0.9, generator(1))
    weights = pattern.to_scipy(initial_values(pattern, generator(2)))
    outputs = weights @ np.maximum(generator(3).standard_normal((3000, 50)), 0)
    assert outputs.var() == pytest.approx(1.0, rel=0.05)


def test_gain_scales_and_the_seed_decides():
    pattern = uneven_pattern()
    base = initial_values(pattern, generator(), np.float64)
    assert np.array_equal(base, initial_values(pattern, generator(), np.float64))
    assert np.allclose(initial_values(pattern, generator(), np.float64, gain=1.0), base / math.sqrt(2))
    assert not np.array_equal(base, initial_values(pattern, generator(1), np.float64))


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3), (3, 3)])
def test_patterns_without_connections(shape):
    empty = SparsityPattern(shape, np.zeros(shape[0] + 1, dtype=int), [])
    assert initial_values(empty, generator()).shape == (0,)


def test_wrong_arguments_are_refused():
    pattern = SparsityPattern.full((2, 3))
    for dtype in (np.float16, np.int32, np.complex64, bool):
        with pytest.raises(TypeError, match="dtype must be float32 or float64, got"):
            initial_values(pattern, generator(), dtype)
    for gain in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="gain must be positive and finite"):
            initial_values(pattern, generator(), gain=gain)
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator"):
        initial_values(pattern, 0)
