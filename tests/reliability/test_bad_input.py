"""What should not be put in: each refused by one line that names the thing, what was expected and what was got."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from sparsecore.data import DataError, Dataset, Split, load
from sparsecore.data.formats import read_idx
from sparsecore.errors import OneLineError
from sparsecore.layers import SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.prune.weights import WeightsError, read_weights
from sparsecore.runs.checkpoint import CheckpointError, read, save
from sparsecore.runs.trainer import Trainer
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense
from sparsecore.training.optimizers import SGD
from tests.reliability.runs import network, samples

NET, DATA = network("csr"), samples()
X, Y = DATA.train.x, DATA.train.y
FLOATS = X.astype(np.float32)
NAN, INF = FLOATS.copy(), FLOATS.copy()
NAN[7, 2], INF[9, 0] = np.nan, np.inf


def data(x: Any = X, y: Any = Y, **other: Any) -> Dataset:
    options: dict[str, Any] = {"shape": (24,), "classes": 5, "mean": (0.4,), "std": (0.25,)} | other
    return Dataset("mine", "", Split(x, y), Split(X, Y), **options)


def pattern(indptr: Any, indices: Any, shape: Any = (2, 4)) -> SparsityPattern:
    return SparsityPattern(shape, indptr, indices)


def train(dataset: Dataset = DATA, **options: Any) -> Trainer:
    return Trainer(network("csr"), dataset, SGD(0.1), **{"epochs": 1, "batch_size": 10} | options)


IN_MEMORY: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # wrong shapes and dtypes
    "shape of x": (
        lambda: NET.logits(X[:, :5]),
        ValueError,
        r"Network\(24→40→5\): x must have shape \(batch, 24\), got \(100, 5\)",
    ),
    "one sample": (lambda: NET.logits(FLOATS[0]), ValueError, r"x must have shape \(batch, 24\), got \(24,\)"),
    "complex x": (lambda: NET.logits(FLOATS + 1j), TypeError, "x must hold real numbers, got complex64"),
    "x of text": (lambda: NET.logits(FLOATS.astype(str)), TypeError, "x must hold real numbers, got <U"),
    "x of objects": (lambda: NET.logits(FLOATS.astype(object)), TypeError, "x must hold real numbers, got object"),
    "ragged x": (lambda: NET.logits([[1], [1, 2]]), ValueError, "x must hold rows of one length, got ragged ones"),
    "batch of none": (lambda: NET.logits(X, batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
    "params' shape": (
        lambda: setattr(NET, "params", np.zeros(3)),
        ValueError,
        r"params must have shape \(\d+,\), got \(3,\)",
    ),
    "float16 layer": (
        lambda: SparseLinear(dense(2, 3), dtype=np.float16),
        TypeError,
        "dtype must be float32 or float64, got float16",
    ),
    "short weight": (
        lambda: SparseLinear(dense(2, 3), np.zeros(5)),
        ValueError,
        r"SparseLinear\(3→2\): weight must have shape \(6,\), got \(5,\)",
    ),
    "float64 split": (
        lambda: Split(X.astype(np.float64), Y),
        DataError,
        r"x must be contiguous uint8 or float32 of shape \(n, features\), got float64",
    ),
    "labels of floats": (
        lambda: Split(X, Y.astype(np.float32)),
        DataError,
        r"y must be int32 of shape \(100,\), one label a row of x, got float32",
    ),
    "too few labels": (
        lambda: Split(X, Y[:9]),
        DataError,
        r"y must be int32 of shape \(100,\), one label a row of x, got int32 \(9,\)",
    ),
    "features": (
        lambda: data(X[:, :5].copy()),
        DataError,
        r"mine: train x must have 24 features for shape \(24,\), got 5",
    ),
    "samples of another network": (
        lambda: train(samples(shape=(2, 3, 5))),
        ValueError,
        "takes samples of 24 features, got 30",
    ),
    "classes of another network": (lambda: train(data(classes=6)), ValueError, "tells 5 classes apart, got 6"),
    # numbers
    "NaN in x": (
        lambda: data(NAN),
        DataError,
        "mine: train x must hold finite numbers, got NaN or Inf, first in sample 7",
    ),
    "Inf in x": (lambda: data(INF), DataError, "got NaN or Inf, first in sample 9"),
    "NaN mean": (lambda: train(data(mean=(np.nan,))), ValueError, r"mean must be 1 or 24 finite numbers, got \(nan,\)"),
    "std of zero": (lambda: train(data(std=(0.0,))), ValueError, r"std must be positive, got \(0.0,\)"),
    "NaN rate": (lambda: SGD(float("nan")), ValueError, "SGD: lr must be at least 0 and finite, got nan"),
    # labels and sets
    "label too large": (lambda: data(y=Y + 1), DataError, "mine: train labels must be 0 to 4, got 1 to 5"),
    "negative label": (lambda: data(y=Y - 1), DataError, "mine: train labels must be 0 to 4, got -1 to 3"),
    "empty set": (lambda: data(X[:0], Y[:0]), DataError, "mine: the train split is empty"),
    "one class": (
        lambda: data(y=Y * 0 + 3),
        DataError,
        "mine: train labels must be of two or more classes, got only 3",
    ),
    "batch larger than the set": (
        lambda: train(batch_size=101),
        ValueError,
        "batch_size must be at least 1 and at most the 100 training samples, got 101",
    ),
    "no epochs": (lambda: train(epochs=0), ValueError, "epochs must be at least 1, got 0"),
    "saving after no epochs": (lambda: train(save_epochs=0), ValueError, "save_epochs must be at least 1, got 0"),
    "evaluating after no epochs": (
        lambda: train(evaluate_every=0),
        ValueError,
        "evaluate_every must be at least 1, got 0",
    ),
    "validation of all": (
        lambda: train(validation=1.0),
        DataError,
        "the validation fraction must be between 0 and 1, e.g. 0.1, got 1.0",
    ),
    # patterns
    "unsorted indices": (
        lambda: pattern([0, 2, 2], [3, 1]),
        ValueError,
        "indices of a row must increase strictly, got 3 then 1 in row 0",
    ),
    "duplicate indices": (
        lambda: pattern([0, 2, 2], [1, 1]),
        ValueError,
        "indices of a row must increase strictly, got 1 then 1",
    ),
    "index too large": (lambda: pattern([0, 1, 2], [0, 4]), ValueError, "indices must"),
    "negative index": (lambda: pattern([0, 1, 2], [0, -1]), ValueError, "indices must"),
    "float indices": (lambda: pattern([0, 1, 2], [0.0, 1.0]), TypeError, "indices must"),
    "indptr that falls": (lambda: pattern([0, 2, 1], [0, 1]), ValueError, "indptr must"),
    "short indptr": (lambda: pattern([0, 1], [0]), ValueError, "indptr must"),
    "indptr past the end": (lambda: pattern([0, 1, 9], [0, 1]), ValueError, "indptr must"),
    "negative size": (lambda: pattern([0], [], (-1, 4)), ValueError, "out_features must be at least 0 .* got -1"),
    "overflowing size": (
        lambda: pattern([0, 0, 0], [], (2, 2**70)),
        ValueError,
        "in_features must be .* below .* got 1180591620717411303424",
    ),
    "overflowing full pattern": (lambda: SparsityPattern.full((2**40, 2**40)), ValueError, "too many to store"),
    "size of a float": (lambda: pattern([0, 0, 0], [], (2, 4.0)), TypeError, "in_features must be an integer, got 4.0"),
    "duplicates of COO": (
        lambda: SparsityPattern.from_coo((2, 2), [0, 0], [1, 1]),
        ValueError,
        "each connection must be given once, got row 0, column 1 2 times",
    ),
    "COO out of range": (lambda: SparsityPattern.from_coo((2, 2), [0, 2], [1, 1]), ValueError, "rows must"),
    "patterns that do not meet": (
        lambda: Network([SparseLinear(dense(3, 4)), SparseLinear(dense(2, 5))]),
        ValueError,
        r"layer 1, SparseLinear\(5→2\), takes \(5,\), but layer 0, SparseLinear\(4→3\), before it gives \(3,\)",
    ),
    "filters of another size": (
        lambda: SparseConv2d(dense(2, 9), (2, 8, 8), 3),
        ValueError,
        r"pattern must have 2·3·3 = 18 columns",
    ),
    "stride of billions": (
        lambda: SparseConv2d(dense(2, 18), (2, 8, 8), 3, stride=10**40),
        ValueError,
        "stride must hold integers of at most 2,147,483,647",
    ),
    "images of a mile": (
        lambda: SparseConv2d(dense(2, 18), (2, 10**9, 1), (3, 3), padding=1),
        ValueError,
        "sides of at most 32,768 pixels, padding included, got 1,000,000,002",
    ),
    "no pattern": (
        lambda: SparseLinear(scipy.sparse.eye_array(3)),
        TypeError,
        "pattern must be a SparsityPattern, got dia_array",
    ),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_in_memory(name: str) -> None:
    call, error, words = IN_MEMORY[name]
    before = NET.params.copy()
    with pytest.raises(error, match=words) as caught:
        call()
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300
    assert np.array_equal(NET.params, before)


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def bomb() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.zeros((40, 2 << 20), np.uint8), y=np.arange(40) % 4)
    return stream.getvalue()


def member(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def checkpoint() -> bytes:
    path = Path("good.safetensors")
    save(NET, path)
    return path.read_bytes()


def framed(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


def weights(path: Path) -> Any:
    return read_weights(path)


def bytes_of(path: Path) -> Any:
    return read_idx(np.fromfile(path, np.uint8), path.name)


TENSOR = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
FOREIGN = "expected a safetensors file"

ON_DISK: dict[str, tuple[Callable[[], bytes], Callable[[Path], Any], str, type[Exception], str]] = {
    "truncated checkpoint": (lambda: checkpoint()[:-3], read, ".safetensors", CheckpointError, FOREIGN),
    "altered checkpoint": (
        lambda: checkpoint()[:-1] + b"\xee",
        read,
        ".safetensors",
        CheckpointError,
        "expected sha256",
    ),
    "empty checkpoint": (lambda: b"", read, ".safetensors", CheckpointError, FOREIGN),
    "header of 8 exabytes": (lambda: framed(b"{}", 2**63), read, ".safetensors", CheckpointError, FOREIGN),
    "header of brackets": (lambda: framed(b"[" * 100_000), read, ".safetensors", CheckpointError, FOREIGN),
    "header of overlapping tensors": (
        lambda: framed(b'{"a":%s,"b":%s}' % (TENSOR, TENSOR)) + bytes(4),
        read,
        ".safetensors",
        CheckpointError,
        FOREIGN,
    ),
    "header of control characters": (
        lambda: framed(b'{"\x1b[31m":3}'),
        weights,
        ".safetensors",
        WeightsError,
        "could not read it",
    ),
    "pickle": (lambda: pickle.dumps([1, 2]), read, ".safetensors", CheckpointError, FOREIGN),
    "zip bomb": (bomb, load, ".npz", DataError, "looks like a zip bomb"),
    "zip bomb of weights": (bomb, weights, ".npz", WeightsError, "expected weights, got a file that unpacks to"),
    "pickled labels": (
        lambda: npz(x=X, y=Y.astype(object)),
        load,
        ".npz",
        DataError,
        "y: expected integers, got object",
    ),
    "pickled weights": (lambda: npz(W=X.astype(object)), weights, ".npz", WeightsError, "could not read it"),
    "truncated data": (lambda: npz(x=X, y=Y)[:-40], load, ".npz", DataError, "expected an .npz file"),
    "NaN in data": (
        lambda: npz(x=NAN, y=Y),
        load,
        ".npz",
        DataError,
        "x: expected finite float32 values, got NaN or Inf, first in sample 7",
    ),
    "one class in data": (
        lambda: npz(x=X, y=Y * 0),
        load,
        ".npz",
        DataError,
        "expected two or more classes, got only the label 0",
    ),
    "a member that is no array": (
        lambda: member("W1", b"hello"),
        weights,
        ".npz",
        WeightsError,
        "got a member W1 that is none",
    ),
    "weights past float32": (
        lambda: npz(W=np.full((2, 2), 1e300), b=np.ones(2, np.float32)),
        weights,
        ".npz",
        WeightsError,
        "W: expected finite float32 numbers, got NaN or Inf",
    ),
    "idx that announces more": (
        lambda: b"\0\0\x08\x02" + b"\xff" * 8 + b"abc",
        bytes_of,
        "",
        DataError,
        "has 18446744065119617037 bytes, got 15",
    ),
    "idx of floats": (
        lambda: b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0",
        bytes_of,
        "",
        DataError,
        "expected an idx file of unsigned bytes",
    ),
}


@pytest.mark.parametrize("name", ON_DISK)
def test_on_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, reader, suffix, error, words = ON_DISK[name]
    path = tmp_path / f"foreign{suffix}"
    path.write_bytes(content())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=words) as caught:
        reader(path)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 700 and path.name in line
    assert sorted(tmp_path.iterdir()) == before


def test_an_error_is_one_line_whatever_went_into_it() -> None:
    for error in (CheckpointError, DataError, WeightsError):
        assert issubclass(error, OneLineError)
        line = str(error("a\nb\r\x1b[31m\0" + "é" * 100_000))
        assert line.isprintable() and len(line) < 1100
