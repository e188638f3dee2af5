"""`python -m sparsecore.prune`: networks trained earlier, and a user's own dense weights."""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import sparsecore
from sparsecore import evaluate, train
from sparsecore.prune.__main__ import main
from sparsecore.prune.weights import WeightsError, read_weights
from sparsecore.runs.checkpoint import read, save

from .small import network


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dense"
    assert train.main(["lenet300", "--dataset", "mnist-subset", "--epochs", "2", "--quiet", "--out", str(folder)]) == 0
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = sorted(Path().rglob("*"))
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert sorted(Path().rglob("*")) == before
    return error


# -- networks trained earlier ----------------------------------------------------------------------------------------


def test_a_trained_network_is_pruned_evaluated_and_trained_on(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(trained), "--sparsity", "0.5", "--out", "half.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "SparseLinear(784→300): 117,600 connections removed, 117,600 left, 50.0% sparse, threshold" in out
    assert out.splitlines()[-1] == "half.safetensors: 133,600 connections, 49.8% of all possible ones removed"
    before, after = read(trained).network, read("half.safetensors").network
    for k in (0, 1):
        weights = before.layers[k].to_scipy().toarray()  # type: ignore[attr-defined]
        cut = np.sort(np.abs(weights).ravel())[weights.size // 2]
        kept = np.where(np.abs(weights) >= cut, weights, 0)
        assert np.array_equal(after.layers[k].to_scipy().toarray(), kept)  # type: ignore[attr-defined]
    assert after.normalisation == before.normalisation
    assert evaluate.main(["half.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] > 0.85
    assert train.main(["--from", "half.safetensors", "--rewind", "initial", "--epochs", "1", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("options", "connections"),
    [
        (["--sparsity", "0.9,0.8,0.5"], [23_520, 6_000, 500]),
        (["--sparsity", "0.9", "--global"], 26_520),
        (["--sparsity", "0.9", "--global", "--by", "gradient"], 26_520),
        (["--sparsity", "0.9", "--by", "curvature"], [23_520, 3_000, 1_000]),
        (["--sparsity", "0.9", "--by", "curvature", "--dataset", "mnist-subset"], [23_520, 3_000, 1_000]),
        (["--sparsity", "1", "--allow-empty"], [0, 0, 1_000]),
    ],
)
def test_ways_to_prune(trained: Path, options: list[str], connections: Any) -> None:
    assert main([str(trained), *options, "--out", "p.safetensors"]) == 0
    left = [pattern.nnz for pattern in read("p.safetensors").network.patterns.values()]
    if isinstance(connections, int):
        assert left[0] + left[1] == connections and left[2] == 1000
    else:
        assert left == connections


def test_thresholds(trained: Path) -> None:
    weights = [layer.params["weight"] for layer in read(trained).network.layers]
    assert main([str(trained), "--threshold", "0.05", "--out", "a.safetensors"]) == 0
    assert main([str(trained / "model.safetensors"), "--quality", "0.7", "--out", "b.safetensors"]) == 0
    for name, cuts in (("a", [0.05] * 2), ("b", [0.7 * np.std(w, dtype=np.float64) for w in weights[:2]])):
        left = [pattern.nnz for pattern in read(f"{name}.safetensors").network.patterns.values()]
        assert left == [*(np.count_nonzero(np.abs(w) >= cut) for w, cut in zip(weights, cuts, strict=False)), 1000]


WRONG = [
    (["--out", "p"], "expected one of --sparsity, --threshold and --quality"),
    (["--sparsity", "0.5", "--quality", "1", "--out", "p"], "expected one of --sparsity, --threshold and --quality"),
    (["--sparsity", "0.5"], "--out"),
    (["--sparsity", "2", "--out", "p"], "sparsities from 0 to 1"),
    (["--sparsity", "0.5,0.5", "--out", "p"], "one for each of SparseLinear(784→300), SparseLinear(300→100)"),
    (["--sparsity", "1", "--out", "p"], "SparseLinear(784→300): would lose all its 235,200 connections"),
    (["--threshold", "1", "--global", "--out", "p"], "--global: goes with --sparsity only"),
    (["--sparsity", "0.9", "--dataset", "mnist", "--out", "p"], "--dataset: goes with --by gradient and"),
    (["--sparsity", "0.5,0.5,0.5", "--global", "--out", "p"], "one sparsity for all layers"),
    (["--sparsity", "0.5", "--out", "nowhere/p"], "nowhere/p: cannot be written"),
    (["--sparsity", "0.5", "--by", "gradient", "--dataset", "nothing", "--out", "p"], "nothing"),
]


@pytest.mark.parametrize(("options", "problem"), WRONG)
def test_wrong_commands(trained: Path, capsys: pytest.CaptureFixture[str], options: list[str], problem: str) -> None:
    assert problem in refusal(capsys, str(trained), *options)


def test_files_that_are_not_networks(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["--sparsity", "0.5", "--out", "p"]
    assert "nowhere: no such file" in refusal(capsys, "nowhere", *ask)
    Path("text.safetensors").write_text("hello")
    assert "text.safetensors" in refusal(capsys, "text.safetensors", *ask)
    damaged = bytearray((trained / "model.safetensors").read_bytes())
    damaged[-5] ^= 1
    Path("damaged.safetensors").write_bytes(damaged)
    assert "altered or truncated" in refusal(capsys, "damaged.safetensors", *ask)
    save(network(), "alone.safetensors")
    assert "say --dataset" in refusal(capsys, "alone.safetensors", *ask, "--by", "curvature")
    assert "is there already" in refusal(capsys, "alone.safetensors", "--sparsity", "0.5", "--out", "alone.safetensors")
    assert "got a.npz" in refusal(capsys, "alone.safetensors", "--sparsity", "0.5", "--out", "a.npz")


# -- dense weights ---------------------------------------------------------------------------------------------------


def dense_weights(dtype: Any = np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    sizes = (20, 12, 9, 5)
    weights = {f"fc{k + 1}.weight": rng.standard_normal((sizes[k + 1], sizes[k])).astype(dtype) for k in range(3)}
    return weights | {f"fc{k + 1}.bias": rng.standard_normal(sizes[k + 1]).astype(dtype) for k in range(3)}


def reference(weights: dict[str, Any], x: Any) -> Any:
    for k in (1, 2, 3):
        x = x @ weights[f"fc{k}.weight"].T + weights[f"fc{k}.bias"]
        x = np.maximum(x, 0) if k < 3 else x
    return x


NAMINGS = {
    "torch": lambda name: name,
    "numbers": lambda name: name.replace("fc", ""),
    "keras": lambda name: name.replace("fc", "dense_").replace(".weight", "/kernel").replace(".bias", "/bias"),
    "numpy": lambda name: f"{'W' if 'weight' in name else 'b'}{name[2]}",
    "underscores": lambda name: f"{name[4:]}_{name[2]}",
    "long": lambda name: f"model.layers.{int(name[2]) + 8}.linear.{name[4:]}",  # 9, 10, 11: in natural order
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("kind", ["npz", "safetensors", "transposed"])
def test_dense_weights_of_any_naming(naming: str, kind: str) -> None:
    weights = dense_weights()
    named = {NAMINGS[naming](name): array.T if kind == "transposed" else array for name, array in weights.items()}
    shuffled = dict(sorted(named.items(), key=lambda item: zlib.crc32(item[0].encode())))
    if kind == "safetensors":
        path = Path("w.safetensors")
        save_file({name: np.ascontiguousarray(array) for name, array in shuffled.items()}, path)
    else:
        path = Path("w.npz")
        np.savez(path, **shuffled)
    x = np.random.default_rng(1).standard_normal((30, 20)).astype(np.float32)
    np.testing.assert_allclose(read_weights(path).logits(x), reference(weights, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "kind"), [(np.float64, np.float64), (np.float32, np.float32), (np.float16, np.float32)]
)
def test_dtypes(given: Any, kind: Any) -> None:
    np.savez("w.npz", **dense_weights(given))
    assert read_weights("w.npz").dtype == kind


def test_a_users_own_weights_are_pruned_and_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    weights = dense_weights()
    np.savez("w.npz", **weights)
    assert main(["w.npz", "--sparsity", "0.75,0.5,0", "--out", "p.safetensors"]) == 0
    net = sparsecore.load("p.safetensors")
    assert [p.nnz for p in net.patterns.values()] == [60, 54, 45] and net.sparse == ("0", "1")
    for k in (1, 2):
        cut = np.sort(np.abs(weights[f"fc{k}.weight"]).ravel())[{1: 180, 2: 54}[k]]
        weights[f"fc{k}.weight"][np.abs(weights[f"fc{k}.weight"]) < cut] = 0
    x = np.random.default_rng(1).standard_normal((30, 20)).astype(np.float32)
    np.testing.assert_allclose(net.logits(x), reference(weights, x), rtol=1e-4, atol=1e-5)
    assert main(["w.npz", "--sparsity", "0.9", "--out", "all.safetensors"]) == 0
    assert [p.nnz for p in sparsecore.load("all.safetensors").patterns.values()] == [24, 11, 4]


class Evil:
    """Unpickling this writes a file."""

    def __reduce__(self) -> Any:
        return Path.write_text, (Path("pwned"), "x")


def test_weights_that_make_no_network_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    def told(**arrays: Any) -> str:
        np.savez("w.npz", **arrays)
        with pytest.raises(WeightsError) as caught:
            read_weights("w.npz")
        return str(caught.value)

    square = np.ones((3, 3), np.float32)
    gap = told(**{"a.weight": np.ones((3, 4)), "b.weight": np.ones((5, 6))})
    assert (
        gap == "w.npz: expected layers that each take what the one before gives, got a.weight (3, 4), b.weight (5, 6)"
    )
    assert "got float64 of shape (2, 2, 3, 3)" in told(conv=np.ones((2, 2, 3, 3)))
    assert "got int64 of shape (3, 3)" in told(a=np.ones((3, 3), np.int64))
    assert "expected at least one matrix of weights, got ['b']" in told(b=np.ones(3))
    assert "got NaN or Inf" in told(a=square * np.nan)
    assert "the bias of a.weight must have 3 numbers, got (4,)" in told(**{"a.weight": square, "a.bias": np.ones(4)})
    assert "got none for norm." in told(**{"a.weight": square, "norm.weight": np.ones(3)})
    assert "expected at least one matrix" in told()

    np.savez("evil.npz", w=np.array([Evil()], dtype=object))
    Path("evil.pkl.npz").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.npz", "evil.pkl.npz"):
        assert name in refusal(capsys, name, "--sparsity", "0.5", "--out", "p")
    assert not Path("pwned").exists()
