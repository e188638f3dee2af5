"""Samples that come, live through layers and go: what a network needs whose inputs die on the way.

A *pen* holds samples, a line of LANES to a tile, a feature's lines side by side: (features, samples). Each of these
functions is compiled and goes on a tape by `Launcher.compiled`. All numbers are float32.
"""

from __future__ import annotations

from ..compile import njit
from ..layout import LANES
from .ir.lives import close_up, occupied, spread
from .ir.vector import advance, pointer

LOOKED_AT = 64
"""Features that are looked at before asking whether all samples have been found alive, which most are at once."""

USED, FIRST = 0, 1
"""Of a pen's state: samples in it; the first of the tiles of bits that it is filled from."""

AT, BY, LOW, HIGH = 0, 1, 5, 6
"""Where a line's samples go: the first one's place; who moves down by 1, 2, 4 and 8; which then are written to the pen
of that place, and which to the other."""

MOVE = 7
"""Numbers of that."""


@njit
def unpack_bits(words, state, x, first, last):  # type: ignore[no-untyped-def]
    """x[n, 16·t + k] = bit k of words[state[FIRST] + t, n], for tiles t from `first` to before `last`."""
    features, lanes = x.shape
    for tile in range(first, min(last, len(words) - state[FIRST])):
        for n in range(features):
            spread(words[state[FIRST] + tile, n], advance(pointer(x), n * lanes + tile * LANES))


@njit
def count_lives(y, state, ages, first, last):  # type: ignore[no-untyped-def]
    """ages[s] += 1 for each sample that some feature of y is not zero for, for lines `first` to before `last`."""
    features, lanes = y.shape
    for line in range(first, last):
        used = min(max(state[USED] - line * LANES, 0), LANES)
        wanted, seen, n = (1 << used) - 1, 0, 0
        while n < features and seen != wanted:
            some = min(LOOKED_AT, features - n)
            seen |= occupied(advance(pointer(y), n * lanes + line * LANES), lanes, some) & wanted
            n += some
        for lane in range(used):
            ages[line * LANES + lane] += (seen >> lane) & 1


@njit
def choose_living(state, names, lines, ages, lives, moves, names_out, state_out, first, last):  # type: ignore[no-untyped-def]
    """Where the samples go that have lived through all `len(lives)` layers: `moves`, for `lines` lines, and their names
    with them.

    Two pens follow, one behind the other and around again, `state_out[USED]` of their places taken from
    `state_out[FIRST]` on. lives[k] grows by how many lived through layer k; `ages` are zero afterwards.
    """
    layers, places = len(lives), len(names_out)
    pen = places // 2
    for line in range(lines):
        at = (state_out[FIRST] + state_out[USED]) % places
        alive = count = 0
        for lane in range(min(max(state[USED] - line * LANES, 0), LANES)):
            sample = line * LANES + lane
            for layer in range(ages[sample]):
                lives[layer] += 1
            if ages[sample] == layers:
                alive |= 1 << lane
                names_out[(at + count) % places] = names[sample]
                count += 1
            ages[sample] = 0
        state_out[USED] += count
        moves[line, AT] = at
        _steps(alive, moves[line])
        low = min(count, pen - at % pen)
        moves[line, LOW] = (1 << low) - 1
        moves[line, HIGH] = ((1 << count) - 1) ^ moves[line, LOW]


@njit
def _steps(alive, move):  # type: ignore[no-untyped-def]
    """Which lanes take the one 1, 2, 4 and 8 above, so that those of `alive` close up in order."""
    for power in range(4):
        move[BY + power] = 0
    target = 0
    for lane in range(LANES):
        if alive >> lane & 1:
            here = lane
            for power in range(4):
                if (lane - target) >> power & 1:
                    here -= 1 << power
                    move[BY + power] |= 1 << here
            target += 1


@njit
def move_living(y, moves, low, high, first, last):  # type: ignore[no-untyped-def]
    """Put the samples of y where `moves` says, in the first pen or the second, for lines `first` to before `last`."""
    features, lanes = y.shape
    for line in range(first, last):
        move = moves[line]
        at, source = move[AT], advance(pointer(y), line * LANES)
        for part in range(2):
            keep = move[LOW + part]
            if keep != 0:
                begin = at % lanes - part * lanes  # nothing is kept of what comes before a pen
                out = advance(pointer(low if (at < lanes) == (part == 0) else high), begin)
                close_up(source, lanes, features, move[BY], move[BY + 1], move[BY + 2], move[BY + 3], keep, out)
