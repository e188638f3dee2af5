"""Batch normalisation: each channel's mean and variance over a batch, what is made of them, and the way back.

Sums are taken in float64, segment by segment: a segment is one channel of some tiles, cut by shape alone, and segments
are joined in order. So the sums are the same for any number of threads.
"""

from __future__ import annotations

from functools import cache
from math import sqrt
from typing import Any

import numpy as np
from numba import carray

from ..compile import njit
from ..layout import LANES, kept_size, samples_of_tile
from .call import arguments, kernel, share
from .ir.moments import slope, spread
from .ir.pairs import clear_line, lower, upper, write
from .ir.vector import advance, element, floats

MOMENTS = arguments(
    "dy", "x", "found", "scale", "shift", "partial", "batch", "relu",
    "segments", "tiles", "channels", "rows", "length",
    "x_tile", "x_plane", "x_row", "dy_tile", "dy_plane", "dy_row",
)  # fmt: skip
SETTLE = arguments(
    "partial", "channels", "segments", "pixels", "samples", "batch", "rates", "mean", "var", "found"
)  # fmt: skip
SETTLE_SLOPES = arguments("partial", "channels", "segments", "found", "totals", "dscale", "dshift")
NORMALISE = arguments(
    "x", "found", "scale", "shift", "dy", "totals", "around", "out", "relu", "count",
    "tiles", "channels", "rows", "length", "used",
    "x_tile", "x_plane", "x_row", "dy_tile", "dy_plane", "dy_row", "out_tile", "out_plane", "out_row",
    "around_tile", "around_plane", "around_row",
)  # fmt: skip


@njit
def tiles_of_segment(tiles: int, segments: int) -> int:
    """Tiles that a segment holds; the last may hold fewer."""
    return (tiles + segments - 1) // segments


@njit
def count_of_segment(segment: int, samples: int, tiles: int, segments: int, pixels: int, batch: int) -> int:
    """How many values of a channel a segment of tiles of so many samples holds."""
    per = tiles_of_segment(tiles, segments) * samples
    return max(min((segment + 1) * per, batch) - segment * per, 0) * pixels


@njit
def line_through(found: Any, scales: Any, shifts: Any, channel: int) -> tuple[float, float, float]:
    """What a channel's normalised values are: (x − mean) · rate + shift, in the numbers that they are computed with.

    What a float32 of the mean leaves out, which is much of a small deviation where the mean is far from zero, goes into
    the shift.
    """
    mean = element(scales, found[2 * channel])
    rate = element(scales, found[2 * channel + 1] * np.float64(scales[channel]))
    rest = found[2 * channel] - np.float64(mean)
    return mean, rate, element(scales, np.float64(shifts[channel]) - rest * np.float64(rate))


@cache
def moments_kernel(size: int, slopes: bool) -> Any:
    """partial[channel, segment] = (mean, squares around it) of x, or with `slopes` (Σ dy, Σ dy · (x − mean)), where dy
    counts only if ReLU let its value through.

    The mean of a segment is found from what x is above the segment's first value, so that little is lost where the
    mean is far from zero, and nothing where all values are the same.
    """

    kept, samples = kept_size(size), samples_of_tile(size)

    def moments(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, MOMENTS)[0]
        x, dy, partial, found = floats(c.x, size), floats(c.dy, size), floats(c.partial, 8), floats(c.found, 8)
        scales, shifts = floats(c.scale, kept), floats(c.shift, kept)
        first, last = share(c.segments * c.channels, part, until, parts)
        per = tiles_of_segment(c.tiles, c.segments)
        for which in range(first, last):
            segment, channel = which // c.channels, which % c.channels
            here = advance(partial, 2 * (channel * c.segments + segment))
            here[0] = here[1] = 0.0
            start = segment * per
            middle = np.float64(lower(x, start * c.x_tile + channel * c.x_plane))
            if slopes:
                middle = found[2 * channel]
                mean, rate, shift = line_through(found, scales, shifts, channel)
            for tile in range(start, min(start + per, c.tiles)):
                used = min(c.batch - tile * samples, samples)
                image = advance(x, tile * c.x_tile + channel * c.x_plane)
                if slopes:
                    given = advance(dy, tile * c.dy_tile + channel * c.dy_plane)
                    slope(
                        given, image, c.rows, c.length, c.dy_row, c.x_row, used, middle, c.relu, mean, rate, shift, here
                    )
                else:
                    spread(image, c.rows, c.length, c.x_row, used, middle, here)
            if not slopes:
                pixels = c.rows * c.length // LANES
                apart = here[0] / count_of_segment(segment, samples, c.tiles, c.segments, pixels, c.batch)
                here[1] -= here[0] * apart
                here[0] = middle + apart

    return kernel(moments)


@cache
def settle_kernel(size: int) -> Any:
    """found[channel] = (mean, 1/√(variance + eps)) of all segments, or, without any, of the running rows.

    `rates` holds eps and momentum. Segments are joined as in Chan, Golub, LeVeque 1979.
    """

    def settle(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SETTLE)[0]
        partial, found, rates = floats(c.partial, 8), floats(c.found, 8), floats(c.rates, 8)
        running_mean, running_var = floats(c.mean, size), floats(c.var, size)
        tiles = (c.batch + c.samples - 1) // c.samples
        for channel in range(c.channels):
            mean, variance = np.float64(running_mean[channel]), np.float64(running_var[channel])
            if c.segments > 0:
                here = advance(partial, 2 * channel * c.segments)
                mean, squares = here[0], here[1]
                total = np.float64(count_of_segment(0, c.samples, tiles, c.segments, c.pixels, c.batch))
                for segment in range(1, c.segments):
                    here = advance(partial, 2 * (channel * c.segments + segment))
                    count = np.float64(count_of_segment(segment, c.samples, tiles, c.segments, c.pixels, c.batch))
                    apart = here[0] - mean
                    squares += here[1] + apart * apart * (total * count / (total + count))
                    mean += apart * (count / (total + count))
                    total += count
                variance = squares / total
                before, keep = rates[1], 1.0 - rates[1]
                running_mean[channel] = element(
                    running_mean, keep * np.float64(running_mean[channel]) + before * mean
                )
                running_var[channel] = element(
                    running_var, keep * np.float64(running_var[channel]) + before * squares / (total - 1.0)
                )
            found[2 * channel], found[2 * channel + 1] = mean, 1.0 / sqrt(variance + rates[0])

    return kernel(settle)


@cache
def settle_slopes_kernel(size: int) -> Any:
    """totals[channel] = the sum of its segments; dscale and dshift are made of these."""

    def settle_slopes(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, SETTLE_SLOPES)[0]
        partial, found, totals = floats(c.partial, 8), floats(c.found, 8), floats(c.totals, 8)
        dscale, dshift = floats(c.dscale, size), floats(c.dshift, size)
        for channel in range(c.channels):
            first, second = 0.0, 0.0
            for segment in range(c.segments):
                here = advance(partial, 2 * (channel * c.segments + segment))
                first += here[0]
                second += here[1]
            totals[2 * channel], totals[2 * channel + 1] = first, second
            dshift[channel] = element(dshift, first)
            dscale[channel] = element(dscale, second * found[2 * channel + 1])

    return kernel(settle_slopes)


@njit
def _clear(out: Any, length: int, used: int) -> None:
    """Zeros in the lanes past the batch of a row of the last tile."""
    for pixel in range(0, length, LANES):
        clear_line(out, pixel, used)


@cache
def normalise_kernel(size: int) -> Any:
    """out = (x − mean) · rate · scale + shift + around, then ReLU."""

    kept, samples = kept_size(size), samples_of_tile(size)

    def normalise(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, NORMALISE)[0]
        from_x, beside, to = floats(c.x, size), floats(c.around, size), floats(c.out, size)
        found, scales, shifts = floats(c.found, 8), floats(c.scale, kept), floats(c.shift, kept)
        # Read once: for all that LLVM knows, what is written to `out` could change them.
        channels, rows, length, relu, summed = c.channels, c.rows, c.length, c.relu != 0, c.around != 0
        x_tile, x_plane, x_row = c.x_tile, c.x_plane, c.x_row
        out_tile, out_plane, out_row = c.out_tile, c.out_plane, c.out_row
        beside_tile, beside_plane, beside_row = c.around_tile, c.around_plane, c.around_row
        used, final = c.used, c.tiles - 1
        first, last = share(c.tiles * channels, part, until, parts)
        for which in range(first, last):
            tile, channel = which // channels, which % channels
            mean, rate, shift = line_through(found, scales, shifts, channel)
            for row in range(rows):
                x = advance(from_x, tile * x_tile + channel * x_plane + row * x_row)
                out = advance(to, tile * out_tile + channel * out_plane + row * out_row)
                if summed:
                    other = advance(beside, tile * beside_tile + channel * beside_plane + row * beside_row)
                    for k in range(length):
                        low = (lower(x, k) - mean) * rate + shift + lower(other, k)
                        high = (upper(x, k) - mean) * rate + shift + upper(other, k)
                        write(out, k, 0.0 if (relu and low < 0) else low, 0.0 if (relu and high < 0) else high)
                else:
                    for k in range(length):
                        low = (lower(x, k) - mean) * rate + shift
                        high = (upper(x, k) - mean) * rate + shift
                        write(out, k, 0.0 if (relu and low < 0) else low, 0.0 if (relu and high < 0) else high)
                if tile == final and used < samples:
                    _clear(out, length, used)

    return kernel(normalise)


@njit
def _passed(slope: float, x: float, mean: float, rate: float, shift: float, relu: bool, nothing: float) -> float:
    """A slope, or nothing where ReLU stopped what became of x: its sign is found as `normalise` found it."""
    return nothing if relu and not (x - mean) * rate + shift > 0 else slope


@cache
def normalise_back_kernel(size: int) -> Any:
    """out = rate · scale · (dy − Σ dy / count − (x − mean) · rate² · Σ dy (x − mean) / count); without totals, of dy
    alone. Where ReLU stopped a value, dy is zero."""

    kept, samples = kept_size(size), samples_of_tile(size)

    def normalise_back(call, part, until, parts):  # type: ignore[no-untyped-def]
        c = carray(call, 1, NORMALISE)[0]
        from_x, from_dy, to = floats(c.x, size), floats(c.dy, size), floats(c.out, size)
        found, scales, shifts = floats(c.found, 8), floats(c.scale, kept), floats(c.shift, kept)
        totals = floats(c.totals, 8)
        channels, rows, length, relu, through = c.channels, c.rows, c.length, c.relu != 0, c.totals != 0
        x_tile, x_plane, x_row = c.x_tile, c.x_plane, c.x_row
        dy_tile, dy_plane, dy_row = c.dy_tile, c.dy_plane, c.dy_row
        out_tile, out_plane, out_row = c.out_tile, c.out_plane, c.out_row
        used, final, count = c.used, c.tiles - 1, np.float64(c.count)
        first, last = share(c.tiles * channels, part, until, parts)
        for which in range(first, last):
            tile, channel = which // channels, which % channels
            mean, weight, shift = line_through(found, scales, shifts, channel)
            rate = found[2 * channel + 1]
            factor = rate * np.float64(scales[channel])
            nothing = element(scales, 0.0)
            inclined, level = nothing, nothing
            if through:
                incline = factor * rate * rate * totals[2 * channel + 1] / count
                rest = found[2 * channel] - np.float64(mean)
                inclined = element(scales, incline)
                level = element(scales, factor * totals[2 * channel] / count - rest * incline)
            for row in range(rows):
                x = advance(from_x, tile * x_tile + channel * x_plane + row * x_row)
                dy = advance(from_dy, tile * dy_tile + channel * dy_plane + row * dy_row)
                out = advance(to, tile * out_tile + channel * out_plane + row * out_row)
                if through:
                    for k in range(length):
                        lo, hi = lower(x, k), upper(x, k)
                        low = _passed(lower(dy, k), lo, mean, weight, shift, relu, nothing)
                        high = _passed(upper(dy, k), hi, mean, weight, shift, relu, nothing)
                        low = low * weight - (lo - mean) * inclined - level
                        write(out, k, low, high * weight - (hi - mean) * inclined - level)
                else:
                    for k in range(length):
                        low = _passed(lower(dy, k), lower(x, k), mean, weight, shift, relu, nothing)
                        high = _passed(upper(dy, k), upper(x, k), mean, weight, shift, relu, nothing)
                        write(out, k, low * weight, high * weight)
                if tile == final and used < samples:
                    _clear(out, length, used)

    return kernel(normalise_back)
