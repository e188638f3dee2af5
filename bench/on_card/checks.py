"""What an engine computed against the processor, before it is timed: relative errors, at most 1e-4.

Of large results a random part is computed anew, in float64. Steps are compared after the fourth, by their logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.engines import sparsecore as engine
from bench.problem import Floats
from sparsecore.runtime.processors import default_threads
from sparsecore.storage.pattern import SparsityPattern

TOLERANCE = 1e-4
STEPS = 4
_ROWS, _CONNECTIONS = 64, 4096


def error(got: Any, expected: Any) -> float:
    """‖got − expected‖ / ‖expected‖; infinite where something is not finite."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    found = float(np.linalg.norm(got - expected) / max(float(np.linalg.norm(expected)), 1e-30))
    return found if np.isfinite(found) else float("inf")


def gather_error(result: Any, pattern: SparsityPattern, data: Floats, x: Floats) -> float:
    """Of y = W x, in some rows."""
    rng = np.random.default_rng(1)
    rows = rng.permutation(pattern.shape[0])[:_ROWS]
    columns = rng.permutation(x.shape[1])[:_ROWS]
    expected = []
    for row in rows:
        part = slice(pattern.indptr[row], pattern.indptr[row + 1])
        expected.append(data[part].astype(np.float64) @ x[np.ix_(pattern.indices[part], columns)])
    return error(result[np.ix_(rows, columns)], expected)


def sample_error(result: Any, pattern: SparsityPattern, dy: Floats, x: Floats) -> float:
    """Of dW = dy xᵀ, at some connections."""
    some = np.unique(np.random.default_rng(1).integers(pattern.nnz, size=_CONNECTIONS))
    rows = np.searchsorted(pattern.indptr, some, side="right") - 1
    expected = np.einsum("ps,ps->p", dy[rows].astype(np.float64), x[pattern.indices[some]].astype(np.float64))
    return error(result[some], expected)


def step_reference(problem: Any) -> Any:
    """The logits of this engine's fourth step on the processor."""
    step = engine.Step(problem, default_threads())
    for _ in range(STEPS):
        step.run()
    return step.result()


def step_error(step: Any, expected: Any) -> float:
    """Of a step's logits, once it has been done as often."""
    for _ in range(STEPS - getattr(step, "done", 0)):
        step.run()
    return error(step.result(), expected)
