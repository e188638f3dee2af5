"""The oracle: every kernel again, as plain loops in float64 that say what it computes, at any speed.

Each function has the name and the parameters of a method of `cpu.launch.Launcher`, or of what `cpu.few.FewLauncher` has
beside these. Only the lanes of a line, and the features of a sample, are written as vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layout import LANES, PAIRS, CooLayout, Grid, Layout, Window
from .rates import (
    BETA1,
    BETA2,
    CORRECTION1,
    CORRECTION2,
    EPS,
    LARGEST_NORM,
    LR,
    MOMENTUM,
    SCALE,
    STEPS,
    WEIGHT_DECAY,
)

Array = NDArray[Any]


# ---------------------------------------------------------------------------------------------- sparse operators


def spmm(
    layout: Layout | CooLayout, grid: Grid, data: Array, x: Array, bias: Array | None, out: Array,
    *, relu: bool = False, mask: Array | None = None, more: bool = False, ceiling: float | None = None,
) -> None:  # fmt: skip
    """out[i] = bias[i] + Σ_p data[p] · x[offset[p]], then ReLU, or zero where `mask` is not positive.

    With `more`, sums go on from what is in `out` instead of the bias. With a `ceiling`, out[i] = min(max(sum + bias[i],
    0), ceiling), and 0 where the sum is 0, whatever the bias.
    """
    x, out = _memory(x), _memory(out)
    gate = None if mask is None else _memory(mask)
    for image_row, x_at, out_at in _positions(grid):
        for row, connections in _rows(layout, None if grid.bands is None else grid.bands[image_row]):
            target = out_at + (row * grid.out_row if grid.places is None else int(grid.places[row]))
            shift = 0.0 if bias is None else float(bias[row])
            y = _line(out, target) if more else np.full(LANES, 0.0 if ceiling is not None else shift)
            for p, offset in connections:
                y += float(data[p]) * _line(x, x_at + offset * LANES)
            if ceiling is not None:
                y[y != 0] += shift
                y[y > ceiling] = ceiling
            if relu or ceiling is not None:
                y[y < 0] = 0
            if gate is not None:
                y[~(_line(gate, target) > 0)] = 0
            out[target : target + LANES] = y


def spmm_few(
    layout: Layout, data: Array, x: Array, bias: Array | None, out: Array, *, relu: bool = False
) -> None:
    """out[i] = bias[i] + Σ_p data[p] · x[offset[p]], then ReLU; x[k] and out[i] are 1, 2, 4 or 8 samples."""
    for row, connections in _rows(layout):
        y = np.full(out.shape[1], 0.0 if bias is None else bias[row])
        for p, offset in connections:
            y += float(data[p]) * x[offset].astype(np.float64)
        if relu:
            y[y < 0] = 0
        out[row] = y


def sddmm(
    layout: Layout | CooLayout, grid: Grid, dy: Array, x: Array, grad: Array, db: Array | None = None,
    *, more: bool = False,
) -> None:  # fmt: skip
    """grad[p] = ⟨dy[row[p]], x[offset[p]]⟩ over all positions and samples; db[i] = Σ dy[i].

    With `more`, both are added to what is there.
    """
    x, dy = _memory(x), _memory(dy)
    for row, connections in _rows(layout):
        lines = [(x_at, _line(dy, dy_at + row * grid.out_row)) for _, x_at, dy_at in _positions(grid)]
        for p, offset in connections:
            slope = sum(np.sum(dy_line * _line(x, x_at + offset * LANES)) for x_at, dy_line in lines)
            grad[p] = grad[p] + slope if more else slope
        if db is not None:
            total = sum(np.sum(dy_line) for _, dy_line in lines)
            db[row] = db[row] + total if more else total


def _rows(layout: Layout | CooLayout, band: Array | None = None) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Each row, with its connections: the position of the value, and the line of x that it multiplies.

    Without a band, blocks of columns only say in which order a kernel visits connections, so they are not looked at.
    """
    if isinstance(layout, CooLayout):
        for row in range(layout.count):
            yield row, [(int(p), int(layout.offsets[p])) for p in np.flatnonzero(layout.rows == row)]
        return
    for group, run in enumerate(layout.runs):
        for row in layout.rows[layout.starts[group] : layout.starts[group + 1]]:
            first, stop = layout.indptr[row], layout.indptr[row + 1]
            start, end = (0, stop - first) if band is None else layout.cuts[band, group]
            yield int(row), [(first + k, int(layout.offsets[run + k])) for k in range(start, end)]


def _positions(grid: Grid) -> Iterator[tuple[int, int, int]]:
    """Each output position: its image row, and where it begins in x, and in out (or dy)."""
    for outer in range(grid.outer):
        for y in range(grid.ys):
            for line in range(grid.lines):
                x_at = outer * grid.x_outer + y * grid.x_y + line * grid.x_line
                yield y, x_at, outer * grid.out_outer + y * grid.out_y + line * grid.out_line


def _memory(array: Array) -> Array:
    """An array's memory from its first element to its last, shared and flat; it includes what a view leaves out."""
    steps = [stride // array.itemsize for stride in array.strides]
    length = 1 + sum((size - 1) * step for size, step in zip(array.shape, steps, strict=True)) if array.size else 0
    return np.lib.stride_tricks.as_strided(array, (length,), (array.itemsize,))


def _line(memory: Array, at: int) -> Array:
    if not 0 <= at <= memory.size - LANES:
        raise IndexError(f"a line at element {at} is not within the array's {memory.size} elements")
    return memory[at : at + LANES].astype(np.float64)


# ---------------------------------------------------------------------------------------------- Python


def host(
    name: str, function: Callable[..., Any], inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> None:
    """function(**inputs, **outputs), in Python: NumPy arrays, of which only the outputs can be written to."""
    function(**inputs, **outputs)


def compiled(
    function: Any, count: int, inputs: Sequence[Any], outputs: Sequence[Array], *, work: int | None = None
) -> None:
    """function(*inputs, *outputs, first, last), a function of one's own that does the things from `first` to before
    `last`: all of so many."""
    del work
    function(*inputs, *outputs, 0, count)


# ---------------------------------------------------------------------------------------------- elementwise


def reorder(data: Array, perm: Array, out: Array) -> None:
    """out[q] = data[perm[q]]; `perm` may be a matrix, which tells where rows and columns begin anew."""
    for q, p in enumerate(perm.flat):
        out[q] = data[p]


def relu(x: Array, out: Array) -> None:
    """out = max(x, 0); NaN stays NaN."""
    for k in np.ndindex(x.shape):
        out[k] = 0 if x[k] < 0 else x[k]


def mask(dy: Array, y: Array, out: Array) -> None:
    """out = dy where y > 0, and 0 elsewhere: the gradient through a ReLU whose output was y."""
    for k in np.ndindex(dy.shape):
        out[k] = dy[k] if y[k] > 0 else 0


def add(a: Array, b: Array, out: Array, *, relu: bool = False, mask: Array | None = None) -> None:
    """out = a + b, then ReLU, or zero where `mask` is not positive; NaN stays NaN behind a ReLU."""
    for k in np.ndindex(a.shape):
        total = a[k] + b[k]
        out[k] = 0 if (total < 0 and relu) or (mask is not None and not mask[k] > 0) else total


def place(x: Array, out: Array, mask: Array | None = None) -> None:
    """out = x, or zero where `mask` is not positive; all three may be views, and nothing around them is touched."""
    out[...] = x if mask is None else np.where(mask > 0, x, 0)


def fold(x: Array, out: Array, batch: int, step: int, top: int, mask: Array | None = None) -> None:
    """Strips of images: out[0, c, r, u, k · batch + s] = x[0, c, k · step + r − top, u, s], or zero beyond x's edges
    and where `mask`, which lies as x does, is not positive; zero in the lanes past the last strip."""
    out[...] = 0
    given = x if mask is None else np.where(mask > 0, x, 0)
    for strip, row in np.ndindex(LANES // batch, out.shape[2]):
        if 0 <= (here := strip * step + row - top) < x.shape[2]:
            out[0, :, row, :, strip * batch : (strip + 1) * batch] = given[0, :, here, :, :batch]


def unfold(x: Array, out: Array, batch: int, step: int, top: int, mask: Array | None = None) -> None:
    """The other way: out[0, c, r, u, s] = Σ_k x[0, c, r + top − k · step, u, k · batch + s] over the strips that have
    the row, or zero where `mask` is not positive; zero in the lanes past the batch."""
    found = np.zeros(out.shape)
    for strip, row in np.ndindex(LANES // batch, out.shape[2]):
        if 0 <= (here := row + top - strip * step) < x.shape[2]:
            found[0, :, row, :, :batch] += x[0, :, here, :, strip * batch : (strip + 1) * batch]
    out[...] = found if mask is None else np.where(mask > 0, found, 0)


# ---------------------------------------------------------------------------------------------- batch normalisation
#
# Images are (tiles, channels, height, width, LANES); `out` and `around` may be views of images inside a border. What
# belongs to a channel is computed from the samples of the batch alone, not from the lanes past it.


def moments(x: Array, batch: int, partial: Array) -> None:
    """partial[channel, segment] = (mean, sum of squares around it) of the x of a channel in some of the tiles."""
    for channel, segment, values in _segments(x, batch, partial.shape[1]):
        partial[channel, segment] = values.mean(), np.sum((values - values.mean()) ** 2)


def settle(
    partial: Array, pixels: int, batch: int, eps: float, momentum: float, mean: Array, var: Array, found: Array, *,
    samples: int = LANES,
) -> None:  # fmt: skip
    """found[channel] = (mean, 1/√(variance + eps)) of a whole batch; the running rows `mean` and `var` move to it.

    The variance divides by the number n of values, and by n − 1 in the running row. Segments are joined by the rule of
    T. Chan, G. Golub, R. LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    Tiles hold so many samples.
    """
    channels, segments = partial.shape[:2]
    counts = [_count(k, segments, pixels, batch, samples) for k in range(segments)]
    total = sum(counts)
    for channel in range(channels):
        means, squares = partial[channel, :, 0], partial[channel, :, 1]
        middle = np.sum(means * counts) / total
        variance = (np.sum(squares) + np.sum(counts * (means - middle) ** 2)) / total
        found[channel] = middle, 1 / np.sqrt(variance + eps)
        mean[channel] += momentum * (middle - float(mean[channel]))
        var[channel] += momentum * (variance * total / (total - 1) - float(var[channel]))


def recall(mean: Array, var: Array, eps: float, found: Array) -> None:
    """found[channel] = (mean, 1/√(var + eps)) of the running rows, for use outside training."""
    found[:, 0], found[:, 1] = mean, 1 / np.sqrt(var.astype(np.float64) + eps)


def normalise(
    x: Array, found: Array, scale: Array, shift: Array, out: Array, batch: int, *, around: Array | None = None,
    relu: bool = False,
) -> None:  # fmt: skip
    """out = (x − mean) / √(variance + eps) · scale + shift + around, then ReLU; zero in the lanes past the batch."""
    mean, rate, scale, shift = (
        array.astype(np.float64)[:, None, None, None] for array in (found[:, 0], found[:, 1], scale, shift)
    )
    y = (x.astype(np.float64) - mean) * (rate * scale) + shift + (0 if around is None else around)
    y[(y < 0) & relu] = 0
    y[-1, ..., batch - LANES * (len(y) - 1) :] = 0
    out[...] = y


def slopes(
    dy: Array, x: Array, found: Array, scale: Array, shift: Array, batch: int, partial: Array, *, relu: bool
) -> None:
    """partial[channel, segment] = (Σ dy, Σ dy · (x − mean)) of a channel in some of the tiles; with `relu`, dy is zero
    where what `normalise` makes of x is not positive."""
    dy = _passed(dy, x, found, scale, shift, relu)
    both = zip(_segments(dy, batch, partial.shape[1]), _segments(x, batch, partial.shape[1]), strict=True)
    for (channel, segment, dys), (_, _, xs) in both:
        partial[channel, segment] = dys.sum(), np.sum(dys * (xs - found[channel, 0]))


def _passed(dy: Array, x: Array, found: Array, scale: Array, shift: Array, relu: bool) -> Array:
    """dy in float64, zero where ReLU stopped a value."""
    y = np.empty(x.shape)
    normalise(x, found, scale, shift, y, len(x) * LANES)
    return np.where((y > 0) | (not relu), dy, 0.0)


def settle_slopes(partial: Array, found: Array, totals: Array, dscale: Array, dshift: Array) -> None:
    """totals[channel] = the sum of its segments; the gradients of scale and shift are made of these."""
    totals[:] = partial.sum(1)
    dshift[:], dscale[:] = totals[:, 0], totals[:, 1] * found[:, 1]


def normalise_back(
    dy: Array, x: Array, found: Array, scale: Array, shift: Array, totals: Array, out: Array, batch: int, *,
    training: bool, relu: bool,
) -> None:  # fmt: skip
    """The gradient of x; outside training mean and variance are constants, which give none back. With `relu`, dy is
    zero where what `normalise` makes of x is not positive.

    S. Ioffe, C. Szegedy, Batch Normalization, ICML 2015, the equations of section 3, with what they share taken out.
    Zero in the lanes past the batch.
    """
    count = batch * x.shape[2] * x.shape[3]
    dx = _passed(dy, x, found, scale, shift, relu)
    mean, rate, first, second, scale = (
        array.astype(np.float64)[:, None, None, None]
        for array in (found[:, 0], found[:, 1], totals[:, 0], totals[:, 1], scale)
    )
    if training:
        dx = dx - first / count - (x - mean) * (rate**2 * second / count)
    dx = dx * (scale * rate)
    dx[-1, ..., batch - LANES * (len(dx) - 1) :] = 0
    out[...] = dx


def _segments(x: Array, batch: int, segments: int) -> Iterator[tuple[int, int, Array]]:
    """The values of each channel in each segment: as many tiles as fit, from the first on, fewer in the last."""
    per = -(-len(x) // segments)
    for channel, segment in np.ndindex(x.shape[1], segments):
        tiles = x[segment * per : (segment + 1) * per, channel].astype(np.float64)
        samples = np.moveaxis(tiles, -1, 1).reshape(len(tiles) * LANES, -1)
        yield channel, segment, samples[: batch - segment * per * LANES]


def _count(segment: int, segments: int, pixels: int, batch: int, samples: int) -> int:
    """How many values of a channel a segment of tiles of so many samples holds."""
    tiles = -(-batch // samples)
    per = -(-tiles // segments) * samples
    return (min((segment + 1) * per, batch) - segment * per) * pixels


def dropout(x: Array, position: Array, stream: int, rate: float, out: Array) -> None:
    """out = x / (1 − rate), or 0 with probability `rate`; `position` has the first sample, the epoch and the seed.

    The random number of feature f of sample s is the (s · features + f)-th of a SplitMix64 whose state begins at a
    mixture of seed, epoch and stream.
    """
    first, epoch, seed = (int(value) for value in position)
    key = _mix(_mix(_mix(seed + _GOLDEN) + epoch) + stream)
    tiles = x.reshape(len(x), -1, LANES)
    features, dropped = tiles.shape[1], out.reshape(tiles.shape)
    for tile, feature, lane in np.ndindex(tiles.shape):
        count = (first + tile * LANES + lane) * features + feature
        drawn = _mix(key + count * _GOLDEN) / 2**64
        dropped[tile, feature, lane] = tiles[tile, feature, lane] / (1 - rate) if drawn >= rate else 0


_GOLDEN = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    """SplitMix64's finisher on 64-bit integers."""
    z %= 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def max_pool(x: Array, window: Window, y: Array, index: Array) -> None:
    """y = the largest x of each window, and which of the window's pixels that is. NaN counts as the largest."""
    for at, pixels in _windows(x, window, y):
        flat = pixels.reshape(-1, LANES)
        index[at] = [int(np.argmax(flat[:, lane])) for lane in range(LANES)]  # of NaNs and of equals, the first
        y[at] = [flat[index[at][lane], lane] for lane in range(LANES)]


def max_unpool(dy: Array, index: Array, window: Window, dx: Array) -> None:
    """dx = the sum of dy over the windows whose largest x is that pixel's."""
    dx[...] = 0
    for at, pixels in _windows(dx, window, dy):
        for lane in range(LANES):
            pixels[(*divmod(int(index[at][lane]), window.wide), lane)] += dy[at][lane]


def mean_pool(x: Array, window: Window, y: Array) -> None:
    """y = the mean of each window's x."""
    for at, pixels in _windows(x, window, y):
        y[at] = pixels.astype(np.float64).mean((0, 1))


def mean_unpool(dy: Array, window: Window, dx: Array) -> None:
    """dx = the sum of its windows' dy, each divided by the number of its pixels."""
    dx[...] = 0
    for at, pixels in _windows(dx, window, dy):
        pixels += dy[at] / (window.high * window.wide)


def _windows(x: Array, window: Window, y: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Each element of y but for the lanes, and its window of x, shape (high, wide, LANES)."""
    for tile, channel, row, column in np.ndindex(y.shape[:4]):
        top, left = row * window.row_step, column * window.column_step
        yield (tile, channel, row, column), x[tile, channel, top : top + window.high, left : left + window.wide]


# ---------------------------------------------------------------------------------------------- packing


def pack(x: Array, out: Array, places: Array | None = None) -> None:
    """(batch, features) → (tiles, features, LANES); lanes without a sample become zero.

    Samples of bfloat16, as uint16, become words of two. With `places`, int32 of shape (features,), a feature goes to
    that line of its tile, of as many as `out` has.
    """
    at = np.arange(x.shape[1]) if places is None else places
    _lines(out)[:, at] = 0
    for sample, row in enumerate(x):
        tile, lines, lane = _place(out, sample)
        lines[tile, at, lane] = row


def clear_lanes(x: Array, batch: int) -> None:
    """Zero in the lanes of the last tile that hold no sample; in place."""
    for k in np.ndindex(x.shape):
        if k[0] * LANES + k[-1] >= batch:
            x[k] = 0


def widen(x: Array, out: Array) -> None:
    """Tiles of bfloat16 as tiles of float32, of half as many samples each."""
    for tile in range(len(out)):
        words = x[tile // 2]
        out[tile] = (words & np.uint32(0xFFFF0000) if tile % 2 else words << np.uint32(16)).view(np.float32)


def narrow(x: Array, out: Array) -> None:
    """The other way, rounded to the nearest, ties to even: of the two bfloat16 around a number, the one whose last bit
    is 0 if both are as near."""
    halves = [np.zeros(out.shape, np.uint32) for _ in range(2)]
    for tile in range(len(x)):
        bits = np.ascontiguousarray(x[tile]).view(np.uint32).astype(np.uint64)
        nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        halves[tile % 2][tile // 2] = np.where(np.isnan(x[tile]), bits >> 16 | 0x40, nearest)
    out[...] = halves[0] | halves[1] << np.uint32(16)


def unpack(x: Array, out: Array, places: Array | None = None) -> None:
    """(tiles, features, LANES) → (batch, features), each feature from its line of the tile as in `pack`."""
    at = np.arange(out.shape[1]) if places is None else places
    for sample in range(len(out)):
        tile, lines, lane = _place(x, sample)
        out[sample] = lines[tile, at, lane]


def _place(tiles: Array, sample: int) -> tuple[int, Array, int]:
    """The tile of a sample, the lines of its half of the words, and its lane there."""
    lines = _lines(tiles)
    if tiles.dtype != PAIRS:
        return sample // LANES, lines, sample % LANES
    halves = lines.view("<u2").reshape(*lines.shape, 2)
    return sample // (2 * LANES), halves[..., sample // LANES % 2], sample % LANES


def _lines(tiles: Array) -> Array:
    return tiles.reshape(len(tiles), tiles.size // LANES // max(len(tiles), 1), LANES)


def pack_samples(
    store: Array, labels: Array, order: Array, at: Array, scale: Array, shift: Array, out: Array, out_labels: Array,
    batch: int, addresses: Array,
) -> None:  # fmt: skip
    """Pack samples `order[at[0]:at[0] + batch]` of a store of uint8 or float32, normalised, and their labels.

    Lanes without a sample become zero, and their labels −1. `addresses` is scratch for the fast kernel.
    """
    tiles = out.reshape(len(out), -1, LANES)
    tiles[:], out_labels[:] = 0, -1
    for k in range(batch):
        sample = order[at[0] + k]
        tiles[k // LANES, :, k % LANES] = store[sample] * scale.astype(np.float64) + shift
        out_labels[k] = labels[sample]


def augment(
    store: Array, labels: Array, order: Array, position: Array, shape: tuple[int, ...], most: int, flip: bool,
    out: Array, out_labels: Array, batch: int,
) -> None:  # fmt: skip
    """Copy images `order[position[0]:position[0] + batch]` of a store, moved by up to `most` pixels and mirrored, and
    their labels; `position` also holds the epoch and the seed."""
    start, epoch, seed = (int(number) for number in position)
    key = _mix(_mix(_mix(seed + _GOLDEN) + epoch) + 0xA5A5_0000_0000_0001)
    for k in range(batch):
        sample = int(order[start + k])
        drawn = _mix(key + sample * _GOLDEN)
        down, across = (((drawn >> bits & 0xFFFF) * (2 * most + 1) >> 16) - most for bits in (0, 16))
        image = store[sample].reshape(shape)
        if flip and drawn >> 32 & 1:
            image = image[:, :, ::-1]
        moved = np.pad(image, ((0, 0), (most, most), (most, most)))
        rows, columns = slice(most + down, most + down + shape[1]), slice(most + across, most + across + shape[2])
        out[k], out_labels[k] = moved[:, rows, columns].reshape(-1), labels[sample]


# ---------------------------------------------------------------------------------------------- loss


def cross_entropy(
    z: Array, labels: Array, batch: int, dz: Array, losses: Array, correct: Array, scratch: Array,
    divisor: int | None = None,
) -> None:  # fmt: skip
    """Per-sample losses, whether the largest logit is the label's, and the gradient of their sum divided by `divisor`,
    the batch if not given.

    The first of equal logits is the answer; where a logit is NaN there is none. Lanes without a sample become zero.
    `scratch` is for the fast kernel.
    """
    dz[:], losses[:], correct[:] = 0, 0, 0
    for sample in range(batch):
        tile, lane, label = sample // LANES, sample % LANES, labels[sample]
        logits = z[tile, :, lane].astype(np.float64)
        powers = np.exp(logits - logits.max())
        total = powers.sum()
        losses[sample] = np.log(total) + (logits.max() - logits[label])
        correct[sample] = not np.isnan(logits).any() and np.argmax(logits) == label
        slope = powers / total
        slope[label] -= 1
        dz[tile, :, lane] = slope / (batch if divisor is None else divisor)


def squared_error(
    z: Array, targets: Array, batch: int, dz: Array, losses: Array, divisor: int | None = None
) -> None:
    """Per-sample losses ½·Σ (z − target)², and the gradient of their sum divided by `divisor`, the batch if not given.

    Lanes without a sample become zero.
    """
    dz[:], losses[:] = 0, 0
    for sample in range(batch):
        tile, lane = sample // LANES, sample % LANES
        apart = z[tile, :, lane].astype(np.float64) - targets[tile, :, lane]
        losses[sample] = 0.5 * np.sum(apart**2)
        dz[tile, :, lane] = apart / (batch if divisor is None else divisor)


def tally(losses: Array, correct: Array, batch: int, totals: Array) -> None:
    """totals += (Σ losses, Σ correct, batch), in order."""
    loss, right = 0.0, 0
    for sample in range(batch):
        loss += losses[sample]
        right += correct[sample]
    totals += loss, right, batch


# ---------------------------------------------------------------------------------------------- update


def norm(dw: Array, rates: Array) -> None:
    """rates[SCALE] = min(1, rates[LARGEST_NORM] / ‖dw‖)."""
    length = np.sqrt(sum(float(g) ** 2 for g in dw))
    rates[SCALE] = 1.0 if length <= rates[LARGEST_NORM] else rates[LARGEST_NORM] / length


def sgd(
    w: Array, dw: Array, velocity: Array, rates: Array, *, nesterov: bool = False, decays: bool = True
) -> None:
    """One step of stochastic gradient descent on flat arrays; `decays=False` leaves weight decay out."""
    for k in range(w.size):
        slope = float(dw[k]) * rates[SCALE] + rates[WEIGHT_DECAY] * decays * float(w[k])
        speed = rates[MOMENTUM] * float(velocity[k]) + slope
        velocity[k] = speed
        w[k] -= rates[LR] * (slope + rates[MOMENTUM] * speed if nesterov else speed)


def tick(rates: Array) -> None:
    """Count a step of Adam: STEPS += 1, and CORRECTION1 and CORRECTION2 = 1 − β₁ᵗ and 1 − β₂ᵗ."""
    rates[STEPS] += 1
    rates[CORRECTION1] = 1 - rates[BETA1] ** rates[STEPS]
    rates[CORRECTION2] = 1 - rates[BETA2] ** rates[STEPS]


def adam(
    w: Array, dw: Array, m: Array, v: Array, rates: Array, *, decoupled: bool = False, decays: bool = True
) -> None:
    """One step of Adam on flat arrays, or AdamW if `decoupled`, with the CORRECTIONs of the last `tick`; `decays=False`
    leaves weight decay out."""
    lr, decay, beta1, beta2 = rates[LR], rates[WEIGHT_DECAY] * decays, rates[BETA1], rates[BETA2]
    for k in range(w.size):
        weight, slope = float(w[k]), float(dw[k]) * rates[SCALE]
        if decoupled:
            weight *= 1 - lr * decay
        else:
            slope += decay * weight
        mean = beta1 * float(m[k]) + (1 - beta1) * slope
        square = beta2 * float(v[k]) + (1 - beta2) * slope**2
        m[k], v[k] = mean, square
        w[k] = weight - lr / rates[CORRECTION1] * mean / (np.sqrt(square / rates[CORRECTION2]) + rates[EPS])
