"""The challenge's networks, a layer at a time: RadiX-Nets of 32 connections a neuron, or layers out of its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...storage.pattern import SparsityPattern
from ...topology.radix import radix_layer
from .tables import entries, found_file

Array = NDArray[Any]

BIASES = {1024: -0.30, 4096: -0.35, 16384: -0.40, 65536: -0.45}
"""The bias of every neuron, by how many a layer has."""

CEILING = 32.0
"""What no activation passes."""

WEIGHT = 1 / 16
"""Every connection's."""

COPIES, RADIX = 16, 2
"""A layer's neurons are so many copies of the nodes of a mixed-radix net whose radices are all 2: 32 connections a
neuron."""

SEED = 5489
"""Of the sequence that rows are permuted by."""


class Weights(NamedTuple):
    """A layer: which outputs read which inputs, and a value for each connection, in the pattern's order."""

    pattern: SparsityPattern
    data: Array


def generated(neurons: int, layers: int) -> Iterator[Weights]:
    """The challenge's network of so many neurons a layer.

    With neurons = 16·2^m, layer k of each block of m layers is W = kron(ones(16, 16), I + roll(I, −2^k, axis=1)), with
    I of 2^m: the RadiX-Net of [[2]·m] and widths [16]·(m + 1). The first block is that; the inputs of all layers of
    each later one are permuted, W[argsort(p)], where p is the order of the next uniform draws from one sequence.
    Patterns are (outputs, inputs), the transposes. For 1,024 neurons these are the official matrices.

    Raises
    ------
    ValueError
        If the number of neurons is not 16 times a power of two, at least 32.
    """
    nodes = neurons // COPIES
    if neurons % COPIES or nodes < RADIX or nodes & (nodes - 1):
        raise ValueError(f"neurons must be 16 times a power of two, such as 1024, got {neurons}")
    draws = np.random.RandomState(SEED)
    block = [radix_layer(RADIX, RADIX**k, nodes, COPIES, COPIES) for k in range(nodes.bit_length() - 1)]
    data = np.full(block[0].nnz, WEIGHT, np.float32)
    place = None
    for layer in range(layers):
        base = block[layer % len(block)]
        if layer and layer % len(block) == 0:
            place = np.argsort(np.argsort(draws.rand(neurons)))
        yield Weights(base if place is None else _permuted(base, place), data)


def _permuted(base: SparsityPattern, place: Array) -> SparsityPattern:
    """The pattern whose inputs stand in other places."""
    columns = np.sort(place[base.indices].reshape(base.shape[0], -1), axis=1)
    return SparsityPattern(base.shape, base.indptr, columns.ravel())


def read(folder: Path, neurons: int, layers: int) -> Iterator[Weights]:
    """The layers of a folder of official files, n1024-l1.tsv or .tsv.gz and so on, each one read when asked for.

    Raises
    ------
    ValueError
        If a file is missing, or a line is not input, output and value; the message names file and line.
    """
    for layer in range(1, layers + 1):
        path = found_file(folder, f"n{neurons}-l{layer}.tsv")
        blocks = list(entries(path, (neurons, neurons)))
        if not blocks:
            raise ValueError(f"{path}: expected a line for each connection, got none")
        rows, columns, values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        order = np.lexsort((rows, columns))
        inputs, outputs = rows[order], columns[order]
        twice = np.flatnonzero((inputs[1:] == inputs[:-1]) & (outputs[1:] == outputs[:-1]))
        if len(twice):
            at = order[twice[0] + 1]
            raise ValueError(f"{path}, line {at + 1}: connection {rows[at] + 1}, {columns[at] + 1} is there twice")
        indptr = np.searchsorted(outputs, np.arange(neurons + 1))
        yield Weights(SparsityPattern((neurons, neurons), indptr, inputs), values[order].astype(np.float32))
