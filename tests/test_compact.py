"""Channels without connections are named and go: from residual trees and batch norms too, without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.inspect import __main__ as inspect
from sparsecore.inspect import dead_units, remove_dead
from sparsecore.layers import (
    AvgPool2d,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool2d,
    PadChannels,
    ReLU,
    SparseConv2d,
)
from sparsecore.network import Network
from sparsecore.prune.__main__ import main
from sparsecore.runs.checkpoint import load, save
from sparsecore.topology import dense

from .small import linear, numbers, pattern_of
from .test_fold import conv, normed, resnet


def cut(net: Network, path: str, *, rows: Any = (), channels: Any = ()) -> None:
    """Remove all connections of some outputs of a layer, and of some channels that it reads."""
    layer: Any = net[path]
    each = int(np.prod(getattr(layer, "kernel_size", 1)))
    pattern = layer.pattern
    keep = ~np.isin(pattern.rows, rows) & ~np.isin(pattern.indices // each, channels)
    net.rewire({path: pattern.select(keep)})


def silent(net: Network, path: str, channels: Any) -> None:
    """Let a norm with a ReLU give zero wherever its channel is constant: its shift is far below zero."""
    net[path].params["shift"][list(channels)] = -50.0


def named(net: Network) -> dict[str, list[int]]:
    return {path: gone.tolist() for path, gone in dead_units(net).items()}


def assert_same(net: Network, seed: int = 0) -> Network:
    """Without what is dead the same is computed, the network is as it was, and no more is found dead."""
    before = net.table.values.copy()
    found = remove_dead(net)
    assert np.array_equal(before, net.table.values)
    x = numbers((11, *net.layers[0].in_shape), seed, net.dtype)
    tolerance = 1e-11 if net.dtype == np.float64 else 1e-5
    wanted = net.logits(x)
    np.testing.assert_allclose(found.logits(x), wanted, rtol=0, atol=tolerance * max(1, np.abs(wanted).max()))
    assert found.sparse == net.sparse and [path for path, _ in found.walk()] == [path for path, _ in net.walk()]
    assert found.layers[0].in_shape == net.layers[0].in_shape and found.layers[-1].out_shape == net.layers[-1].out_shape
    return found


@given(st.integers(0, 100_000), st.booleans(), st.sampled_from([0.1, 0.4, 0.8]))
@settings(max_examples=40)
def test_random_residual_networks(seed: int, padded: bool, share: float) -> None:
    """Rows and columns that have lost all connections, whatever the running statistics make of the constants."""
    rng = np.random.default_rng(seed)
    net = resnet(seed=seed, padded=padded)
    inner = False
    for path in list(net.patterns):
        layer: Any = net[path]
        rows = np.flatnonzero(rng.random(layer.pattern.shape[0]) < (0 if path == "head" else share))
        channels = np.flatnonzero(rng.random(layer.in_shape[0]) < (share if path != "stem.conv" else 0))
        inner |= bool(path.endswith("conv2") and len(channels) and len(channels) < layer.in_shape[0])
        cut(net, path, rows=rows, channels=channels)
    found = assert_same(net, seed)
    if inner:
        assert found.table.values.size < net.table.values.size
    again = remove_dead(found)
    assert [p.shape for p in again.patterns.values()] == [p.shape for p in found.patterns.values()]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("padded", [True, False])
def test_where_nothing_is_dead_nothing_changes(padded: bool, dtype: Any) -> None:
    net = resnet(dtype, padded=padded)
    found = assert_same(net)
    assert not dead_units(net)
    assert np.array_equal(found.table.values, net.table.values) and found.patterns == net.patterns
    assert [layer.config() for _, layer in found.walk()] == [layer.config() for _, layer in net.walk()]


def test_channels_within_a_block(tmp_path: Path) -> None:
    """Without outgoing connections, and without incoming ones where the constant is zero, since a border is."""
    net = resnet()
    inside = "stage1.1.main"
    cut(net, f"{inside}.conv2", channels=[1])
    cut(net, f"{inside}.conv1", rows=[2, 3])
    silent(net, f"{inside}.norm1", [2])
    net[f"{inside}.norm1"].params["shift"][3] = 50.0
    assert named(net) == {f"{inside}.conv1": [1, 2]}
    found = assert_same(net)
    assert found[f"{inside}.norm1"].in_shape == (2, 8, 8) and found[f"{inside}.conv2"].in_shape == (2, 8, 8)
    for name in ("scale", "shift", "mean", "var"):
        old, new = ({**each.params, **each.kept}[name] for each in (net[f"{inside}.norm1"], found[f"{inside}.norm1"]))
        assert np.array_equal(new, old[[0, 3]])
    save(found, tmp_path / "small.safetensors")
    x = numbers((3, 2, 8, 8))
    assert np.array_equal(load(tmp_path / "small.safetensors").logits(x), found.logits(x))


READERS = ("stage1.0.main.conv1", "stage1.1.main.conv1", "stage2.0.main.conv1")
"""Of what the first stage sums."""
WRITERS = ("stem.conv", "stage1.0.main.conv2", "stage1.1.main.conv2")


def test_channels_that_are_summed_go_from_everywhere_at_once() -> None:
    """With a projection behind it, the sum of the first stage ends there."""
    net = resnet(padded=False)
    for k, path in enumerate((*READERS, "stage2.0.shortcut.conv")):
        assert not dead_units(net), f"{k} of 4 no longer read it"
        cut(net, path, channels=[1])
    assert named(net) == {path: [1] for path in WRITERS}
    found = assert_same(net)
    assert found["stage1"].out_shape == (3, 8, 8) and found["stage2"].out_shape == (6, 4, 4)


def test_a_padded_shortcut_takes_the_channels_of_both_its_ends() -> None:
    net = resnet(padded=True)
    for path in READERS:
        cut(net, path, channels=[2])
    assert not dead_units(net), "the shortcut still takes it to the second stage"
    cut(net, "stage2.1.main.conv1", channels=[2, 5])
    assert not dead_units(net), "and the head reads it there"
    cut(net, "head", channels=[2, 5])
    both = {"stage2.0.main.conv2": [2, 5], "stage2.1.main.conv2": [2, 5]}
    assert named(net) == {path: [2] for path in WRITERS} | both
    found = assert_same(net)
    around = found["stage2.0.shortcut"]
    assert isinstance(around, PadChannels) and (around.in_shape[0], around.out_shape[0]) == (3, 4)


def test_a_channel_that_one_side_of_a_padded_shortcut_needs_stays() -> None:
    """The second stage no longer reads channel 0, but the first does: a padding cannot leave it out."""
    net = resnet(padded=True)
    cut(net, "stage2.1.main.conv1", channels=[0])
    cut(net, "head", channels=[0])
    assert not dead_units(net)
    found = assert_same(net)
    assert [p.shape for p in found.patterns.values()] == [p.shape for p in net.patterns.values()]
    second = "stage2.1.main.conv2"
    assert not (found.patterns[second].rows == 0).any(), "nobody uses what it adds to it"


def test_a_sum_without_incoming_connections_is_constant() -> None:
    """Nothing writes channel 3, on no way: it is zero behind each ReLU, and the batch norms' shifts are below that."""
    net = resnet(padded=False)
    for path, norm in zip(WRITERS, ("stem.norm", "stage1.0.main.norm2", "stage1.1.main.norm2"), strict=True):
        cut(net, path, rows=[3])
        silent(net, norm, [3])
    assert named(net) == {path: [3] for path in WRITERS}
    assert_same(net)
    net["stem.norm"].params["shift"][3] = 50.0
    net["stage1.0.main.norm2"].params["shift"][3] = 10.0
    assert not dead_units(net), "not zero now, and the convolutions that read it have borders"
    assert_same(net)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pool", [MaxPool2d, AvgPool2d, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_goes_into_the_biases_of_what_reads_it(bias: bool, pool: Any, dtype: Any) -> None:
    """Through batch norm, ReLU and pooling; a layer that had no biases gets them."""
    rng = np.random.default_rng(0)
    first = conv((2, 8, 8), 4, seed=0, dtype=dtype)
    norm = normed(first.out_shape, seed=1, relu=True, dtype=dtype)
    between: list[Layer] = [first, norm, *([pool(norm.out_shape, 2)] if pool else [])]
    shape: Any = between[-1].out_shape
    second = SparseConv2d(
        dense(3, 4 * 9), shape, 3, rng=rng, bias=rng.standard_normal(3) if bias else False, dtype=dtype
    )
    net = Network([*between, second])
    norm.params["shift"][1] = 5.0
    cut(net, "0", rows=[1])
    assert named(net) == {"0": [1]}
    found = assert_same(net)
    last = found.layers[-1]
    assert isinstance(last, SparseConv2d) and last.in_shape[0] == 3 and last.bias is not None
    assert second.bias is None or not np.array_equal(last.bias, second.bias)


def test_features_of_channels_go_together() -> None:
    """A flattened channel is one unit, for a batch norm of features as for the layer behind it; and so back again."""

    def network() -> Network:
        first, again = conv((2, 4, 4), 3, seed=0), conv((2, 3, 3), 3, seed=2)
        tail, last = linear(dense(2 * 9, 3 * 16), seed=1, relu=True), linear(dense(2, 3), seed=3)
        return Network([
            first, Flatten(first.out_shape), normed((48,), seed=4), ReLU((48,)), tail, again,
            normed(again.out_shape, seed=5), GlobalAvgPool(again.out_shape), last,
        ])  # fmt: skip

    net = network()
    cut(net, "4", channels=np.arange(16, 32))  # features of channel 1 are not read
    cut(net, "5", channels=[0])
    assert named(net) == {"0": [1], "4": list(range(9))}
    found = assert_same(net)
    assert [layer.in_shape for layer in found.layers[1:6]] == [(2, 4, 4), (32,), (32,), (32,), (1, 3, 3)]
    partly = network()
    cut(partly, "0", rows=[0])
    cut(partly, "4", rows=[0, 9])  # a feature of each image: the channels stay
    assert named(partly) == {}
    assert_same(partly)


def test_layers_of_other_kinds_are_left_alone() -> None:
    class Own(Layer):
        """Not zero at zero, so that a constant in front is not one behind."""

        params: ClassVar[dict[str, Any]] = {}
        in_shape = out_shape = (4,)
        backward_tiles, config, from_config = ReLU.backward_tiles, ReLU.config, ReLU.from_config  # type: ignore

        def forward_tiles(self, x: Any, workspace: Any) -> Any:
            return type(x)(np.cos(x.data), x.batch), None

    net = Network([linear(pattern_of([[1, 1], [0, 0], [1, 0], [0, 1]])), Own(), linear(dense(2, 4), seed=1)])
    cut(net, "2", channels=[3])  # not used behind it, and the layer itself cannot be made smaller
    assert not dead_units(net)
    assert_same(net)


def test_one_channel_stays_where_all_are_dead() -> None:
    net = resnet(padded=False)
    cut(net, "stage1.0.main.conv2", channels=range(4))
    found = assert_same(net)
    assert found["stage1.0.main.norm1"].in_shape == (1, 8, 8)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    net = resnet(np.float32)
    cut(net, "stage1.1.main.conv2", channels=[0, 2])
    save(net, "net.safetensors")
    assert main(["net.safetensors", "--compact", "--out", "small.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = load("small.safetensors")
    assert lines == [
        "stage1.1.main.conv1: 2 of 4 outputs removed: 0, 2",
        f"{net.table.values.size:,} parameters before, {found.table.values.size:,} after",
        f"small.safetensors: {found.connections:,} connections, {found.global_sparsity:.1%} of all possible ones "
        "removed",
    ]
    x = numbers((5, 2, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(found.logits(x), net.logits(x), rtol=1e-5, atol=1e-5)
    assert main(["small.safetensors", "--compact", "--out", "again.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("nothing is dead\n")

    options = ["net.safetensors", "--sparsity", "0.97", "--allow-empty", "--out", "pruned.safetensors"]
    assert main([*options, "--compact"]) == 0
    out = capsys.readouterr().out
    assert "stage1.0.main.conv1, SparseConv2d(4×8×8→4×8×8, 3×3): " in out
    assert "threshold" in out and "outputs removed" in out
    assert load("pruned.safetensors").table.values.size < found.table.values.size


def test_inspecting_names_layers_by_path_and_what_it_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    net = resnet(np.float32)
    cut(net, "stage1.1.main.conv2", channels=[0, 2])
    save(net, "net.safetensors")
    monkeypatch.setattr("sparsecore.inspect.pictures.can_draw", lambda: False)
    assert inspect.main(["net.safetensors", "--remove-dead", "--out", "small.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    conv1, conv2 = (f"stage1.1.main.conv{k}, SparseConv2d(4×8×8→4×8×8, 3×3): " for k in (1, 2))
    assert [line.split(":")[0] for line in lines if line.startswith("stage1.1.main.conv")] == [
        conv1[:-2], conv2[:-2], "stage1.1.main.conv1",
    ]  # fmt: skip
    assert "stage1.1.main.conv1: 2 of 4 outputs removed: 0, 2" in lines
    assert load("small.safetensors")["stage1.1.main.norm1"].in_shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "expected one of --sparsity, --threshold and --quality, or --compact"),
        (["--compact", "--sparsity", "0.5", "--quality", "1"], "expected one of --sparsity"),
        (["--compact", "--global"], "--global: goes with --sparsity only"),
        (["--compact", "--allow-empty"], "--allow-empty: goes with pruning"),
    ],
)
def test_wrong_commands(
    options: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    save(resnet(np.float32), "net.safetensors")
    assert main(["net.safetensors", *options, "--out", "p.safetensors"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and problem in error and not Path("p.safetensors").exists()
