"""The kernels as Python calls them: check nothing, write the call down, run it now or keep it on a tape.

`Launcher` has the same methods, with the same parameters, as its CUDA counterpart and as the functions of
`reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compile import register_bytes as host_register_bytes
from ..host import HostCall, python_call
from ..layout import LANES, CooLayout, Grid, Layout, Window, element_size, samples_of_tile
from ..tuning import (
    COST_ADAM,
    COST_DROPOUT,
    COST_NORM,
    COST_PACK,
    COST_REORDER,
    COST_SGD,
    COST_SOFTMAX,
    FAR_CACHE,
    MOST_PARTS,
    PARTIAL_PAYS,
    PREFETCH_AHEAD,
    WORTH_CUTTING,
)
from .add import ADD, add_kernel
from .augment import AUGMENT, augment_kernel
from .call import WORDS
from .coo import SDDMM_COO, SPMM_COO, carry_kernel, sddmm_coo_kernel, spmm_coo_kernel
from .dropout import DROPOUT, dropout_kernel
from .fold import FOLD, fold_kernel, unfold_kernel
from .ir.windows import LARGEST, MEAN, TO_ALL, TO_LARGEST
from .loss import CROSS_ENTROPY, SQUARED_ERROR, TALLY, cross_entropy_kernel, squared_error_kernel, tally_kernel
from .norm import (
    MOMENTS,
    NORMALISE,
    SETTLE,
    SETTLE_SLOPES,
    moments_kernel,
    normalise_back_kernel,
    normalise_kernel,
    settle_kernel,
    settle_slopes_kernel,
)
from .own import check_own, is_python, own_kernel, words_of
from .pack import (
    CLEAR_LANES,
    PACK,
    PACK_SAMPLES,
    WIDEN,
    clear_lanes_kernel,
    narrow_kernel,
    pack_kernel,
    pack_samples_kernel,
    unpack_kernel,
    widen_kernel,
)  # fmt: skip
from .place import PLACE, place_kernel
from .pooling import POOLING, pooling_kernel
from .relu import MASK, RELU, mask_kernel, relu_kernel
from .sddmm import SDDMM, bands_of, join_kernel, sddmm_images_kernel, sddmm_kernel, sweep
from .spmm import SPMM, spmm_kernel
from .threads import Pool
from .update import ADAM, NORM, REORDER, SGD, TICK, adam_kernel, norm_kernel, reorder_kernel, sgd_kernel, tick_kernel

Array = NDArray[Any]


class Tape:
    """Calls in order, and the arrays they point to, kept alive.

    Attributes
    ----------
    calls : int64 array, shape (at least count, WORDS)
        Of kernels.
    count : int
    hosts : list of (int, HostCall)
        Calls of Python functions, each with the number of kernels' calls that come before it.
    """

    def __init__(self) -> None:
        self.calls = np.zeros((8, WORDS), np.int64)
        self.count = 0
        self.parts = 1
        self.hosts: list[tuple[int, HostCall]] = []
        self._kept: dict[int, tuple[int, Any]] = {}  # by id: asking an array for its address takes a microsecond

    def append(self, kernel: Any, parts: int, kind: np.dtype, fields: dict[str, Any]) -> None:
        if self.count == len(self.calls):
            self.calls = np.concatenate([self.calls, np.zeros_like(self.calls)])
        words = [self._kept.setdefault(id(kernel), (kernel.address, kernel))[0], parts]
        for name in kind.names or ():
            value = fields[name]
            if isinstance(value, np.ndarray):
                value = getattr(value, "origin", value)  # of several views of the same array one address is enough
                known = self._kept.get(id(value))
                if known is None:
                    known = self._kept[id(value)] = value.ctypes.data, value
                value = known[0]
            words.append(0 if value is None else value)
        self.calls[self.count, : len(words)] = words
        self.count += 1
        self.parts = max(self.parts, parts)

    @property
    def kept(self) -> list[tuple[int, Any]]:
        """What the calls point to, kernels too, and at which address each lies."""
        return list(self._kept.values())

    def append_host(self, call: HostCall) -> None:
        self.hosts.append((self.count, call))


class Launcher:
    """Runs kernels on a pool of threads, or records them.

    Parameters
    ----------
    pool : Pool
    tape : Tape, optional
        Where calls are recorded instead of run.
    register_bytes : int
        Width of the vector registers to compile for: 16, 32 or 64. The processor's own if not given.
    """

    def __init__(self, pool: Pool, tape: Tape | None = None, register_bytes: int = 0) -> None:
        self._pool = pool
        self._tape = tape
        self.recording = tape is not None
        self._memory: Array = np.empty(0)
        self._bytes = register_bytes or host_register_bytes()

    def _launch(self, kernel: Any, multiplies: int, kind: np.dtype, **fields: Any) -> None:
        parts = MOST_PARTS if multiplies >= WORTH_CUTTING else 1
        if self._tape is not None:
            self._tape.append(kernel, parts, kind, fields)
            return
        tape = Tape()
        tape.append(kernel, parts, kind, fields)
        self.replay(tape)

    def _scratch(self, size: int, dtype: Any) -> Array:
        """Memory for what one call leaves to the next. Calls run one after another, so all use the same."""
        if self._memory.nbytes < size * np.dtype(dtype).itemsize:
            self._memory = np.empty(size, dtype)
        return self._memory

    def replay(self, tape: Tape) -> None:
        """Run a tape from start to end."""
        if tape.hosts:
            self._replay_stretches(tape)
        else:
            self._pool.run(tape.calls, tape.count, tape.parts)

    def _replay_stretches(self, tape: Tape) -> None:
        """Run what lies between host calls by one call of the pool each; all threads have ended when Python runs."""
        start = 0
        for stop, call in [*tape.hosts, (tape.count, None)]:
            if stop > start:
                self._pool.run(tape.calls[start:stop], stop - start, int(tape.calls[start:stop, 1].max()))
            if call is not None:
                call.function(**call.inputs, **call.outputs)
            start = stop

    def host(
        self, name: str, function: Callable[..., Any], inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        """function(**inputs, **outputs), in Python: NumPy arrays, of which only the outputs can be written to."""
        given = {key: _view(array, writeable=False) for key, array in inputs.items()}
        call = HostCall(name, function, given, {key: _view(array, writeable=True) for key, array in outputs.items()})
        if self._tape is not None:
            self._tape.append_host(call)
        else:
            function(**call.inputs, **call.outputs)

    def compiled(
        self, function: Any, count: int, inputs: Sequence[Any], outputs: Sequence[Array], *, work: int | None = None
    ) -> None:
        """function(*inputs, *outputs, first, last), a function of one's own that `numba.njit` compiled, which does the
        things from `first` to before `last` of so many.

        Inputs are arrays, which it cannot write to, and numbers; all arrays are contiguous. `work` says how many
        multiply-adds there are in about: as many as the arrays have numbers, if not given.
        """
        check_own(function, count, inputs, outputs, recorded=self._tape is not None)
        if is_python(function):
            self.host(function.__name__, *python_call(function, count, inputs, outputs))
            return
        words, kernel = words_of(inputs, outputs), own_kernel(function, inputs, outputs)
        sizes = sum(value.size for value in words.values() if isinstance(value, np.ndarray))
        kind = np.dtype([("count", np.int64), *((name, np.int64) for name in words)])
        self._launch(kernel, sizes if work is None else work, kind, count=count, **words)

    def spmm(
        self, layout: Layout | CooLayout, grid: Grid, data: Array, x: Array, bias: Array | None, out: Array,
        *, relu: bool = False, mask: Array | None = None, more: bool = False, ceiling: float | None = None,
    ) -> None:  # fmt: skip
        """out[i] = bias[i] + Σ_p data[p] · x[offset[p]], then ReLU, or zero where `mask` is not positive.

        With `more`, which layouts of rows know, sums go on from what is in `out` instead of the bias. With a `ceiling`,
        which they know too, out[i] = min(max(sum + bias[i], 0), ceiling), and 0 where the sum is 0, whatever the bias.
        """
        positions, width = grid.outer * grid.ys * grid.lines, self._bytes // out.itemsize
        multiplies = len(data) * positions * LANES
        fields = dict(grid._asdict(), data=data, x=x, bias=bias, out=out, mask=mask, relu=int(relu))
        if isinstance(layout, Layout):
            placed, capped = int(grid.places is not None), int(ceiling is not None)
            kernel = spmm_kernel(element_size(out), layout.most_group, width, placed, capped)
            fields["ceiling"] = np.array([ceiling], data.dtype) if capped else None
            fields["relu"] = int(relu or capped)
            self._launch(kernel, multiplies, SPMM, **_connections(layout), **fields, more=int(more))
            return
        segments = len(layout.edges) - 1
        fields |= _segments(layout)
        size = element_size(out)
        waiting = 2 * samples_of_tile(size) if size == 2 else LANES  # also what a row begins with
        fields["carries"] = self._scratch(segments * positions * waiting if layout.carries else 0, data.dtype)
        self._launch(spmm_coo_kernel(size, width, _ahead(grid, x)), multiplies, SPMM_COO, **fields)
        if layout.carries:
            self._launch(carry_kernel(size, width), layout.carries * positions * LANES, SPMM_COO, **fields)

    def sddmm(
        self, layout: Layout | CooLayout, grid: Grid, dy: Array, x: Array, grad: Array, db: Array | None = None,
        *, more: bool = False,
    ) -> None:  # fmt: skip
        """grad[p] = ⟨dy[row[p]], x[offset[p]]⟩ over all positions and samples; db[i] = Σ dy[i].

        With `more`, both are added to what is there.
        """
        width = self._bytes // grad.itemsize
        multiplies = len(grad) * grid.outer * grid.ys * grid.lines * LANES
        fields = dict(grid._asdict(), dy=dy, x=x, grad=grad, db=db, more=int(more))
        for name in ("outer", "y", "line", "row"):
            fields[f"dy_{name}"] = fields.pop(f"out_{name}")
        if isinstance(layout, Layout):
            walk, images = sweep(grid, layout.most_group), grid.outer != 1 or grid.ys != 1
            kernel = (sddmm_images_kernel if images else sddmm_kernel)(element_size(x), layout.most_group, width)
            fields |= walk._asdict()
            bands, stride = bands_of(grid, walk) if images else 1, len(grad) + (0 if db is None else len(db))
            joined = bands > 1 and PARTIAL_PAYS * bands * stride <= grid.outer * grid.x_outer
            joined = joined and (db is None or walk.together == 1)  # of several tiles, db goes on from tile to tile
            fields |= {"bands": bands, "stride": stride, "connections": len(grad)}
            fields["partial"] = self._scratch(bands * stride, grad.dtype) if joined else None
            fields |= _connections(layout)
            self._launch(kernel, multiplies, SDDMM, **fields)
            if joined:
                self._launch(join_kernel(grad.itemsize), bands * stride, SDDMM, **fields)
        else:
            kernel = sddmm_coo_kernel(element_size(x), width, _ahead(grid, x))
            self._launch(kernel, multiplies, SDDMM_COO, **_segments(layout), **fields)

    def reorder(self, data: Array, perm: Array, out: Array) -> None:
        """out[q] = data[perm[q]]; `perm` may be a matrix, which tells where rows and columns begin anew."""
        rows, columns = perm.shape if perm.ndim == 2 else (1, len(perm))
        kernel = reorder_kernel(data.itemsize, perm.itemsize)
        fields = {"perm_size": perm.itemsize, "rows": rows, "columns": columns}
        self._launch(kernel, COST_REORDER * perm.size, REORDER, data=data, perm=perm, out=out, **fields)

    def relu(self, x: Array, out: Array) -> None:
        """out = max(x, 0); NaN stays NaN."""
        self._launch(relu_kernel(element_size(x)), x.size, RELU, x=x, out=out, count=x.size)

    def mask(self, dy: Array, y: Array, out: Array) -> None:
        """out = dy where y > 0, and 0 elsewhere: the gradient through a ReLU whose output was y."""
        self._launch(mask_kernel(element_size(dy)), dy.size, MASK, dy=dy, y=y, out=out, count=dy.size)

    def add(self, a: Array, b: Array, out: Array, *, relu: bool = False, mask: Array | None = None) -> None:
        """out = a + b, then ReLU, or zero where `mask` is not positive; `out` may be `a`, and all may be views."""
        named = {"a": a, "b": b, "out": out, "mask": mask}
        images = [array for array in named.values() if array is not None and array.ndim == 5]
        apart = any(array.strides[3] != LANES * array.itemsize for array in images)
        kernel, fields = add_kernel(element_size(a), a is out, apart), _rows_of(out, named)
        for name, array in named.items():  # where pixels lie apart, each is a column of its own
            fields[f"{name}_column"] = array.strides[3] // array.itemsize if apart and array is not None else 0
        fields["columns"] = out.shape[3] if apart else 1
        self._launch(kernel, a.size, ADD, **named, relu=int(relu), **fields)

    def place(self, x: Array, out: Array, mask: Array | None = None) -> None:
        """out = x, or zero where `mask` is not positive; all three may be views, and around them nothing is
        touched."""
        fields = dict(zip(("tiles", "channels", "rows", "columns"), out.shape, strict=False))
        for name, array in (("x", x), ("mask", mask), ("out", out)):
            steps = (0,) * 4 if array is None else [stride // array.itemsize for stride in array.strides[:4]]
            fields |= {f"{name}_{k}": step for k, step in zip(("tile", "plane", "row", "column"), steps, strict=True)}
        self._launch(place_kernel(element_size(x)), x.size, PLACE, x=x, mask=mask, out=out, **fields)

    def fold(self, x: Array, out: Array, batch: int, step: int, top: int, mask: Array | None = None) -> None:
        """Strips of images: out[0, c, r, u, k · batch + s] = x[0, c, k · step + r − top, u, s], or zero beyond x's
        edges and where `mask`, which lies as x does, is not positive; zero in the lanes past the last strip."""
        self._fold(fold_kernel(x.itemsize, batch), x, out, x, step, top, mask)

    def unfold(self, x: Array, out: Array, batch: int, step: int, top: int, mask: Array | None = None) -> None:
        """The other way: out[0, c, r, u, s] = Σ_k x[0, c, r + top − k · step, u, k · batch + s] over the strips that
        have the row, or zero where `mask` is not positive; zero in the lanes past the batch."""
        self._fold(unfold_kernel(x.itemsize, batch), x, out, out, step, top, mask)

    def _fold(
        self, kernel: Any, x: Array, out: Array, images: Array, step: int, top: int, mask: Array | None
    ) -> None:
        fields = {"channels": out.shape[1], "x_rows": x.shape[2], "out_rows": out.shape[2], "columns": out.shape[3]}
        for name, array in (("x", x), ("mask", mask), ("out", out)):
            steps = (0, 0) if array is None else (array.strides[1], array.strides[2])
            fields |= {f"{name}_{k}": each // x.itemsize for k, each in zip(("plane", "row"), steps, strict=True)}
        self._launch(kernel, images.size, FOLD, x=x, mask=mask, out=out, step=step, top=top, **fields)

    def moments(self, x: Array, batch: int, partial: Array) -> None:
        """partial[channel, segment] = (mean, sum of squares around it) of the x of a channel in some of the tiles."""
        self._sum_segments(x, batch, partial)

    def settle(
        self, partial: Array, pixels: int, batch: int, eps: float, momentum: float, mean: Array, var: Array,
        found: Array, *, samples: int = LANES,
    ) -> None:  # fmt: skip
        """found[channel] = (mean, 1/√(variance + eps)) of a whole batch; the running rows `mean` and `var` move to
        it. Tiles hold so many samples."""
        self._launch(
            settle_kernel(mean.itemsize), 0, SETTLE, partial=partial, channels=len(found), segments=partial.shape[1],
            pixels=pixels, samples=samples, batch=batch, rates=np.array([eps, momentum]), mean=mean, var=var,
            found=found,
        )  # fmt: skip

    def recall(self, mean: Array, var: Array, eps: float, found: Array) -> None:
        """found[channel] = (mean, 1/√(var + eps)) of the running rows, for use outside training."""
        self._launch(
            settle_kernel(mean.itemsize), 0, SETTLE, partial=None, channels=len(found), segments=0,
            pixels=0, samples=LANES, batch=0, rates=np.array([eps, 0.0]), mean=mean, var=var, found=found,
        )  # fmt: skip

    def normalise(
        self, x: Array, found: Array, scale: Array, shift: Array, out: Array, batch: int, *,
        around: Array | None = None, relu: bool = False,
    ) -> None:  # fmt: skip
        """out = (x − mean) / √(variance + eps) · scale + shift + around, then ReLU; zero in the lanes past the
        batch."""
        self._launch(
            normalise_kernel(element_size(x)), COST_NORM * x.size, NORMALISE, x=x, found=found, scale=scale,
            shift=shift, dy=None, totals=None, around=around, out=out, relu=int(relu), count=0,
            **_planes(batch, x, dy=None, out=out, around=around),
        )  # fmt: skip

    def slopes(
        self, dy: Array, x: Array, found: Array, scale: Array, shift: Array, batch: int, partial: Array, *, relu: bool
    ) -> None:
        """partial[channel, segment] = (Σ dy, Σ dy · (x − mean)) of a channel in some of the tiles.

        With `relu`, for this and for `normalise_back`, dy is zero where ReLU stopped what `normalise` made of x.
        """
        self._sum_segments(x, batch, partial, dy, (found, scale, shift), relu=relu)

    def _sum_segments(
        self, x: Array, batch: int, partial: Array, dy: Array | None = None,
        line: tuple[Array | None, Array | None, Array | None] = (None, None, None), *, relu: bool = False,
    ) -> None:  # fmt: skip
        found, scale, shift = line
        self._launch(
            moments_kernel(element_size(x), dy is not None), COST_NORM * x.size, MOMENTS, x=x, dy=dy, found=found,
            scale=scale, shift=shift, partial=partial, batch=batch, relu=int(relu), segments=partial.shape[1],
            **_rows_of(x, {"x": x, "dy": dy}),
        )  # fmt: skip

    def settle_slopes(self, partial: Array, found: Array, totals: Array, dscale: Array, dshift: Array) -> None:
        """totals[channel] = the sum of its segments; the gradients of scale and shift are made of these."""
        self._launch(
            settle_slopes_kernel(dscale.itemsize), 0, SETTLE_SLOPES, partial=partial, channels=len(found),
            segments=partial.shape[1], found=found, totals=totals, dscale=dscale, dshift=dshift,
        )  # fmt: skip

    def normalise_back(
        self, dy: Array, x: Array, found: Array, scale: Array, shift: Array, totals: Array, out: Array, batch: int, *,
        training: bool, relu: bool,
    ) -> None:  # fmt: skip
        """The gradient of x; outside training mean and variance are constants, which give none back."""
        self._launch(
            normalise_back_kernel(element_size(x)), COST_NORM * x.size, NORMALISE, x=x, found=found, scale=scale,
            shift=shift, dy=dy, totals=totals if training else None, around=None, out=out, relu=int(relu),
            count=batch * x.shape[2] * x.shape[3], **_planes(batch, x, dy=dy, out=out, around=None),
        )  # fmt: skip

    def dropout(self, x: Array, position: Array, stream: int, rate: float, out: Array) -> None:
        """out = x / (1 − rate), or 0 with probability `rate`; `position` holds the first sample, the epoch and the
        seed."""
        features = x.size // (len(x) * LANES) if len(x) else 0
        self._launch(
            dropout_kernel(element_size(x)), COST_DROPOUT * x.size, DROPOUT, x=x, position=position, stream=stream,
            rate=np.array([rate]), out=out, tiles=len(x), features=features,
        )  # fmt: skip

    def max_pool(self, x: Array, window: Window, y: Array, index: Array) -> None:
        """y = the largest x of each window, and which of the window's pixels that is. NaN counts as the largest."""
        self._pool_windows(LARGEST, x, window, y, index)

    def max_unpool(self, dy: Array, index: Array, window: Window, dx: Array) -> None:
        """dx = the sum of dy over the windows whose largest x is that pixel's."""
        self._pool_windows(TO_LARGEST, dx, window, dy, index)

    def mean_pool(self, x: Array, window: Window, y: Array) -> None:
        """y = the mean of each window's x."""
        self._pool_windows(MEAN, x, window, y, None)

    def mean_unpool(self, dy: Array, window: Window, dx: Array) -> None:
        """dx = the sum of its windows' dy, each divided by the number of its pixels."""
        self._pool_windows(TO_ALL, dx, window, dy, None)

    def _pool_windows(self, what: int, x: Array, window: Window, y: Array, index: Array | None) -> None:
        tiles, channels, height, width, lanes = x.shape
        _, _, rows, columns, _ = y.shape
        kernel = pooling_kernel(what, element_size(x), self._bytes // x.itemsize)
        self._launch(
            kernel, y.size * window.high * window.wide, POOLING,
            x=x, y=y, index=index, planes=tiles * channels, x_plane=height * width * lanes, x_row=width * lanes,
            y_rows=rows, y_columns=columns, high=window.high, wide=window.wide,
            row_step=window.row_step * width * lanes, column_step=window.column_step * lanes,
        )  # fmt: skip

    def pack(self, x: Array, out: Array, places: Array | None = None) -> None:
        """(batch, features) → (tiles, features, LANES); lanes without a sample become zero.

        Samples of bfloat16, as uint16, become words of two. With `places`, int32 of shape (features,), a feature goes
        to that line of its tile, of as many as `out` has.
        """
        self._launch_pack(pack_kernel, x, out, places)

    def clear_lanes(self, x: Array, batch: int) -> None:
        """Zero in the lanes of the last tile that hold no sample; in place."""
        features, samples = x.size // (len(x) * LANES), samples_of_tile(element_size(x))
        self._launch(
            clear_lanes_kernel(element_size(x)), features * LANES, CLEAR_LANES, x=x,
            last=(len(x) - 1) * features * LANES, features=features, used=batch % samples or samples,
        )  # fmt: skip

    def widen(self, x: Array, out: Array) -> None:
        """Tiles of bfloat16 as tiles of float32, of half as many samples each."""
        self._launch(widen_kernel(), x.size, WIDEN, x=x, out=out, numbers=out.size // max(len(out), 1), blocks=len(out))

    def narrow(self, x: Array, out: Array) -> None:
        """The other way, rounded to the nearest, ties to even."""
        self._launch(narrow_kernel(), x.size, WIDEN, x=x, out=out, numbers=x.size // max(len(x), 1), blocks=len(x))

    def unpack(self, x: Array, out: Array, places: Array | None = None) -> None:
        """(tiles, features, LANES) → (batch, features), each feature from its line of the tile as in `pack`."""
        self._launch_pack(unpack_kernel, out, x, places)

    def _launch_pack(self, made: Any, rows: Array, tiles: Array, places: Array | None) -> None:
        batch, features = rows.shape
        kernel = made(element_size(tiles), int(places is not None), self._bytes // tiles.itemsize)
        self._launch(
            kernel, COST_PACK * rows.size, PACK, rows=rows,
            row=rows.strides[0] // rows.itemsize, features=features, batch=batch, tiles=tiles,
            tile=tiles.size // max(len(tiles), 1), places=places,
        )  # fmt: skip

    def pack_samples(
        self, store: Array, labels: Array, order: Array, at: Array, scale: Array, shift: Array, out: Array, out_labels:
        Array, batch: int, addresses: Array,
    ) -> None:  # fmt: skip
        """Pack samples `order[at[0]:at[0] + batch]` of a store of uint8 or float32, normalised, and their labels."""
        features = store.shape[1]
        kernel = pack_samples_kernel(element_size(out), store.itemsize, self._bytes // out.itemsize)
        self._launch(
            kernel, batch * features, PACK_SAMPLES,
            store=store, row_bytes=store.strides[0], order=order, at=at, labels=labels, features=features, batch=batch,
            scale=scale, shift=shift, out=out, out_tile=features * LANES, out_labels=out_labels, addresses=addresses,
        )  # fmt: skip

    def augment(
        self, store: Array, labels: Array, order: Array, position: Array, shape: tuple[int, ...], most: int,
        flip: bool, out: Array, out_labels: Array, batch: int,
    ) -> None:  # fmt: skip
        """Copy images `order[position[0]:position[0] + batch]` of a store, moved by up to `most` pixels and mirrored,
        and their labels; `position` also holds the epoch and the seed."""
        channels, height, width = shape
        self._launch(
            augment_kernel(store.itemsize), batch * channels * height * width, AUGMENT,
            store=store, labels=labels, order=order, position=position, most=most, flip=int(flip), batch=batch,
            channels=channels, height=height, width=width, out=out, out_labels=out_labels,
        )  # fmt: skip

    def cross_entropy(
        self, z: Array, labels: Array, batch: int, dz: Array, losses: Array, correct: Array, scratch: Array,
        divisor: int | None = None,
    ) -> None:  # fmt: skip
        """Per-sample losses, whether the largest logit is the label's, and the gradient of their sum divided by
        `divisor`, the batch if not given."""
        self._launch(
            cross_entropy_kernel(z.itemsize, self._bytes // z.itemsize), COST_SOFTMAX * z.size, CROSS_ENTROPY,
            z=z, labels=labels, classes=z.shape[1], batch=batch, dz=dz, losses=losses, correct=correct, scratch=scratch,
            divisor=batch if divisor is None else divisor,
        )  # fmt: skip

    def squared_error(
        self, z: Array, targets: Array, batch: int, dz: Array, losses: Array, divisor: int | None = None
    ) -> None:
        """Per-sample losses ½·Σ (z − target)², and the gradient of their sum divided by `divisor`, the batch if not
        given."""
        self._launch(
            squared_error_kernel(z.itemsize), 2 * z.size, SQUARED_ERROR,
            z=z, targets=targets, features=z.shape[1], batch=batch, dz=dz, losses=losses,
            divisor=batch if divisor is None else divisor,
        )  # fmt: skip

    def tally(self, losses: Array, correct: Array, batch: int, totals: Array) -> None:
        """totals += (Σ losses, Σ correct, batch), in order."""
        self._launch(tally_kernel(), 0, TALLY, losses=losses, correct=correct, batch=batch, totals=totals)

    def norm(self, dw: Array, rates: Array) -> None:
        """rates[SCALE] = min(1, rates[LARGEST_NORM] / ‖dw‖)."""
        self._launch(norm_kernel(dw.itemsize), 0, NORM, dw=dw, count=dw.size, rates=rates)

    def sgd(
        self, w: Array, dw: Array, velocity: Array, rates: Array, *, nesterov: bool = False, decays: bool = True
    ) -> None:
        """One step of stochastic gradient descent on flat arrays; `decays=False` leaves weight decay out."""
        self._launch(
            sgd_kernel(w.itemsize), COST_SGD * w.size, SGD,
            w=w, dw=dw, velocity=velocity, count=w.size, rates=rates, nesterov=int(nesterov), decays=int(decays),
        )  # fmt: skip

    def tick(self, rates: Array) -> None:
        """Count a step of Adam: STEPS += 1, and CORRECTION1 and CORRECTION2 = 1 − β₁ᵗ and 1 − β₂ᵗ."""
        self._launch(tick_kernel(), 0, TICK, rates=rates)

    def adam(
        self, w: Array, dw: Array, m: Array, v: Array, rates: Array, *, decoupled: bool = False, decays: bool = True
    ) -> None:
        """One step of Adam on flat arrays, or AdamW if `decoupled`, with the CORRECTIONs of the last `tick`;
        `decays=False` leaves weight decay out."""
        self._launch(
            adam_kernel(w.itemsize), COST_ADAM * w.size, ADAM,
            w=w, dw=dw, m=m, v=v, count=w.size, rates=rates, decoupled=int(decoupled), decays=int(decays),
        )  # fmt: skip


def _view(array: Array, *, writeable: bool) -> Array:
    """An ordinary array of the same memory, whatever kind of array stands for it while a step is recorded."""
    view = array.view(np.ndarray)
    view.flags.writeable = writeable
    return view


def _planes(batch: int, x: Array, **others: Array | None) -> dict[str, int]:
    """Where the rows of images lie that batch normalisation reads and writes, and the lanes that the last tile uses."""
    return _rows_of(x, {"x": x, **others}) | {"used": batch - samples_of_tile(element_size(x)) * (len(x) - 1)}


def _rows_of(x: Array, named: Mapping[str, Array | None]) -> dict[str, int]:
    """How many rows of pixels arrays have that are of x's shape, and where each array's lie.

    Arrays that are not images, all of them contiguous, are one row in each tile.
    """
    numbers = x.size // max(len(x), 1)
    tiles, channels, height, width, lanes = x.shape if x.ndim == 5 else (len(x), 1, 1, numbers, 1)
    fields = {"tiles": tiles, "channels": channels, "rows": height, "length": width * lanes}
    for name, array in named.items():
        steps: tuple[int, ...] = (numbers, 0, 0)
        if array is None or array.ndim == 5:
            steps = (0, 0, 0) if array is None else tuple(stride // array.itemsize for stride in array.strides[:3])
        fields |= {f"{name}_{part}": step for part, step in zip(("tile", "plane", "row"), steps, strict=True)}
    return fields


def _ahead(grid: Grid, x: Array) -> int:
    """Connections between COO's fetching a line of x and using it: 0 where a cache holds what one pass reads of x."""
    far = grid.outer * grid.ys == 1 and 4 * grid.x_line * x.itemsize > FAR_CACHE
    return PREFETCH_AHEAD if far else 0


def _segments(layout: CooLayout) -> dict[str, Any]:
    sizes = {"connections": len(layout.rows), "segments": len(layout.edges) - 1, "empties": len(layout.empty)}
    return layout._asdict() | sizes


def _connections(layout: Layout) -> dict[str, Any]:
    fields = layout._asdict()
    del fields["most_group"]
    return fields | {"groups": len(layout.runs), "blocks": len(layout.cuts) - 1}
