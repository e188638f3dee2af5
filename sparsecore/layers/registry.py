"""Layers of one's own by name, so that files can hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .layer import Layer

L = TypeVar("L", bound=Layer)

KINDS: dict[str, type[Layer]] = {}
"""This package's own kinds of layers by the names that they have in a checkpoint; `sparsecore.layers` fills it."""
REGISTERED: dict[str, type[Layer]] = {}
"""Others."""


def register(name: str) -> Callable[[type[L]], type[L]]:
    """Give a class of layers the name that it has in a checkpoint: `@register("swish")` above the class.

    Whoever loads a file with such a layer imports the module with the class first. The same class may be registered
    again, as when a module is imported anew: the newer one counts.

    Parameters
    ----------
    name : str
        Of letters, digits, dots, dashes and underscores.

    Raises
    ------
    TypeError
        If what is registered is not a class of layers.
    ValueError
        If the name is no such word, or another class has it.
    """
    if not isinstance(name, str) or not name or not all(each.isalnum() or each in "._-" for each in name):
        raise ValueError(f"register: a layer's name must be of letters, digits, '.', '-' and '_', got {name!r}")

    def named(kind: type[L]) -> type[L]:
        if not (isinstance(kind, type) and issubclass(kind, Layer)):
            raise TypeError(f"register: {name!r} must be a class of layers, got {kind!r}")
        other = KINDS.get(name) or REGISTERED.get(name)
        if other is not None and _place(other) != _place(kind):
            raise ValueError(f"register: {name!r} is the name of {'.'.join(_place(other))}: choose another")
        REGISTERED[name] = kind
        return kind

    return named


def kind_named(name: object) -> type[Layer] | None:
    """The class of layers that has a name in a checkpoint; None if there is none."""
    return (KINDS.get(name) or REGISTERED.get(name)) if isinstance(name, str) else None


def name_of(layer: Layer) -> str | None:
    """The name that a layer's class has in a checkpoint; None if it has none."""
    own = type(layer)
    if KINDS.get(own.__name__) is own:
        return own.__name__
    same = (name for name, kind in REGISTERED.items() if _place(kind) == _place(own))
    return next(same, None)


def _place(kind: type) -> tuple[str, str]:
    """Where a class is defined; one that is defined anew there is the same."""
    return kind.__module__, kind.__qualname__
