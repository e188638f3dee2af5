"""The benchmarks of convolutions compare engines that do the same thing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import conv
from bench.conv_problem import RADICES, ConvProblem, conv_layer, lenet5_problem
from bench.engines import Contender, conv_contenders, has_torch
from bench.options import ConvShape, Options
from bench.problem import as_dense
from bench.steps import networks
from bench.tables import pick

from .small import Array

STEPS = [
    pytest.param(contender, topology, sparsity, id=f"{contender.engine} {contender.variant}, {topology}")
    for contender in conv_contenders("step", 1) + conv_contenders("step", 2)[:1]
    for topology, sparsity in (("dense", 0.0), ("random", 0.9), ("channel", 0.9), ("radix", *RADICES))
    if contender.suits(topology, 0)
]


def windows(x: Array, size: int) -> Array:
    """(batch, channels, height, width, size, size)."""
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))


def plainly(problem: ConvProblem, steps: int) -> list[float]:
    """Losses of these many steps, in float64 and with nothing clever."""
    weights = [as_dense(p, w).astype(np.float64) for p, w in zip(problem.patterns, problem.weights, strict=True)]
    masks = [as_dense(p, np.ones(p.nnz)) for p in problem.patterns]
    biases = [np.zeros(len(w)) for w in weights]
    batch, losses = np.arange(len(problem.x)), []
    for _ in range(steps):
        x, kept = problem.x.astype(np.float64).reshape(-1, 1, 28, 28), []
        for w, b in zip(weights[:2], biases[:2], strict=True):
            filters = w.reshape(len(w), -1, 5, 5)
            y = np.maximum(np.einsum("bchwij,ocij->bohw", windows(x, 5), filters) + b[:, None, None], 0)
            high, wide = y.shape[2] // 2, y.shape[3] // 2
            pooled = y.reshape(*y.shape[:2], high, 2, wide, 2).max((3, 5))
            kept.append((x, y, pooled, filters))
            x = pooled
        flat = x.reshape(len(x), -1)
        hidden = np.maximum(flat @ weights[2].T + biases[2], 0)
        z = hidden @ weights[3].T + biases[3]
        losses.append(loss(z, problem.labels))
        dz = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        dz[batch, problem.labels] -= 1
        dz /= len(batch)
        dh = (dz @ weights[3]) * (hidden > 0)
        grads: list[Any] = [None, None, dh.T @ flat, dz.T @ hidden]
        slopes: list[Any] = [None, None, dh.sum(0), dz.sum(0)]
        d = (dh @ weights[2]).reshape(x.shape)
        for k in (1, 0):
            x, y, pooled, filters = kept[k]
            dy = np.repeat(np.repeat(d, 2, 2), 2, 3) * (y == np.repeat(np.repeat(pooled, 2, 2), 2, 3)) * (y > 0)
            grads[k] = np.einsum("bchwij,bohw->ocij", windows(x, 5), dy).reshape(weights[k].shape)
            slopes[k] = dy.sum((0, 2, 3))
            d = np.zeros_like(x)
            for i, j in np.ndindex(5, 5):
                d[:, :, i : i + dy.shape[2], j : j + dy.shape[3]] += np.einsum("bohw,oc->bchw", dy, filters[:, :, i, j])
        for w, b, dw, db, mask in zip(weights, biases, grads, slopes, masks, strict=True):
            w -= problem.rate * dw * mask
            b -= problem.rate * db
    return losses


def loss(logits: Any, labels: Any) -> float:
    z = np.asarray(logits, np.float64)
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]))


@pytest.mark.parametrize(("contender", "topology", "sparsity"), STEPS)
def test_engines_learn_the_same(contender: Contender, topology: str, sparsity: float) -> None:
    """From the same values, on the same batch, against plain NumPy; the batch fills its last tile only in part."""
    problem = lenet5_problem(topology, sparsity, 20, rate=1e-3)
    expected = plainly(problem, 4)
    assert expected[-1] < 0.8 * expected[0], "a problem on which nothing is learned shows nothing"
    step, losses = contender.make(problem), []
    for _ in expected:
        step.run()
        losses.append(loss(step.result(), problem.labels))
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


@pytest.mark.parametrize("shape", ["16x32@9", "16x32@9/2", "16x32@9/2k1", "3x16@8"])
@pytest.mark.parametrize("topology", ["dense", "random"])
def test_layers_compute_the_same(topology: str, shape: str) -> None:
    layer = conv_layer(ConvShape.parse(shape), topology, 0.9)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((2, *shape)).astype(np.float32) for shape in (layer.in_shape, layer.out_shape))
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    for contender in conv_contenders("layer", 1):
        if contender.suits(topology, 0):
            timed = contender.make(layer, x, dy)
            timed.run()
            timed.run()  # a result is overwritten, never added to
            for got, wanted in zip(timed.result(), (y, dx, grads["weight"]), strict=True):
                np.testing.assert_allclose(np.reshape(got, wanted.shape), wanted, rtol=1e-3, atol=1e-2)


def test_flops_are_connections_times_positions() -> None:
    dense, sparse = lenet5_problem("dense", 0, 16), lenet5_problem("random", 0.9, 16)
    assert dense.flops == 2 * 16 * (2 * 500 * 576 + 3 * 25_000 * 64 + 3 * 400_000 + 3 * 5000)
    assert dense.flops - sparse.flops == 0.9 * 2 * 16 * 3 * (25_000 * 64 + 400_000)


def test_tables_name_every_row() -> None:
    names = networks((0.9,), "lenet5")
    rows = [
        {"engine": engine, "topology": topology, "sparsity": sparsity, "batch": 8, "threads": 1, "ms": 2.0,
         "gflops": 1.0, "connections": 100}
        for topology, sparsity in names
        for engine in (conv.ENGINES if topology == "dense" else conv.ENGINES[:1])
    ]  # fmt: skip
    table = conv.beside_torch(rows, "Step")
    assert table.count("1.00×") == 2 * len(names) and "channel 90%" in table and "radix 89.4%" in table


def test_shapes_are_read_as_they_are_written() -> None:
    assert ConvShape.parse("16x32@28/2k1") == ConvShape(16, 32, 28, stride=2, kernel=1)
    for text in ("3x16@32", "16x32@28/2", "16x32@28k5", "16x32@28/2k1"):
        assert str(ConvShape.parse(text)) == text
    for text in ("16x32", "16x32@28/", "0x16@32", "16x16@32/0", "16x32@28k3x3", "१x16@32"):
        with pytest.raises(ValueError, match="must be written as 16x32@28, 16x32@28/2 or 16x32@28/2k1, got"):
            ConvShape.parse(text)


def test_every_shape_and_batch_has_a_line_in_each_table() -> None:
    shapes = ConvShape(3, 4, 5), ConvShape(16, 16, 5, stride=2, kernel=1)
    rows = conv.measure(Options(batches=(8, 16), sparsities=(0.9,), shapes=shapes, quick=True))
    assert {(row["model"], row["batch"]) for row in rows} == {(str(shape), b) for shape in shapes for b in (8, 16)}
    table = conv.table(rows)
    for pattern in ("dense", "random 90%", "channel 90%"):
        (part,) = (part for part in table.split("Convolutions") if f" {pattern}," in part)
        lines = part.count("| 16x16@5/2k1 ")
        assert (part.count("| 3x4@5 "), lines) == (2, 0 if "channel" in pattern else 2), "filters of 1×1 are weights"
        assert part.count("×") == (2 + lines) * has_torch(), "over the faster of PyTorch's two"
    (dense,) = pick(rows, "sparsecore", topology="dense", model="16x16@5/2k1", batch=8)
    assert dense["gflops"] * dense["ms"] * 1e6 == pytest.approx(6 * 8 * 9 * 256)
