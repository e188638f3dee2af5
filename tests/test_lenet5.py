"""LeNet-5 and how it is wired: its sizes, its gradients, whole filters and single weights, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparsecore.models.lenet5 import lenet5, links

from sparsecore import train
from sparsecore.gradcheck import gradcheck
from sparsecore.network import Network
from sparsecore.runs.checkpoint import read
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import LANES, Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology.wiring import Link, Wiring

from .small import numbers
from .test_conv import Counting

IMAGES = {(1, 28, 28): 800, (3, 32, 32): 1250, (1, 16, 16): 50}


@pytest.mark.parametrize(("shape", "seen"), IMAGES.items())
def test_sizes_are_the_tables(shape: tuple[int, int, int], seen: int) -> None:
    network = lenet5(in_shape=shape, classes=7)
    assert [layer.params["weight"].size for layer in network.layers if layer.params] == [
        shape[0] * 25 * 20, 20 * 25 * 50, seen * 500, 500 * 7,
    ]  # fmt: skip
    assert network.layers[0].in_shape == shape and network.layers[-1].out_shape == (7,)
    assert network.sparse == ("2", "5") and network.sparsity == 0


def test_gradients_are_derivatives_through_the_whole_network() -> None:
    wiring, _ = Wiring("expander", sparsity=0.9).patterns(links((1, 16, 16)), 0)
    network = lenet5(wiring, in_shape=(1, 16, 16), dtype=np.float64)
    gradcheck(network, numbers((9, 1, 16, 16)), labels=np.arange(9), samples=40)


def whole(pattern: SparsityPattern) -> np.ndarray:
    """Whether each filter of 5×5 is stored, shape (outputs, inputs); they are stored whole or not at all."""
    stored = pattern.to_scipy(np.ones(pattern.nnz)).toarray().reshape(pattern.shape[0], -1, 25).sum(-1)
    assert np.isin(stored, (0, 25)).all()
    return stored > 0


@pytest.mark.parametrize("shape", IMAGES)
def test_radix_layers_join_channels(shape: tuple[int, int, int]) -> None:
    (conv, third), note = Wiring("radix", ((2, 5),)).patterns(links(shape), 0)
    channels = whole(conv)
    assert channels.sum(0).tolist() == [10] * 20 and channels.sum(1).tolist() == [4] * 50
    assert third.nnz == third.shape[0] * third.shape[1] // 2
    assert "2/10 of 20→50" in note and "5/10" in note


def test_radix_layers_join_weights_where_asked() -> None:
    (conv, third), _ = Wiring("radix", ((10, 5),), granularity="weight").patterns(links((1, 28, 28)), 0)
    assert set(conv.fan_in) == {100} and set(third.fan_in) == {80} and set(np.bincount(conv.indices)) == {10}


@pytest.mark.parametrize("granularity", ["channel", "weight"])
@pytest.mark.parametrize("kind", ["fixed", "bernoulli", "explicit"])
def test_expanders_join_either(kind: str, granularity: str) -> None:
    wiring = Wiring("expander", expander=kind, sparsity=0.9, granularity=granularity)
    (conv, third), note = wiring.patterns(links((3, 32, 32)), 3)
    assert conv.sparsity == pytest.approx(0.9, abs=0.03) and third.sparsity == pytest.approx(0.9, abs=0.01)
    if granularity == "channel":
        assert whole(conv).any(1).sum() > 40
    elif kind != "bernoulli":
        assert set(conv.fan_in) == {50}
    assert granularity in note


def test_all_layers_are_wired_where_asked() -> None:
    wiring, _ = Wiring("random", sparsity=0.8).patterns(links((3, 32, 32), every=True), 0)
    network = lenet5(wiring, in_shape=(3, 32, 32), every=True)
    assert network.sparse == ("0", "2", "5", "6") and network.sparsity == pytest.approx(0.8)


@pytest.mark.parametrize("every", [False, True])
def test_hidden_layers_have_the_sizes_that_are_asked_for(every: bool) -> None:
    wanted = links((1, 28, 28), every=every, hidden=(6, 16, 120))
    network = lenet5(Wiring().patterns(wanted, 0)[0], every=every)
    assert [layer.params["weight"].size for layer in network.layers if layer.params] == [
        25 * 6, 25 * 6 * 16, 16 * 16 * 120, 1200
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["expander", "random"])
def test_each_layer_may_have_its_own_sparsity(kind: str) -> None:
    wiring = Wiring(kind, sparsity=(0.5, 0.90625))
    layers = links((3, 32, 32), padding=2)
    found, _ = wiring.patterns(layers, 0)
    assert [pattern.nnz for pattern in found] == [12_500, 150_000]
    assert wiring.connections(layers) == 162_500
    alone, _ = Wiring(kind, sparsity=0.5).patterns(layers, 0)
    assert np.array_equal(found[0].indices, alone[0].indices)


@pytest.mark.parametrize(
    ("wiring", "chain", "problem"),
    [
        (Wiring("radix", ((10, 10),)), links((1, 28, 28)), "must divide both sizes of the layer 20→50: try 2,5"),
        (Wiring("radix", ((2, 2, 2),)), links((1, 28, 28)), "there are 2 .*: try 2,5"),
        (Wiring("radix", ((2, 5),), widths=(2, 5, 1)), links((1, 28, 28)), "^widths: not for this model"),
        (Wiring("radix", ((2, 5),)), links((1, 28, 28), every=True), "no radices fit"),
        (Wiring("random", sparsity=0.9, granularity="channel"), [Link(784, 300)], "^granularity channel: is for conv"),
        (Wiring("random", sparsity=0.99999), links((1, 16, 16)), "leaves the layer 20→50, 5×5 "),
        (Wiring("random", sparsity=(0.5, 0.9999999)), links((1, 16, 16)), "0.9999999 leaves the layer 50→500 "),
        (Wiring("random", sparsity=(0.5,)), links((1, 16, 16)), r"one for each of 2 \(20→50, 5×5, 50→500\), got 1"),
    ],
)
def test_what_does_not_fit_is_refused(wiring: Wiring, chain: list[Link], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        wiring.patterns(chain, 0)


@pytest.mark.parametrize("shape", [(784,), (1, 28, 15), (28, 28), ()])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="lenet5 takes images"):
        lenet5(in_shape=shape)


@pytest.mark.parametrize(
    ("options", "connections"),
    [
        (["--radix", "2,5"], 500 + 5000 + 50_000 + 2000),
        (["--expander", "--sparsity", "0.9", "--pattern", "channel", "--sparse-all"], 25 * 20 + 2500 + 10_000 + 200),
        (["--dense", "--prune", "one-time", "--prune-to", "0.9", "--prune-start", "3"], 500 + 2500 + 10_000 + 2000),
    ],
)
def test_the_command_trains_it(
    options: list[str], connections: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of 20×20 of which one quarter is bright."""
    monkeypatch.chdir(tmp_path)
    labels = np.arange(640) % 4
    x = np.random.default_rng(0).integers(0, 100, (640, 2, 10, 2, 10), np.uint8)
    x[np.arange(640), labels // 2, :, labels % 2] += 100
    np.savez("own.npz", x=x.reshape(640, 20, 20), y=labels)
    arguments = ["lenet5", *options, "--dataset", "own.npz", "--epochs", "3", "--batch-size", "32", "--lr", "0.01"]
    assert train.main([*arguments, "--quiet", "--out", "run"]) == 0
    saved = read("run")
    assert saved.network.layers[0].in_shape == (1, 20, 20) and saved.network.connections == connections
    assert saved.state["run"]["result"]["test_accuracy"] > 0.9


# ------------------------------------------------------------------------------------------------ cost

POSITIONS = {0: 24 * 24, 2: 8 * 8, 5: 1, 6: 1}
"""Where each of a layer's connections is used, by the layer's place in the network."""


def cost(wiring: Wiring) -> tuple[Network, int, int]:
    """A network of this wiring, the multiply-adds of a step, and the bytes of what is as long as its patterns."""
    network = lenet5(wiring.patterns(links((1, 28, 28)), 0)[0])
    kernels = Counting()
    workspace = Workspace(cpu(), kernels)
    logits, caches = network.forward(Tiles(np.zeros((1, 1, 28, 28, LANES), np.float32), LANES), workspace)
    network.backward(logits, caches, workspace)
    layers = [network.layers[k] for k in network.patterns]
    plans = [layout for layer in layers for layout in _layouts(layer.plan)]
    arrays = [array for layout in plans for array in (layout.offsets, layout.indptr)]
    arrays += [layer.pattern.indices for layer in layers] + [network.params]
    return network, sum(map(sum, kernels.multiplies.values())) // LANES, sum(array.nbytes for array in arrays)


def _layouts(plan: Any) -> list[Any]:
    return [plan.forward, *([phase.layout for phase in plan.phases] if hasattr(plan, "phases") else [plan.transposed])]


def test_a_steps_arithmetic_and_bytes_are_connections_times_positions() -> None:
    """Forward, dW and, but in the first layer, dX do one multiply-add a connection and position. dX of the second
    convolution meets zeros beyond the edges of 8×8 outputs, in the 12 columns of its inputs: half as many again."""
    found = {sparsity: cost(Wiring("random", sparsity=sparsity)) for sparsity in (0.0, 0.5, 0.9, 0.99)}
    for network, multiplies, _ in found.values():
        connections = {int(path): pattern.nnz for path, pattern in network.patterns.items()}
        least = sum((2 + (k > 0)) * connections[k] * at for k, at in POSITIONS.items())
        assert least <= multiplies <= least + 1.01 * connections[2] * 64 / 2
    dense = found[0.0]
    for sparsity, (network, _, size) in found.items():
        kept = network.connections / dense[0].connections
        assert size < 1.1 * kept * dense[2] + 8 * 4 * 2000, sparsity  # row pointers and biases stay
