"""The checking build finds what is planted: one bug at a time in the kernels' source, each of which must be caught."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from sparsecore.kernels.layout import Window

from sparsecore.runtime.devices import CUDA
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import layout_of, linear_grid

from .. import test_norm_kernels as normalised
from .. import test_strips as strips
from ..kernel_checks import Guarded
from ..test_kernels import awkward_cases, check_sddmm, check_spmm
from . import test_kernels as kernels
from . import test_pairs as halves
from .emulator.stand_in import KernelFault
from .machines import OnDevice, machine


def spmm(device: CUDA) -> None:
    for case in itertools.islice(awkward_cases(), 3, None, 4):
        check_spmm(OnDevice(device), case, np.float32, Guarded())
    for batch in (40, 300):
        kernels.test_fan_ins_around_a_warp_and_batches_around_its_width(device, np.float32, batch, 33)


def sddmm(device: CUDA) -> None:
    for case in itertools.islice(awkward_cases(), 3, None, 4):
        check_sddmm(OnDevice(device), case, np.float32, Guarded())
    kernels.test_the_gradient_of_few_connections_over_many_positions_is_cut_into_slices(device, np.float32)


def bands(device: CUDA) -> None:
    """dX of a convolution: an image's first and last rows read fewer connections; at the others there is nothing."""
    pattern = SparsityPattern.full((1, 3))
    layout = layout_of(pattern, np.array([-2, 0, 2]), 1)
    grid = kernels.Grid(1, 0, 0, 3, 32, 32, 2, 16, 16, 96, np.array([[1, 3], [0, 3], [0, 2]], np.int32))
    x, out = np.ones((3, 2, 16), np.float32), np.full((3, 2, 16), np.nan, np.float32)
    OnDevice(device).spmm(layout, grid, np.ones(3, np.float32), x, None, out)
    assert np.array_equal(out[:, 0, 0], [2, 3, 2])


def places(device: CUDA) -> None:
    """Rows whose outputs lie where the grid says."""
    layout = layout_of(SparsityPattern.full((3, 1)), np.zeros(3, np.int64))
    grid = linear_grid(1, 1, 3)._replace(places=np.array([32, 0, 16]))
    out = np.full((3, 16), np.nan, np.float32)
    OnDevice(device).spmm(layout, grid, np.array([1, 2, 3], np.float32), np.ones((1, 16), np.float32), None, out)
    assert np.array_equal(out[:, 0], [2, 3, 1])


def update(device: CUDA) -> None:
    kernels.test_elementwise(device, np.float32, 1000)
    for decoupled in (False, True):
        kernels.test_adam(device, np.float32, decoupled, 1000)
    kernels.test_norms(device, np.float32, 40_000)


def loss(device: CUDA) -> None:
    kernels.test_cross_entropy(device, np.float32, 10, 40)
    kernels.test_tally(device, 129)


def pack(device: CUDA) -> None:
    kernels.test_packing(device, np.float32, 17, 65)
    kernels.test_packing_samples(device, np.float32, np.uint8, 37, 70)


def coo(device: CUDA) -> None:
    plan, tiles, (data, x, dy) = kernels.a_layer(40, 49, np.float32, "coo")  # 1470 connections: no whole segments
    OnDevice(device).spmm(plan.forward, plan.grid(tiles), data, x, None, np.empty_like(dy))
    OnDevice(device).sddmm(plan.forward, plan.grid(tiles), dy, x, np.empty_like(data), np.empty(30, np.float32))
    kernels.test_rows_that_span_many_segments_and_rows_of_nothing(device, np.float32)


def place(device: CUDA) -> None:
    views = [(1, 2, 1, 0, 1), (1, 1, 0, 0, 0), (2, 1, 0, 1, 0)]
    placing = kernels.test_placing.hypothesis.inner_test  # type: ignore[attr-defined]
    placing(device, np.float32, normalised.Placing((2, 3, 4, 5), views, 0))


def fold(device: CUDA) -> None:
    folding = kernels.test_folding.hypothesis.inner_test  # type: ignore[attr-defined]
    folding(device, np.float32, strips.Folding(3, 2, 3, 5, 4, 2, 1, 1, True))


def add(device: CUDA) -> None:
    views = [(1, 2, 1, 0, 1), (1, 1, 0, 0, 0), (2, 1, 0, 1, 0), (1, 1, 1, 0, 2)]
    adding = kernels.test_adding.hypothesis.inner_test  # type: ignore[attr-defined]
    adding(device, np.float32, normalised.Placing((2, 3, 4, 5), views, 0))


def norm(device: CUDA) -> None:
    for case in normalised.MANY[1:3]:
        kernels.check_normalisation(device, case, np.float32)
    normalised.check_constant_channels(OnDevice(device), np.float32)
    normalised.check_a_mean_far_from_zero(OnDevice(device))


def pooling(device: CUDA) -> None:
    kernels.test_pooling(device, np.float32, Window(3, 2, 1, 2))


def augment(device: CUDA) -> None:
    kernels.test_augmenting(device, np.uint8, (2, 7, 5), 3, True)


def dropout(device: CUDA) -> None:
    kernels.test_dropout(device, np.float32, 0.3, (1000, 7, -1))


def pairs(device: CUDA) -> None:
    halves.test_rounding_is_the_references_bit_for_bit(device, 3, 130)


class Bug(NamedTuple):
    """What is replaced in a family's source, which calls meet it, and what they must end with."""

    name: str
    calls: Callable[[CUDA], None]
    before: str
    after: str
    found: str


FAMILIES = (
    "common", "spmm", "sddmm", "coo", "update", "loss", "pack", "add", "place", "fold", "norm", "pooling", "augment",
    "dropout", "pairs",
)  # fmt: skip
WRONG = "wrong result"
BUGS = [
    Bug("staged over what others still read", spmm,
        "      __syncwarp();\n      staged[warp].offset", "      staged[warp].offset", "race"),
    Bug("read before all is staged", spmm, "value[r];\n      __syncwarp();", "value[r];", "written|race"),
    Bug("staging past the end of a row", spmm,
        "next = done + WARP + lane; next < high)", "next = done + WARP + lane; true)", "bounds"),
    Bug("no guard for the last groups", spmm, "if (group >= groups) return;", "", "bounds"),
    Bug("rows that a group does not have", spmm, "start + min(r, size - 1)", "start + r", "bounds"),
    Bug("lanes without a position store, too", spmm, "if (!live || part != 0) return;", "", "race"),
    Bug("places that are not looked at", places, "(places ? places[row[r]] : row[r] * grid.out_row)",
        "row[r] * grid.out_row", WRONG),
    Bug("two blocks take the same positions", spmm, "blockIdx.x / group_blocks * side", "0", "race"),
    Bug("a vector off its alignment", spmm,
        "lane % LINE_THREADS * WIDTH;", "lane % LINE_THREADS * WIDTH + 1;", "misaligned"),
    Bug("a shared array one short", spmm, "int offset[WARP]", "int offset[WARP - 1]", "bounds"),
    Bug("a shuffle's mask without half the warp", spmm,
        "__shfl_xor_sync(ALL, sum", "__shfl_xor_sync(0xffffu, sum", "own mask"),
    Bug("a shuffle from a lane that has left", spmm,
        "  for (int apart = side", "  if (part) return;\n  for (int apart = side", "has left"),
    Bug("parts of a row not added up", spmm, "apart = side * LINE_THREADS", "apart = 2 * side * LINE_THREADS", WRONG),
    Bug("an image row's band ignored", bands,
        "begin = live ? cuts[bands[2 * here.y] * groups + group] : end;", "begin = 0;", "bounds"),
    Bug("a shuffle's mask of one team", sddmm, "sync(ALL, give, half)", "sync(0xffu, give, half)", "own mask"),
    Bug("connections past a segment's end", sddmm, "first + min(c, count - 1)", "first + c", "bounds"),
    Bug("gradients past a segment's end", sddmm, "if (thread < count) grad", "grad", "race|bounds"),
    Bug("every segment writes db", sddmm, "if (db && first == 0 && thread == 0)", "if (db && thread == 0)", "race"),
    Bug("no guard for the last teams", sddmm, "if (!live || r >= size) continue;", "if (r >= size) continue;", "race"),
    Bug("slices on top of each other", sddmm, "grad += slice * results;", "", "race"),
    Bug("halves put together wrongly", sddmm, "bool upper = thread & half", "bool upper = thread & 1", WRONG),
    Bug("no guard for the last sums", sddmm, "if (k >= count + biases) return;", "", "bounds"),
    Bug("one element too many", update, "if (k >= count) return;", "if (k > count) return;", "bounds"),
    Bug("every thread counts the step", update,
        "if (threadIdx.x != 0) return;\n  const double steps", "const double steps", "race"),
    Bug("a decay that is left out", update, "decoupled ? 1 - rates[LR] * decay : 1", "1", WRONG),
    Bug("blocks write one word", update, "sums[blockIdx.x] = sum", "sums[0] = sum", "race"),
    Bug("a tree without barriers", update,
        "    __syncthreads();\n    if (thread < half)", "    if (thread < half)", "written|race"),
    Bug("a barrier that half the threads reach", loss,
        "nan;\n  __syncthreads();", "nan;\n  if (part < 4) __syncthreads();", "barriers|written|race"),
    Bug("peaks read before they are there", loss, "nan;\n  __syncthreads();", "nan;", "written|race"),
    Bug("sums read before they are there", loss, "= sum;\n  __syncthreads();", "= sum;", "written|race"),
    Bug("lanes on top of each other", loss,
        "  dz += int64(blockIdx.x) * classes * LANES + lane;", "  dz += int64(blockIdx.x) * classes * LANES;", "race"),
    Bug("a chunk read before it is there", pack,
        "real(0);\n  }\n  __syncthreads();", "real(0);\n  }", "written|race"),
    Bug("features past the last", pack,
        "if (feature >= features) continue;\n    Numbers", "Numbers", "bounds|race"),
    Bug("samples past the last", pack,
        "sample < batch && feature < features ? x", "feature < features ? x", "bounds"),
    Bug("no guard for the last segments", coo, "if (team >= teams) return;", "", "bounds"),
    Bug("connections past the last segment's end", coo, "min(p + k, end - 1)", "p + k", "bounds"),
    Bug("a row that segments share written by each", coo,
        "at_head && first >= 0 ? first : at_tail ? last : -1", "-1", "race"),
    Bug("carries of all positions in one place", coo,
        "carry += position * carries * LANES + within;", "carry += within;", "race"),
    Bug("carries on top of each other", coo, "store(carry + int64(slot) * LANES", "store(carry", "race"),
    Bug("a row's sum goes on into the next", coo, "        sum = Vector{};\n", "", WRONG),
    Bug("one carry too many", coo, "slot < slots[number + 1]", "slot <= slots[number + 1]", "bounds"),
    Bug("gradients past the last connection", coo,
        "number < segments * slices && first + thread < connections", "number < segments * slices", "bounds|race"),
    Bug("spare teams store, too", coo,
        "number < segments * slices && first + thread < connections", "first + thread < connections", "race"),
    Bug("every thread of a team writes its row's db", coo, "slices && thread == 0) db", "slices) db", "race"),
    Bug("no guard for the last lines", place, "if (!here.live) return;", "", "bounds"),
    Bug("channels that are not there", place,
        "number / columns / rows % channels", "number / columns / rows", "bounds"),
    Bug("a pixel's step forgotten", place, "column * steps.column", "column * LANES", WRONG),
    Bug("a mask that lets NaN through", place,
        "keep[half] = gate.at[half] > 0", "keep[half] = !(gate.at[half] <= 0)", WRONG),
    Bug("no guard for the last numbers of strips", fold, "if (k >= count) return;", "", "bounds|race"),
    Bug("rows beyond the images", fold, "if (strip < LANES / batch && row >= 0 && row < x_rows)", "", "bounds"),
    Bug("lanes past the batch of images", fold, "here.lane < batch && (!mask", "(!mask", WRONG),
    Bug("a sum's mask by the steps of the sum", add, "gate = load(mask + here.of(STEPS(mask)))",
        "gate = load(mask + here.of(STEPS(out)))", WRONG),
    Bug("a ReLU where there is none", add, ": relu && sum.at[k] < 0", ": sum.at[k] < 0", WRONG),
    Bug("a gradient by the steps of x", norm,
        "pixel / columns * steps.row", "pixel / columns * columns * LANES", WRONG),
    Bug("a segment past the last tile", norm, "min(start + per, tiles) - start", "per", "bounds"),
    Bug("lines past a segment's end", norm, "if (here >= segment.lines) continue;", "", "bounds"),
    Bug("lanes past the batch are summed", norm, "if (sample_of(n) < used[k]) term", "term", WRONG),
    Bug("every thread writes the segment's sums", norm,
        "if (threadIdx.x != 0) return;\n  const int number", "const int number", "race"),
    Bug("two sums in one place", norm, "block_sum(shared[1]", "block_sum(shared[0]", "race"),
    Bug("channels past the last", norm, "min(number, channels - 1)", "number", "bounds"),
    Bug("spare teams write, too", norm,
        "if (number >= channels || thread != 0) return;", "if (thread != 0) return;", "race"),
    Bug("every thread of a team writes", norm,
        "if (number >= channels || thread != 0) return;", "if (number >= channels) return;", "race"),
    Bug("no guard for the last channels", norm, "if (channel >= channels) return;", "", "bounds"),
    Bug("a deviation from zero, not from a value", norm, "apart = value - origin", "apart = value", WRONG),
    Bug("shifts in the lanes past the batch", norm, "here.sample + sample_of(k) >= batch || (relu", "(relu", WRONG),
    Bug("what a float of the mean leaves out", norm, "(middle - double(mean)) * double(rate)", "0", WRONG),
    Bug("and on the way back", norm, "(normal.middle - double(normal.mean)) * incline", "0", WRONG),
    Bug("sums of what ReLU stopped", norm, "if (relu && !(normal(real(value)) > 0)) slope = 0;", "", WRONG),
    Bug("gradients of what ReLU stopped", norm, "relu && !(normal(value.at[k]) > 0) ? real(0) : ", "", WRONG),
    Bug("a mask of x without its shift", norm, "(x - mean) * rate + level", "(x - mean) * rate", WRONG),
    Bug("windows past the image's end", pooling, "min(pixel / step, most - 1)", "pixel / step", "bounds"),
    Bug("a window that ends before the pixel", pooling, "(pixel - size) / step + 1", "(pixel - size) / step", WRONG),
    Bug("no guard for the last pixels", pooling, "if (k >= count) return;", "", "bounds|race"),
    Bug("two pixels in one place", pooling, "y[k] = packed(best);", "y[k / 2] = packed(best);", "race"),
    Bug("no guard for the last pixels of a batch", augment, "if (at >= count) return;", "", "bounds|race"),
    Bug("images moved past their edge", augment, "row >= 0 && row < height && ", "", "bounds"),
    Bug("every pixel writes its image's label", augment, "if (pixel == 0) out_labels", "out_labels", "race"),
    Bug("no guard for the last numbers", dropout, "if (k >= count) return;", "", "bounds"),
    Bug("no guard for the last words", pairs, "if (k >= count) return;", "", "bounds|race"),
    Bug("a second tile that is not there", pairs, "if (there.second < most) out", "out", "bounds"),
    Bug("ties that are not rounded to even", pairs, " + (bits >> 16 & 1)", "", WRONG),
    Bug("NaN that is rounded", pairs, "number != number ? bits | 0x00400000u : ", "", WRONG),
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_planted_bug_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine("random", checking=True) as device:
        launch: Any = importlib.import_module("sparsecore.kernels.cuda.launch")
        clean = launch.source
        assert any(bug.before in clean(family) for family in FAMILIES), "the kernels have changed: plant this bug anew"
        monkeypatch.setattr(launch, "source", lambda family: clean(family).replace(bug.before, bug.after))
        error = AssertionError if bug.found == WRONG else KernelFault
        with pytest.raises(error, match=None if bug.found == WRONG else bug.found):
            bug.calls(device)


@pytest.mark.parametrize(
    "calls",
    [spmm, sddmm, coo, bands, places, update, loss, pack, add, place, fold, norm, pooling, augment, dropout, pairs],
    ids=lambda calls: calls.__name__,
)
def test_nothing_is_found_where_nothing_is_planted(calls: Callable[[CUDA], None]) -> None:
    with machine("random", checking=True) as device:
        calls(device)
