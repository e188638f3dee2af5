"""Looking at structure: counts against the definition, dead neurons found and removed without a trace."""

from __future__ import annotations

import copy
import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsecore
from sparsecore import Network, SparsityPattern, train
from sparsecore.data.normalisation import Normalisation
from sparsecore.inspect import count_paths, describe, groups_of_equal_rows, pictures, remove_dead
from sparsecore.inspect.__main__ import _lines, main
from sparsecore.inspect.moves import tried_of
from sparsecore.inspect.units import units_of
from sparsecore.layers.conv import SparseConv2d
from sparsecore.layers.dropout import Dropout
from sparsecore.layers.flatten import Flatten
from sparsecore.layers.layer import Layer
from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.norm import BatchNorm
from sparsecore.layers.pooling import AvgPool2d, GlobalAvgPool, MaxPool2d
from sparsecore.layers.relu import ReLU
from sparsecore.layers.residual import Residual
from sparsecore.layers.sequential import Sequential
from sparsecore.runs.checkpoint import CheckpointError, read, save
from sparsecore.topology import dense
from sparsecore.topology.radix import fit_radix_net
from tests.command.given import records

from .small import linear, network, numbers, pattern_of
from .test_tree import flat_and_nested, residual_network

sparsities = st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0])
seeds = st.integers(0, 10_000)


def random_pattern(rng: Any, shape: tuple[int, int], sparsity: float) -> SparsityPattern:
    return pattern_of(rng.random(shape) >= sparsity)


def chain(seed: int, sparsity: float) -> Network:
    """Fully connected layers, with ReLUs inside them, after them, or not at all."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, rng.integers(2, 6))
    layers: list[Any] = []
    for k in range(len(sizes) - 1):
        pattern = random_pattern(rng, (sizes[k + 1], sizes[k]), sparsity)
        kind = rng.integers(3)
        layers.append(linear(pattern, seed=seed + k, relu=bool(kind == 0)))
        if kind == 1:
            layers.append(ReLU(layers[-1].out_shape))
    return Network(layers)


def conv(rng: Any, shape: Any, channels: int, sparsity: float, **options: Any) -> SparseConv2d:
    pattern = random_pattern(rng, (channels, shape[0] * 9), sparsity)
    weight, bias = rng.standard_normal(pattern.nnz), rng.standard_normal(channels)
    return SparseConv2d(pattern, shape, 3, weight=weight, bias=bias, dtype=np.float64, **options)


def images(seed: int, sparsity: float, pool: Any = MaxPool2d) -> Network:
    """Two convolutions and a pooling, then a fully connected head."""
    rng = np.random.default_rng(seed)
    padding, stride = rng.integers(2, size=2), 1 + rng.integers(2)
    first = conv(rng, (2, 8, 9), 5, sparsity, padding=int(padding[0]), relu=True)
    middle = pool(first.out_shape, 2)
    second = conv(rng, middle.out_shape, 4, sparsity, padding=int(padding[1]), stride=int(stride))
    after = [ReLU(second.out_shape), Dropout(second.out_shape, 0.5), Flatten(second.out_shape)]
    last = linear(random_pattern(rng, (3, prod(second.out_shape)), sparsity / 2), seed=seed)
    return Network([first, middle, second, *after, last], sparse=(0, 2))


# -- paths -----------------------------------------------------------------------------------------------------------


@given(seeds, sparsities)
def test_paths_are_the_product_of_the_patterns(seed, sparsity):
    net = chain(seed, sparsity)
    product = np.eye(net.layers[0].in_shape[0])
    for pattern in net.patterns.values():
        product = pattern.to_scipy().toarray() @ product
    assert np.array_equal(count_paths(net), product)


@given(seeds, sparsities)
@settings(max_examples=30)
def test_paths_through_images_are_what_ones_carry(seed, sparsity):
    """With every weight one and every bias zero, a network gives to each output the paths from a single input."""
    net = images(seed, sparsity)
    ones = copy.deepcopy(net)
    for layer in ones.layers:
        for name, array in layer.params.items():
            array[...] = name == "weight"
    pool = AvgPool2d(net.layers[1].in_shape, 2)
    ones = Network([pool if isinstance(layer, MaxPool2d) else layer for layer in ones.layers])
    singles = np.eye(2 * 8 * 9)
    np.testing.assert_allclose(count_paths(net), 4 * ones.logits(singles).T, atol=1e-9)


def test_a_radix_net_joins_every_pair_equally_often():
    """The theorem: ∏ of the radices over N', times the inner widths."""
    fitted = fit_radix_net([[10, 10]], (800, 300, 100)).patterns
    counts = count_paths(Network([linear(pattern) for pattern in fitted]))
    assert counts.min() == counts.max() == 3


# -- dead neurons ----------------------------------------------------------------------------------------------------


def assert_same_function(net: Network, seed: int) -> Network:
    before = [array.copy() for layer in net.layers for array in layer.params.values()]
    x = np.random.default_rng(seed).standard_normal((12, *net.layers[0].in_shape))
    wanted = net.logits(x)
    smaller = remove_dead(net)
    np.testing.assert_allclose(smaller.logits(x), wanted, rtol=1e-10, atol=1e-10)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(before, [array for layer in net.layers for array in layer.params.values()], strict=True)
    )
    assert smaller.sparse == net.sparse
    assert (smaller.layers[0].in_shape, smaller.layers[-1].out_shape) == (
        net.layers[0].in_shape, net.layers[-1].out_shape,
    )  # fmt: skip
    return smaller


@given(seeds, sparsities)
def test_a_chain_without_its_dead_neurons_computes_the_same(seed, sparsity):
    net = chain(seed, sparsity)
    smaller = assert_same_function(net, seed)
    alive = [max(int((units.used & units.reached).sum()), 1) for units in units_of(net)]
    sizes = [pattern.shape[0] for pattern in smaller.patterns.values()]
    assert sizes[:-1] == alive[1:-1]  # all that were dead are gone, and nothing else
    again = remove_dead(smaller)
    assert [p.shape for p in again.patterns.values()] == [p.shape for p in smaller.patterns.values()]


@given(seeds, sparsities, st.sampled_from([MaxPool2d, AvgPool2d]))
@settings(max_examples=40)
def test_images_without_their_dead_channels_compute_the_same(seed, sparsity, pool):
    net = images(seed, sparsity, pool)
    smaller = assert_same_function(net, seed)
    for units, kept in zip(units_of(net)[1:-1], list(smaller.patterns.values())[:-1], strict=True):
        assert kept.shape[0] >= max(int(units.alive.sum()), 1)
        assert kept.shape[0] <= max(int(units.used.sum()), 1)


def test_a_constant_channel_stays_where_a_border_would_show_it():
    """Its value is not zero and the border is: no bias can stand for that."""
    rng = np.random.default_rng(0)
    first = SparseConv2d(pattern_of([[0] * 9, [1] * 9]), (1, 6, 6), 3, bias=[1.5, 0.5], dtype=np.float64, relu=True)
    for padding, kept in ((0, 1), (1, 2)):
        second = conv(rng, first.out_shape, 2, 0.0, padding=padding)
        net = Network([copy.deepcopy(first), second])
        assert assert_same_function(net, 1).layers[0].out_shape[0] == kept
    first.params["bias"][0] = -1.5  # behind the ReLU it is zero, like the border
    net = Network([first, conv(rng, first.out_shape, 2, 0.0, padding=1)])
    assert assert_same_function(net, 1).layers[0].out_shape[0] == 1


def test_reached_used_and_constant():
    first = linear(pattern_of([[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]), relu=True)
    second = linear(pattern_of([[1, 1, 0, 0], [0, 1, 0, 0]]))
    first.params["bias"][...] = [0.1, 2.0, 0.1, -3.0]
    inputs, hidden, outputs = units_of(Network([first, second]))
    assert inputs.used.tolist() == [True, True, False] and inputs.reached.all()
    assert hidden.reached.tolist() == [True, False, True, False]
    assert hidden.used.tolist() == [True, True, False, False]
    assert hidden.constant[[1, 3]].tolist() == [2.0, 0.0] and np.isnan(hidden.constant[[0, 2]]).all()
    assert outputs.reached.tolist() == [True, False] and outputs.used.all()
    assert outputs.constant[1] == second.bias[1] + 2 * second.weight[2]


# -- the report ------------------------------------------------------------------------------------------------------


def test_facts_of_a_small_network():
    first = linear(pattern_of([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]]), relu=True)
    facts = describe(Network([first, linear(pattern_of([[1, 1, 1, 0]]))]))
    assert facts["layers"][0] == {
        "layer": "0", "name": "SparseLinear(3→4)", "shape": [4, 3], "connections": 5,
        "sparsity": 7 / 12, "fan_in": [0, 1.5, 2],
        "fan_out": [0, 2, 3], "outputs_without_inputs": 1, "inputs_without_outputs": 1, "equal_rows": {"2": 1},
    }  # fmt: skip
    assert facts["units"][0] == {"count": 3, "dead": 1, "not_reached": 0, "not_used": 1}
    assert facts["units"][1] == {"count": 4, "dead": 2, "not_reached": 1, "not_used": 1}
    assert facts["paths"] == {"total": 4, "least": 0, "most": 2, "pairs": 3, "pairs_joined": 2}
    assert json.loads(json.dumps(facts)) == facts


@given(seeds, sparsities)
def test_groups_of_equal_rows(seed, sparsity):
    matrix = np.random.default_rng(seed).random((9, 3)) >= sparsity
    rows = Counter(map(tuple, matrix.tolist()))
    wanted = Counter(count for row, count in rows.items() if any(row))
    assert groups_of_equal_rows(pattern_of(matrix)) == wanted


# -- the command -----------------------------------------------------------------------------------------------------


def test_more_paths_than_a_float_counts_are_said_in_a_few_digits() -> None:
    full = SparsityPattern.full((300, 300))
    deep = Network([SparseLinear(full) for _ in range(10)])
    said = "paths from inputs to outputs: about 1.771e+27, about 1.968e+22 to about 1.968e+22 between two"
    assert any(line.startswith(said) for line in _lines(describe(deep)))


@pytest.fixture
def pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "mnist-subset", "--prune", "gradual", "--prune-to", "0.98", "--epochs", "2", "--quiet"]
    assert train.main(["lenet300", *options, "--out", "run"]) == 0
    return Path("run")


def test_the_command(pruned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["run", "--remove-dead", "--out", "small.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "SparseLinear(784→300): 4,704 connections, 98.0% sparse" in out
    assert "dead inputs:" in out and "paths from inputs to outputs:" in out
    before, after = sparsecore.load("run"), sparsecore.load("small.safetensors")
    test = sparsecore.data.load("mnist-subset").test
    np.testing.assert_allclose(after.logits(test.x), before.logits(test.x), atol=1e-4)
    assert after.connections < before.connections and f"{after!r}, {after.connections:,} connections" in out
    assert all(units.alive.all() for units in units_of(after)[1:])

    assert main(["run", "--json", "--pictures", "here"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["connections"] == before.connections and facts["layers"][1]["connections"] == 600


def test_pictures_are_drawn_and_say_what_is_there(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    assert main(["run"]) == 0
    assert sorted(path.name for path in Path("run.pictures").iterdir()) == ["inputs.png", "layers.png"]
    figures = {}
    monkeypatch.setattr(pictures, "write", lambda figure, path, **_: figures.setdefault(path.name, figure) and path)
    assert main(["run"]) == 0
    pattern = sparsecore.load("run").patterns[0]
    rows = figures["layers.png"].axes
    assert len(rows) == 9
    assert sum(bar.get_height() for bar in rows[0].patches) == 300
    assert rows[0].patches[0].get_height() == np.count_nonzero(pattern.fan_in == 0)
    image = rows[2].images[0].get_array()
    assert image.shape == (300, 600) and np.count_nonzero(image) <= pattern.nnz
    counts = figures["inputs.png"].axes[0].images[0].get_array()
    assert np.array_equal(np.ravel(counts), pattern.fan_out)


def test_pictures_of_filters_and_of_inputs_that_are_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    save(images(0, 0.5), "images.safetensors")
    save(network(), "plain.safetensors")
    assert main(["images.safetensors"]) == main(["plain.safetensors", "--pictures", "p"]) == 0
    assert sorted(path.name for path in Path("images.safetensors.pictures").iterdir()) == ["inputs.png", "layers.png"]
    assert [path.name for path in Path("p").iterdir()] == ["layers.png"]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("moved") / "run"
    options = ["--dataset", "mnist-subset", "--hidden", "60,20", "--epochs", "2", "--quiet", "--no-curves"]
    moves = ["--rewire", "rigl", "--sparsity", "0.95", "--every", "9"]
    assert train.main(["lenet300", *options, *moves, "--out", str(out)]) == 0
    return out


def test_where_connections_went(
    moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    last = [line for line in records(moved) if line["event"] == "rewire"][-1]["layers"]
    found, network = tried_of(read(moved)), sparsecore.load(moved)
    for layer in last:
        ever, now = found[layer["layer"]], network.patterns[layer["layer"]]
        assert ever.nnz == layer["tried"] > now.nnz
        places = [each.rows.astype(int) * each.shape[1] + each.indices for each in (ever, now)]
        assert np.isin(places[1], places[0]).all()
    assert main([str(moved), "--json", "--pictures", str(tmp_path / "p")]) == 0
    facts = json.loads(capsys.readouterr().out)["layers"]
    assert [layer.get("tried") for layer in facts] == [*(layer["tried"] for layer in last), None]
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["inputs.png", "layers.png", "moves.png"]

    figures = {}
    monkeypatch.setattr(pictures, "write", lambda figure, path, **_: figures.setdefault(path.name, figure) and path)
    assert main([str(moved), "--pictures", str(tmp_path / "p")]) == 0
    assert f"a connection has ever been: {last[0]['tried']:,} of 47,040 (" in capsys.readouterr().out
    parts = figures["moves.png"].subfigs
    assert len(parts) == 3, "the images, and each layer that moved"
    now, ever, stayed = (np.asarray(axes.images[0].get_array()) for axes in parts[0].axes[:3])
    assert now.shape == (28, 28) and now.sum() == network.patterns[0].nnz and ever.sum() == last[0]["tried"]
    np.testing.assert_array_equal(stayed[ever > 0], now[ever > 0] / ever[ever > 0])
    lines = {line.get_label(): line.get_ydata() for line in parts[1].axes[1].lines}
    assert lines["ever tried"].sum() == last[0]["tried"] and (lines["now"] <= lines["ever tried"]).all()


def test_what_a_run_kept_of_other_layers_is_refused_by_one_line(moved: Path) -> None:
    found = read(moved)
    found.arrays["tried:1"] = found.arrays["tried:1"][:-1]
    with pytest.raises(CheckpointError, match=r"layer 1: expected a bit for each of 1,200 places, got 149 bytes"):
        tried_of(found)


def test_wrong_commands(pruned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, problem in (
        (["nowhere"], "nowhere: no such file"),
        (["run", "--remove-dead"], "--remove-dead and --out go together"),
        (["run", "--out", "x"], "--remove-dead and --out go together"),
        (["run", "--remove-dead", "--out", "run"], "is there already"),
        (["run", "--pictures", "run/model.safetensors"], "File exists"),
        ([], "FILE"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and problem in error and "Traceback" not in error


def test_normalisation_goes_along() -> None:
    net = network()
    net.normalisation = Normalisation((20,), (0.5,), (0.2,))
    assert remove_dead(net).normalisation == net.normalisation


# ---------------------------------------------------------------------------------------------- trees


def test_paths_of_a_tree_are_those_of_its_dense_twin():
    """With all weights one, no bias and no negative number, a network counts its own paths."""
    net = residual_network()
    for layer in (net[path] for path in net.patterns):
        layer.params["weight"][...], layer.params["bias"][...] = 1, 0
    inputs = int(np.prod(net.layers[0].in_shape))
    found = count_paths(net)
    mean = 16  # the pooling's, which is a path from each of its pixels
    x = np.eye(inputs).reshape(inputs, 1, 8, 8)
    np.testing.assert_allclose(found, mean * net.logits(x).T, rtol=1e-9)


def test_dead_channels_of_a_tree():
    net = residual_network()
    facts = describe(net)
    assert [line["name"] for line in facts["layers"]] == [repr(net[path]) for path in net.patterns]
    head = net.patterns["head"]
    keep = head.indices != 2  # nobody reads channel 2 of the last block any more
    net.rewire({"head": head.select(keep)})
    second = "stage2.0.main.conv2"
    net.rewire({second: net.patterns[second].select(net.patterns[second].rows != 4)})  # nothing reaches its channel 4
    units = dict(zip(net.patterns, units_of(net)[1:], strict=True))
    assert not units[second].used[2] and units[second].used.sum() == 5
    assert not units["stage2.0.shortcut"].used[2] and units["stage2.0.shortcut"].used.sum() == 5
    assert not units[second].reached[4] and units["head"].reached.all(), "the shortcut still reaches it"
    assert np.isfinite(units[second].constant[4]) and np.isnan(units[second].constant[:4]).all()
    x = numbers((5, 1, 8, 8))
    smaller = remove_dead(net)
    np.testing.assert_allclose(smaller.logits(x), net.logits(x), rtol=1e-12)
    assert smaller["stage2.0"].out_shape == (5, 4, 4), "channel 2 goes from both ways at once, and channel 4 stays"


def test_nesting_changes_nothing_of_a_structure():
    flat, nested = flat_and_nested()
    one, other = describe(flat), describe(nested)
    for facts, net in ((one, flat), (other, nested)):
        assert [line.pop("layer") for line in facts["layers"]] == list(net.patterns)
    assert {**one, "network": ""} == {**other, "network": ""}
    x = numbers((5, 20))
    np.testing.assert_allclose(remove_dead(nested).logits(x), nested.logits(x), rtol=1e-12)


CUBE = (2, 2, 2)


def both_ways(around: Layer, features: int) -> list[Layer]:
    return [Residual(Flatten(CUBE), Sequential([around, SparseLinear(dense(8, features))])), SparseLinear(dense(3, 8))]


@pytest.mark.parametrize(
    "layers",
    [
        both_ways(Flatten(CUBE), 8), both_ways(GlobalAvgPool(CUBE), 2),
        [ReLU((8,)), BatchNorm(CUBE), GlobalAvgPool(CUBE), SparseLinear(dense(3, 2))],
    ],
)  # fmt: skip
def test_inputs_that_are_read_as_channels_and_as_features(layers):
    net = Network(layers)
    first = units_of(net)[0]
    assert first.used.shape == first.reached.shape == layers[0].in_shape[:1] and first.used.all()
    assert describe(net)["layers"]
