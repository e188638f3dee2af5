"""Copies: whole and independent, whichever way they are asked for."""

from __future__ import annotations

import copy
from typing import Self


class Whole:
    """Something whose arrays belong together: a shallow copy would go on writing to those of the first.

    `copy.copy` is `copy.deepcopy`. Twins that are to share arrays are made by `recording.shallow`.
    """

    def __copy__(self) -> Self:
        return copy.deepcopy(self)
