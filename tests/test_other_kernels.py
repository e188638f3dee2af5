"""The kernels around the sparse ones, packing, loss and update: against the oracle, NumPy, and numbers at their
limits."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.special import log_softmax, softmax
from sparsecore.kernels import reference
from sparsecore.kernels.cpu import launch
from sparsecore.kernels.cpu.ir.exponential import softmax_tile
from sparsecore.kernels.cpu.ir.vector import pointer
from sparsecore.kernels.cpu.launch import Launcher, Tape
from sparsecore.kernels.cpu.threads import Pool
from sparsecore.kernels.rates import (
    ADAM_RATES,
    BETA1,
    BETA2,
    CORRECTION1,
    CORRECTION2,
    EPS,
    LARGEST_NORM,
    LR,
    MOMENTUM,
    SCALE,
    SGD_RATES,
    STEPS,
    WEIGHT_DECAY,
)

from .kernel_checks import (
    LANES,
    POOLS,
    Fenced,
    Guarded,
    assert_close,
    assert_same_bits,
    assert_survives,
    machines,
)

ALONE = POOLS[0]
SEEDS = st.integers(0, 2**32)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def tiles_of(batch: int) -> int:
    return -(-batch // LANES)


# ------------------------------------------------------------------------------------------ packing


def check_packing(batch: int, features: int, dtype: Any, memory: Any, spare: int = 0) -> None:
    """Pack and unpack `features` of rows that have `spare` more, and compare with the oracle, exactly."""
    rng, launcher = np.random.default_rng(batch), Launcher(ALONE)
    rows = memory.put(rng.standard_normal((batch, features + spare)).astype(dtype))
    x = rows[:, :features]
    tiles, back = (memory.empty(shape, dtype) for shape in ((tiles_of(batch), features, LANES), x.shape))
    launcher.pack(x, tiles)
    launcher.unpack(tiles, back)
    memory.assert_intact()
    expected = np.empty_like(tiles)
    reference.pack(x, expected)
    assert np.array_equal(tiles, expected)
    assert np.array_equal(back, x)
    again = np.empty_like(back)
    reference.unpack(tiles, again)
    assert np.array_equal(again, x)


@dtypes
def test_packing_and_unpacking_every_small_batch(dtype):
    for batch, features in itertools.product(range(1, 36), range(1, 36)):
        check_packing(batch, features, dtype, Guarded(shift=batch % 3), spare=features % 2)


@dtypes
def test_packing_goes_by_places_and_leaves_other_lines_alone(dtype):
    rng, launcher = np.random.default_rng(5), Launcher(ALONE)
    for batch, features, spare in itertools.product((1, 15, 16, 17, 40), (1, 15, 16, 17, 50), (0, 3)):
        memory = Guarded(shift=batch % 3)
        x = memory.put(rng.standard_normal((batch, features)).astype(dtype))
        places = memory.put(rng.permutation(features + spare)[:features].astype(np.int32))
        shape = tiles_of(batch), features + spare, LANES
        tiles, back, expected = memory.empty(shape, dtype), memory.empty(x.shape, dtype), np.full(shape, 7, dtype)
        tiles[:] = 7
        launcher.pack(x, tiles, places)
        launcher.unpack(tiles, back, places)
        memory.assert_intact()
        reference.pack(x, expected, places)
        assert np.array_equal(tiles, expected)
        assert np.array_equal(expected[-1, places, (batch - 1) % LANES], x[-1])  # the oracle itself
        assert np.count_nonzero((expected == 7).all(axis=(0, 2))) == spare
        assert np.array_equal(back, x)
        again = np.empty_like(back)
        reference.unpack(tiles, again, places)
        assert np.array_equal(again, x)


@pytest.mark.parametrize("register_bytes", [16, 32, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_packing_moves_the_same_numbers_through_registers_of_any_width(register_bytes, dtype):
    """And unpacks them, the last samples of a tile too, and no others."""
    launcher, rng = Launcher(ALONE, register_bytes=register_bytes), np.random.default_rng(1)
    kind = np.dtype(np.uint32 if dtype is np.uint16 else dtype)
    whole = 2 * LANES if dtype is np.uint16 else LANES
    for batch, features in itertools.product((*range(1, whole + 2), 3 * whole), (16, 37)):
        memory = Guarded(shift=batch % 3)
        x = memory.put(rng.integers(0, 2**16, (batch, features)).astype(dtype))
        shape = -(-batch // whole), features, LANES
        tiles, back, expected = memory.empty(shape, kind), memory.empty(x.shape, dtype), np.empty(shape, kind)
        launcher.pack(x, tiles)
        launcher.unpack(tiles, back)
        memory.assert_intact()
        reference.pack(x, expected)
        assert np.array_equal(tiles, expected)
        assert np.array_equal(back, x)


@dtypes
def test_packing_tells_samples_from_what_lies_in_spare_lanes(dtype):
    """NaN in the last valid sample, which spare lanes stand in for while a block is transposed, stays in its own
    lane."""
    x = np.arange(17 * 18, dtype=dtype).reshape(17, 18)
    x[16] = np.nan
    out = np.empty((2, 18, LANES), dtype)
    Launcher(ALONE).pack(x, out)
    assert np.isnan(out[1, :, 0]).all()
    assert not out[1, :, 1:].any()


def check_pack_samples(batch: int, features: int, store_dtype: Any, dtype: Any, memory: Any) -> None:
    rng = np.random.default_rng(features)
    if store_dtype == np.uint8:
        values = rng.integers(0, 256, (batch + 9, features), np.uint8)
    else:
        values = rng.standard_normal((batch + 9, features)).astype(store_dtype)
    store, labels = memory.put(values), memory.put(rng.integers(0, 10, batch + 9, np.int32))
    order = memory.put(rng.permutation(batch + 9))
    at = memory.put(np.array([rng.integers(0, 10)]))
    scale, shift = (memory.put(rng.standard_normal(features).astype(dtype)) for _ in range(2))
    tiles = tiles_of(batch)
    out, out_labels = memory.empty((tiles, features, LANES), dtype), memory.empty((tiles * LANES,), np.int32)
    addresses = memory.empty((tiles * LANES,), np.int64)
    Launcher(ALONE).pack_samples(store, labels, order, at, scale, shift, out, out_labels, batch, addresses)
    memory.assert_intact()
    expected, magnitude = np.empty((2, *out.shape))
    expected_labels = np.empty_like(out_labels)
    reference.pack_samples(store, labels, order, at, scale, shift, expected, expected_labels, batch, addresses)
    positive = (abs(store.astype(float)), labels, order, at, abs(scale), abs(shift))
    reference.pack_samples(*positive, magnitude, np.empty_like(out_labels), batch, addresses)
    assert np.array_equal(out_labels, expected_labels)
    assert_close(out, expected, magnitude, 2)
    assert not np.delete(out.swapaxes(1, 2).reshape(-1, features), np.s_[:batch], axis=0).any()


@dtypes
@pytest.mark.parametrize("store_dtype", [np.uint8, np.float32])
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([0, 1, 3]))
@settings(max_examples=60)
def test_samples_are_gathered_normalised_and_packed(dtype, store_dtype, batch, features, shift):
    check_pack_samples(batch, features, store_dtype, dtype, Guarded(shift))


@pytest.mark.parametrize("store_dtype", [np.uint8, np.float32])
def test_a_feature_is_normalised_alike_wherever_it_stands(store_dtype):
    """Whole blocks of 16 features and the rest of them take different code, and give the same bits."""
    store = np.repeat(np.arange(32, dtype=store_dtype)[:, None] * 8, 31, axis=1)
    out, labels = np.empty((2, 31, LANES), np.float32), np.empty(32, np.int32)
    scale, shift = np.full(31, 1 / (255 * 0.3081), np.float32), np.full(31, -0.1307 / 0.3081, np.float32)
    at, addresses = np.zeros(1, np.int64), np.empty(32, np.int64)
    Launcher(ALONE).pack_samples(
        store, np.zeros(32, np.int32), np.arange(32), at, scale, shift, out, labels, 32, addresses
    )
    assert (out == out[:, :1]).all()


# ------------------------------------------------------------------------------------------ loss


def run_cross_entropy(kernels: Any, z: Any, labels: Any, batch: int, memory: Any) -> tuple[Any, Any, Any]:
    tiles = len(z)
    z, labels = memory.put(z), memory.put(labels)
    dz, scratch = memory.empty(z.shape, z.dtype), memory.empty((tiles, 2, LANES), z.dtype)
    losses, correct = memory.empty((tiles * LANES,), np.float64), memory.empty((tiles * LANES,), np.int32)
    kernels.cross_entropy(z, labels, batch, dz, losses, correct, scratch)
    memory.assert_intact()
    return dz, losses, correct


def check_cross_entropy(logits: Any, labels: Any, dtype: Any, register_bytes: int, memory: Any) -> None:
    """Compare with the oracle and with scipy, both in float64. Spare lanes hold NaN, which nobody must see."""
    batch, classes = logits.shape
    z = np.full((tiles_of(batch), classes, LANES), np.nan, dtype)
    spare_labels = np.full(len(z) * LANES, -1, np.int32)
    spare_labels[:batch] = labels
    for sample, row in enumerate(logits):
        z[sample // LANES, :, sample % LANES] = row
    launcher = Launcher(ALONE, register_bytes=register_bytes)
    dz, losses, correct = run_cross_entropy(launcher, z, spare_labels, batch, memory)
    oracle = run_cross_entropy(reference, z.astype(np.float64), spare_labels, batch, Guarded())
    # Sums of `classes` powers of error 1 ulp each; the logits' own difference is rounded once.
    assert_close(dz, oracle[0], 1 / batch, classes + 4)
    rounding = np.finfo(dtype).eps * (classes + 4)
    np.testing.assert_allclose(losses, oracle[1], rtol=1e-15, atol=rounding)
    assert np.array_equal(correct, oracle[2])
    assert not losses[batch:].any()
    exact = logits.astype(dtype).astype(np.float64)
    picked = np.arange(batch), labels
    with np.errstate(over="ignore"):
        log_probabilities = log_softmax(exact, 1)
    np.testing.assert_allclose(losses[:batch], -log_probabilities[picked], rtol=1e-15, atol=rounding)
    expected = softmax(exact, 1)
    expected[picked] -= 1
    flat = dz.swapaxes(1, 2).reshape(-1, classes)
    np.testing.assert_allclose(flat[:batch], expected / batch, rtol=0, atol=rounding / batch)
    assert not flat[batch:].any()
    finite = ~np.isnan(exact).any(1)
    assert np.array_equal(correct[:batch][finite], (exact.argmax(1) == labels)[finite])
    assert not correct[:batch][~finite].any()


LOGITS = (
    st.floats(-20, 20, width=32)
    | st.floats(-1e4, 1e4, width=32)
    | st.sampled_from([0.0, 1.0, 1.0, -1e4, 1e4, -87.0, 88.0, 3e38, -3e38, math.nan, 1e-45])
)


@machines
@given(st.integers(1, 40), st.integers(1, 12), st.data())
@settings(max_examples=40)
def test_cross_entropy_by_log_sum_exp(dtype, register_bytes, batch, classes, data):
    rows = st.lists(LOGITS, min_size=classes, max_size=classes)
    few = data.draw(st.lists(rows, min_size=1, max_size=4))
    logits = np.array([few[k % len(few)] for k in range(batch)])
    labels = np.random.default_rng(data.draw(SEEDS)).integers(0, classes, batch, np.int32)
    check_cross_entropy(logits, labels, dtype, register_bytes, Guarded(shift=batch % 3))


@machines
@pytest.mark.parametrize("divisor", [None, 1000])
@pytest.mark.parametrize("batch, features", [(1, 1), (16, 3), (37, 10), (0, 4)])
def test_squared_error_is_the_oracles(dtype, register_bytes, batch, features, divisor):
    rng, memory = np.random.default_rng(batch), Guarded(1)
    z, targets = rng.standard_normal((2, tiles_of(batch), features, LANES)).astype(dtype)
    if batch % LANES:
        z[-1, :, batch % LANES :] = targets[-1, :, batch % LANES :] = np.nan
    dz, losses = memory.empty(z.shape, dtype), memory.empty((len(z) * LANES,), np.float64)
    exact = np.empty(z.shape), np.empty(losses.shape)
    launcher = Launcher(ALONE, register_bytes=register_bytes)
    launcher.squared_error(memory.put(z), memory.put(targets), batch, dz, losses, divisor)
    memory.assert_intact()
    reference.squared_error(z, targets, batch, *exact, divisor)
    near = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(dz, exact[0], rtol=near, atol=near / max(batch, 1))
    np.testing.assert_allclose(losses, exact[1], rtol=10 * near)


@machines
def test_the_divisor_of_cross_entropy_scales_its_gradient_alone(dtype, register_bytes):
    launcher, z = Launcher(ALONE, register_bytes=register_bytes), np.linspace(-3, 3, 4 * LANES, dtype=dtype)
    z, labels = z.reshape(1, 4, LANES), np.arange(LANES, dtype=np.int32) % 4
    outcomes = []
    for divisor in (None, LANES, 4 * LANES):
        dz, losses, correct = np.empty_like(z), np.empty(LANES), np.empty(LANES, np.int32)
        launcher.cross_entropy(z, labels, LANES, dz, losses, correct, np.empty((1, 2, LANES), dtype), divisor)
        outcomes.append((dz, losses, correct))
    for got, expected in zip(outcomes[1], outcomes[0], strict=True):
        assert np.array_equal(got, expected)
    assert np.array_equal(4 * outcomes[2][0], outcomes[0][0]) and np.array_equal(outcomes[2][1], outcomes[0][1])


@machines
def test_cross_entropy_of_logits_at_their_limits(dtype, register_bytes):
    logits = np.array(
        [[1e4, -1e4, 0], [0, 0, 0], [5, 5, -5], [-1e4] * 3, [1e4, 1e4, 1e4], [np.nan, 0, 1], [0, np.nan, 0],
         [0, 1, np.nan], [-np.inf, 0, 0], [88, 87, -87], [3e38, -3e38, 3e38]]
    )  # fmt: skip
    for label in range(3):
        labels = np.full(len(logits), label, np.int32)
        check_cross_entropy(logits, labels, dtype, register_bytes, Guarded())


@machines
def test_the_first_of_equal_logits_is_the_answer(dtype, register_bytes):
    z, labels = np.ones((1, 3, LANES), dtype), np.array([0, 1, 2] + [0] * 13, np.int32)
    launcher = Launcher(ALONE, register_bytes=register_bytes)
    correct = run_cross_entropy(launcher, z, labels, 3, Guarded())[2]
    assert list(correct[:3]) == [1, 0, 0]


@pytest.mark.parametrize("register_bytes", [16, 32, 64])
def test_our_float32_exponential_is_within_one_ulp(register_bytes):
    """Measured over ten million arguments: 0.92 units in the last place. exp(−87) stands for all that is smaller."""
    width = register_bytes // 4

    @njit
    def run(z, out, peak, total):
        softmax_tile(width, pointer(z), len(z), pointer(out), pointer(peak), pointer(total))

    x = np.zeros((62_501, LANES), np.float32)  # the first line is the peak, 0
    x[1:] = -np.linspace(0, 87, 1_000_000, dtype=np.float32).reshape(-1, LANES)
    out, line = np.empty_like(x), np.empty((2, LANES), np.float32)
    run(x, out, line[0], line[1])
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(out - exact) / ulp) < 1
    assert (out[0] == 1).all()
    below = np.zeros((2, LANES), np.float32)
    below[1] = -np.geomspace(87, 3e38, LANES)
    run(below, out, line[0], line[1])
    assert (out[1] <= np.exp(np.float32(-87)) * (1 + 1e-6)).all()
    assert (line[1] == 1).all()


@given(st.integers(1, 300), SEEDS)
def test_tally_adds_to_what_is_there(batch, seed):
    rng = np.random.default_rng(seed)
    losses, correct = rng.standard_normal(batch + 5), rng.integers(0, 2, batch + 5, np.int32)
    totals, expected = np.array([[1.5, 2, 3], [1.5, 2, 3]])
    Launcher(ALONE).tally(losses, correct, batch, totals)
    reference.tally(losses, correct, batch, expected)
    assert np.array_equal(totals, expected)


# ------------------------------------------------------------------------------------------ update


@dtypes
@pytest.mark.parametrize("nesterov", [False, True])
@given(st.integers(1, 70), SEEDS, st.sampled_from([0, 1, 3]))
def test_sgd_with_momentum_and_weight_decay(dtype, nesterov, size, seed, shift):
    memory, rng = Guarded(shift), np.random.default_rng(seed)
    start = [rng.standard_normal(size).astype(dtype) for _ in range(3)]
    rates = np.zeros(SGD_RATES)
    rates[[LR, MOMENTUM, WEIGHT_DECAY, SCALE]] = rng.random(4)
    w, velocity = memory.empty((size,), dtype), memory.empty((size,), dtype)
    w[:], dw, velocity[:] = start[0], memory.put(start[1]), start[2]
    Launcher(ALONE).sgd(w, dw, velocity, rates, nesterov=nesterov)
    memory.assert_intact()
    exact = [a.astype(np.float64) for a in start]
    reference.sgd(*exact, rates, nesterov=nesterov)
    magnitude = [abs(a).astype(np.float64) for a in start]
    reference.sgd(*magnitude, np.where(np.arange(SGD_RATES) == LR, -rates, rates), nesterov=nesterov)
    assert_close(w, exact[0], magnitude[0], 10)
    assert_close(velocity, exact[2], magnitude[2], 6)


def test_sgd_without_decay_is_sgd_with_a_decay_of_zero():
    rng = np.random.default_rng(0)
    start, rates = rng.standard_normal((3, 100)), rng.random(SGD_RATES)
    (w, dw, velocity), (bare, _, bare_velocity) = start.copy(), start.copy()
    for nesterov in (False, True):
        Launcher(ALONE).sgd(bare, dw, bare_velocity, rates, nesterov=nesterov, decays=False)
        none = np.where(np.arange(SGD_RATES) == WEIGHT_DECAY, 0, rates)
        Launcher(ALONE).sgd(w, dw, velocity, none, nesterov=nesterov)
    assert np.array_equal(w, bare) and np.array_equal(velocity, bare_velocity)


def adams_rates(seed: int, decay: float = 0.1) -> Any:
    """Rates of Adam before its first step; the corrections are not there yet."""
    rates = np.full(ADAM_RATES, np.nan)
    rates[[LR, WEIGHT_DECAY, LARGEST_NORM, SCALE]] = 0.01, decay, np.inf, np.random.default_rng(seed).random()
    rates[[BETA1, BETA2, EPS, STEPS]] = 0.9, 0.999, 1e-8, 0
    return rates


def check_adam(dtype: Any, size: int, seed: int, decoupled: bool, decays: bool, memory: Any) -> None:
    """A few steps against the oracle's in float64, which begin each time where the kernel stands."""
    rng, expected_rates = np.random.default_rng(seed), adams_rates(seed)
    w, m, v = (memory.empty((size,), dtype) for _ in range(3))
    w[:], m[:], v[:] = rng.standard_normal(size), 0, 0
    rates = memory.empty((ADAM_RATES,), np.float64)
    rates[:] = expected_rates
    eps = float(np.finfo(dtype).eps)
    for _ in range(3):
        dw = memory.put(rng.standard_normal(size).astype(dtype))
        exact_w, exact_m, exact_v = (a.astype(np.float64) for a in (w, m, v))
        size_of_step = np.abs(exact_w) + rates[LR] * 10
        Launcher(ALONE).tick(rates)
        reference.tick(expected_rates)
        np.testing.assert_allclose(rates, expected_rates, rtol=1e-15)
        Launcher(ALONE).adam(w, dw, m, v, rates, decoupled=decoupled, decays=decays)
        reference.adam(exact_w, dw.astype(np.float64), exact_m, exact_v, rates, decoupled=decoupled, decays=decays)
        memory.assert_intact()
        assert_close(m, exact_m, np.abs(exact_m) + np.abs(dw) + np.abs(w), 6)
        np.testing.assert_allclose(v, exact_v, rtol=0, atol=16 * eps * float(np.max(exact_v, initial=0)))
        assert np.all(np.abs(w - exact_w) <= 40 * eps * size_of_step)


@dtypes
@pytest.mark.parametrize("decoupled", [False, True])
@given(st.integers(0, 100), SEEDS, st.booleans(), st.sampled_from([0, 1, 3]))
def test_adam_with_and_without_decoupled_decay(dtype, decoupled, size, seed, decays, shift):
    check_adam(dtype, size, seed, decoupled, decays, Guarded(shift))


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_pytorchs(decoupled, decay):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    w, m, v = rng.standard_normal(77), np.zeros(77), np.zeros(77)
    theirs = torch.nn.Parameter(torch.tensor(w))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind([theirs], lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
    rates, launcher = adams_rates(0, decay), Launcher(ALONE)
    rates[SCALE] = 1
    for _ in range(50):
        dw = rng.standard_normal(77)
        theirs.grad = torch.tensor(dw)
        optimizer.step()
        launcher.tick(rates)
        launcher.adam(w, dw, m, v, rates, decoupled=decoupled)
        np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-12, atol=1e-13)


def test_a_recorded_tick_counts_on():
    tape, rates, launcher = Tape(), adams_rates(0), Launcher(ALONE)
    Launcher(ALONE, tape).tick(rates)
    for step in range(1, 5):
        launcher.replay(tape)
        assert rates[STEPS] == step
        assert rates[CORRECTION1] == 1 - 0.9**step and rates[CORRECTION2] == 1 - 0.999**step


@dtypes
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_has_the_same_bits_however_it_is_cut(dtype, decoupled):
    """On 1, 2, 3 and 7 threads, and each number as it would be if it were alone."""
    rng = np.random.default_rng(0)
    start, rates = rng.random((4, 1003)).astype(dtype), adams_rates(0)
    Launcher(ALONE).tick(rates)

    def step(pool: Any, numbers: Any) -> Any:
        w, dw, m, v = numbers.copy()
        Launcher(pool).adam(w, dw, m, v, rates, decoupled=decoupled)
        return np.stack([w, m, v])

    expected = step(ALONE, start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "WORTH_CUTTING", 1)
        for pool in (*POOLS[1:], Pool(7)):
            assert np.array_equal(step(pool, start), expected)
    for k in range(0, 1003, 50):
        assert np.array_equal(step(ALONE, start[:, k : k + 1]), expected[:, k : k + 1])


@dtypes
@pytest.mark.parametrize("largest", [0.0, 1.0, 1e9, math.inf])
@given(st.integers(1, 70), SEEDS)
def test_norm_brings_gradients_down_to_the_largest_allowed(dtype, largest, size, seed):
    dw = np.random.default_rng(seed).standard_normal(size).astype(dtype)
    rates, expected = np.full((2, SGD_RATES), np.nan)
    rates[LARGEST_NORM] = expected[LARGEST_NORM] = largest
    Launcher(ALONE).norm(dw, rates)
    reference.norm(dw, expected)
    np.testing.assert_allclose(rates, expected, rtol=(size + 4) * np.finfo(np.float64).eps)
    assert np.linalg.norm(dw.astype(np.float64) * rates[SCALE]) <= largest * (1 + 1e-12)


@dtypes
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_never_passes_for_a_step(dtype, value):
    dw, w = np.array([1, value, 2], dtype), np.ones(3, dtype)
    rates = np.array([0.1, 0.0, 1.0, 1.0, 0.9])
    Launcher(ALONE).norm(dw, rates)
    Launcher(ALONE).sgd(w, dw, np.zeros(3, dtype), rates)
    assert np.isnan(w[1])


@dtypes
@pytest.mark.parametrize("index", [np.int32, np.int64])
@given(st.integers(0, 70) | st.tuples(st.integers(1, 40), st.integers(1, 20)), SEEDS, st.sampled_from([0, 1, 3]))
def test_reorder(dtype, index, shape, seed, shift):
    memory, rng, size = Guarded(shift), np.random.default_rng(seed), int(np.prod(shape))
    data = memory.put(rng.standard_normal(size).astype(dtype))
    perm = memory.put(rng.permutation(size).astype(index).reshape(shape))
    out, expected = memory.empty((size,), dtype), np.empty(size, dtype)
    Launcher(ALONE).reorder(data, perm, out)
    memory.assert_intact()
    reference.reorder(data, perm, expected)
    assert np.array_equal(out, expected)
    assert np.array_equal(out, data[perm.ravel()])


AWKWARD = np.array([1, -1, 0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45])


@dtypes
@given(st.integers(1, 5), st.integers(1, 5), SEEDS, st.sampled_from([0, 1, 3]))
def test_relu_and_its_mask(dtype, tiles, features, seed, shift):
    memory, rng = Guarded(shift), np.random.default_rng(seed)
    x, dy = (memory.put(rng.choice(AWKWARD, (tiles, features, LANES)).astype(dtype)) for _ in range(2))
    y, dx = memory.empty(x.shape, dtype), memory.empty(x.shape, dtype)
    expected = np.empty_like(x)
    Launcher(ALONE).relu(x, y)
    reference.relu(x, expected)
    assert np.array_equal(y, expected, equal_nan=True)
    assert np.array_equal(y, np.maximum(x, 0), equal_nan=True)
    Launcher(ALONE).mask(dy, y, dx)
    memory.assert_intact()
    reference.mask(dy, y, expected)
    assert np.array_equal(dx, expected, equal_nan=True)
    assert np.array_equal(dx, np.where(y > 0, dy, 0), equal_nan=True)


@dtypes
@given(st.integers(0, 3), st.integers(1, 40), SEEDS, st.sampled_from([0, 1, 3]))
def test_add(dtype, tiles, features, seed, shift):
    memory, shape = Guarded(shift), (tiles, features, LANES)
    numbers = np.random.default_rng(seed).standard_normal((3, *shape)).astype(dtype)
    numbers[0, :1, 0, 0] = np.nan
    a, b, y = map(memory.put, numbers)
    for options in ({}, {"relu": True}, {"mask": y}):
        out, expected = memory.empty(shape, dtype), np.empty(shape, dtype)
        Launcher(ALONE).add(a, b, out, **options)
        reference.add(a, b, expected, **options)
        memory.assert_intact()
        assert np.array_equal(out, expected, equal_nan=True)


@dtypes
@given(st.tuples(*[st.integers(1, 3)] * 4), st.integers(0, 2), st.booleans(), SEEDS)
def test_place_leaves_the_border_as_it_is(dtype, shape, border, masked, seed):
    tiles, channels, height, width = shape
    rng, memory = np.random.default_rng(seed), Guarded(shift=border)
    x, mask = (memory.put(rng.choice(AWKWARD, (*shape, LANES)).astype(dtype)) for _ in range(2))
    whole = memory.empty((tiles, channels, height + 2 * border, width + border, LANES), dtype)
    whole[...] = 7
    inner = whole[:, :, border : border + height, border:]
    expected, same = np.full_like(whole, 7), np.full_like(whole, 7)
    expected[:, :, border : border + height, border:] = np.where(mask > 0, x, 0) if masked else x
    Launcher(ALONE).place(x, inner, mask if masked else None)
    memory.assert_intact()
    assert np.array_equal(whole, expected, equal_nan=True)
    reference.place(x, same[:, :, border : border + height, border:], mask if masked else None)
    assert np.array_equal(same, expected, equal_nan=True)


# ------------------------------------------------------------------------------------------ bounds and threads


def run_between_fences(at_end: bool) -> None:
    rng = np.random.default_rng(0)
    for dtype, batch, features in itertools.product((np.float32, np.float64), (1, 15, 16, 17, 33), (1, 15, 16, 17, 40)):
        check_packing(batch, features, dtype, Fenced(at_end))
        for store_dtype in (np.uint8, np.float32):
            check_pack_samples(batch, features, store_dtype, dtype, Fenced(at_end))
        logits, labels = rng.standard_normal((batch, features)), rng.integers(0, features, batch, np.int32)
        for register_bytes in (16, 32, 64):
            check_cross_entropy(logits, labels, dtype, register_bytes, Fenced(at_end))
        memory, size = Fenced(at_end), batch * features
        w, dw, velocity, out = (memory.put(rng.standard_normal(size).astype(dtype)) for _ in range(4))
        rates, launcher = memory.put(np.ones(SGD_RATES)), Launcher(ALONE)
        launcher.norm(dw, rates)
        launcher.sgd(w, dw, velocity, rates)
        launcher.sgd(w, dw, velocity, rates, nesterov=True)
        launcher.adam(w, dw, velocity, out, memory.put(np.ones(ADAM_RATES)))
        launcher.tick(memory.put(np.ones(ADAM_RATES)))
        launcher.relu(w, out)
        launcher.mask(w, dw, out)
        launcher.clear_lanes(memory.put(rng.standard_normal((tiles_of(batch), features, LANES)).astype(dtype)), batch)
        for shape in ((size,), (batch, features)):
            launcher.reorder(w, memory.put(rng.permutation(size).astype(np.int32).reshape(shape)), out)
        images = memory.put(rng.standard_normal((2, 3, features, 2, LANES)).astype(dtype))
        launcher.place(images, memory.empty(images.shape, dtype), images)


@pytest.mark.skipif(sys.platform == "win32", reason="fences are POSIX's mprotect")
def test_nothing_is_read_or_written_beyond_an_array():
    assert_survives(
        "from tests.test_other_kernels import run_between_fences; "
        "[run_between_fences(at_end) for at_end in (True, False)]"
    )


@dtypes
@pytest.mark.parametrize("batch, features", [(1, 1), (17, 5), (70, 33), (200, 100)])
def test_every_kernel_gives_the_same_bits_on_any_number_of_threads(dtype, batch, features):
    rng, tiles = np.random.default_rng(batch), tiles_of(batch)
    x = rng.standard_normal((batch, features)).astype(dtype)
    store, labels = rng.integers(0, 256, (batch, features), np.uint8), rng.integers(0, features, batch, np.int32)
    start = rng.standard_normal((3, x.size)).astype(dtype)
    perm = rng.permutation(x.size)

    def call(launcher: Launcher) -> list[Any]:
        packed, normalised, dz = np.empty((3, tiles, features, LANES), dtype)
        unpacked, rectified, masked, reordered = (np.empty_like(x.ravel()) for _ in range(4))
        losses, correct, some_labels = np.empty(tiles * LANES), *np.empty((2, tiles * LANES), np.int32)
        addresses, scratch = np.empty(tiles * LANES, np.int64), np.empty((tiles, 2, LANES), dtype)
        totals, rates, (w, dw, velocity) = np.zeros(3), np.full(SGD_RATES, 0.1), start.copy()
        launcher.pack(x, packed)
        launcher.unpack(packed, unpacked.reshape(x.shape))
        launcher.pack_samples(
            store, labels, np.arange(batch)[::-1].copy(), np.zeros(1, np.int64), start[0, :features],
            start[1, :features], normalised, some_labels, batch, addresses,
        )  # fmt: skip
        launcher.cross_entropy(packed, some_labels, batch, dz, losses, correct, scratch)
        launcher.tally(losses, correct, batch, totals)
        launcher.norm(dw, rates)
        launcher.sgd(w, dw, velocity, rates)
        launcher.sgd(w, dw, velocity, rates, nesterov=True)
        launcher.relu(w, rectified)
        launcher.mask(dw, w, masked)
        launcher.reorder(w, perm, reordered)
        placed = np.zeros((tiles, features, 3, 3, LANES), dtype)
        images, mask = (np.repeat(a[:, :, None, None], 4, axis=3).reshape(tiles, features, 2, 2, LANES)
                        for a in (packed, dz))  # fmt: skip
        launcher.place(images, placed[:, :, 1:, :2], mask)
        return [
            packed, unpacked, normalised, some_labels, dz, losses, correct, totals, rates, w, velocity, rectified,
            masked, reordered, placed,
        ]  # fmt: skip

    assert_same_bits(call)
