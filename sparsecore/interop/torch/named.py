"""A tree of layers from the names that they have in a model."""

from __future__ import annotations

from collections.abc import Mapping

from ...layers.layer import Layer
from ...layers.sequential import Sequential

Named = list[tuple[str, Layer]]
"""Layers one after another, each with its place in the model, such as layer1.0.conv1."""


def way_of(named: Named) -> Layer:
    """A way of a Residual: its layer, or a Sequential of them, without the names that all of them begin with."""
    if len(named) == 1:
        return named[0][1]
    parts = [name.split(".") for name, _ in named]
    shared = 0
    while all(len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    short = [".".join(each[shared:]) for each in parts]
    return Sequential(tree_of([(name, layer) for name, (_, layer) in zip(short, named, strict=True)]))


def tree_of(named: Named) -> dict[str, Layer]:
    """Layers by name: those that stand together in one module of the model become a Sequential of its name."""
    made: dict[str, Layer] = {}
    at = 0
    while at < len(named):
        first, _, rest = named[at][0].partition(".")
        end = at + 1
        while rest and end < len(named) and named[end][0].startswith(f"{first}."):
            end += 1
        inside = [(name.partition(".")[2], layer) for name, layer in named[at:end]]
        made[_free(first, made)] = Sequential(tree_of(inside)) if rest else named[at][1]
        at = end
    return made


def _free(name: str, taken: Mapping[str, Layer]) -> str:
    k = 2
    found = name
    while found in taken:
        found, k = f"{name}_{k}", k + 1
    return found
