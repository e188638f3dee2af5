"""The kernels as Python calls them, by the CPU launcher's names and parameters: on the current stream, or on a tape.

Arrays are CuPy's, on the launcher's device. Layouts, and the arrays that go with a pattern, are NumPy's and never
change: each is put on the device at its first use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from .. import rates
from ..host import HostCall, python_call
from ..layout import LANES, CooLayout, Grid, Layout, Window, element_size, samples_of_tile
from ..tuning import (
    CUDA_AHEAD,
    CUDA_BLOCK,
    CUDA_CHUNK,
    CUDA_COO_SEGMENT,
    CUDA_EACH,
    CUDA_ENOUGH_SEGMENTS,
    CUDA_FEWEST_POSITIONS,
    CUDA_NORM_BLOCKS,
    CUDA_RESIDENT,
    CUDA_TEAM,
    CUDA_UNROLL,
    CUDA_WARP,
)
from .layout import DeviceCooLayout, Uploads

Array = Any


@cache
def kernel(family: str, name: str, size: int) -> Any:
    """A kernel of a family's source, for activations in bfloat16 (2), float32 (4) or float64 (8); compiled once for
    each card that launches it."""
    return _module(family, size).get_function(name)


@cache
def _module(family: str, size: int) -> Any:
    return cupy.RawModule(code=source(family), options=options(size))


def source(family: str) -> str:
    """The text of one family's kernels, with what all share before it."""
    paths = [Path(__file__).with_name(f"{name}.cu") for name in ("common", family)]
    return constants() + "".join(f'#line 1 "{path.name}"\n{path.read_text()}' for path in paths)


def constants() -> str:
    """What Python and the kernels must agree on, as the kernels' first lines."""
    numbers = {
        "LANES": LANES, "WARP": CUDA_WARP, "BLOCK": CUDA_BLOCK, "TEAM": CUDA_TEAM, "COO_SEGMENT": CUDA_COO_SEGMENT,
        "UNROLL": CUDA_UNROLL, "AHEAD": CUDA_AHEAD, "CHUNK": CUDA_CHUNK, "EACH": CUDA_EACH,
        **{f"RESIDENT_{size}": blocks for size, blocks in CUDA_RESIDENT.items()},
    }  # fmt: skip
    numbers |= {name: at for name, at in vars(rates).items() if name.isupper() and not name.endswith("_RATES")}
    return "".join(f"constexpr int {name} = {number};\n" for name, number in numbers.items())


def options(size: int) -> tuple[str, ...]:
    """What NVRTC is told, besides the architecture. Not to flush denormals: bfloat16 has them, as float32 has."""
    return "--std=c++17", f"-DREAL={'double' if size == 8 else 'float'}", *(["-DPAIRED"] if size == 2 else [])


class Tape:
    """Stretches of launches, with calls of Python functions between them."""

    def __init__(self) -> None:
        self.hosts: list[tuple[int, HostCall]] = []
        self._parts: list[Stretch | _CopiedCall] = []
        self.count = 0

    def append(self, kernel: Any, blocks: int, arguments: tuple[Any, ...]) -> None:
        if not self._parts or not isinstance(self._parts[-1], Stretch):
            self._parts.append(Stretch())
        self._parts[-1].append(kernel, blocks, arguments)  # type: ignore[union-attr]
        self.count += 1

    def append_host(self, call: HostCall) -> None:
        self.hosts.append((self.count, call))
        self._parts.append(_CopiedCall(call))

    def run(self) -> None:
        for part in self._parts:
            part.run()


class _CopiedCall:
    """A call of a Python function on host copies of its arrays, which waits for what computes them."""

    def __init__(self, call: HostCall) -> None:
        self._call = call

    def run(self) -> None:
        call = self._call
        inputs, outputs = ({name: array.get() for name, array in each.items()} for each in (call.inputs, call.outputs))
        for array in inputs.values():
            array.flags.writeable = False
        call.function(**inputs, **outputs)
        for name, array in call.outputs.items():
            array.set(outputs[name])


class Stretch:
    """Launches in order, with their arguments. Run a second time they are one CUDA graph, where there can be one."""

    def __init__(self) -> None:
        self._launches: list[tuple[Any, int, tuple[Any, ...]]] = []
        self._graph: Any = None
        self._ran = False

    def append(self, kernel: Any, blocks: int, arguments: tuple[Any, ...]) -> None:
        self._launches.append((kernel, blocks, arguments))

    def run(self) -> None:
        if self._graph is not None:
            self._graph.launch()
            return
        self._launch()
        if not self._ran:  # all kernels are compiled now, which cannot be done while a stream is captured
            self._ran = True
            with contextlib.suppress(RuntimeError):
                self._graph = self._captured()

    def _captured(self) -> Any:
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                self._launch()
            finally:
                graph = stream.end_capture()
        return graph

    def _launch(self) -> None:
        for launched, blocks, arguments in self._launches:
            launched((blocks,), (CUDA_BLOCK,), arguments)


class Launcher:
    """Runs kernels on a device, or records them.

    Parameters
    ----------
    device : cupy.cuda.Device
    uploads : Uploads
        Of this device.
    tape : Tape, optional
        Where launches are recorded instead of run.
    """

    def __init__(self, device: Any, uploads: Uploads, tape: Tape | None = None) -> None:
        self._device, self._uploads, self._tape = device, uploads, tape
        self.recording = tape is not None

    def _launch(self, launched: Any, threads: int, *arguments: Any, each: int = CUDA_BLOCK) -> None:
        """Launch blocks of CUDA_BLOCK threads, one for every `each` of `threads`."""
        for array in arguments:
            there = isinstance(array, cupy.ndarray)
            if not (isinstance(array, np.generic) or array is None or (there and array.device.id == self._device.id)):
                raise TypeError(
                    f"kernels on cuda:{self._device.id} take arrays that are there, got a "
                    f"{type(array).__name__} on {f'cuda:{array.device.id}' if there else 'the host'}: move it with the "
                    f"device's put, or a network with Network.to"
                )
        blocks = -(-threads // each)
        if blocks == 0:
            return
        if self._tape is not None:
            self._tape.append(launched, blocks, arguments)
            return
        with self._device:
            launched((blocks,), (CUDA_BLOCK,), arguments)

    def replay(self, tape: Tape) -> None:
        """Run a tape from start to end."""
        with self._device:
            tape.run()

    def host(
        self, name: str, function: Callable[..., Any], inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        """function(**inputs, **outputs), in Python: NumPy copies of arrays, of which the outputs are copied back."""
        tape = Tape() if self._tape is None else self._tape
        tape.append_host(HostCall(name, function, dict(inputs), dict(outputs)))
        if self._tape is None:
            self.replay(tape)

    def compiled(
        self, function: Any, count: int, inputs: Sequence[Any], outputs: Sequence[Array], *, work: int | None = None
    ) -> None:
        """function(*inputs, *outputs, 0, count), a function of one's own that `numba.njit` compiled: a host call, since
        it is for processors."""
        del work
        self.host(getattr(function, "__name__", "compiled"), *python_call(function, count, inputs, outputs))

    def spmm(
        self, layout: Layout | CooLayout, grid: Grid, data: Array, x: Array, bias: Array | None, out: Array,
        *, relu: bool = False, mask: Array | None = None, more: bool = False, ceiling: float | None = None,
    ) -> None:  # fmt: skip
        """out[i] = bias[i] + Σ_p data[p] · x[offset[p]], then ReLU, or zero where `mask` is not positive.

        With `more`, which layouts of rows know, sums go on from what is in `out` instead of the bias. A `ceiling` is
        refused.
        """
        if ceiling is not None:
            raise ValueError(f"spmm: sums with a ceiling are computed on a CPU only, got ceiling={ceiling} on a GPU")
        put, positions, rectify = self._layout(layout), _positions(grid), np.int32(relu)
        if isinstance(put, DeviceCooLayout):
            carry = self._empty(put.carries * positions * LANES, out.dtype)
            teams, special = put.segments * positions, len(put.special) * positions
            self._launch(
                kernel("coo", "spmm_coo", out.itemsize), teams * out.itemsize,
                np.int64(put.connections), np.int64(teams), put.rows, put.offsets, put.head,
                put.tail, np.int64(put.carries), data, x, bias, out, mask, carry, rectify, *_steps(grid),
            )  # fmt: skip
            self._launch(
                kernel("coo", "carry", out.itemsize), special * out.itemsize,
                np.int64(special), np.int64(put.carries), put.special, put.slots, carry, bias, out, mask, rectify,
                *_steps(grid),
            )  # fmt: skip
            return
        side = min(CUDA_WARP // out.itemsize, 1 << max(positions - 1, 0).bit_length())
        warps = -(-put.groups // (CUDA_BLOCK // CUDA_WARP)) * (CUDA_BLOCK // CUDA_WARP) * -(-positions // side)
        self._launch(
            kernel("spmm", f"spmm_{put.most_group}", element_size(out)), warps * CUDA_WARP,
            np.int32(put.groups), np.int32(side), put.indptr, put.rows, put.starts, put.runs, put.offsets,
            put.cuts, self._constant(grid.bands), np.int32(len(put.cuts) - 1), data, x, bias, out, mask, rectify,
            np.int32(more), self._constant(grid.places), *_steps(grid),
        )  # fmt: skip

    def sddmm(
        self, layout: Layout | CooLayout, grid: Grid, dy: Array, x: Array, grad: Array, db: Array | None = None,
        *, more: bool = False,
    ) -> None:  # fmt: skip
        """grad[p] = ⟨dy[row[p]], x[offset[p]]⟩ over all positions and samples; db[i] = Σ dy[i].

        With `more`, both are added to what is there.
        """
        put, coo = self._layout(layout), isinstance(layout, CooLayout)
        segments = -(-put.connections // CUDA_TEAM) if coo else put.segments
        slices, length = _slices(segments, _positions(grid))
        results = grad.size + (0 if db is None else db.size)
        sums, sums_db = grad, db
        if slices > 1:
            sums = self._empty(slices * results, grad.dtype)
            sums_db = None if db is None else sums[grad.size :]
        add = np.int32(more)
        cut = np.int32(slices), np.int32(length), np.int64(results), np.int32(more and slices == 1)
        if coo:
            self._launch(
                kernel("coo", "sddmm_coo", grad.itemsize), segments * slices * CUDA_TEAM,
                np.int64(put.connections), *cut, put.rows, put.offsets, dy, x, sums, *_steps(grid),
            )  # fmt: skip
            if db is not None:
                self._launch(
                    kernel("coo", "row_sums", grad.itemsize), db.size * slices * CUDA_TEAM,
                    np.int32(db.size), *cut, dy, sums_db, *_steps(grid),
                )  # fmt: skip
        else:
            self._launch(
                kernel("sddmm", f"sddmm_{put.most_group}", element_size(x)), segments * slices * CUDA_TEAM,
                np.int32(segments), *cut, put.segment_group, put.segment_first, put.indptr, put.rows, put.starts,
                put.runs, put.offsets, dy, x, sums, sums_db, *_steps(grid),
            )  # fmt: skip
        if slices > 1:
            self._launch(
                kernel("sddmm", "join", element_size(x)), results,
                np.int32(slices), np.int64(grad.size), np.int64(results - grad.size), add, sums, grad, db,
            )  # fmt: skip

    def reorder(self, data: Array, perm: Array, out: Array) -> None:
        """out[q] = data[perm[q]]; the rows of a matrix `perm` follow one another."""
        perm = self._constant(perm)
        launched = kernel("update", f"reorder_{perm.itemsize}", data.itemsize)
        self._launch(launched, out.size, np.int64(out.size), data, perm, out)

    def relu(self, x: Array, out: Array) -> None:
        """out = max(x, 0); NaN stays NaN."""
        self._launch(kernel("relu", "relu", element_size(x)), x.size, np.int64(x.size), x, out)

    def mask(self, dy: Array, y: Array, out: Array) -> None:
        """out = dy where y > 0, and 0 elsewhere: the gradient through a ReLU whose output was y."""
        self._launch(kernel("relu", "mask", element_size(dy)), dy.size, np.int64(dy.size), dy, y, out)

    def add(self, a: Array, b: Array, out: Array, *, relu: bool = False, mask: Array | None = None) -> None:
        """out = a + b, then ReLU, or zero where `mask` is not positive; `out` may be `a`, and all may be views."""
        a, b, out, mask = (None if array is None else _as_images(array) for array in (a, b, out, mask))
        viewed = [each for array in (a, b, mask, out) for each in _viewed(array)]
        self._launch_lines("add", "add", out, np.int32(relu), *viewed)

    def place(self, x: Array, out: Array, mask: Array | None = None) -> None:
        """out = x, or zero where `mask` is not positive; all three may be views, and around them nothing is
        touched."""
        self._launch_lines("place", "place", out, *_viewed(x), *_viewed(mask), *_viewed(out))

    def fold(self, x: Array, out: Array, batch: int, step: int, top: int, mask: Array | None = None) -> None:
        """Strips of images: out[0, c, r, u, k · batch + s] = x[0, c, k · step + r − top, u, s], or zero beyond x's
        edges and where `mask`, which lies as x does, is not positive; zero in the lanes past the last strip."""
        self._fold("fold", x, out, batch, step, top, mask)

    def unfold(self, x: Array, out: Array, batch: int, step: int, top: int, mask: Array | None = None) -> None:
        """The other way: out[0, c, r, u, s] = Σ_k x[0, c, r + top − k · step, u, k · batch + s] over the strips that
        have the row, or zero where `mask` is not positive; zero in the lanes past the batch."""
        self._fold("unfold", x, out, batch, step, top, mask)

    def _fold(self, name: str, x: Array, out: Array, batch: int, step: int, top: int, mask: Array | None) -> None:
        sizes = map(np.int32, (x.shape[2], out.shape[2], out.shape[3], batch, step, top))
        put = [each for images in (x, mask, out) for k, each in enumerate(_viewed(images)) if k in (0, 2, 3)]
        self._launch(kernel("fold", name, out.itemsize), out.size, np.int64(out.size), *sizes, *put)

    def moments(self, x: Array, batch: int, partial: Array) -> None:
        """partial[channel, segment] = (mean, sum of squares around it) of the x of a channel in some of the tiles."""
        self._launch_segments("moments", x, batch, partial, x)

    def settle(
        self, partial: Array, pixels: int, batch: int, eps: float, momentum: float, mean: Array, var: Array,
        found: Array, *, samples: int = LANES,
    ) -> None:  # fmt: skip
        """found[channel] = (mean, 1/√(variance + eps)) of a whole batch; the running rows `mean` and `var` move to
        it. Tiles hold so many samples."""
        size = 2 if samples == samples_of_tile(2) else mean.itemsize
        self._launch(
            kernel("norm", "settle", size), mean.size * CUDA_TEAM, np.int32(mean.size),
            *map(np.int32, (partial.shape[1], pixels, batch)), np.float64(eps), np.float64(momentum), partial, mean,
            var, found,
        )  # fmt: skip

    def recall(self, mean: Array, var: Array, eps: float, found: Array) -> None:
        """found[channel] = (mean, 1/√(var + eps)) of the running rows, for use outside training."""
        launched = kernel("norm", "recall", mean.itemsize)
        self._launch(launched, mean.size, np.int32(mean.size), np.float64(eps), mean, var, found)

    def normalise(
        self, x: Array, found: Array, scale: Array, shift: Array, out: Array, batch: int, *,
        around: Array | None = None, relu: bool = False,
    ) -> None:  # fmt: skip
        """out = (x − mean) / √(variance + eps) · scale + shift + around, then ReLU; zero in the lanes past the
        batch."""
        self._launch_lines(
            "norm", "normalise", out, np.int32(batch), np.int32(relu), found, scale, shift,
            *_viewed(x), *_viewed(around), *_viewed(out),
        )  # fmt: skip

    def slopes(
        self, dy: Array, x: Array, found: Array, scale: Array, shift: Array, batch: int, partial: Array, *, relu: bool
    ) -> None:
        """partial[channel, segment] = (Σ dy, Σ dy · (x − mean)) of a channel in some of the tiles.

        With `relu`, for this and for `normalise_back`, dy is zero where ReLU stopped what `normalise` made of x.
        """
        self._launch_segments(
            "slopes", x, batch, partial, np.int32(x.shape[3]), np.int32(relu), *_viewed(dy), x, found, scale, shift
        )

    def settle_slopes(self, partial: Array, found: Array, totals: Array, dscale: Array, dshift: Array) -> None:
        """totals[channel] = the sum of its segments; the gradients of scale and shift are made of these."""
        self._launch(
            kernel("norm", "settle_slopes", dscale.itemsize), dscale.size * CUDA_TEAM, np.int32(dscale.size),
            np.int32(partial.shape[1]), partial, found, totals, dscale, dshift,
        )  # fmt: skip

    def normalise_back(
        self, dy: Array, x: Array, found: Array, scale: Array, shift: Array, totals: Array, out: Array, batch: int, *,
        training: bool, relu: bool,
    ) -> None:  # fmt: skip
        """The gradient of x; outside training mean and variance are constants, which give none back."""
        self._launch_lines(
            "norm", "normalise_back", out, np.int32(batch), np.int32(relu),
            np.float64(1 / max(1, batch * x.shape[2] * x.shape[3])), found, scale, shift, totals if training else None,
            *_viewed(dy), *_viewed(x), *_viewed(out),
        )  # fmt: skip

    def _launch_lines(self, family: str, name: str, images: Array, *arguments: Any) -> None:
        """Launch a thread for every 16 bytes of images; there are fewer than 2³² lines in any memory."""
        lines = images.size // LANES
        launched, sizes = kernel(family, name, element_size(images)), (lines, *images.shape[1:4])
        self._launch(launched, lines * images.itemsize, *map(np.uint32, sizes), *arguments)

    def _launch_segments(self, name: str, x: Array, batch: int, partial: Array, *arguments: Any) -> None:
        """Launch a block for each segment of each channel."""
        tiles, channels, height, width, _ = x.shape
        segments = partial.shape[1]
        sizes = channels, tiles, height * width, segments, batch
        launched = kernel("norm", name, element_size(x))
        self._launch(launched, segments * channels, *map(np.int32, sizes), *arguments, partial, each=1)

    def dropout(self, x: Array, position: Array, stream: int, rate: float, out: Array) -> None:
        """out = x / (1 − rate), or 0 with probability `rate`; `position` has the first sample, the epoch, the seed."""
        features = x.size // (len(x) * LANES) if len(x) else 0
        self._launch(
            kernel("dropout", "dropout", element_size(x)), x.size,
            np.int64(x.size), np.int32(features), np.int64(stream), np.float64(rate), position, x, out,
        )  # fmt: skip

    def max_pool(self, x: Array, window: Window, y: Array, index: Array) -> None:
        """y = the largest x of each window, and which of the window's pixels that is. NaN counts as the largest."""
        self._launch(kernel("pooling", "max_pool", element_size(x)), y.size, *_images(y, x, window, y), x, y, index)

    def max_unpool(self, dy: Array, index: Array, window: Window, dx: Array) -> None:
        """dx = the sum of dy over the windows whose largest x is that pixel's."""
        self._launch(
            kernel("pooling", "max_unpool", element_size(dx)), dx.size, *_images(dx, dx, window, dy), dy, index, dx
        )

    def mean_pool(self, x: Array, window: Window, y: Array) -> None:
        """y = the mean of each window's x."""
        self._launch(kernel("pooling", "mean_pool", element_size(x)), y.size, *_images(y, x, window, y), x, y)

    def mean_unpool(self, dy: Array, window: Window, dx: Array) -> None:
        """dx = the sum of its windows' dy, each divided by the number of its pixels."""
        launched = kernel("pooling", "mean_unpool", element_size(dx))
        self._launch(launched, dx.size, *_images(dx, dx, window, dy), dy, dx)

    def pack(self, x: Array, out: Array, places: Array | None = None) -> None:
        """(batch, features) → (tiles, features, LANES); lanes without a sample become zero.

        With `places`, int32 of shape (features,), a feature goes to that line of its tile, of as many as `out` has.
        """
        batch, features = x.shape
        lines, row = np.int32(out.size // LANES // max(len(out), 1)), np.int64(x.strides[0] // x.itemsize)
        self._launch_chunks("pack", batch, features, element_size(out), lines, row, x, out, places)

    def clear_lanes(self, x: Array, batch: int) -> None:
        """Zero in the lanes of the last tile that hold no sample; in place."""
        tile = x.size // len(x)
        size = element_size(x)
        samples = samples_of_tile(size)
        self._launch(
            kernel("pack", "clear_lanes", size), tile, np.int64(x.size - tile), np.int64(tile),
            np.int32(batch % samples or samples), x,
        )  # fmt: skip

    def widen(self, x: Array, out: Array) -> None:
        """Tiles of bfloat16 as tiles of float32, of half as many samples each."""
        self._launch_pairs("widen", x, x, out)

    def narrow(self, x: Array, out: Array) -> None:
        """The other way, rounded to the nearest, ties to even."""
        self._launch_pairs("narrow", out, x, out)

    def _launch_pairs(self, name: str, pairs: Array, x: Array, out: Array) -> None:
        numbers = out if pairs is x else x
        sizes = pairs.size, pairs.size // max(1, len(pairs)), numbers.size
        self._launch(kernel("pairs", name, 2), pairs.size, *map(np.int64, sizes), x, out)

    def unpack(self, x: Array, out: Array, places: Array | None = None) -> None:
        """(tiles, features, LANES) → (batch, features), each feature from its line of the tile as in `pack`."""
        batch, features = out.shape
        lines = np.int32(x.size // LANES // max(len(x), 1))
        self._launch_chunks("unpack", batch, features, element_size(x), lines, x, out, places)

    def pack_samples(
        self, store: Array, labels: Array, order: Array, at: Array, scale: Array, shift: Array, out: Array,
        out_labels: Array, batch: int, addresses: Array,
    ) -> None:  # fmt: skip
        """Pack samples `order[at[0]:at[0] + batch]` of a store of uint8 or float32, normalised, and their labels."""
        self._launch_chunks(
            f"pack_samples_{store.itemsize}", batch, store.shape[1], element_size(out),
            store, labels, order, at, scale, shift, out, out_labels,
        )  # fmt: skip

    def augment(
        self, store: Array, labels: Array, order: Array, position: Array, shape: tuple[int, ...], most: int,
        flip: bool, out: Array, out_labels: Array, batch: int,
    ) -> None:  # fmt: skip
        """Copy images `order[position[0]:position[0] + batch]` of a store, moved by up to `most` pixels and mirrored,
        and their labels; `position` also holds the epoch and the seed."""
        count = batch * store.shape[1]
        self._launch(
            kernel("augment", f"augment_{store.itemsize}", 4), count, np.int64(count), *map(np.int32, shape),
            np.int32(most), np.int32(flip), store, labels, order, position, out, out_labels,
        )  # fmt: skip

    def _launch_chunks(self, name: str, batch: int, features: int, size: int, *arguments: Any) -> None:
        chunks = -(-features // CUDA_CHUNK)
        self._launch(
            kernel("pack", name, size), -(-batch // samples_of_tile(size)) * chunks,
            np.int32(chunks), np.int32(features), np.int32(batch), *arguments, each=1,
        )  # fmt: skip

    def cross_entropy(
        self, z: Array, labels: Array, batch: int, dz: Array, losses: Array, correct: Array, scratch: Array,
        divisor: int | None = None,
    ) -> None:  # fmt: skip
        """Per-sample losses, whether the largest logit is the label's, and the gradient of their sum divided by
        `divisor`, the batch if not given."""
        self._launch(
            kernel("loss", "cross_entropy", z.itemsize), len(z), np.int32(z.shape[1]), np.int32(batch),
            np.int32(batch if divisor is None else divisor), z, labels, dz, losses, correct, each=1,
        )  # fmt: skip

    def squared_error(
        self, z: Array, targets: Array, batch: int, dz: Array, losses: Array, divisor: int | None = None
    ) -> None:
        """Per-sample losses ½·Σ (z − target)², and the gradient of their sum divided by `divisor`, the batch if not
        given."""
        self._launch(
            kernel("loss", "squared_error", z.itemsize), losses.size, np.int32(z.shape[1]), np.int32(batch),
            np.int32(batch if divisor is None else divisor), np.int32(losses.size), z, targets, dz, losses,
        )  # fmt: skip

    def tally(self, losses: Array, correct: Array, batch: int, totals: Array) -> None:
        """totals += (Σ losses, Σ correct, batch), in order."""
        self._launch(kernel("loss", "tally", 8), 1, np.int32(batch), losses, correct, totals)

    def norm(self, dw: Array, rates: Array) -> None:
        """rates[SCALE] = min(1, rates[LARGEST_NORM] / ‖dw‖)."""
        blocks = min(CUDA_NORM_BLOCKS, max(1, -(-dw.size // CUDA_BLOCK)))
        sums = self._empty(blocks, np.float64)
        self._launch(kernel("update", "norm_squares", dw.itemsize), blocks, np.int64(dw.size), dw, sums, each=1)
        self._launch(kernel("update", "norm_limit", 8), 1, np.int32(blocks), sums, rates)

    def sgd(
        self, w: Array, dw: Array, velocity: Array, rates: Array, *, nesterov: bool = False, decays: bool = True
    ) -> None:
        """One step of stochastic gradient descent on flat arrays; `decays=False` leaves weight decay out."""
        self._launch(
            kernel("update", "sgd", w.itemsize), w.size,
            np.int64(w.size), w, dw, velocity, rates, np.int32(nesterov), np.int32(decays), each=CUDA_BLOCK * CUDA_EACH,
        )  # fmt: skip

    def tick(self, rates: Array) -> None:
        """Count a step of Adam: STEPS += 1, and CORRECTION1 and CORRECTION2 = 1 − β₁ᵗ and 1 − β₂ᵗ."""
        self._launch(kernel("update", "tick", 8), 1, rates)

    def adam(
        self, w: Array, dw: Array, m: Array, v: Array, rates: Array, *, decoupled: bool = False, decays: bool = True
    ) -> None:
        """One step of Adam on flat arrays, or AdamW if `decoupled`, with the CORRECTIONs of the last `tick`;
        `decays=False` leaves weight decay out."""
        self._launch(
            kernel("update", "adam", w.itemsize), w.size,
            np.int64(w.size), w, dw, m, v, rates, np.int32(decoupled), np.int32(decays), each=CUDA_BLOCK * CUDA_EACH,
        )  # fmt: skip

    def _layout(self, layout: Layout | CooLayout) -> Any:
        with self._device:
            return self._uploads.layout(layout)

    def _constant(self, array: Array | None) -> Array | None:
        """An array that goes with a pattern, on the device."""
        with self._device:
            return None if array is None else self._uploads.array(array)

    def _empty(self, size: int, dtype: Any) -> Array:
        """Memory for what one launch leaves to the next; CuPy's pool gives it out again to later launches only."""
        with self._device:
            return cupy.empty(size, dtype)


def _positions(grid: Grid) -> int:
    return grid.outer * grid.ys * grid.lines


def _slices(segments: int, positions: int) -> tuple[int, int]:
    """Into how many slices to cut the positions of sddmm, and how long one is."""
    slices = max(1, min(CUDA_ENOUGH_SEGMENTS // max(segments, 1), positions // CUDA_FEWEST_POSITIONS))
    length = -(-positions // slices)
    return max(1, -(-positions // max(length, 1))), length


def _steps(grid: Grid) -> tuple[np.generic, ...]:
    """A grid as the kernels take it: counts are int32, steps int64."""
    counts = ("outer", "ys", "lines")
    others = ("bands", "places", "planes", "plane", "ahead", "fresh", "apart")
    fields = {name: value for name, value in grid._asdict().items() if name not in others}
    return tuple((np.int32 if name in counts else np.int64)(value) for name, value in fields.items())


def _as_images(array: Array) -> Array:
    """Images as they are, which may be views; other tiles, which lie line after line, as one row of pixels."""
    return array if array.ndim == 5 else array.reshape(1, 1, 1, array.size // LANES, LANES)


def _viewed(images: Array | None) -> tuple[Any, ...]:
    """Images that may be a view, and their steps in numbers: from tile to tile, channel, row and pixel."""
    if images is None:
        return None, *(np.int64(0),) * 4
    return images, *(np.int64(stride // images.itemsize) for stride in images.strides[:4])


def _images(result: Array, x: Array, window: Window, y: Array) -> tuple[np.generic, ...]:
    """How many numbers pooling writes, and the images that it goes between."""
    _, _, height, width, _ = x.shape
    _, _, rows, columns, _ = y.shape
    return np.int64(result.size), *map(np.int32, (height, width, rows, columns, *window))
