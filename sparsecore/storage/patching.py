"""Writing a new plan's numbers into an old plan's arrays, whose addresses recorded kernels know."""

from __future__ import annotations

from typing import Any

import numpy as np

from .pattern import SparsityPattern


def same_form(old: Any, new: Any) -> bool:
    """Whether all arrays of `new` fit into those of `old`, which must be writable, and all else is equal."""
    if isinstance(old, np.ndarray):
        return isinstance(new, np.ndarray) and old.flags.writeable and (old.shape, old.dtype) == (new.shape, new.dtype)
    if isinstance(old, tuple | list):
        return type(old) is type(new) and len(old) == len(new) and all(map(same_form, old, new))
    return bool(old == new)


def overwrite(old: Any, new: Any) -> None:
    """Write the arrays of `new` into those of `old`, which are of the same form."""
    if isinstance(old, np.ndarray):
        np.copyto(old, new)
    elif isinstance(old, tuple | list):
        for one, other in zip(old, new, strict=True):
            overwrite(one, other)


class Patchable:
    """What plans share: they can change to another pattern without moving an array.

    Attributes
    ----------
    DERIVED : tuple of str
        Cached attributes whose addresses kernels may know; those that have been made are overwritten.
    DROPPED : tuple of str
        Cached attributes that are made anew when they are needed.
    """

    DERIVED: tuple[str, ...]
    DROPPED: tuple[str, ...]
    pattern: SparsityPattern

    def fits(self, fresh: Patchable) -> bool:
        """Whether a fresh plan of another pattern fits into this one's arrays. Makes the parts that this one has."""
        made = [name for name in self.DERIVED if name in vars(self)]
        return all(same_form(vars(self)[name], getattr(fresh, name)) for name in made)

    def patch(self, fresh: Patchable) -> None:
        """Take the numbers and the pattern of a fresh plan that fits."""
        known = vars(self)
        for name in self.DERIVED:
            if name in known:
                overwrite(known[name], getattr(fresh, name))
        for name in self.DROPPED:
            known.pop(name, None)
        self.pattern = fresh.pattern
