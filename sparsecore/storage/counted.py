"""Patterns and plans of which only the numbers of connections are known: what they would take, before any is made."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..kernels.layout import CooLayout, Layout
from ..kernels.tuning import COO_SEGMENT, LARGEST_GROUP
from ..runtime.border import bordered
from ..runtime.paper import sized
from .cached import cached
from .conv_plan import ConvPlan, Pair, Phase
from .indices import index_dtype
from .pattern import SparsityPattern
from .plan import Plan, block_columns


class CountedPattern(SparsityPattern):
    """So many connections, nobody knows which; its index arrays are on paper.

    Parameters
    ----------
    shape : (int, int)
    connections : int
    alike : int
        How many rows share their columns.
    """

    alike: int

    def __init__(self, shape: Pair, connections: int, alike: int = 1) -> None:
        alike = LARGEST_GROUP if connections == shape[0] * shape[1] else alike
        vars(self).update(
            shape=shape, indptr=sized((shape[0] + 1,), index_dtype(connections)),
            indices=sized((connections,), index_dtype(shape[1])), alike=min(alike, LARGEST_GROUP),
        )  # fmt: skip

    def transpose(self) -> tuple[SparsityPattern, Any]:
        turned = CountedPattern(self.shape[::-1], self.nnz, self.alike)
        return turned, sized((self.nnz,), self.indptr.dtype)

    @cached
    def rows(self) -> Any:
        return sized((self.nnz,), index_dtype(self.shape[0]))


class CountedPlan(Plan):
    """The plan of a counted pattern of a fully connected layer."""

    @cached
    def forward(self) -> Layout | CooLayout:
        return _laid_out(self.pattern, self.pattern.indices, self, block_columns(self.pattern.shape, self.pattern.nnz))

    @cached
    def transposed(self) -> Layout | CooLayout:
        pattern, _ = self._transpose
        return _laid_out(pattern, pattern.indices, self, block_columns(pattern.shape, pattern.nnz))


class CountedConvPlan(ConvPlan):
    """The plan of a counted pattern of a convolution."""

    @cached
    def forward(self) -> Layout | CooLayout:
        return _laid_out(self.pattern, sized((self.pattern.nnz,), np.int32), self, self._forward_block)

    @cached
    def _transpose(self) -> Any:
        return ()

    def _phase(self, origins: list[Pair]) -> Phase:
        reaches = [[len(self._reach(offset, axis)[0]) for axis, offset in enumerate(origin)] for origin in origins]
        count = round(self.pattern.nnz * sum(map(prod, reaches)) / prod(self.kernel_size))
        rows, (out_channels, wide) = self.in_shape[0] * len(origins), (self.out_shape[0], self.kernel_size[1])
        pattern = CountedPattern((rows, self.kernel_size[0] * out_channels * wide), count, _alike(self.pattern))
        high = bordered(self.out_shape, self.dy_border)[1]
        banded = self.format == "csr" and high and not self._back_block
        bands = sized((self._count(origins[0][0], 0), 2), np.int32) if banded else None
        layout = _laid_out(pattern, sized((count,), np.int32), self, self._back_block or out_channels * wide)
        return Phase(origins, self.stride, layout, sized((count,), index_dtype(self.pattern.nnz)), bands)


def counted(plan: Any) -> Any:
    """The twin of a plan that has made nothing yet, for a counted pattern."""
    twin: Any = object.__new__(CountedConvPlan if isinstance(plan, ConvPlan) else CountedPlan)
    vars(twin).update(vars(plan))
    return twin


def arrays_of(thing: Any) -> list[Any]:
    """All arrays that a pattern or a plan has made so far."""
    if isinstance(thing, np.ndarray):
        return [thing]
    if isinstance(thing, tuple | list):
        return [array for each in thing for array in arrays_of(each)]
    if isinstance(thing, dict):
        return arrays_of(list(thing.values()))
    return arrays_of(list(vars(thing).values())) if isinstance(thing, SparsityPattern | Plan | ConvPlan) else []


def _alike(pattern: Any) -> int:
    """Rows of a counted pattern that share their columns."""
    return int(pattern.alike)


def _laid_out(pattern: Any, offsets: Any, plan: Any, block: int) -> Layout | CooLayout:
    """The arrays that `plan.laid_out` makes, by their sizes alone; rows that make no groups in blocks of columns."""
    rows, nnz = pattern.shape[0], pattern.nnz
    offsets = offsets.copy() if plan.moving or offsets.dtype != np.int32 else offsets
    if plan.format == "coo":
        carries = nnz // COO_SEGMENT if nnz > 2 * COO_SEGMENT * rows else 0
        numbers = pattern.rows if pattern.rows.dtype == np.int32 else sized((nnz,), np.int32)
        return CooLayout(
            numbers, offsets, sized((-(-nnz // COO_SEGMENT) + 1, 3), np.int64), sized((0,), np.int32), rows, carries
        )
    alike = 1 if plan.moving and not pattern.is_full else pattern.alike
    groups = -(-rows // alike)
    blocks = -(-pattern.shape[1] // block) if block and alike == 1 else 1
    indptr, starts = sized((rows + 1,), np.int64), sized((groups + 1,), np.int32)
    cuts = sized((blocks + 1, groups), np.int32)
    if alike == 1:
        return Layout(indptr, starts[:-1], starts, indptr[:-1], cuts, indptr, offsets, 1)
    return Layout(
        indptr, sized((rows,), np.int32), starts, sized((groups,), np.int64), cuts, sized((groups + 1,), np.int64),
        offsets, alike,
    )  # fmt: skip
