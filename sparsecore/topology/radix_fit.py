"""RadiX layers fitted one by one, for networks whose sparse layers do not follow one another directly, as LeNet-5's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from ..storage.pattern import SparsityPattern
from .radix import Radices, alike_factors, radix_layer, spelled, with_place_values

Sizes = Sequence[tuple[int, int]]
"""(inputs, outputs) of each layer."""


def fit_radix_layers(radices: Radices, sizes: Sizes) -> tuple[list[SparsityPattern], str]:
    """One RadiX layer for each radix and pair of sizes, and a sentence that says what was made.

    N', the product of a list, must divide every size: there is no neighbouring layer to drop nodes with, and a layer
    cut from a larger one could leave neurons unconnected.

    Parameters
    ----------
    radices : lists of integers above 1
        One radix a layer. All lists but the last have the product N'; the last one's product divides N'.
    sizes : (inputs, outputs) of each layer

    Raises
    ------
    ValueError
        If the radices do not fit; the message suggests some that do.
    """
    lists = spelled(radices)
    wanted = ", ".join(f"{inputs}→{outputs}" for inputs, outputs in sizes)
    digits = with_place_values(radices)
    hint = _suggestion(sizes)
    if len(digits) != len(sizes):
        raise ValueError(f"one radix a sparse layer: there are {len(sizes)} ({wanted}), got {lists}{hint}")
    nodes = math.prod(radices[0])
    for number, each in enumerate(radices, start=1):
        product = math.prod(each)
        if nodes % product or (number < len(radices) and product != nodes):
            whole = number < len(radices)
            rule = f"must have the first's product, N' = {nodes}" if whole else f"must divide N' = {nodes}"
            raise ValueError(f"radix list {number} of {lists} {rule}, got {product}{hint}")
    for inputs, outputs in sizes:
        if inputs % nodes or outputs % nodes:
            raise ValueError(
                f"radices {lists} have N' = {nodes} nodes, which must divide both sizes of the layer "
                f"{inputs}→{outputs}{hint}"
            )
    patterns = [
        radix_layer(radix, place_value, nodes, inputs // nodes, outputs // nodes)
        for (radix, place_value), (inputs, outputs) in zip(digits, sizes, strict=True)
    ]
    pairs = zip(digits, sizes, strict=True)
    kept = Counter(f"{radix}/{nodes} of {inputs}→{outputs}" for (radix, _), (inputs, outputs) in pairs)
    said = ", ".join(each if times == 1 else f"{each} ({times} times)" for each, times in kept.items())
    return patterns, f"N' = {nodes} nodes keep {said}"


def _suggestion(sizes: Sizes) -> str:
    """The end of an error: radices whose product divides all sizes, in one list or, for deep networks, in several."""
    common, layers = math.gcd(*(size for pair in sizes for size in pair)), len(sizes)
    for nodes in sorted((n for n in range(2, common + 1) if common % n == 0), reverse=True):
        if found := alike_factors(nodes, layers):
            return f": try {spelled([found])}"
    shorter = [found for length in range(2, common.bit_length()) if (found := alike_factors(common, length))]
    if not shorter:
        return f": no radices fit these sizes, whose greatest common divisor is {common}"
    longest = shorter[-1]
    times, rest = divmod(layers, len(longest))
    return f": try {spelled([longest])}*{times}" + (f"/{spelled([longest[:rest]])}" if rest else "")
