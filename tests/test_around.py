"""What is spared around blocks changes no result: borders and sums written at once, gradients added in place.

What layers tell each other travels with their tiles and workspaces, and must hold for whoever gets it: blocks of every
kind are put one after another, and trees of any layers are drawn at random.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsecore.gradcheck import gradcheck
from sparsecore.layers import (
    AvgPool2d,
    BatchNorm,
    Dropout,
    Flatten,
    MaxPool2d,
    PadChannels,
    ReLU,
    Residual,
    Sequential,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.layers.layer import Layer
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import Labels, Tiles, tiled
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology import dense, uniform_random
from sparsecore.training.losses import CrossEntropy

SHAPE = (4, 6, 5)


def conv(rng: Any, shape: Any, size: int = 3, channels: int = 4, stride: int = 1, **options: Any) -> SparseConv2d:
    pattern = uniform_random(channels, shape[0] * size * size, 0.4, rng)
    return SparseConv2d(pattern, shape, size, stride, size // 2, rng=rng, dtype=np.float64, **options)


def norm(rng: Any, shape: Any, **options: Any) -> BatchNorm:
    scale, shift = rng.uniform(0.5, 2, shape[0]), rng.standard_normal(shape[0])
    return BatchNorm(shape, scale=scale, shift=shift, dtype=np.float64, **options)


def block(kind: str, rng: Any, shape: Any) -> Layer:
    """A block of each kind that a network may be made of."""
    if kind.startswith("projected"):
        first = conv(rng, shape, channels=6, stride=2, bias=False)
        beside = {
            "projected": PadChannels(shape, 6), "projected by a norm": conv(rng, shape, 1, channels=6, stride=2),
            "projected by a filter": conv(rng, shape, channels=6, stride=2),
        }[kind]  # fmt: skip
        main: list[Layer] = [first, norm(rng, first.out_shape)]
        return Residual(Sequential(main), Sequential([beside, norm(rng, first.out_shape)]) if "by a" in kind else beside, relu=True)  # noqa: E501
    if kind.startswith("nested"):
        size = 1 if kind.endswith("pixel") else 3
        small = [Residual(Sequential([conv(rng, shape, size), norm(rng, shape)]), relu=True) for _ in range(2)]
        return Residual(Sequential([*small, conv(rng, shape, size), norm(rng, shape)]), relu=True)
    mains: dict[str, list[Layer]] = {
        "normalised": [conv(rng, shape, bias=False), norm(rng, shape, relu=True), conv(rng, shape), norm(rng, shape)],
        "rectified at its end": [conv(rng, shape), norm(rng, shape, relu=True)],
        "of one pixel": [conv(rng, shape, 1)],
        "in segments": [conv(rng, shape, format="coo"), norm(rng, shape)],
        "normalised first": [norm(rng, shape, relu=True), conv(rng, shape)],
        "without": [conv(rng, shape, relu=True), conv(rng, shape)],
        "of one pixel at its end": [conv(rng, shape), conv(rng, shape, 1)],
    }
    return Residual(Sequential(mains[kind]), relu=kind != "normalised first")


KINDS = [
    "normalised", "rectified at its end", "of one pixel", "of one pixel at its end", "in segments", "normalised first",
    "without", "nested", "nested, of one pixel", "projected", "projected by a norm", "projected by a filter",
]  # fmt: skip


def gradients(layers: list[Layer], batch: int, spared: bool = True, recorded: bool = False) -> dict[str, Any]:
    """Logits and all gradients of a network; with `spared`, as it computes them by itself."""
    network, shape = Network(layers), layers[0].in_shape
    rng = np.random.default_rng(1)
    kernels, tape = cpu().recorder() if recorded else (None, None)
    workspace = Workspace(kernels=kernels, training=True, position=np.zeros(3, np.int64))
    rows = rng.standard_normal((batch, int(np.prod(shape))))
    x = Tiles(tiled(rows, np.float64).reshape(-1, *shape, 16), batch)
    with pytest.MonkeyPatch.context() as patch:
        if not spared:
            tell_nothing(patch)
        y, caches = network.forward(x, workspace)
        truth = Labels.pack(np.arange(batch) % 3, 3)
        network.backward(CrossEntropy()(y, truth, workspace), caches, workspace)
    if recorded:
        for _ in range(2):  # what a step leaves, the next must not find
            cpu().launcher().replay(tape)
    played = workspace.played
    found = {"logits": np.array(y.data[..., : batch % 16 or 16])}
    for path, pieces in network.views(network.params).items():
        found |= {f"{path}.{name}": np.array(played.at(path).find(name)) for name in pieces}
        if isinstance(layer := network[path], SparseConv2d):  # what is asked afterwards, as moving connections do
            found[f"{path}.asked"] = np.array(layer.gradient_at(layer.pattern, played.at(path)))
    return found


def tell_nothing(patch: pytest.MonkeyPatch) -> None:
    """Let no layer know what its neighbours read, gave or have done already."""
    patch.setattr(Workspace, "onto", property(lambda self: None, lambda self, value: None), raising=False)
    for kind in (BatchNorm, SparseConv2d, Sequential, Residual):
        patch.setattr(kind, "joins", False)
        for name in ("x_border", "dy_border"):
            patch.setattr(kind, name, Layer.x_border)
    check = Tiles.__post_init__

    def forget(tiles: Tiles) -> None:
        check(tiles)
        for flag in ("rectified", "masked", "free"):
            object.__setattr__(tiles, flag, False)

    patch.setattr(Tiles, "__post_init__", forget)


def assert_same(ours: dict[str, Any], plainly: dict[str, Any]) -> None:
    assert ours.keys() == plainly.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, plainly[name], rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("batch", [1, 16, 21])
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", [kind for kind in KINDS if not kind.startswith("projected")])
def test_blocks_one_after_another(first: str, second: str, batch: int) -> None:
    def layers() -> list[Layer]:
        rng = np.random.default_rng(0)
        stem = conv(rng, SHAPE)
        blocks = [block(first, rng, SHAPE), block(first, rng, SHAPE), block(second, rng, SHAPE)]
        last = blocks[-1].out_shape
        head = SparseLinear(dense(3, int(np.prod(last))), rng=rng, dtype=np.float64)
        return [stem, norm(rng, SHAPE, relu=True), *blocks, ReLU(last), Flatten(last), head]

    assert_same(gradients(layers(), batch), gradients(layers(), batch, spared=False))


# ------------------------------------------------------------------------------------------------ trees at random


def drawn(rng: Any, shape: Any, depth: int) -> Layer:
    """Any layer for images of a shape, or a block of such, that keeps the shape."""
    if depth and rng.random() < 0.5:
        return drawn_block(rng, shape, depth - 1, halves=False)
    relu, size, form = bool(rng.random() < 0.3), int(rng.choice([1, 3])), str(rng.choice(["csr", "csr", "coo"]))
    kinds = [
        lambda: conv(rng, shape, size, shape[0], relu=relu, format=form), lambda: norm(rng, shape, relu=relu, eps=0.05),
        lambda: norm(rng, shape, eps=0.05), lambda: ReLU(shape), lambda: MaxPool2d(shape, 1),
        lambda: AvgPool2d(shape, 1), lambda: Dropout(shape, 0.0), lambda: PadChannels(shape, shape[0], 1),
        lambda: Sequential([drawn(rng, shape, 0), drawn(rng, shape, 0)]),
    ]  # fmt: skip
    return kinds[rng.integers(len(kinds))]()


def halving(rng: Any, shape: Any) -> Layer:
    """Any layer that halves the sides of images."""
    size = int(rng.choice([1, 3]))
    kinds = [
        lambda: conv(rng, shape, size, shape[0], 2), lambda: MaxPool2d(shape, 2), lambda: AvgPool2d(shape, 2),
        lambda: PadChannels(shape, shape[0], 2),
    ]  # fmt: skip
    return kinds[rng.integers(len(kinds))]()


def row_of(rng: Any, shape: Any, depth: int, count: int, halves: bool) -> list[Layer]:
    """So many layers, one after another; with `halves`, one of them halves the sides."""
    at, layers = int(rng.integers(count)) if halves else -1, []
    for k in range(count):
        layers.append(halving(rng, shape) if k == at else drawn(rng, shape, depth))
        shape = layers[-1].out_shape
    return layers


def drawn_block(rng: Any, shape: Any, depth: int, halves: bool) -> Residual:
    """A block whose two ways are drawn; more often than not it ends with a norm, as blocks do."""
    main = row_of(rng, shape, depth, int(rng.integers(1, 4)), halves)
    if rng.random() < 0.6:
        main.append(norm(rng, main[-1].out_shape, eps=0.05))
    around: Layer | None = None
    if halves or rng.random() < 0.4:
        ways = row_of(rng, shape, depth, int(rng.integers(1, 4)), halves)
        around = ways[0] if len(ways) == 1 else Sequential(ways)
    return Residual(main[0] if len(main) == 1 else Sequential(main), around, relu=bool(rng.random() < 0.5))


def drawn_network(seed: int) -> tuple[list[Layer], int]:
    """Layers, the last of which gives three numbers, and a batch size."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 4)), *(int(size) for size in 2 * rng.integers(2, 4, 2)))
    layers: list[Layer] = [drawn(rng, shape, 0)]
    for _ in range(int(rng.integers(1, 4))):
        here = layers[-1].out_shape
        halves = all(size % 2 == 0 for size in here[1:]) and rng.random() < 0.4
        layers.append(drawn_block(rng, here, 2, bool(halves)) if rng.random() < 0.7 else drawn(rng, here, 2))
    here = layers[-1].out_shape
    head = SparseLinear(dense(3, int(np.prod(here))), rng=rng, dtype=np.float64)
    return [*layers, Flatten(here), head], int(rng.choice([2, 5, 16, 21]))


def check_drawn(seed: int) -> None:
    """Told or not, recorded or not, twice or once: the same; and against central differences for good measure."""
    ours, plainly, recorded = (
        gradients(*drawn_network(seed), **how) for how in ({}, {"spared": False}, {"recorded": True})
    )
    assert_same(ours, plainly)
    assert_same(recorded, ours)
    layers, batch = drawn_network(seed)
    labels, x = np.arange(batch) % 3, np.random.default_rng(seed).standard_normal((batch, *layers[0].in_shape))
    network = Network(layers)
    training = not any(isinstance(layer, Dropout) for _, layer in network.walk())  # which asks for a position
    gradcheck(network, x, labels=labels, samples=2, training=training, rtol=1e-3)


@pytest.mark.parametrize("part", range(8))
def test_trees_of_any_layers(part: int) -> None:
    for seed in range(10 * part, 10 * part + 10):
        check_drawn(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_trees_of_any_layers(part: int) -> None:
    for seed in range(1000 + 100 * part, 1100 + 100 * part):
        check_drawn(seed)


def test_what_a_caller_has_is_not_written_over() -> None:
    """A gradient that one layer gave, which may be written over where a network has it, is the caller's outside one."""
    rng = np.random.default_rng(0)
    first = Residual(Sequential([conv(rng, SHAPE), norm(rng, SHAPE)]))
    second, workspace = conv(rng, SHAPE, 1), Workspace(training=True)
    x, slope = (Tiles(rng.standard_normal((1, *SHAPE, 16)), 16) for _ in range(2))
    y, one = first.forward(x, workspace)
    _, two = second.forward(y, workspace)
    dy, _ = second.backward(slope, two, workspace)
    before = dy.data.copy()
    first.backward(dy, one, workspace)
    assert np.array_equal(dy.data, before)
