"""Activations in bfloat16: two to a word, so that a line of a cache holds 32 samples. All arithmetic is in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from .tiles import PAIRS, Tiles, tiles_of
from .workspace import Workspace

NO_FLOAT16 = "float16, whose smallest normal number is 6e-5: gradients vanish; bfloat16 has the range of float32"
"""What activations cannot be, and why."""


def storable(wanted: str, dtype: np.dtype[Any], owner: Any) -> str:
    """The name of a dtype in which activations can be stored beside parameters of `dtype`; ValueError if it is none."""
    known = [dtype.name, *(["bfloat16"] if dtype == np.float32 else [])]
    if wanted == "float16":
        raise ValueError(f"{owner!r}: activations cannot be {NO_FLOAT16}")
    if wanted not in known:
        raise ValueError(f"{owner!r}: activations must be {' or '.join(known)}, got {wanted!r}")
    return wanted


def widened(name: str, x: Tiles, workspace: Workspace) -> Tiles:
    """Tiles of bfloat16 as tiles of float32, in an array of the workspace."""
    data = workspace.contiguous(name, x.data)
    out = workspace.array(name, (tiles_of(x.batch), *data.shape[1:]), np.float32)
    workspace.kernels.widen(data, out)
    return Tiles(out, x.batch, rectified=x.rectified, masked=x.masked)


def narrowed(name: str, x: Tiles, workspace: Workspace) -> Tiles:
    """Tiles of float32 as tiles of bfloat16, rounded to the nearest, ties to even."""
    data = workspace.contiguous(name, x.data)
    out = workspace.array(name, (tiles_of(x.batch, PAIRS), *data.shape[1:]), PAIRS)
    workspace.kernels.narrow(data, out)
    return Tiles(out, x.batch, rectified=x.rectified, masked=x.masked)
