"""RadiX-Nets: layers of mixed-radix digits, every input linked to every output by the same number of paths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..storage.indices import index_dtype
from ..storage.pattern import SparsityPattern

Array = np.ndarray[Any, np.dtype[Any]]
Radices = tuple[tuple[int, ...], ...]


def radix_net(radices: Sequence[Sequence[int]], widths: Sequence[int]) -> list[SparsityPattern]:
    """The RadiX-Net of these radices and widths, one pattern a layer.

    With N' the product of the first list, layer i has N'·widths[i - 1] inputs and N'·widths[i] outputs and keeps
    radix / N' of their connections. Every input reaches every output by the same number of paths: the product of all
    radices after the first list, times that of the widths between the first and the last.

    Parameters
    ----------
    radices : lists of integers above 1
        One radix a layer. Every list but the last has product N'; the last one's product divides N'.
    widths : positive integers
        One more than there are radices: how many copies of the N' nodes, from the input to the output.

    Raises
    ------
    ValueError
        If a condition above does not hold; the message names the list.

    References
    ----------
    R. A. Robinett and J. Kepner, RadiX-Net: Structured Sparse Matrices for Deep Neural Networks, 2019
    (arXiv:1905.00416). Its matrices are (inputs, outputs); these patterns are their transposes.
    """
    lists = _checked_radices(radices)
    layers = sum(map(len, lists))
    widths = _checked_integers("widths", widths, at_least=1)
    if len(widths) != layers + 1:
        raise ValueError(
            f"radices {spelled(lists)} make {layers} layers and need {layers + 1} widths, got {len(widths)} "
            f"({spelled([widths])})"
        )
    nodes = math.prod(lists[0])
    return _fitted_layers(lists, [nodes * width for width in widths])


def radix_layer(radix: int, place_value: int, n: int, width_in: int, width_out: int) -> SparsityPattern:
    """One layer of a RadiX-Net: from n·width_in inputs to n·width_out outputs, of which it keeps radix / n.

    Output o reads every input congruent modulo n to o + j·place_value, for j from 0 to radix - 1: the Kronecker
    product of an all-ones block of the widths with a mixed-radix layer. Models whose sparse layers do not follow one
    another directly are built from such layers.

    Parameters
    ----------
    radix : int
        Above 1.
    place_value : int
        Product of the radices before this one in its list; 1 for the first.
    n : int
        Product of the whole list, N'; a multiple of radix·place_value.
    width_in, width_out : int
        Copies of the n nodes on either side.
    """
    (radix,) = _checked_integers("radix", [radix], at_least=2)
    place_value, n, width_in, width_out = _checked_integers(
        "place_value, n, width_in and width_out", [place_value, n, width_in, width_out], at_least=1
    )
    if n % (radix * place_value):
        raise ValueError(
            f"n must be a multiple of radix × place_value = {radix} × {place_value} = {radix * place_value}, got {n}"
        )
    return _mixed_radix(radix, place_value, n, n * width_out, n * width_in)


@dataclass(frozen=True)
class FittedRadixNet:
    """A RadiX-Net fitted to a model's layer sizes, and a sentence that says how it was fitted."""

    patterns: tuple[SparsityPattern, ...]
    radices: Radices
    widths: tuple[int, ...]
    note: str


def fit_radix_net(
    radices: Sequence[Sequence[int]], sizes: Sequence[int], widths: Sequence[int] | None = None
) -> FittedRadixNet:
    """Fit a RadiX-Net to a model's layer sizes.

    Without `widths`, each layer gets the smallest width whose N'·width nodes cover its size, and drops its first nodes
    to have that size. With `widths`, only the input is fitted so, and every later layer has N'·width neurons. N' may
    not exceed the size of any layer. So every residue modulo N' is present in each layer, and no neuron is left
    without an input or an output. Dropping inputs keeps the numbers of paths equal; dropping neurons in between does
    not.

    Parameters
    ----------
    radices : lists of integers above 1
        One radix a sparse layer; see `radix_net`.
    sizes : positive integers
        The model's layers, from its inputs to the outputs of its last sparse layer.
    widths : positive integers, optional
        One a size. The first must be the smallest that covers the inputs.

    Raises
    ------
    ValueError
        If the radices or widths do not fit; the message suggests some that do.
    """
    lists = _checked_radices(radices)
    sizes = _checked_integers("sizes", sizes, at_least=1)
    layers = len(sizes) - 1
    if layers != sum(map(len, lists)):
        raise ValueError(
            f"one radix a sparse layer: sizes {_join(sizes)} have {layers} such layers, "
            f"got {sum(map(len, lists))} radices ({spelled(lists)}){_suggest(sizes, [layers])}"
        )
    nodes = math.prod(lists[0])
    covering = tuple(-(-size // nodes) for size in sizes)
    if widths is None:
        widths = covering
    else:
        widths = _checked_integers("widths", widths, at_least=1)
        if len(widths) != len(sizes):
            raise ValueError(f"one width a layer: sizes {_join(sizes)} need {len(sizes)}, got {spelled([widths])}")
        if widths[0] != covering[0]:
            raise ValueError(
                f"the first width must be {covering[0]}, the smallest whose {covering[0]}·{nodes} nodes cover "
                f"{sizes[0]} inputs, got widths {spelled([widths])}: try {spelled([_reordered(widths, covering[0])])}"
            )
        sizes = (sizes[0], *(nodes * width for width in widths[1:]))
    if nodes > min(sizes):
        raise ValueError(
            f"radices {spelled(lists)} have N' = {nodes:,} nodes, more than the {min(sizes):,} of the smallest layer "
            f"of {_join(sizes)}, and could leave neurons unconnected{_suggest(sizes, [len(each) for each in lists])}"
        )
    patterns = tuple(_fitted_layers(lists, sizes))
    return FittedRadixNet(patterns, lists, widths, _fitting_note(nodes, widths, sizes))


def _fitted_layers(lists: Radices, sizes: Sequence[int]) -> list[SparsityPattern]:
    nodes, digits = math.prod(lists[0]), with_place_values(lists)
    return [
        _mixed_radix(radix, place_value, nodes, out_features, in_features)
        for (radix, place_value), in_features, out_features in zip(digits, sizes[:-1], sizes[1:], strict=True)
    ]


def with_place_values(lists: Radices) -> list[tuple[int, int]]:
    """Each radix with its place value: the product of the radices before it in its list."""
    return [(radix, math.prod(each[:at])) for each in lists for at, radix in enumerate(each)]


def _mixed_radix(radix: int, place_value: int, n: int, out_features: int, in_features: int) -> SparsityPattern:
    """The last out_features rows and in_features columns of a layer of whole copies of n nodes.

    Its structure has period n, so only distances from the ends matter: output o reads input c where
    (c - in_features) - (o - out_features) is one of 0, place_value, …, (radix - 1)·place_value modulo n.
    """
    copies = -(-in_features // n)
    dtype = index_dtype(out_features + n * (copies + 1))
    outputs: Array = np.arange(out_features, dtype=dtype)[:, np.newaxis] + (in_features - out_features)
    offsets: Array = np.arange(0, radix * place_value, place_value, dtype=dtype)
    in_first_copy = np.sort((outputs + offsets) % n, axis=1)
    columns = (in_first_copy[:, np.newaxis, :] + np.arange(copies, dtype=dtype)[:, np.newaxis] * n).reshape(
        out_features, copies * radix
    )
    present = columns < in_features
    indptr = np.zeros(out_features + 1, dtype=np.int64)
    np.cumsum(present.sum(axis=1), out=indptr[1:])
    return SparsityPattern((out_features, in_features), indptr, columns[present])


def _checked_radices(radices: Sequence[Sequence[int]]) -> Radices:
    lists = tuple(
        _checked_integers(f"radix list {number}", each, at_least=2) for number, each in enumerate(radices, start=1)
    )
    if not lists:
        raise ValueError("at least one list of radices is needed, such as [[10, 10]]; got none")
    for number, each in enumerate(lists, start=1):
        if not each:
            raise ValueError(f"radix list {number} is empty: a list needs at least one radix")
    nodes = math.prod(lists[0])
    for number, each in enumerate(lists, start=1):
        product = math.prod(each)
        if number < len(lists) and product != nodes:
            raise ValueError(
                f"radix list {number} ({spelled([each])}) must have the first's product, N' = {nodes}, got {product}"
            )
        if nodes % product:
            raise ValueError(
                f"radix list {number} ({spelled([each])}), the last, must have a product that divides "
                f"N' = {nodes}, got {product}"
            )
    return lists


def _checked_integers(name: str, values: Sequence[int], at_least: int) -> tuple[int, ...]:
    array = np.asarray(values)
    if array.ndim == 1 and not array.size:
        return ()
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {values!r}")
    if array.min() < at_least:
        raise ValueError(f"{name} must hold integers of at least {at_least}, got {array.min()} in {spelled([values])}")
    return tuple(array.tolist())


def spelled(lists: Sequence[Sequence[int]]) -> str:
    """Lists of radices or widths as they are written on the command line."""
    return "/".join(",".join(map(str, each)) for each in lists)


def _join(sizes: Sequence[int]) -> str:
    return "-".join(map(str, sizes))


def _reordered(widths: tuple[int, ...], first: int) -> tuple[int, ...]:
    """The widths with `first` in front; if it is among them, the two are swapped, as a user may have meant."""
    exchanged = list(widths)
    if first in widths:
        exchanged[widths.index(first)] = widths[0]
    exchanged[0] = first
    return tuple(exchanged)


def _suggest(sizes: tuple[int, ...], lengths: Sequence[int]) -> str:
    """The end of an error: radices that fit, in lists of these lengths or, if there are none, in shorter lists."""
    longest = max(1, min(sizes).bit_length() - 1)
    layers = sum(lengths)
    short_enough = [min(longest, layers - begin) for begin in range(0, layers, longest)]
    found = _fitting_radices(sizes, lengths) or _fitting_radices(sizes, short_enough)
    return f": try {spelled(found)}" if found else ""


def _fitting_radices(sizes: tuple[int, ...], lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Radices in lists of these lengths, with as many nodes as fit; first those that drop no neuron."""
    by_fit = sorted(range(2, min(sizes) + 1), key=lambda nodes: (any(size % nodes for size in sizes[1:]), -nodes))
    for nodes in by_fit:
        found = [alike_factors(nodes, length) for length in lengths]
        if all(found):
            return found
    return []


def alike_factors(product: int, count: int, least: int = 2) -> tuple[int, ...]:
    """`product` as `count` factors from `least` up, increasing and as alike as can be; () if there are none."""
    if count == 1:
        return (product,) if product >= least else ()
    for factor in range(math.isqrt(product), least - 1, -1):
        if product % factor == 0 and (rest := alike_factors(product // factor, count - 1, factor)):
            return (factor, *rest)
    return ()


def _fitting_note(nodes: int, widths: tuple[int, ...], sizes: Sequence[int]) -> str:
    full = [nodes * width for width in widths]
    dropped = [
        f"the first {whole - size:,} of {whole:,} {'inputs' if layer == 0 else f'outputs of layer {layer}'}"
        for layer, (whole, size) in enumerate(zip(full, sizes, strict=True))
        if whole > size
    ]
    made = f"N' = {nodes} nodes and widths {spelled([widths])} make {_join(full)}"
    if not dropped:
        return f"{made}; nothing dropped"
    uneven = ", so paths are not equally many" if full[1:-1] != list(sizes[1:-1]) else ""
    return f"{made}; dropped {', '.join(dropped)}{uneven}"
