"""The benchmarks compare engines that do the same thing, and say what they measured in the promised form."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.engines import Contender, contenders
from bench.problem import Problem, as_dense, radix_pattern, training_problem
from bench.timing import Budget, Entry, fastest_rows, interleaved
from sparsecore.topology import dense, uniform_random

ROOT = Path(__file__).resolve().parent.parent
ENGINES = {"sparsecore", "torch-eager", "torch-hand", "numpy-hand", "torch-csr", "scipy"}


def plainly(problem: Problem, steps: int) -> list[float]:
    """Losses of these many steps, in float64 and with nothing clever."""
    weights = [as_dense(p, w).astype(np.float64) for p, w in zip(problem.patterns, problem.weights, strict=True)]
    masks = [as_dense(p, np.ones(p.nnz)) for p in problem.patterns]
    biases = [np.zeros(len(w)) for w in weights]
    batch = np.arange(len(problem.x))
    losses = []
    for _ in range(steps):
        h = [problem.x.astype(np.float64)]
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            z = h[-1] @ w.T + b
            h.append(z if k == len(weights) - 1 else np.maximum(z, 0))
        losses.append(cross_entropy(h[-1], problem.labels))
        dy = np.exp(h[-1]) / np.exp(h[-1]).sum(1, keepdims=True)
        dy[batch, problem.labels] -= 1
        dy /= len(batch)
        for k in reversed(range(len(weights))):
            dw, db = (dy.T @ h[k]) * masks[k], dy.sum(0)
            dy = (dy @ weights[k]) * (h[k] > 0)
            weights[k] -= problem.rate * dw
            biases[k] -= problem.rate * db
    return losses


def cross_entropy(logits: Any, labels: Any) -> float:
    z = np.asarray(logits, np.float64)
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]))


def name(contender: Contender) -> str:
    return f"{contender.engine} {contender.variant}".strip()


@pytest.mark.parametrize("topology", ["dense", "random", "radix"])
@pytest.mark.parametrize("contender", contenders("step", 1) + contenders("step", 2)[:1], ids=name)
def test_engines_learn_the_same(contender: Contender, topology: str) -> None:
    """From the same values, on the same batch; a batch that fills its last tile only in part."""
    if not contender.suits(topology):
        pytest.skip(f"{contender.engine} is timed on {contender.patterns} networks")
    problem = training_problem((784, 300, 100, 10), topology, 0.9, batch=40, rate=0.1)
    expected = plainly(problem, 5)
    assert expected[-1] < 0.8 * expected[0], "a problem on which nothing is learned shows nothing"
    step = contender.make(problem)
    losses = []
    for _ in expected:
        step.run()
        losses.append(cross_entropy(step.result(), problem.labels))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


@pytest.mark.parametrize("topology", ["dense", "random"])
@pytest.mark.parametrize("what", ["gather", "sample"])
def test_kernels_compute_the_same(what: str, topology: str) -> None:
    rng = np.random.default_rng(1)
    pattern = dense(30, 70) if topology == "dense" else uniform_random(30, 70, 0.8, rng)
    data = rng.standard_normal(pattern.nnz, np.float32)
    x, dy = rng.standard_normal((70, 20), np.float32), rng.standard_normal((30, 20), np.float32)
    if what == "gather":
        operands, expected = (data, x), as_dense(pattern, data) @ x
    else:
        operands, expected = (dy, x), (dy @ x.T)[pattern.rows, pattern.indices]
    for contender in contenders(what, 1):
        if contender.suits(topology):
            timed = contender.make(pattern, *operands)
            timed.run()
            timed.run()  # a result is overwritten, never added to
            np.testing.assert_allclose(timed.result(), expected, rtol=1e-4, atol=1e-4, err_msg=name(contender))
