"""What is spared around blocks changes no result: borders and sums written at once, gradients added in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsecore.layers import BatchNorm, Flatten, PadChannels, ReLU, Residual, Sequential, SparseConv2d, SparseLinear
from sparsecore.layers.layer import Layer
from sparsecore.network import Network
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


def gradients(layers: list[Layer], batch: int, spared: bool) -> dict[str, Any]:
    """Logits and all gradients of a network; with `spared`, as it computes them by itself."""
    network = Network(layers)
    rng = np.random.default_rng(1)
    workspace = Workspace(training=True)
    x = Tiles(tiled(rng.standard_normal((batch, 120)), np.float64).reshape(-1, *SHAPE, 16), batch)
    with pytest.MonkeyPatch.context() as patch:
        if not spared:
            patch.setattr(Workspace, "onto", property(lambda self: None, lambda self, value: None), raising=False)
            for kind in (BatchNorm, SparseConv2d, Sequential, Residual):
                patch.setattr(kind, "joins", False)
                for name in ("x_border", "dy_border"):
                    patch.setattr(kind, name, Layer.x_border)
        y, caches = network.forward(x, workspace)
        truth = Labels.pack(np.arange(batch) % 3, 3)
        network.backward(CrossEntropy()(y, truth, workspace), caches, workspace)
    found = {"logits": y.data[..., : batch % 16 or 16].copy()}
    for path, pieces in network.views(network.params).items():
        found |= {f"{path}.{name}": np.array(workspace.at(path).find(name)) for name in pieces}
        if isinstance(layer := network[path], SparseConv2d):  # what is asked afterwards, as moving connections do
            found[f"{path}.asked"] = np.array(layer.gradient_at(layer.pattern, workspace.at(path)))
    return found


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

    ours, plainly = gradients(layers(), batch, True), gradients(layers(), batch, False)
    assert ours.keys() == plainly.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, plainly[name], rtol=1e-9, atol=1e-11, err_msg=name)
