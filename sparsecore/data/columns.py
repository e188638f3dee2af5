"""The names of a table's columns, by which they find the places that a network was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.splits import listed


def names_of(x: Any) -> tuple[str, ...]:
    """What a data frame calls its columns, pandas' or another's; empty where they are not words that differ."""
    found = getattr(x, "columns", None)
    if found is None or getattr(x, "ndim", 2) != 2:
        return ()
    try:
        names = tuple(found)
    except TypeError:
        return ()
    if not all(isinstance(name, str) for name in names):
        return ()
    words = tuple(str(name).strip() for name in names)  # as tables in files have them
    return words if all(words) and len(set(words)) == len(words) else ()


def places(given: Sequence[str], wanted: Sequence[str], owner: str) -> NDArray[np.intp] | None:
    """Where the wanted columns are among those given; None where each is in its place, or either have no names.

    Raises
    ------
    ValueError
        If one has no namesake, or there are others beside them. `owner` begins the message.
    """
    if not given or not wanted or tuple(given) == tuple(wanted):
        return None
    missing, strange = (sorted(set(some) - set(others)) for some, others in ((wanted, given), (given, wanted)))
    if missing or strange:
        said = [f"{word} {listed(names)}" for word, names in (("without", missing), ("with", strange)) if names]
        raise ValueError(f"{owner}: expected the columns {listed(wanted)}, got them {' and '.join(said)}")
    at = {name: k for k, name in enumerate(given)}
    return np.array([at[name] for name in wanted], np.intp)
