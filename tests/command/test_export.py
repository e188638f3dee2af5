"""`sparsecore export`: the files that it writes are what it says, and it says what is wrong on one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import sparsecore
from sparsecore import train
from sparsecore.commands import export
from sparsecore.data.normalisation import Normalisation
from sparsecore.interop.export import to_onnx
from sparsecore.layers import BatchNorm, Flatten, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.topology import dense, uniform_random
from tests.command.given import RADIX, one_line

PROGRAM = "python -m sparsecore.export"


@pytest.fixture
def run() -> Path:
    assert train.main([*RADIX, "--epochs", "1", "--quiet", "--no-curves", "--out", "run"]) == 0
    return Path("run")


def images(kind: str | None, dtype: Any = np.float32, channels: int = 3) -> Network:
    rng = np.random.default_rng(0)
    conv = SparseConv2d(dense(4, channels * 9), (channels, 6, 5), 3, 1, 1, 1, relu=True, rng=rng, dtype=dtype)
    norm = BatchNorm(conv.out_shape, dtype=dtype)
    layers = [conv, norm, Flatten(norm.out_shape), SparseLinear(uniform_random(3, 120, 0.5, rng), rng=rng, dtype=dtype)]
    made = Network(layers)
    mean, std = tuple(0.1 * (k + 1) for k in range(channels)), tuple(0.2 + 0.1 * k for k in range(channels))
    made.normalisation = None if kind is None else Normalisation((channels, 6, 5), mean, std, kind)
    return made


def samples(network: Network, kind: str, count: int, seed: int) -> Any:
    rng, shape = np.random.default_rng(seed), (count, *network.layers[0].in_shape)
    return rng.integers(0, 256, shape, np.uint8) if kind == "uint8" else rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize("options", [{}, {"sparse": True}, {"fold": True, "names": ("pixels", "classes")}])
def test_a_model_normalises_as_the_network_does(kind: str, dtype: Any, options: dict[str, Any], tmp_path: Path) -> None:
    ort, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    network, path = images(kind, dtype), tmp_path / "net.onnx"
    to_onnx(network, path, normalise=True, **options)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (takes,), (gives,) = session.get_inputs(), session.get_outputs()
    assert takes.type == f"tensor({'uint8' if kind == 'uint8' else 'float'})"
    assert takes.shape[1:] == [3, 6, 5]
    if "names" in options:
        assert (takes.name, gives.name) == options["names"]
    for batch in (1, 9):
        x = samples(network, kind, batch, batch)
        (y,) = session.run(None, {takes.name: x})
        wanted = network.logits(x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
    about = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert about == {"normalisation": "inside", "dtype": kind}  # with mean and std a reader would normalise twice


def test_a_layer_may_be_called_as_the_input_is(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    network = Network({"x": BatchNorm((6,), shift=[0.5] * 6), "y": SparseLinear(dense(3, 6))})
    network.normalisation = Normalisation((6,), (0.25,), (0.5,), "float32")
    to_onnx(network, tmp_path / "net.onnx", normalise=True)
    session, x = ort.InferenceSession(tmp_path / "net.onnx"), np.ones((2, 6), np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], network.logits(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("names", [("x",), "xy", (1, 2)])
def test_names_that_are_none_are_refused(names: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="names: expected two words"):
        to_onnx(images("uint8"), tmp_path / "net.onnx", names=names)


@pytest.mark.parametrize("names", [("x", "x"), ("0.weight", "y"), ("x", "3.bias"), ("", "y")])
def test_names_that_are_taken_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="names: expected two that differ"):
        to_onnx(images("uint8"), tmp_path / "net.onnx", names=names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("network", [images(None), images("uint8")])
def test_a_model_cannot_normalise_by_what_is_not_known(network: Network, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    if network.normalisation is not None:
        norm = network.normalisation
        network.normalisation = Normalisation(norm.shape, norm.mean, norm.std)
    with pytest.raises(ValueError, match="does not know how its samples are normalised"):
        to_onnx(network, tmp_path / "net.onnx", normalise=True)
    assert not list(tmp_path.iterdir())


def test_a_run_is_exported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ort = pytest.importorskip("onnxruntime")
    capsys.readouterr()
    assert export.main(["run", "--onnx", "--npz", "arrays.npz", "--normalise", "--input", "pixels"]) == 0
    shown = capsys.readouterr().out
    assert "run/model.onnx: " in shown and "arrays.npz: " in shown and "onnxruntime's differ by " in shown
    network = sparsecore.load("run")
    test = sparsecore.data.load("mnist-subset").test  # type: ignore[attr-defined]
    (y,) = ort.InferenceSession("run/model.onnx").run(["logits"], {"pixels": test.x})
    assert np.mean(y.argmax(1) == network.predict(test.x)) == 1.0
    arrays = np.load("arrays.npz")
    first = scipy.sparse.csr_array(
        (arrays["0.data"], arrays["0.indices"], arrays["0.indptr"]), shape=tuple(arrays["0.shape"])
    )
    np.testing.assert_array_equal(first.toarray(), network.layers[0].to_scipy().toarray())  # type: ignore[attr-defined]
    # A run that is exported can be gone on with: what stands in its folder is in nobody's way.
    assert train.main(["--resume", "--out", "run", "--quiet"]) == 0


def test_a_checkpoint_is_exported_beside_itself(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    sparsecore.save(images(None, np.float64), "net.safetensors")
    assert export.main(["net.safetensors", "--onnx", "--npz", "--sparse", "--fold"]) == 0
    assert {each.name for each in Path().iterdir()} == {"net.safetensors", "net.onnx", "net.npz"}
    assert "takes x, normalised samples; gives logits" in capsys.readouterr().out


def test_without_onnxruntime_a_model_is_not_tried_and_it_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    sparsecore.save(images(None), "net.safetensors")
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else True)
    assert export.main(["net.safetensors", "--onnx"]) == 0
    assert "not tried, for onnxruntime is not installed" in capsys.readouterr().out
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert export.main(["net.safetensors", "--onnx", "other.onnx"]) == 2
    assert "pip install 'sparsecore[onnx]'" in one_line(capsys, PROGRAM)


def test_a_model_that_computes_something_else_does_not_stay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    sparsecore.save(images(None), "net.safetensors")
    real = Network.logits
    monkeypatch.setattr(Network, "logits", lambda self, *given, **how: real(self, *given, **how) * 1.01)
    assert export.main(["net.safetensors", "--onnx"]) == 1
    assert "onnxruntime's logits differ by" in one_line(capsys, PROGRAM)
    assert not Path("net.onnx").exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "required: DIR"),
        ("net.safetensors", "expected --onnx or --npz, or both"),
        ("nowhere --onnx a.onnx", "no such file"),
        ("net.safetensors --npz --fold", "--fold: goes with --onnx only"),
        ("net.safetensors --npz --input x", "--input: goes with --onnx only"),
        ("net.safetensors --onnx there", "--onnx: there is there already"),
        ("net.safetensors --onnx a --npz a", "expected two files, got a for both"),
        ("net.safetensors --onnx none/a.onnx", "--onnx: none/a.onnx: there is no such folder"),
        ("net.safetensors --onnx --input x --output x", "names: expected two that differ"),
        ("net.safetensors --onnx --normalise", "does not know how its samples are normalised"),
        ("net.safetensors --onxn", "did you mean --onnx?"),
        ("--onnx net.safetensors", "required: DIR"),
    ],
)
def test_what_is_wrong_is_one_line(line: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    sparsecore.save(images(None), "net.safetensors")
    Path("there").touch()
    before = sorted(each.name for each in Path().iterdir())
    assert export.main(line.split()) == 2
    assert problem in one_line(capsys, PROGRAM)
    assert sorted(each.name for each in Path().iterdir()) == before
