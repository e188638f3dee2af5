"""Sizes of images as layers are given them."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

Pair = tuple[int, int]

_MOST = (1 << 31) - 1


def pair(name: str, value: int | Pair, least: int = 1) -> Pair:
    """(vertical, horizontal), from such a pair or from one number for both."""
    first, second = sizes(name, (value, value) if isinstance(value, int) else value, 2, least)
    return first, second


def sizes(name: str, values: Any, count: int, least: int = 1) -> tuple[int, ...]:
    """Exactly `count` integers of at least `least`, and not too large for a kernel's 32 bits.

    Raises
    ------
    TypeError, ValueError
        If they are not.
    """
    try:
        found = tuple(operator.index(value) for value in values)
    except TypeError:
        raise TypeError(f"{name} must hold {count} integers, got {values!r}") from None
    if len(found) != count or min(found) < least:
        raise ValueError(f"{name} must hold {count} integers of at least {least}, got {values!r}")
    if max(found) > _MOST:
        raise ValueError(f"{name} must hold integers of at most {_MOST:,}, got {max(found):,}")
    return found


def fits(given: tuple[int, ...], taken: tuple[int, ...]) -> bool:
    """Whether numbers of one shape lie where another shape has them: as many, and in the same order.

    One of the two may be flat, and sides of 1 do not count: (28, 28) is (1, 28, 28), and 784 numbers are either. But
    images of (32, 32, 3) are not those of (3, 32, 32), of which they have as many numbers.
    """
    ours, theirs = ([size for size in shape if size != 1] for shape in (given, taken))
    return ours == theirs or (prod(ours) == prod(theirs) and 1 in (len(ours), len(theirs)))


def spell(shape: tuple[int, ...]) -> str:
    """Such as 3×32×32."""
    return "×".join(str(size) for size in shape)


def read_by(images: Any, offset: Pair, out_shape: tuple[int, ...], stride: Pair) -> Any:
    """The pixels at one offset within each window: a view (…, height, width), one pixel for each output position."""
    (top, left), (high, wide) = offset, out_shape[-2:]
    (down, across) = stride
    return images[..., top : top + (high - 1) * down + 1 : down, left : left + (wide - 1) * across + 1 : across]
