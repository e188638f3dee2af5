"""A network's structure in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..network import Network
from ..storage.pattern import SparsityPattern
from .paths import count_paths
from .units import Units, stages_of, units_of

Facts = dict[str, Any]


def describe(network: Network, tried: Mapping[str, SparsityPattern] | None = None) -> Facts:
    """A network's structure, in JSON's types.

    Parameters
    ----------
    network : Network
    tried : mapping of path to SparsityPattern, optional
        The places where a run that moved connections has ever had one, as `tried_of` gives them.

    Returns
    -------
    dict
        "layers": for each with connections, its path, name, shape, connections, sparsity, fan-ins and fan-outs (least,
        median, most), inputs that it does not read, outputs that read nothing, how many groups of rows have the same
        columns, by their size, and, if connections moved, how many places were ever tried; "units": before the first
        layer and after each, how many are dead and why; "paths": in all, and between one input and one output.
    """
    stages, units = stages_of(network), units_of(network)
    return {
        "network": repr(network),
        "connections": network.connections,
        "sparsity": network.sparsity,
        "global_sparsity": network.global_sparsity,
        "layers": [
            {"layer": stage.path} | _layer(repr(stage.layer), stage.pattern) | _moved((tried or {}).get(stage.path))
            for stage in stages
        ],
        "units": [_units(each) for each in units],
        "paths": _paths(count_paths(network)),
    }


def groups_of_equal_rows(pattern: SparsityPattern) -> Counter[int]:
    """How many groups of rows with the same columns there are, by their size; rows without connections are left out."""
    rows = np.split(pattern.indices, pattern.indptr[1:-1])
    return Counter(Counter(row.tobytes() for row in rows if len(row)).values())


def _layer(name: str, pattern: SparsityPattern) -> Facts:
    groups = groups_of_equal_rows(pattern)
    return {
        "name": name,
        "shape": list(pattern.shape),
        "connections": pattern.nnz,
        "sparsity": pattern.sparsity,
        "fan_in": _spread(pattern.fan_in),
        "fan_out": _spread(pattern.fan_out),
        "outputs_without_inputs": int(np.count_nonzero(pattern.fan_in == 0)),
        "inputs_without_outputs": int(np.count_nonzero(pattern.fan_out == 0)),
        "equal_rows": {str(size): groups[size] for size in sorted(groups) if size > 1},
    }


def _moved(tried: SparsityPattern | None) -> Facts:
    return {} if tried is None else {"tried": tried.nnz}


def _spread(counts: Any) -> list[float]:
    return [float(f(counts)) for f in (np.min, np.median, np.max)] if len(counts) else [0.0, 0.0, 0.0]


def _units(units: Units) -> Facts:
    return {
        "count": len(units.used),
        "dead": int(np.count_nonzero(~units.alive)),
        "not_reached": int(np.count_nonzero(~units.reached)),
        "not_used": int(np.count_nonzero(~units.used)),
    }


def _paths(counts: Any) -> Facts:
    return {
        "total": float(counts.sum()),
        "least": float(counts.min()),
        "most": float(counts.max()),
        "pairs": int(counts.size),
        "pairs_joined": int(np.count_nonzero(counts)),
    }
