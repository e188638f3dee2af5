"""Random, expander and dense layers: exact counts, balanced degrees, reproducibility, and spectral gaps."""

import math
import pickle
import time
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore import topology
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, expander, radix, spectral_gap, uniform_random

sides = st.integers(1, 40)
sparsities = st.floats(0, 1, exclude_max=True)


def generator(seed=0):
    return np.random.default_rng(seed)


def assert_valid(pattern, shape):
    assert pattern.shape == shape
    assert pattern == SparsityPattern(shape, pattern.indptr, pattern.indices)


def ramanujan(pattern):
    """What a large random biregular graph of these degrees comes to: (√(d - 1) + √(c - 1)) / √(d·c)."""
    d, c = pattern.fan_in.mean(), pattern.fan_out.mean()
    return (math.sqrt(d - 1) + math.sqrt(max(c - 1, 0))) / math.sqrt(d * c)


def test_radix_nets_are_topologies_too():
    assert topology.radix_net is radix.radix_net
    assert topology.fit_radix_net is radix.fit_radix_net
    assert topology.radix_layer is radix.radix_layer


def test_dense_is_full():
    assert dense(3, 5) == SparsityPattern.full((3, 5)) and dense(3, 5).is_full


# -- uniform -----------------------------------------------------------------------------------------------------------


@given(sides, sides, sparsities, st.integers(0, 2**32 - 1))
def test_uniform_random_keeps_exactly_the_count_asked_for(out_features, in_features, sparsity, seed):
    pattern = uniform_random(out_features, in_features, sparsity, generator(seed))
    assert_valid(pattern, (out_features, in_features))
    assert pattern.nnz == round((1 - sparsity) * out_features * in_features)


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
def test_uniform_random_favours_no_connection_set(sparsity):
    out_features, in_features, draws = 2, 3, 4000
    rng = generator(7)
    counts: dict[bytes, int] = {}
    for _ in range(draws):
        key = pickle.dumps(uniform_random(out_features, in_features, sparsity, rng))
        counts[key] = counts.get(key, 0) + 1
    sets = math.comb(6, round((1 - sparsity) * 6))
    assert len(counts) == sets
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_a_million_square_layer_is_drawn_in_seconds_and_without_its_dense_size():
    tracemalloc.start()
    began = time.perf_counter()
    pattern = uniform_random(1_000_000, 1_000_000, 1 - 1e-5, generator())
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pattern.nnz == 10_000_000
    assert seconds < 15
    assert peak < 50 * pattern.nnz


@pytest.mark.parametrize("make", [uniform_random, expander])
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_layers_without_rows_or_columns(make, shape):
    assert make(*shape, 0.5, rng=generator()).nnz == 0
    assert expander(*shape, 0.5, "bernoulli", generator()).nnz == 0
    assert expander(*shape, 0.5, "explicit").nnz == 0


# -- expanders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fixed", "explicit"])
@given(sides, sides, sparsities, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_regular_expanders_have_one_fan_in_and_balanced_fan_outs(kind, out_features, in_features, sparsity, seed):
    pattern = expander(out_features, in_features, sparsity, kind, generator(seed))
    assert_valid(pattern, (out_features, in_features))
    fan_in = max(1, round((1 - sparsity) * in_features))
    assert (pattern.fan_in == fan_in).all()
    assert pattern.fan_out.max() - pattern.fan_out.min() <= 1
    assert pattern.fan_out.min() == out_features * fan_in // in_features


def test_bernoulli_keeps_each_connection_independently():
    rng, out_features, in_features = generator(3), 3, 4
    draws = np.array(
        [expander(out_features, in_features, 0.7, "bernoulli", rng).to_scipy().toarray().ravel() for _ in range(6000)]
    )
    standard_error = math.sqrt(0.3 * 0.7 / len(draws))
    assert np.abs(draws.mean(axis=0) - 0.3).max() < 5 * standard_error
    correlations = np.corrcoef(draws.T) - np.eye(12)
    assert np.abs(correlations).max() < 5 / math.sqrt(len(draws))
    counts = np.bincount(draws.sum(axis=1).astype(int), minlength=13)
    expected = scipy.stats.binom.pmf(np.arange(13), 12, 0.3) * len(draws)
    common = expected > 5
    assert ((counts - expected)[common] ** 2 / expected[common]).sum() < scipy.stats.chi2.ppf(0.999, common.sum())


def test_fixed_fan_in_favours_no_connection():
    rng = generator(5)
    mean = np.mean([expander(5, 7, 0.6, "fixed", rng).to_scipy().toarray() for _ in range(6000)], axis=0)
    assert np.abs(mean - 3 / 7).max() < 5 * math.sqrt(3 / 7 * 4 / 7 / 6000)


@pytest.mark.parametrize("kind", ["fixed", "bernoulli"])
def test_the_seed_decides(kind):
    one, same, other = (expander(30, 50, 0.8, kind, generator(seed)) for seed in (1, 1, 2))
    assert one == same and one != other


def test_patterns_of_a_seed_are_pinned():
    """On every platform: a change here changes what an old configuration trains."""
    for pattern, indptr, indices in [
        (uniform_random(3, 5, 0.6, generator()), [0, 2, 3, 6], [1, 4, 3, 0, 3, 4]),
        (expander(3, 5, 0.6, "fixed", generator()), [0, 2, 4, 6], [2, 4, 0, 3, 1, 4]),
        (expander(3, 5, 0.6, "bernoulli", generator()), [0, 3, 6, 7], [0, 2, 4, 0, 2, 4, 3]),
    ]:
        assert pattern.indptr.tolist() == indptr and pattern.indices.tolist() == indices


def test_the_explicit_expander_is_its_formula():
    """Blocks of two of the orders (t + 1)/x - t² modulo 7, of which those below 6 are nodes."""
    inverse = [0, 1, 4, 5, 2, 3, 6]
    assert all(x * inverse[x] % 7 == 1 for x in range(1, 7))
    orders = [[node for x in range(7) if (node := ((t + 1) * inverse[x] - t * t) % 7) < 6] for t in range(2)]
    rows = [set(orders[t][begin : begin + 2]) for t in range(2) for begin in (0, 2, 4)]
    matrix = expander(6, 6, 4 / 6, "explicit").to_scipy().toarray()
    assert [set(np.flatnonzero(row).tolist()) for row in matrix] == rows
    assert expander(6, 6, 4 / 6, "explicit", generator(1)) == expander(6, 6, 4 / 6, "explicit")


@pytest.mark.parametrize("kind", ["fixed", "explicit"])
@pytest.mark.parametrize(
    ("out_features", "in_features", "sparsity"),
    [
        (300, 784, 0.9),
        (300, 784, 0.99),
        (100, 300, 0.9),
        (3000, 784, 0.9),
        (100, 3000, 0.9),
        (500, 800, 0.5),
        (1000, 1000, 0.99),
        (2048, 2048, 0.997),
    ],
)
def test_regular_expanders_expand_as_well_as_random_regular_graphs(kind, out_features, in_features, sparsity):
    pattern = expander(out_features, in_features, sparsity, kind, generator())
    assert spectral_gap(pattern).ratio < 1.1 * ramanujan(pattern)


@pytest.mark.parametrize("make", [uniform_random, expander])
@pytest.mark.parametrize("sparsity", [1.0, -0.1, math.nan, math.inf, "0.9", None, 90])
def test_a_sparsity_outside_its_range_is_refused(make, sparsity):
    with pytest.raises(ValueError, match="must be at least 0 and below 1, got") as caught:
        make(3, 4, sparsity, rng=generator())
    assert "\n" not in str(caught.value)


def test_other_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="kind must be one of fixed, bernoulli, explicit, got 'margulis'"):
        expander(3, 4, 0.5, "margulis", generator())
    for rng in (None, 0, np.random.RandomState(0)):
        with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator"):
            expander(3, 4, 0.5, rng=rng)
        with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator"):
            uniform_random(3, 4, 0.5, rng)
    with pytest.raises(ValueError, match="in_features must be at least 0"):
        uniform_random(3, -4, 0.5, generator())
    with pytest.raises(TypeError, match="out_features must be an integer"):
        expander(3.0, 4, 0.5, "explicit")
    with pytest.raises(ValueError, match="too large to draw from"):
        uniform_random(2**40, 2**40, 0.999, generator())


# -- spectral gaps -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(0, 12), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_spectral_gap_of_small_layers(out_features, in_features, sparsity, seed):
    pattern = uniform_random(out_features, in_features, sparsity, generator(seed))
    expected = np.zeros(2)
    singular = np.linalg.svd(pattern.to_scipy(np.ones(pattern.nnz)).toarray(), compute_uv=False)[:2]
    expected[: singular.size] = singular
    measured = spectral_gap(pattern)
    assert measured == pytest.approx(tuple(expected), abs=1e-6)
    assert measured.gap == pytest.approx(expected[0] - expected[1], abs=1e-6)
    assert measured.ratio == (pytest.approx(expected[1] / expected[0], abs=1e-6) if expected[0] else 1.0)


@pytest.mark.parametrize(
    "pattern",
    [
        uniform_random(300, 500, 0.95, generator(0)),
        uniform_random(600, 400, 0.99, generator(1)),
        expander(400, 400, 0.95, "explicit"),
        dense(300, 400),
    ],
    ids=repr,
)
def test_spectral_gap_of_larger_layers(pattern):
    expected = np.linalg.svd(pattern.to_scipy(np.ones(pattern.nnz)).toarray(), compute_uv=False)[:2]
    assert spectral_gap(pattern) == pytest.approx(tuple(expected), abs=1e-4)


def test_spectral_gap_sees_a_repeated_value():
    """600 separate connections, and a RadiX layer in two halves that are not connected."""
    apart, _ = SparsityPattern.from_dense(np.eye(600))
    assert spectral_gap(apart) == pytest.approx((1.0, 1.0))
    halves = radix.radix_layer(300, 2, 600, 1, 1)
    measured = spectral_gap(halves)
    assert measured.sigma1 == pytest.approx(300.0) and measured.ratio == pytest.approx(1.0)
