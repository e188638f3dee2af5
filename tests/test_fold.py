"""Batch norms taken into the weights before them: the same outputs, wherever in a tree they stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.data.normalisation import Normalisation
from sparsecore.layers import (
    AvgPool2d,
    BatchNorm,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    PadChannels,
    ReLU,
    Residual,
    Sequential,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.network import Network
from sparsecore.prune import folded
from sparsecore.runs.checkpoint import load, save
from sparsecore.topology import dense, uniform_random

from .small import numbers


def normed(shape: Any, *, seed: int, relu: bool = False, dtype: Any = np.float64) -> BatchNorm:
    """A batch norm as training leaves it: no row is what it was at first."""
    rng = np.random.default_rng(seed)
    channels = shape[0]
    return BatchNorm(
        shape, eps=1e-3, relu=relu, scale=rng.normal(1, 0.4, channels), shift=rng.standard_normal(channels),
        mean=rng.standard_normal(channels), var=rng.uniform(0.3, 3, channels), dtype=dtype,
    )  # fmt: skip


def conv(shape: Any, out: int, *, seed: int, kernel: int = 3, stride: int = 1, **options: Any) -> SparseConv2d:
    rng = np.random.default_rng(seed)
    pattern = uniform_random(out, shape[0] * kernel * kernel, 0.6, rng)
    options = {"bias": False, "dtype": np.float64} | options
    return SparseConv2d(pattern, shape, kernel, stride, kernel // 2, rng=rng, **options)


def block(shape: Any, out: int, *, seed: int, stride: int = 1, padded: bool = False, dtype: Any = np.float64) -> Layer:
    """Two convolutions and their norms, around which x goes as it is, padded or projected."""
    first = conv(shape, out, seed=seed, stride=stride, dtype=dtype)
    second = conv(first.out_shape, out, seed=seed + 1, dtype=dtype)
    main = Sequential({
        "conv1": first, "norm1": normed(first.out_shape, seed=seed + 2, relu=True, dtype=dtype),
        "conv2": second, "norm2": normed(second.out_shape, seed=seed + 3, dtype=dtype),
    })  # fmt: skip
    around: Layer | None = None
    if padded:
        around = PadChannels(shape, out, stride)
    elif stride > 1 or shape[0] != out:
        project = conv(shape, out, seed=seed + 4, kernel=1, stride=stride, dtype=dtype)
        around = Sequential({"conv": project, "norm": normed(project.out_shape, seed=seed + 5, dtype=dtype)})
    return Residual(main, around, relu=True)


def resnet(dtype: Any = np.float64, *, seed: int = 0, padded: bool = True) -> Network:
    """A small residual network as He et al. build them."""
    stem = conv((2, 8, 8), 4, seed=seed, dtype=dtype)
    rng = np.random.default_rng(seed)
    return Network({
        "stem": Sequential({"conv": stem, "norm": normed(stem.out_shape, seed=seed + 1, relu=True, dtype=dtype)}),
        "stage1": Sequential([block((4, 8, 8), 4, seed=seed + k, dtype=dtype) for k in (10, 20)]),
        "stage2": Sequential([
            block((4, 8, 8), 6, seed=seed + 30, stride=2, padded=padded, dtype=dtype),
            block((6, 4, 4), 6, seed=seed + 40, dtype=dtype),
        ]),
        "pool": GlobalAvgPool((6, 4, 4)),
        "head": SparseLinear(dense(3, 6), rng=rng, bias=rng.standard_normal(3), dtype=dtype),
    })  # fmt: skip


def same(net: Network, tolerance: float, *, seed: int = 0) -> Network:
    """Folded, with outputs that are equal relative to the largest of them, and the first network as it was."""
    before = net.table.values.copy()
    found = folded(net)
    x = numbers((9, *net.layers[0].in_shape), seed, net.dtype)
    wanted = net.logits(x)
    np.testing.assert_allclose(found.logits(x), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    assert np.array_equal(net.table.values, before)
    assert found.dtype == net.dtype and found.sparse == net.sparse and found.device is net.device
    return found


def kinds(net: Network) -> list[str]:
    return [f"{path} {type(layer).__name__}" for path, layer in net.walk() if not layer.children]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("padded", [True, False])
def test_a_residual_network_without_its_norms_computes_the_same(
    dtype: Any, tolerance: float, padded: bool, tmp_path: Any
) -> None:
    net = resnet(dtype, padded=padded)
    net.normalisation = Normalisation((2, 8, 8), (0.5,) * 2, (0.2,) * 2)
    found = same(net, tolerance)
    assert kinds(found) == [line for line in kinds(net) if not line.endswith(" BatchNorm")]
    assert found.normalisation == net.normalisation
    assert found["stem.conv"].relu and not found["stage1.0.main.conv2"].relu  # type: ignore[attr-defined]
    assert found.patterns == net.patterns
    save(found, tmp_path / "folded.safetensors")
    x = numbers((3, 2, 8, 8), 5, dtype)
    assert np.array_equal(load(tmp_path / "folded.safetensors").logits(x), found.logits(x))
    again = folded(found)
    assert np.array_equal(again.table.values, found.table.values) and kinds(again) == kinds(found)


def plain(bias: Any, width: int = 7, **options: Any) -> SparseLinear:
    rng = np.random.default_rng(3)
    pattern = uniform_random(width, 7, 0.4, rng)
    given = False if not bias else rng.standard_normal(width)
    return SparseLinear(pattern, rng=rng, bias=given, dtype=np.float64, **options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_features_with_and_without_biases(bias: bool, relu: bool) -> None:
    found = same(Network([plain(bias), normed((7,), seed=1, relu=relu), plain(bias), ReLU((7,))]), 1e-12)
    assert kinds(found) == ["0 SparseLinear", "2 SparseLinear", "3 ReLU"]
    layer = found["0"]
    assert isinstance(layer, SparseLinear) and layer.relu == relu and layer.bias is not None
    assert found["2"].params.keys() == ({"weight", "bias"} if bias else {"weight"})


def test_two_norms_and_those_in_sequentials_of_their_own() -> None:
    norms = [normed((7,), seed=1), normed((7,), seed=2, relu=True)]
    found = same(Network([Sequential([plain(False)]), Sequential([norms[0]]), norms[1], plain(True)]), 1e-12)
    assert kinds(found) == ["0.0 SparseLinear", "3 SparseLinear"]


def test_a_norm_behind_one_with_a_relu_stays() -> None:
    found = same(Network([plain(False), normed((7,), seed=1, relu=True), normed((7,), seed=2), plain(True)]), 1e-12)
    assert kinds(found) == ["0 SparseLinear", "2 BatchNorm", "3 SparseLinear"]


STAY = {
    "behind a ReLU of the layer": lambda: [plain(True, relu=True), normed((7,), seed=1)],
    "behind the ReLU of another norm": lambda: [
        normed((7,), seed=2), plain(True, relu=True), normed((7,), seed=1, relu=True), normed((7,), seed=3),
    ],
    "behind a dropout": lambda: [plain(False), Dropout((7,), 0.5), normed((7,), seed=1)],
    "behind a sum": lambda: [Residual(plain(False)), normed((7,), seed=1)],
    "at the start of a way": lambda: [plain(False), Residual(Sequential([normed((7,), seed=1), plain(True)]))],
    "a norm of other channels": lambda: [plain(False, 8), normed((2, 2, 2), seed=1), Flatten((2, 2, 2))],
    "behind a pooling": lambda: [
        conv((2, 4, 4), 3, seed=0), AvgPool2d((3, 4, 4), 2), normed((3, 2, 2), seed=1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("layers", STAY.values(), ids=STAY)
def test_a_norm_that_follows_anything_else_stays(layers: Any) -> None:
    net = Network(layers())
    assert kinds(same(net, 0)) == kinds(net)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=8)
def test_any_residual_network(seed: int, padded: bool) -> None:
    same(resnet(seed=seed, padded=padded), 1e-12, seed=seed)
