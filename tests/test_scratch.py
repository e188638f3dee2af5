"""Memory that recorded calls share while they run: two at once never have the same, and what none needs is freed."""

from __future__ import annotations

import gc
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sparsecore.layers import SparseConv2d
from sparsecore.layers.replay import backward_of, forward_of
from sparsecore.runtime.border import NO_BORDER, Border, bordered, places
from sparsecore.runtime.replay import addresses
from sparsecore.runtime.scratch import Room, Scratch, nowhere
from sparsecore.topology import uniform_random

STATUS = Path("/proc/self/status")


class Owner:
    """Somebody who needs memory."""


def test_rooms_are_used_again_and_freed_with_the_last_who_needs_them():
    scratch, small, large = Scratch(), Owner(), Owner()
    scratch.need(small, 1000)
    scratch.need(large, 5000)
    one, other = scratch.take(1000), scratch.take(5000)
    assert one.address != other.address
    scratch.give(one)
    scratch.give(other)
    assert scratch.take(1000) is other and scratch.take(5000) is not one  # which is too small, and is forgotten
    scratch.give(other)
    assert scratch.nbytes == 5000
    del large
    gc.collect()
    assert scratch.nbytes == 0
    scratch.give(Room(5000))  # taken before its owner went
    assert scratch.nbytes == 0
    scratch.give(Room(1000))
    del small
    gc.collect()
    assert scratch.nbytes == 0


def test_arrays_to_record_on_have_addresses_of_their_own_and_take_no_memory():
    if not STATUS.exists():
        pytest.skip("the system does not say how much memory a process has")
    before, made = resident(), [nowhere((1 << 24,), np.float32) for _ in range(20)]
    assert resident() - before < 100
    starts = sorted(array.ctypes.data for array in made)
    assert all(second - first >= made[0].nbytes for first, second in pairwise(starts))


def test_passes_of_several_shapes_leave_nothing_to_one_another():
    """Borders are zero in every run, whatever was last in that memory: bits are those of fresh memory."""
    layers = [conv(channels, size, relu=relu) for channels, size, relu in ((4, 8, False), (3, 15, True), (8, 5, False))]
    given = [(layer, batch, *arrays(layer, batch)) for layer in layers for batch in (3, 17, 70)]
    first = [passes(*each) for each in given]
    from sparsecore.runtime.scratch import scratch

    for _ in range(2):
        room = scratch.take(0)
        room._array.fill(0x7F)  # a float that is not zero
        scratch.give(room)
        for known, each in zip(first, given, strict=True):
            assert all(np.array_equal(one, other) for one, other in zip(known, passes(*each), strict=True))


@pytest.mark.parametrize("padding, stride, batch", [(1, 1, 70), (0, 1, 17), (2, 2, 33), (1, 3, 5), (0, 2, 1)])
@pytest.mark.parametrize("relu", [False, True])
def test_images_whose_channels_come_last_give_the_same_bits(padding, stride, batch, relu):
    layer = conv(8, 9, relu=relu, padding=padding, stride=stride)
    x, dy = arrays(layer, batch)
    known = passes(layer, batch, x, dy)
    y, dx, *rest = passes(layer, batch, *(last(each) for each in (x, dy)), channels_last=True)
    for got, expected in zip([first(y), first(dx), *rest], known, strict=True):
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("border", [NO_BORDER, Border(1, 0, 2, 3)])
def test_places_are_where_images_lie_within_their_border(border):
    shape = 3, 4, 5
    within = np.zeros((1, *bordered(shape, border), 1))
    image = np.arange(1, 61).reshape(shape)
    border.interior(within)[0, ..., 0] = image
    at = places(shape, border, channels_last=True)
    assert np.array_equal(within.ravel()[at], image.transpose(1, 2, 0).ravel())
    at = places(shape, border, channels_last=False)
    assert (at is None) == (border == NO_BORDER) and places((60,), NO_BORDER, channels_last=True) is None
    if at is not None:
        assert np.array_equal(within.ravel()[at], image.ravel())


def test_threads_that_use_one_layer_get_what_one_gets_alone():
    layer = conv(8, 12, relu=False)
    given = [(layer, batch, *arrays(layer, batch)) for batch in (5, 33, 64)]
    known = [passes(*each) for each in given]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(10):
            for k, each in enumerate(given):
                if not all(np.array_equal(one, other) for one, other in zip(known[k], passes(*each), strict=True)):
                    wrong.append(k)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_does_not_grow_over_fifty_batch_sizes():
    torch = pytest.importorskip("torch")
    if not STATUS.exists():
        pytest.skip("the system does not say how much memory a process has")
    from sparsecore.interop.torch import sparsify

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, 1, 1))
    sparsify(model, 0.9)

    def use(batch: int) -> None:
        x = torch.randn(batch, 3, 16, 16)
        model(x).square().mean().backward()
        model.zero_grad()
        with torch.no_grad():
            model(x)

    for batch in (50, 25, *range(1, 9)):  # 8 and fewer compute in strips, by kernels of their own to be compiled
        use(batch)
    before = resident()
    for batch in range(50, 0, -1):
        use(batch)
    # Of each layer, 12 recordings of some 10 KiB; a batch's own tensors go by themselves.
    assert resident() - before < 8


def test_a_trained_convolution_keeps_four_numbers_of_four_bytes_for_each_connection():
    """Its pattern's column; where it reads, forward and back; and its place in the transpose: no row, nothing wider."""
    torch = pytest.importorskip("torch")
    from sparsecore.interop.torch import sparsify

    model = sparsify(torch.nn.Sequential(torch.nn.Conv2d(32, 64, 3, 1, 1)), 0.5)
    model(torch.randn(20, 32, 8, 8, requires_grad=True)).sum().backward()
    (layer,) = model[0]._layers.values()
    pattern, plan = layer.pattern, layer.plan
    (phase,) = plan.phases
    held = [each for each in (*vars(pattern).values(), *plan.forward, *phase.layout, phase.perm) if np.ndim(each) == 1]
    assert [each.itemsize for each in held if len(each) == pattern.nnz] == [4] * 4


@pytest.mark.slow
@pytest.mark.parametrize("batch, most", [(32, 0.9), (128, 1.05)])
def test_a_sparse_resnet_takes_less_memory_than_a_dense_one(batch, most):
    pytest.importorskip("torch")
    from bench.torch_memory import peak

    found = {}
    for layout in ("sparse, contiguous", "contiguous", "channels last"):
        peaks = [peak("resnet18", layout, batch, 1, small=False) for _ in range(2)]
        if peaks[0] is None:
            pytest.skip("the system does not say how much memory a process has")
        found[layout] = min(each["peak"] for each in peaks if each)
    assert found["sparse, contiguous"] <= most * min(found["contiguous"], found["channels last"])


def resident() -> float:
    """MiB of this process."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def last(x: np.ndarray) -> np.ndarray:
    """Images in memory of the same shape, their channels last."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(x.shape)


def first(x: np.ndarray) -> np.ndarray:
    """And back."""
    batch, channels, high, wide = x.shape
    return x.reshape(batch, high, wide, channels).transpose(0, 3, 1, 2)


def conv(channels: int, size: int, *, relu: bool, padding: int = 1, stride: int = 1) -> SparseConv2d:
    rng = np.random.default_rng(channels)
    pattern = uniform_random(12, channels * 9, 0.5, rng)
    return SparseConv2d(pattern, (channels, size, size), 3, stride, padding, relu=relu, rng=rng)


def arrays(layer: SparseConv2d, batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(batch)
    x, dy = (rng.standard_normal((batch, *shape), np.float32) for shape in (layer.in_shape, layer.out_shape))
    return x, dy


def passes(
    layer: SparseConv2d, batch: int, x: np.ndarray, dy: np.ndarray, *, channels_last: bool = False
) -> list[np.ndarray]:
    """y, dx, dw and db."""
    y, dx, dw, db = np.empty_like(dy), np.empty_like(x), np.empty_like(layer.weight), np.empty_like(layer.bias)
    seen = np.empty((-(-batch // 16), *layer.out_shape, 16), np.float32) if layer.relu else None
    there = forward_of(layer, batch, "float32", biased=True, channels_last=channels_last)
    there.run(*addresses(x, layer.weight, layer.bias, y, seen))
    back = backward_of(layer, batch, "float32", biased=True, need_dx=True, channels_last=channels_last)
    back.run(*addresses(dy, x, seen, layer.weight, dx, dw, db))
    return [y, dx, dw, db]
