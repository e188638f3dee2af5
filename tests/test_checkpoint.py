"""Checkpoints: what is saved comes back to the bit, and what is not whole or not true is refused by one line."""

import json
import os
import stat
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import sparsecore
from sparsecore.data.normalisation import Normalisation
from sparsecore.layers import Layer, ReLU, SparseLinear
from sparsecore.network import Network
from sparsecore.runs import checkpoint
from sparsecore.runs.checkpoint import CheckpointError, load, read, save
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, uniform_random


def small_network(dtype: Any = np.float32, seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    first, second = uniform_random(7, 12, 0.6, rng), uniform_random(5, 7, 0.5, rng)
    return Network(
        [
            SparseLinear(first, relu=True, rng=rng, dtype=dtype),
            SparseLinear(second, rng=rng, dtype=dtype, format="coo"),
            ReLU((5,)),
            SparseLinear(dense(3, 5), np.arange(15.0), np.array([-0.0, 1e-40, 3.0]), rng=rng, dtype=dtype),
        ],
        sparse=[1, 0],
        normalisation=Normalisation((3, 2, 2), (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)),
    )


def same(a: Network, b: Network) -> bool:
    return (
        a.params.tobytes() == b.params.tobytes()
        and a.dtype == b.dtype
        and [type(layer) for layer in a.layers] == [type(layer) for layer in b.layers]
        and [layer.config() for layer in a.layers] == [layer.config() for layer in b.layers]
        and [getattr(k, "pattern", None) for k in a.layers] == [getattr(k, "pattern", None) for k in b.layers]
        and (a.sparse, a.normalisation) == (b.sparse, b.normalisation)
    )


def rewritten(path: Path, tensors: dict[str, Any] | None = None, header: dict[str, Any] | None = None) -> Path:
    """The checkpoint with other tensors or metadata (None: without) and a checksum that is right all the same."""
    with safe_open(path, framework="numpy") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()} | (tensors or {})  # noqa: SIM118
        meta = file.metadata() | (header or {})
    del meta["sha256"]
    kept = {name: array for name, array in kept.items() if array is not None}
    meta = {name: text for name, text in meta.items() if text is not None}
    out = path.with_name("rewritten.safetensors")
    save_file(kept, out, meta | {"sha256": checkpoint._checksum(kept, meta)})
    return out


def described(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        found: dict[str, Any] = json.loads(file.metadata()["network"])
        return found


def first_version(path: Path, header: dict[str, Any] | None = None) -> Path:
    """The checkpoint of a flat network as version 1 wrote it: layers in a list, and the velocity as one tensor."""
    with safe_open(path, framework="numpy") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = file.metadata()
    description = json.loads(meta["network"])
    tree = description.pop("tree")
    old = {"layers": list(tree["layers"].values()), "sparse": [int(k) for k in description["sparse"]]}
    rows = [row.path for row in small_network().table.rows]
    velocity = np.concatenate([kept.pop(f"velocity:{row}") for row in rows])
    meta = {key: meta[key] for key in ("format", "state")} | {
        "version": "1", "network": json.dumps(description | old)
    } | (header or {})  # fmt: skip
    kept["velocity"] = velocity
    out = path.with_name("first.safetensors")
    save_file(kept, out, meta | {"sha256": checkpoint._checksum(kept, meta)})
    return out


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    network = small_network()
    path = tmp_path / "model.safetensors"
    velocity = np.linspace(-1, 1, network.params.size, dtype=np.float32)
    save(network, path, velocity=velocity, state={"run": {"epoch": 3}})
    return path


def test_writing_takes_no_memory(tmp_path: Path) -> None:
    """The library's own writer puts all bytes together first, twice: a network that just fits could not be saved."""
    rng = np.random.default_rng(0)
    network = Network([SparseLinear(dense(1000, 2000), rng=rng), SparseLinear(dense(10, 1000), rng=rng)])
    velocity = np.ones_like(network.params)
    path = tmp_path / "a.safetensors"
    tracemalloc.start()
    try:
        save(network, path, velocity=velocity)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 24_000_000 and most < 1_000_000
    assert read(path).velocity.tobytes() == velocity.tobytes()


@pytest.mark.parametrize("array", [np.zeros(3, bool), np.zeros((2, 2), np.uint8), np.zeros(3), [1, 2]])
def test_what_could_not_be_read_is_not_written(saved: Path, array: Any) -> None:
    before = saved.read_bytes()
    with pytest.raises(ValueError, match="flat arrays of uint8: tried is "):
        save(small_network(), saved, arrays={"tried": array})
    assert saved.read_bytes() == before


def test_what_is_kept_comes_back_whatever_its_strides_and_name(tmp_path: Path) -> None:
    every_other = np.arange(10, dtype=np.uint8)[::2]
    save(small_network(), tmp_path / "a", arrays={"été": every_other, "none": np.zeros(0, np.uint8)})
    found = read(tmp_path / "a").arrays
    assert found["été"].tolist() == [0, 2, 4, 6, 8] and found["none"].size == 0


def test_a_name_that_no_reader_would_take_is_refused(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(CheckpointError, match=r"cannot be written .*what was there before is kept"):
        save(small_network(), saved, arrays={"\ud800": np.zeros(1, np.uint8)})
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1


def test_the_same_network_is_the_same_bytes(tmp_path: Path) -> None:
    """And tensors begin where their numbers are aligned, as the format wants it."""
    for name in "ab":
        save(small_network(), tmp_path / name, arrays={"odd": np.arange(3, dtype=np.uint8)}, state={"run": {"é": 1}})
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    assert end % 8 == 0 and header.pop("__metadata__")["format"] == "sparsecore"
    sizes = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U8": 1}
    assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in header.values())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_comes_back_to_the_bit(tmp_path: Path, dtype: Any) -> None:
    network = small_network(dtype)
    velocity = np.linspace(-1, 1, network.params.size).astype(dtype)
    state = {"run": {"epoch": 3, "loss": 0.1 + 0.2, "history": [{"event": "epoch"}]}}
    save(network, tmp_path / "a.safetensors", velocity=velocity, state=state)
    found = read(tmp_path / "a.safetensors")
    assert same(found.network, network)
    assert found.velocity.tobytes() == velocity.tobytes()
    assert found.state == state
    x = np.random.default_rng(0).integers(0, 256, (40, 12), dtype=np.uint8)
    assert np.array_equal(found.network.logits(x), network.logits(x))


def test_network_alone_from_file_and_folder(tmp_path: Path) -> None:
    network = small_network()
    sparsecore.save(network, tmp_path / "model.safetensors")
    assert same(sparsecore.load(tmp_path), network)
    assert same(sparsecore.load(str(tmp_path / "model.safetensors")), network)
    assert read(tmp_path).velocity is None
    assert read(tmp_path).state == {}


def test_loaded_network_trains_on(saved: Path) -> None:
    network = load(saved)
    network.params += 1
    assert network.layers[0].params["weight"].flags.writeable
    save(network, saved)
    assert same(load(saved), network)


@settings(max_examples=40)
@given(st.data())
def test_any_patterns(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    layers = []
    for inputs, outputs in pairwise(sizes):
        kept = data.draw(st.lists(st.booleans(), min_size=inputs * outputs, max_size=inputs * outputs))
        layers.append(SparseLinear(SparsityPattern.from_dense(np.reshape(kept, (outputs, inputs)))[0]))
    network = Network(layers)
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save(network, path)
    assert same(load(path), network)


def test_uint8_is_normalised_as_stored() -> None:
    network = small_network(np.float64)
    x = np.random.default_rng(1).integers(0, 256, (9, 3, 2, 2), dtype=np.uint8)
    mean, std = (np.repeat(a, 4) for a in ((0.1, 0.2, 0.3), (0.5, 0.25, 1.0)))
    np.testing.assert_allclose(network.logits(x), network.logits((x.reshape(9, 12) / 255 - mean) / std), rtol=1e-12)
    network.normalisation = None
    with pytest.raises(ValueError, match="uint8 x needs the network's normalisation"):
        network.predict(x)


# -- writing ---------------------------------------------------------------------------------------------------------


def test_previous_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for seed in range(3):
        save(small_network(seed=seed), path)
    assert same(load(path), small_network(seed=2))
    assert same(load(f"{path}.previous"), small_network(seed=1))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.safetensors", "m.safetensors.previous"]


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_failing_write_keeps_what_was(saved: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A disk that fills up, then a system without hard links, then one that cannot rename."""

    def refuse(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(os, call, refuse)
    if call == "link":
        save(small_network(seed=1), saved)
        assert same(load(saved), small_network(seed=1))
        assert Path(f"{saved}.previous").read_bytes() == before
    else:
        with pytest.raises(CheckpointError, match=r"No space left on device.*kept"):
            save(small_network(seed=1), saved)
        assert saved.read_bytes() == before
        assert not [file for file in saved.parent.iterdir() if "writing" in file.name]


def test_crash_between_renames_leaves_the_previous(saved: Path) -> None:
    """Without hard links there is a moment at which only the previous file is there."""
    os.replace(saved, f"{saved}.previous")
    assert same(load(saved), small_network())
    assert same(load(saved.parent), small_network())


def test_killed_while_writing(tmp_path: Path) -> None:
    """SIGKILL at every system call that changes the folder: a whole checkpoint is always found."""
    path = tmp_path / "m.safetensors"
    for nth in range(1, 6):
        save(small_network(seed=0), path)
        code = f"""
import os, signal
from sparsecore.checkpoint import load, save
calls = 0
def killing(real):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == {nth}: os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)
    return call
network = load({str(path)!r})
network.params += 1
for name in ("fsync", "unlink", "link", "replace"): setattr(os, name, killing(getattr(os, name)))
save(network, {str(path)!r})
"""
        status = subprocess.run([sys.executable, "-c", code], check=False).returncode
        assert status in (-9, 0)
        changed = small_network(seed=0)
        changed.params += 1
        assert same(load(path), changed if nth > 4 or status == 0 else small_network(seed=0)), nth
        save(small_network(), path)
        assert not [file for file in tmp_path.iterdir() if "writing" in file.name]


def test_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "m.safetensors", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(CheckpointError, match="cannot be written"):
            save(small_network(), path)
    assert not list(tmp_path.iterdir())


def test_permissions_are_the_users(saved: Path) -> None:
    plain = saved.parent / "plain"
    plain.touch()
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_unknown_layers_are_not_saved(tmp_path: Path) -> None:
    class Own(ReLU):
        pass

    with pytest.raises(CheckpointError, match=r"only layers of SparseLinear.*got Own"):
        save(Network([Own((3,))]), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
    assert issubclass(Own, Layer)


# -- reading what should not be read -----------------------------------------------------------------------------------


def refused(path: Path) -> str:
    """The one line that reading a file is refused with."""
    with pytest.raises(CheckpointError) as error:
        read(path)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 700
    assert path.name in line
    return line


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read(tmp_path)
    with pytest.raises(CheckpointError):
        read("a\0b")


def test_truncated_anywhere(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [*range(0, 64), *range(64, len(whole), 97), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        refused(saved)


def test_any_byte_altered(saved: Path) -> None:
    whole = bytearray(saved.read_bytes())
    rng = np.random.default_rng(0)
    for place in [*range(16), *rng.integers(0, len(whole), 400)]:
        altered = whole.copy()
        altered[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(altered)
        refused(saved)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, framed: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data if framed else data)
    refused(path)


def test_other_safetensors_files(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3)}, tmp_path / "other.safetensors")
    assert "format 'sparsecore'" in refused(tmp_path / "other.safetensors")


def test_other_version(saved: Path) -> None:
    assert "version '1' or '2', got 3" in refused(rewritten(saved, header={"version": "3"}))
    assert "version" in refused(rewritten(saved, header={"version": None}))


def test_an_older_reader_refuses_by_the_version(saved: Path) -> None:
    """Readers of version 1 look at `format` and `version` before all else, as texts in the metadata."""
    with safe_open(saved, framework="numpy") as file:
        assert (file.metadata()["format"], file.metadata()["version"]) == ("sparsecore", "2")


def test_the_first_version_is_read(saved: Path) -> None:
    new, old = read(saved), read(first_version(saved))
    assert same(old.network, new.network) and old.velocity.tobytes() == new.velocity.tobytes()
    assert (old.state, old.optimizer) == (new.state, None)


HOSTILE_TENSORS: dict[str, dict[str, Any]] = {
    "no weight": {"0.weight": None},
    "no pattern": {"0.indices": None},
    "another weight": {"0.more": np.zeros(3, np.float32)},
    "a tensor of no layer": {"9.weight": np.zeros(3, np.float32)},
    "a stray tensor": {"weight": np.zeros(3, np.float32)},
    "short weight": {"0.weight": np.zeros(3, np.float32)},
    "weight of integers": {"0.weight": np.zeros(34, np.int32)},
    "weight of half floats": {"0.weight": np.zeros(34, np.float16)},
    "weight of float64": {"0.weight": np.zeros(34, np.float64)},
    "weight of two dimensions": {"0.weight": np.zeros((17, 2), np.float32)},
    "bias of float64": {"0.bias": np.zeros(7, np.float64)},
    "empty bias": {"0.bias": np.zeros(0, np.float32)},
    "indices out of range": {"0.indices": np.full(34, 12, np.int32)},
    "negative indices": {"0.indices": np.full(34, -1, np.int32)},
    "indices of floats": {"0.indices": np.zeros(34, np.float32)},
    "indptr that falls": {"0.indptr": np.array([0, 30, 5, 34, 34, 34, 34, 34], np.int32)},
    "short indptr": {"0.indptr": np.array([0, 34], np.int32)},
    "short velocity": {"velocity:0.weight": np.zeros(3, np.float32)},
    "velocity of float64": {"velocity:0.weight": np.zeros(34, np.float64)},
    "velocity without a piece": {"velocity:0.weight": None},
    "velocity of no layer": {"velocity:9.weight": np.zeros(3, np.float32)},
    "a column of nothing": {"other:": np.zeros(3, np.float32)},
    "a tensor for ReLU": {"2.weight": np.zeros(3, np.float32)},
}


@pytest.mark.parametrize("name", HOSTILE_TENSORS)
def test_hostile_tensors(saved: Path, name: str) -> None:
    assert read(saved).network.layers[0].params["weight"].shape == (34,)
    refused(rewritten(saved, HOSTILE_TENSORS[name]))


def changes(layers: list[Any]) -> dict[str, Any]:
    """Descriptions of networks that are not what `small_network` is."""
    first = layers[0]

    def with_first(**other: Any) -> dict[str, Any]:
        return {"layers": [first | other, *layers[1:]]}

    return {
        "null": None,
        "a list": [],
        "no layers": {"layers": []},
        "layers of another kind": {"layers": "abcd"},
        "a number of layers": {"layers": 3},
        "fewer layers": {"layers": layers[:2]},
        "another order": {"layers": layers[::-1]},
        "unknown kind": with_first(kind="Unknown"),
        "kind is a list": with_first(kind=["SparseLinear"]),
        "another known kind": with_first(kind="ReLU"),
        "no kind": {"layers": [{"config": {}}, *layers[1:]]},
        "transposed shape": with_first(shape=first["shape"][::-1]),
        "huge shape": with_first(shape=[7, 10**30]),
        "negative shape": with_first(shape=[7, -12]),
        "zero shape": with_first(shape=[7, 0]),
        "shape of floats": with_first(shape=[7.0, 12.0]),
        "shape of one": with_first(shape=[7]),
        "no shape": with_first(shape=None),
        "shape of text": with_first(shape="ab"),
        "wider than the next takes": with_first(shape=[8, 12]),
        "config is a list": with_first(config=[]),
        "config is empty": with_first(config={}),
        "config with more": with_first(config=first["config"] | {"more": 1}),
        "relu is a number": with_first(config=first["config"] | {"relu": 1}),
        "unknown format": with_first(config=first["config"] | {"format": "csc"}),
        "format is a list": with_first(config=first["config"] | {"format": []}),
        "ReLU of text": {"layers": [*layers[:2], layers[2] | {"config": {"shape": ["a"]}}, layers[3]]},
        "ReLU of nothing": {"layers": [*layers[:2], layers[2] | {"config": {"shape": []}}, layers[3]]},
        "ReLU of 5.0": {"layers": [*layers[:2], layers[2] | {"config": {"shape": [5.0]}}, layers[3]]},
        "ReLU of true": {"layers": [*layers[:2], layers[2] | {"config": {"shape": [True, 5]}}, layers[3]]},
        "sparse layers that are none": {"sparse": [0, 2]},
        "sparse layer of text": {"sparse": ["a"]},
        "sparse is null": {"sparse": 0},
        "normalisation of text": {"normalisation": "x"},
        "normalisation of another size": {"normalisation": {"shape": [4], "mean": [0.0], "std": [1.0]}},
        "normalisation by zero": {"normalisation": {"shape": [12], "mean": [0.0], "std": [0.0]}},
        "normalisation by NaN": {"normalisation": {"shape": [12], "mean": [0.0], "std": [float("nan")]}},
        "normalisation of text mean": {"normalisation": {"shape": [12], "mean": ["a"], "std": [1.0]}},
        "normalisation of two": {"normalisation": {"shape": [12], "mean": [0.0, 1.0], "std": [1.0]}},
        "normalisation of no size": {"normalisation": {"shape": [], "mean": [0.0], "std": [1.0]}},
        "normalisation of a float size": {"normalisation": {"shape": [12.0], "mean": [0.0], "std": [1.0]}},
    }


CHANGES = list(changes([{"shape": [7, 12], "config": {}}, {}, {}, {}]))


@pytest.mark.parametrize("name", CHANGES)
def test_hostile_descriptions(saved: Path, name: str) -> None:
    description = described(saved)
    change = changes(list(description["tree"]["layers"].values()))[name]
    if isinstance(change, dict) and "layers" in change:
        layers = change["layers"]
        named = {str(k): line for k, line in enumerate(layers)} if isinstance(layers, list) else layers
        change = {"tree": description["tree"] | {"layers": named}}
    text = json.dumps(description | change if isinstance(change, dict) else change)
    refused(rewritten(saved, header={"network": text}))


@pytest.mark.parametrize("name", CHANGES)
def test_hostile_descriptions_of_the_first_version(saved: Path, name: str) -> None:
    description = described(first_version(saved))
    change = changes(description["layers"])[name]
    text = json.dumps(description | change if isinstance(change, dict) else change)
    refused(first_version(saved, header={"network": text}))


TREES: dict[str, Any] = {
    "null": None,
    "another kind": {"kind": "Residual", "config": {"relu": False}, "shape": None, "layers": {}},
    "no kind": {"layers": {}},
    "a leaf": {"kind": "SparseLinear", "config": {"relu": False, "format": "csr"}, "shape": [7, 12]},
    "one in another without end": {"kind": "Sequential", "config": {}, "shape": None, "layers": {"0": {
        "kind": "Sequential", "config": {}, "shape": None, "layers": {}}}},
    "a name with a dot": {"kind": "Sequential", "config": {}, "shape": None, "layers": {"0.1": {
        "kind": "ReLU", "config": {"shape": [5]}, "shape": None}}},
    "half a residual": {"kind": "Sequential", "config": {}, "shape": None, "layers": {"0": {
        "kind": "Residual", "config": {"relu": False}, "shape": None, "layers": {"shortcut": {
            "kind": "ReLU", "config": {"shape": [5]}, "shape": None}}}}},
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_hostile_trees(saved: Path, name: str) -> None:
    refused(rewritten(saved, header={"network": json.dumps(described(saved) | {"tree": TREES[name]})}))


def test_a_tree_without_end(saved: Path) -> None:
    inner = '{"kind": "Sequential", "config": {}, "shape": null, "layers": {"0": '
    for depth in (500, 50_000):
        text = '{"tree": ' + inner * depth + "null" + "}}" * depth + ', "sparse": [], "normalisation": null}'
        refused(rewritten(saved, header={"network": text}))


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "1" * 5000, "null", '"state"', "\ud83d".encode("utf-8", "replace").decode()]
)
def test_hostile_json(saved: Path, text: str) -> None:
    refused(rewritten(saved, header={"network": text}))
    refused(rewritten(saved, header={"state": text}))


def test_missing_metadata(saved: Path) -> None:
    for name in ("network", "state"):
        assert f"entry {name}" in refused(rewritten(saved, header={name: None}))


def test_wrong_checksum(saved: Path) -> None:
    with safe_open(saved, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = file.metadata()
    for wrong in ("0" * 64, "", "x" * 10_000):
        save_file(tensors, saved, meta | {"sha256": wrong})
        assert "sha256" in refused(saved)
    del meta["sha256"]
    save_file(tensors, saved, meta)
    refused(saved)


def test_broken_file_names_the_one_before(saved: Path) -> None:
    save(small_network(), saved)
    saved.write_bytes(b"broken")
    assert ".previous" in refused(saved)
