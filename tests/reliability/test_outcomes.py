"""What evaluations, schedules, labels and exports come to: said, or refused, where it would be another thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsecore
from sparsecore import evaluate
from sparsecore.commands.configured import schedule_of
from sparsecore.data import DataError, load
from sparsecore.data.normalisation import Normalisation
from sparsecore.layers import AvgPool2d, MaxPool2d, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.runs.config import RunConfig
from sparsecore.runtime.devices import cpu
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.training.divergence import NotFiniteError
from sparsecore.training.evaluation import Evaluation

full = SparsityPattern.full


# ---------------------------------------------------------------------------------------------- 12: not finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_an_evaluation_of_a_network_that_is_not_finite(value: float, where: str) -> None:
    data = load("mnist-subset")
    rng = np.random.default_rng(0)
    network = Network([SparseLinear(full((12, 784)), relu=True, rng=rng), SparseLinear(full((10, 12)), rng=rng)])
    evaluation = Evaluation(network, data.test, Normalisation(data.shape, data.mean, data.std), cpu())
    before = evaluation()
    first: Any = network.layers[0]
    kept, first.params[where][0] = first.params[where][0].copy(), value
    problem = r"^Network\(.*\) cannot be evaluated: parameters are not finite in SparseLinear\(784→12\)$"
    with pytest.raises(NotFiniteError, match=problem):
        evaluation()
    first.params[where][0] = kept
    assert evaluation() == before


# ---------------------------------------------------------------------------------------------- 22: schedules


@pytest.mark.parametrize("warm", [0.0, 0.25, 0.5, 0.9, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("steps", [1, 7, 10])
def test_the_rate_falls_between_epochs(warm: float, steps: int) -> None:
    epochs = 9
    config = RunConfig(model="lenet300", epochs=epochs, schedule="step:2:0.1", warm_up=warm)
    schedule = schedule_of(config, steps, epochs * steps)
    rise = round(warm * steps)
    rates = [schedule(step) for step in range(epochs * steps)]
    assert rates[:rise] == [(step + 1) / (rise + 1) for step in range(rise)]
    falls = [step for step in range(rise + 1, epochs * steps) if rates[step] < rates[step - 1]]
    whole = rise // steps  # a warm-up of whole epochs comes before them all
    assert falls == [steps * epoch for epoch in range(2 + whole, epochs, 2)]
    assert rates[rise] == 1


# ---------------------------------------------------------------------------------------------- 22: labels


@pytest.mark.parametrize("numbers", [np.arange(10) + 1, np.arange(10) * 100, [1, 2], [2, 5]])
def test_labels_that_would_make_outputs_of_nothing_are_names(numbers: Any, tmp_path: Path) -> None:
    trainer = sparsecore.run(_labelled(numbers, tmp_path))
    assert trainer.network.layers[-1].out_shape == (len(numbers),)
    assert trainer.dataset.names == tuple(map(str, numbers))


def test_few_labels_with_a_gap_are_refused(tmp_path: Path) -> None:
    config = _labelled([0, 3], tmp_path)
    with pytest.raises(DataError, match=r"mine.npz: y: expected labels 0 to 1 for 2 classes, got .*") as refused:
        sparsecore.run(config)
    assert "got 0 to 3, which would make 4 outputs" in str(refused.value) and "\n" not in str(refused.value)
    assert "no sample of class" in load(tmp_path / "mine.npz").source


def _labelled(numbers: Any, folder: Path) -> RunConfig:
    """A run on a table with these labels."""
    y = np.asarray(numbers)[np.arange(1200) % len(numbers)]
    np.savez(folder / "mine.npz", x=np.random.default_rng(0).random((1200, 4)), y=y)
    return RunConfig(model="lenet300", dataset=str(folder / "mine.npz"), hidden=(8, 6), epochs=1)


def test_a_class_that_has_no_sample_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.array([0, 1, 3, 4])[np.arange(800) % 4]
    np.savez(tmp_path / "mine.npz", x=rng.random((800, 4)), y=y)
    config = RunConfig(model="lenet300", dataset=str(tmp_path / "mine.npz"), hidden=(8, 6), epochs=1)
    trainer = sparsecore.run(config, out=tmp_path / "run")
    assert trainer.dataset.source.endswith("640 train, 160 test (held out), no sample of class 2")
    assert trainer.network.layers[-1].out_shape == (5,)


# ---------------------------------------------------------------------------------------------- 22: what was looked at


@pytest.mark.parametrize("own", [False, True])
def test_an_evaluation_says_what_it_looked_at(own: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((100, 6)), np.arange(100) % 2
    test = {"x_test": x[:30], "y_test": y[:30]} if own else {}
    np.savez(tmp_path / "mine.npz", x=x, y=y, **test)
    sparsecore.save(Network([SparseLinear(full((2, 6)))]), tmp_path / "a.safetensors")
    words = [str(tmp_path / "a.safetensors"), "--dataset", str(tmp_path / "mine.npz")]
    source = f"{tmp_path / 'mine.npz'}: " + ("100 train, 30 test" if own else "80 train, 20 test (held out)")
    assert evaluate.main(words) == 0
    assert capsys.readouterr().out.splitlines()[0] == source
    assert evaluate.main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["source"] == source and record["samples"] == (30 if own else 20)


# ---------------------------------------------------------------------------------------------- 22: exports


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_exported_convolution_is_loaded(dtype: Any, sparse: bool, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    from sparsecore.interop.export import to_onnx

    rng = np.random.default_rng(0)
    conv = SparseConv2d(full((4, 18)), (2, 8, 8), 3, padding=1, relu=True, rng=rng, dtype=dtype)
    pooled = AvgPool2d(MaxPool2d(conv.out_shape, 2).out_shape, 2)
    head = SparseLinear(full((3, int(np.prod(pooled.out_shape)))), rng=rng, dtype=dtype)
    network = Network([conv, MaxPool2d(conv.out_shape, 2), pooled, head])
    to_onnx(network, tmp_path / "a.onnx", sparse=sparse)
    x = rng.standard_normal((5, 2, 8, 8)).astype(dtype)
    session = ort.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    assert y.dtype == dtype
    np.testing.assert_allclose(y, network.logits(x), rtol=1e-4, atol=1e-5)
