"""Stores: normalisation, batches of every size, the order of samples, and what must not reach the packing kernel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import LANES
from sparsecore.runtime.workspace import Workspace

from .small import store, untiled


def packed(data, start, batch, workspace=None):
    """The samples and labels of a batch, taken out of their lanes."""
    data.seek(start, batch)
    x, labels = data.pack(workspace or Workspace())
    assert labels.batch == x.batch == batch
    return untiled(x).reshape(batch, -1) if batch else np.empty((0, x.features)), labels.data[:batch].copy()


def make(x, y=None, shape=None, mean=(0.5,), std=(0.25,), dtype=np.float32):
    y = np.zeros(len(x), np.int32) if y is None else np.asarray(y, np.int32)
    return Batches(Split(x, y), shape or (x.shape[1],), mean, std, cpu(), dtype)


# ---------------------------------------------------------------------------------------------- packing


@given(
    features=st.integers(1, 50),
    batch=st.integers(0, 70),
    start=st.integers(0, 30),
    kind=st.sampled_from([np.uint8, np.float32]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_batches_are_the_samples_of_the_order_normalised(features, batch, start, kind, dtype, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (100, features)).astype(kind) / (1 if kind == np.uint8 else np.float32(7))
    y = rng.integers(0, 10, 100).astype(np.int32)
    data = make(x.astype(kind), y, mean=(0.4,), std=(0.3,), dtype=dtype)
    data.shuffle(seed, 3)
    order = data.order[start : start + batch]
    got, labels = packed(data, start, batch)
    unit = 255.0 if kind == np.uint8 else 1.0
    assert got.dtype == dtype or batch == 0
    np.testing.assert_allclose(got, (x.astype(np.float64)[order] / unit - 0.4) / 0.3, rtol=1e-5, atol=1e-5)
    assert np.array_equal(labels, y[order])


def test_float64_tiles_are_normalised_in_float64():
    x = np.random.default_rng(0).integers(0, 256, (20, 33), dtype=np.uint8)
    got, _ = packed(make(x, dtype=np.float64), 0, 20)
    np.testing.assert_allclose(got, (x / 255 - 0.5) / 0.25, rtol=1e-13, atol=1e-13)
    exact = x.astype(np.float32)
    got, _ = packed(make(exact, mean=(100.0,), std=(50.0,), dtype=np.float64), 0, 20)
    np.testing.assert_allclose(got, (x - 100.0) / 50.0, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(3, 2, 5), (30,)])
def test_channels_have_means_of_their_own(shape):
    x = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]
    data = make(x, shape=shape, mean=mean, std=std)
    data.seek(0, 20)
    tiles, _ = data.pack(Workspace())
    assert tiles.data.shape == (2, *shape, LANES)
    wanted = (x.reshape(20, 3, 10) / 255 - np.reshape(mean, (3, 1))) / np.reshape(std, (3, 1))
    np.testing.assert_allclose(untiled(tiles).reshape(20, 30), wanted.reshape(20, 30), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 5, 15, 17, 31])
def test_lanes_past_the_batch_hold_zeros_and_no_label(batch):
    data, workspace = store(), Workspace()
    data.seek(0, 70)
    x, labels = data.pack(workspace)
    x.data.fill(np.nan)
    data.seek(3, batch)
    x, labels = data.pack(workspace)
    assert not x.data[-1, :, (batch - 1) % LANES + 1 :].any()
    assert (labels.data[batch:] == -1).all() and labels.classes == 5


def test_buffers_are_reused():
    data, workspace = store(), Workspace()
    data.seek(0, 20)
    x, labels = data.pack(workspace)
    data.seek(20, 20)
    again, labels_again = data.pack(workspace)
    assert again.data is x.data and labels_again.data is labels.data


def test_the_callers_arrays_may_change_afterwards():
    x, y = np.full((5, 3), 255, np.uint8), np.ones(5, np.int32)
    data = make(x, y)
    x[:], y[:] = 0, 10**6
    got, labels = packed(data, 0, 5)
    assert np.array_equal(got, np.full((5, 3), 2.0)) and np.array_equal(labels, np.ones(5))


# ---------------------------------------------------------------------------------------------- order


def test_the_first_order_is_the_splits_own():
    assert np.array_equal(store().order, np.arange(70)) and len(store()) == 70


@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**6), samples=st.integers(1, 200))
def test_a_shuffle_is_a_permutation_and_depends_on_seed_and_epoch_only(seed, epoch, samples):
    fresh, used = store(samples), store(samples)
    fresh.shuffle(seed, epoch)
    for earlier in range(3):
        used.shuffle(earlier, earlier + 7)
    place = used.order.ctypes.data
    used.shuffle(seed, epoch)
    assert used.order.ctypes.data == place, "recorded steps read it where it was"
    assert np.array_equal(np.sort(fresh.order), np.arange(samples))
    assert np.array_equal(fresh.order, used.order)


def test_seeds_and_epochs_give_different_orders():
    data, orders = store(), set()
    for seed in [0, 1, 2, 2**63, 2**63 + 1, 2**64 - 1]:  # large ones must not pass through float64
        for epoch in range(5):
            data.shuffle(seed, epoch)
            orders.add(tuple(data.order))
    assert len(orders) == 30


def test_an_epoch_takes_every_sample_once():
    x = np.arange(70, dtype=np.float32)[:, None]
    data = make(x, mean=(0.0,), std=(1.0,))
    data.shuffle(1, 1)
    seen = np.concatenate([packed(data, start, min(16, 70 - start))[0] for start in range(0, 70, 16)])
    assert np.array_equal(np.sort(seen[:, 0]), np.arange(70)) and not np.array_equal(seen[:, 0], np.arange(70))


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("start, batch", [(0, 71), (70, 1), (-1, 5), (60, 11), (0, -1), (10**12, 1), (1, 10**19)])
def test_a_batch_outside_the_samples_is_refused_and_nothing_moves(start, batch):
    data = store()
    data.seek(5, 10)
    with pytest.raises(ValueError) as caught:
        data.seek(start, batch)
    assert str(caught.value) == f"a batch must lie within the 70 samples, got {batch} from {start} on"
    x, _ = data.pack(Workspace())
    assert x.batch == 10 and np.array_equal(untiled(x), packed(store(), 5, 10)[0])


def test_splits_that_do_not_fit_are_refused():
    x = np.zeros((4, 30), np.uint8)
    for shape in [(31,), (3, 3, 3), (29,), ()]:
        with pytest.raises(ValueError, match=r"samples of shape \(.*\) must have \d+ features, got 30$"):
            make(x, shape=shape or (1, 1))
    for mean, std in [((0.1,) * 4, (1.0,) * 4), ((), ()), ((0.1,), (0.0,)), ((0.1,), (-1.0,)), ((np.nan,), (1.0,)),
                      ((0.1,), (np.inf,)), ((0.1,) * 3, (1.0,) * 2)]:  # fmt: skip
        with pytest.raises(ValueError):
            make(x, mean=mean, std=std)
    with pytest.raises(ValueError, match=r"^a store's dtype must be float32 or float64, got float16$"):
        make(x, dtype=np.float16)
    with pytest.raises(ValueError, match=r"^labels must be at least 0, got -7 at position 2$"):
        make(x, [0, 1, -7, 2])


def test_a_store_of_nothing():
    data = make(np.empty((0, 3), np.uint8))
    data.shuffle(0, 0)
    assert len(data) == 0 and data.classes == 0
    got, labels = packed(data, 0, 0)
    assert got.shape == (0, 3) and labels.shape == (0,)
    with pytest.raises(ValueError, match="a batch must lie within the 0 samples, got 1 from 0 on"):
        data.seek(0, 1)
