"""Files that nobody should have to trust: each is refused by one line, or what it holds can be used.

Two kinds: valid files that were damaged, and files that are well formed, checksums included, but say what they should
not. `pytest -m slow` reads 100,000 of them, an ordinary run 2,000.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save as serialised

from sparsecore.commands.training import job_of
from sparsecore.data import DataError, Dataset, load
from sparsecore.data.catalogue import CATALOGUE, CIFAR10
from sparsecore.data.formats import CIFAR_FILES, CIFAR_PIXELS, cifar_splits, read_idx, unpack_cifar_sheets
from sparsecore.data.normalisation import Normalisation
from sparsecore.data.sources.fetch import fetch as fetched
from sparsecore.layers import (
    AvgPool2d,
    Dropout,
    Flatten,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.network import Network
from sparsecore.prune.weights import WeightsError, read_weights
from sparsecore.runs import checkpoint
from sparsecore.runs.checkpoint import CheckpointError
from sparsecore.runs.metrics import Mark, Metrics
from sparsecore.runs.state import RunState, as_json, from_json
from sparsecore.topology import dense, uniform_random
from sparsecore.training.optimizers import SGD
from tests.data_files import idx
from tests.reliability.fuzz import Rng, as_text, damaged, in_a_child, one_line, warped, watched

Case = Callable[[Rng, Path], bool]
"""Makes a file and has it read; True if it was accepted, and rightly."""


def networks() -> list[Network]:
    """Small ones with every kind of layer."""
    rng = np.random.default_rng(0)
    linear = Network(
        [
            SparseLinear(uniform_random(7, 12, 0.6, rng), relu=True, rng=rng),
            SparseLinear(uniform_random(5, 7, 0.5, rng), rng=rng, format="coo"),
            ReLU((5,)),
            Dropout((5,), 0.3),
            SparseLinear(dense(3, 5), rng=rng),
        ],
        normalisation=Normalisation((3, 2, 2), (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)),
    )
    images = Network(
        [
            SparseConv2d(uniform_random(4, 2 * 9, 0.4, rng), (2, 8, 8), 3, padding=1, relu=True, rng=rng),
            MaxPool2d((4, 8, 8), 2),
            SparseConv2d(uniform_random(3, 4 * 4, 0.2, rng), (4, 4, 4), 2, stride=2, rng=rng, format="coo"),
            AvgPool2d((3, 2, 2), 2),
            Flatten((3, 1, 1)),
            SparseLinear(dense(2, 3), rng=rng),
        ]
    )
    wide = SparseLinear(uniform_random(6, 8, 0.4, rng), relu=True, rng=rng)
    back = SparseLinear(uniform_random(8, 6, 0.4, rng), rng=rng)
    around = SparseLinear(dense(8, 8), rng=rng)
    tree = Network(
        {
            "stem": SparseLinear(uniform_random(8, 5, 0.3, rng), relu=True, rng=rng),
            "stage": Sequential([Residual(Sequential({"wide": wide, "back": back}), relu=True), Residual(around)]),
            "head": SparseLinear(dense(3, 8), rng=rng),
        }
    )
    return [linear, images, tree]


NETWORKS = networks()


def parts(network: Network, state: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a checkpoint, and its metadata as trees."""
    velocity = np.linspace(-1, 1, network.params.size, dtype=np.float32)
    tensors = checkpoint._tensors(network, {"velocity": velocity})
    norm = network.normalisation
    described = {"tree": checkpoint._description(network.root), "sparse": network.sparse,
                 "normalisation": vars(norm) if norm else None}  # fmt: skip
    meta = {"format": "sparsecore", "version": "2", "network": json.loads(json.dumps(described)),
            "optimizer": SGD(0.1, 0.9).description(), "state": state}  # fmt: skip
    return {name: array.copy() for name, array in tensors.items()}, meta


def first_parts(network: Network, state: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The same of a flat network, as version 1 had it."""
    tensors, meta = parts(network, state)
    pieces = [tensors.pop(name) for name in list(tensors) if ":" in name]
    del meta["optimizer"]
    described = dict(meta["network"])
    layers = list(described.pop("tree")["layers"].values())
    described |= {"layers": layers, "sparse": [int(path) for path in described["sparse"]]}
    return tensors | {"velocity": np.concatenate(pieces)}, meta | {"version": "1", "network": described}


def with_checksum(tensors: dict[str, np.ndarray], meta: dict[str, Any], rng: Rng | None = None) -> bytes:
    texts = {
        name: value if isinstance(value, str) else (as_text(value, rng) if rng is not None else json.dumps(value))
        for name, value in meta.items()
    }
    return serialised(tensors, texts | {"sha256": checkpoint._checksum(tensors, texts)})


STATE = {
    "config": {"model": "lenet300", "asked": "mnist-subset", "options": {"model": "lenet300", "epochs": 3, "lr": 0.1,
               "radix": "10,10", "nesterov": True, "dataset": "mnist-subset", "seed": 0}},
    "identity": {"train": 8000, "epochs": 3},
    "run": as_json(RunState(epoch=1, batch=3, metrics=Mark.after(b'{"event": "epoch", "epoch": 1}\n'))),
}  # fmt: skip
PARTS = [*(parts(network, STATE) for network in NETWORKS), *(first_parts(network, STATE) for network in NETWORKS[:2])]
FILES = [with_checksum(*each) for each in PARTS]


def read_or_refused(path: Path, data: bytes, read: Callable[[Path], Any], error: type[Exception]) -> Any:
    """What the reader makes of the data, or None if it refused them as it should."""
    path.write_bytes(data)
    try:
        with watched():
            return read(path)
    except error as refusal:
        assert type(refusal) is error, refusal
        one_line(str(refusal))
        return None


def read_damaged(
    rng: Rng, whole: list[bytes], path: Path, read: Callable[[Path], Any], error: type[Exception],
    check: Callable[[Any], None],
) -> bool:  # fmt: skip
    """Whether the reader takes one of these files, damaged; what it takes is checked."""
    found = read_or_refused(path, damaged(whole[int(rng.integers(0, len(whole)))], rng, head=150), read, error)
    if found is not None:
        check(found)
    return found is not None


def usable(network: Network) -> None:
    """It computes what it stands for: beside plain arithmetic, where that is quick."""
    shape = network.layers[0].in_shape
    if np.prod(shape, dtype=float) > 1e5:
        return
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    with np.errstate(all="ignore"):
        y = network.logits(x)
        first = network.layers[0]
        if isinstance(first, SparseLinear):
            only = Network([SparseLinear(first.pattern, first.weight, first.bias, format=first.format)]).logits(x)
            wanted = x.astype(np.float64) @ first.to_scipy().toarray().T.astype(np.float64) + first.bias
            good = np.abs(wanted) < 1e30
            atol = 1e-3 * np.abs(wanted[good]).max(initial=1)
            np.testing.assert_allclose(only[good], wanted[good], rtol=1e-3, atol=atol)
    assert y.shape == (3, *network.layers[-1].out_shape)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def damaged_checkpoint(rng: Rng, folder: Path) -> bool:
    which = int(rng.integers(0, len(FILES)))
    found = read_or_refused(folder / "m.safetensors", damaged(FILES[which], rng), checkpoint.read, CheckpointError)
    if found is None:
        return False
    original = [*NETWORKS, *NETWORKS[:2]][which]
    assert found.network.params.tobytes() == original.params.tobytes() and found.state == STATE
    assert repr(found.network.layers) == repr(original.layers)
    return True


def changed(array: np.ndarray, rng: Rng) -> np.ndarray | None:
    """A tensor that is not what it was."""
    array = array.copy()
    match int(rng.integers(0, 9)):
        case 0:
            return None
        case 1:
            return array.astype(rng.choice([np.int8, np.int32, np.int64, np.float16, np.float32, np.float64, np.bool_]))
        case 2:
            return array[: int(rng.integers(0, array.size + 1))]
        case 3:
            return np.concatenate([array, array[: int(rng.integers(0, array.size + 1))]])
        case 4:
            return array.reshape(*(1,) * int(rng.integers(0, 4)), *array.shape, *(1,) * int(rng.integers(0, 2)))
        case 5 if array.size:
            at, kind = int(rng.integers(0, array.size)), np.dtype(array.dtype)
            if kind.kind == "f":
                array.flat[at] = rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0])
            else:
                here, ends = int(array.flat[at]), np.iinfo(kind)
                near = [here + 1, here - 1, -1, 0, 1, ends.max, ends.min]
                array.flat[at] = np.array(near[int(rng.integers(0, len(near)))]).astype(kind)
            return array
        case 6:
            return rng.permutation(array)
        case 7:
            return np.zeros_like(array)
        case _:
            return array[::-1].copy()


def hostile_checkpoint(rng: Rng, folder: Path) -> bool:
    """Well formed, its checksum right, and not what a network is."""
    tensors, meta = PARTS[int(rng.integers(0, len(PARTS)))]
    tensors, meta = dict(tensors), dict(meta)
    if rng.random() < 0.6:
        for name in rng.choice(list(tensors), int(rng.integers(1, 3)), replace=False):
            if (other := changed(tensors.pop(str(name)), rng)) is not None:
                renamed = rng.choice(STRANGE) if rng.random() < 0.1 else name
                tensors[str(renamed)] = other
    if rng.random() < 0.6:
        meta["network"] = warped(meta["network"], rng)
    if rng.random() < 0.1:
        meta[str(rng.choice(list(meta)))] = str(rng.choice(["", "1", "2", "3", "null", "sparsecore"]))
    data = with_checksum(tensors, meta, rng)
    found = read_or_refused(folder / "m.safetensors", data, checkpoint.read, CheckpointError)
    if found is None:
        return False
    usable(found.network)
    return True


STRANGE = ["9.weight", "x", "-1.bias", "0.", "0.a", "m:0.weight", ":", "velocity:x"]
HEADERS: list[Any] = [
    {}, {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64 - 1]}},
    {"a": {"dtype": "I4", "shape": [-1], "data_offsets": [8, 0]}},
    {"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}},
    {key: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for key in "ab"},
    {"__metadata__": {"format": "sparsecore", "version": "1"}}, {"__metadata__": {"format": 3}}, {"__metadata__": []},
]  # fmt: skip


def hostile_header(rng: Rng, folder: Path) -> bool:
    """A safetensors file from scratch: a length, a header and some data, none of which need agree."""
    tree = HEADERS[int(rng.integers(0, len(HEADERS)))]
    text = as_text(warped(tree, rng) if rng.random() < 0.8 else tree, rng).encode()
    length = len(text) if rng.random() < 0.7 else int(rng.choice([0, 1, len(text) + 1, 10**8, 2**40, 2**63 - 1]))
    data = length.to_bytes(8, "little") + text + rng.bytes(int(rng.integers(0, 40)))
    if rng.random() < 0.5:
        return read_or_refused(folder / "m.safetensors", data, checkpoint.read, CheckpointError) is not None
    found = read_or_refused(folder / "w.safetensors", data, read_weights, WeightsError)
    if found is not None:
        usable(found)
    return found is not None


def resumed(rng: Rng, folder: Path) -> bool:
    """A run to go on with whose state is strange: what `--resume` reads before anything is built."""
    tensors, meta = PARTS[0]
    data = with_checksum(tensors, meta | {"state": warped(STATE, rng)}, rng)

    def going_on(path: Path) -> Any:
        job = job_of(["--resume", "--out", str(path.parent)])
        assert job.checkpoint is not None
        return job.config, from_json(job.checkpoint.state.get("run"))

    (folder / "run").mkdir(exist_ok=True)
    return any_value_error(folder / "run" / "model.safetensors", data, going_on)


def any_value_error(path: Path, data: bytes, read: Callable[[Path], Any]) -> bool:
    """As `read_or_refused`, for what a command turns into its line."""
    path.write_bytes(data)
    try:
        with watched():
            read(path)
    except ValueError as refusal:
        from sparsecore.console.output import one_line as shown

        one_line(shown(refusal))
        return False
    return True


# -- a user's data and weights ---------------------------------------------------------------------------------------

X = (np.arange(240) % 251).reshape(40, 6)
Y = np.arange(40) % 4


def saved(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


PIXELS = X.astype(np.uint8)
GOOD_DATA = [
    saved(np.savez, x=PIXELS, y=Y),
    saved(np.savez_compressed, x=X.astype(np.float32), y=Y.astype(np.uint8)),
    saved(np.savez, x=PIXELS.reshape(40, 1, 2, 3), y=Y, x_test=PIXELS[:8].reshape(8, 1, 2, 3), y_test=Y[:8]),
]
GOOD_WEIGHTS = [
    saved(np.savez, **{"fc1.weight": X[:6, :5] / 7.0, "fc1.bias": np.ones(6, np.float32), "fc2.weight": X[:3] / 9.0}),
    saved(np.savez_compressed, W1=X[:4].astype(np.float64), b1=np.zeros(4), W2=X[:2, :4].astype(np.float64)),
]


def sensible(data: Dataset) -> None:
    for split in (data.train, data.test):
        assert len(split) and split.x.dtype in (np.uint8, np.float32) and np.isfinite(split.x).all()
        assert split.y.min() >= 0 and split.y.max() < data.classes
    assert np.isfinite(data.mean).all() and min(data.std) > 0


def damaged_npz(rng: Rng, folder: Path) -> bool:
    return read_damaged(rng, GOOD_DATA, folder / "mine.npz", load, DataError, sensible)


def npy(rng: Rng) -> bytes:
    """A .npy member that may lie about itself."""
    if rng.random() < 0.4:
        array = X if rng.random() < 0.5 else Y
        kinds = ["u1", "i8", "f2", "f4", ">f4", "f8", "c8", "?", "S3", "U2", "M8[s]", "m8[s]", "V7", "i1", ">u8"]
        stream = io.BytesIO()
        np.save(stream, array.astype(str(rng.choice(kinds))), allow_pickle=False)
        return stream.getvalue()
    descr = str(rng.choice(["'|u1'", "'<f4'", "'<i8'", "'|O'", "[('a', '<f4')]", "'<U9'", "''", "3", "('<f4', (3,))",
                            "'<f16'"]))  # fmt: skip
    shape = str(rng.choice(["(40, 6)", "(40,)", "()", "(0, 6)", "(-40, -6)", "(10000000000000,)", "(40, 0)", "(1e3,)",
                            "[40]", "(True, 240)", "(2305843009213693952, 8)", "('a',)", "None"]))  # fmt: skip
    order = str(rng.choice(["False", "True", "0", "None"]))
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if rng.random() < 0.1:
        text = str(rng.choice(["(" * 3000, "__import__('os').abort()", "{}", "[]", "{'descr': '|u1'}", "\0" * 40]))
    version = bytes([int(rng.choice([1, 2, 3, 9])), 0])
    packed = struct.pack("<H" if version[0] == 1 else "<I", len(text) + 1)
    return b"\x93NUMPY" + version + packed + text.encode() + b"\n" + bytes(int(rng.choice([0, 40, 240, 320, 960])))


def member(array: np.ndarray, rng: Rng) -> bytes:
    """An array as it is, changed, or as a .npy that lies."""
    chance = rng.random()
    if chance < 0.2:
        return npy(rng)
    stream = io.BytesIO()
    np.save(stream, array if chance < 0.7 or (other := changed(array, rng)) is None else other)
    return damaged(stream.getvalue(), rng, head=140) if chance > 0.95 else stream.getvalue()


ARRAYS = {
    "data": {"x": X.astype(np.uint8), "y": Y, "x_test": X[:8].astype(np.uint8), "y_test": Y[:8]},
    "floats": {"x": X.astype(np.float32), "y": Y.astype(np.uint8)},
    "weights": {"fc.weight": X[:6, :5].astype(np.float32), "fc.bias": np.ones(6, np.float32), "out.w": X[:3] / 7.0},
}


def hostile_zip(kind: str, rng: Rng) -> bytes:
    """An archive that is whole, of arrays that are not what they should be."""
    stream = io.BytesIO()
    packings = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(stream, "w", packings[int(rng.choice(4, p=[0.3, 0.6, 0.05, 0.05]))]) as archive:
        for name, array in ARRAYS[kind].items():
            if rng.random() < 0.95:
                archive.writestr(f"{name}.npy" if rng.random() < 0.97 else f"../{name}", member(array, rng))
    raw = stream.getvalue()
    if rng.random() < 0.1:  # a size in the directory that is not the member's
        at = raw.rfind(b"PK\x01\x02")
        raw = raw[: at + 24] + struct.pack("<I", int(rng.choice([0, 2**31, 2**32 - 1]))) + raw[at + 28 :]
    return raw


def hostile_npz(rng: Rng, folder: Path) -> bool:
    kind = str(rng.choice(list(ARRAYS)))
    data = hostile_zip(kind, rng)
    if kind != "weights":
        found = read_or_refused(folder / "mine.npz", data, load, DataError)
        if found is not None:
            sensible(found)
        return found is not None
    network = read_or_refused(folder / "w.npz", data, read_weights, WeightsError)
    if network is not None:
        usable(network)
    return network is not None


def damaged_weights(rng: Rng, folder: Path) -> bool:
    return read_damaged(rng, GOOD_WEIGHTS, folder / "w.npz", read_weights, WeightsError, usable)


# -- the sets that have names ----------------------------------------------------------------------------------------

IDX = [idx(X.reshape(40, 2, 3)), idx(Y)]


def damaged_idx(rng: Rng, folder: Path) -> bool:
    data = damaged(IDX[int(rng.integers(0, 2))], rng, head=16)
    found = read_or_refused(
        folder / "idx", data, lambda path: read_idx(np.fromfile(path, np.uint8), "train-images"), DataError
    )
    assert found is None or (found.size <= len(data) and found.dtype == np.uint8)
    return found is not None


RECORDS = np.concatenate([Y[:2, None], np.full((2, CIFAR_PIXELS), 7)], axis=1).astype(np.uint8)


def damaged_batches(rng: Rng, folder: Path) -> bool:
    """CIFAR-10's binary files, one of them cut or lengthened, its labels anything."""
    files = dict.fromkeys(CIFAR_FILES, RECORDS.ravel())
    raw = rng.bytes((1 + CIFAR_PIXELS) * int(rng.integers(0, 3)))
    if rng.random() < 0.7:
        raw = damaged(RECORDS.tobytes(), rng)

    def read(path: Path) -> Dataset:
        train, test = cifar_splits(files | {str(rng.choice(CIFAR_FILES)): np.fromfile(path, np.uint8)})
        return Dataset("cifar10", "", train, test, CIFAR10.shape, CIFAR10.classes, CIFAR10.mean, CIFAR10.std)

    found = read_or_refused(folder / "batch", raw, read, DataError)
    if found is not None:
        sensible(found)
    return found is not None


def png(height: int = 10, width: int = 1024) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 9, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


PICTURE = png()


def hostile_png(rng: Rng) -> bytes:
    """A picture whose header is checked but promises something else: a bomb, another kind, no data."""
    size = struct.pack(">II", *(int(n) for n in rng.choice([0, 1, 10, 1024, 60_000, 2**31 - 1, 2**32 - 1], 2)))
    depth, colours, woven = rng.choice([1, 2, 8, 16, 255]), rng.choice([0, 2, 3, 4, 6, 9]), rng.choice([0, 1])
    kind = bytes(int(n) for n in (depth, colours, 0, 0, woven))
    data = zlib.compress(bytes(int(rng.choice([0, 100, 30_000, 200_000]))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + kind) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def sheets(picture: bytes, labels: Any) -> bytes:
    """An archive as the npm package is."""
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as tar:
        members = {name.replace(".bin", ".png"): picture for name in CIFAR_FILES}
        members |= {"train_lables.json": labels, "test_lables.json": b"[1, 2, 3, 4, 5, 6, 7, 8, 9, 0]"}
        for name, data in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


LABELS = json.dumps([k % 10 for k in range(50)]).encode()


class Sheets:
    """A source that gives what is in a file, whatever that is."""

    kind, title = "npm", "sheets"

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, names: Any, transfer: Any) -> dict[str, bytes]:
        return unpack_cifar_sheets(self.path, names)


def damaged_sheets(rng: Rng, folder: Path) -> bool:
    """The picture sheets that CIFAR-10 may come as: the whole way through `fetch`, which believes only hashes."""
    picture, labels = PICTURE, LABELS
    if rng.random() < 0.7:
        picture = damaged(PICTURE, rng, head=60) if rng.random() < 0.5 else hostile_png(rng)
    else:
        labels = as_text(warped(json.loads(LABELS), rng), rng).encode()
    archive = sheets(picture, labels)
    path = folder / "sheets.tgz"
    entry = replace(CIFAR10, sources=(Sheets(path),))
    data = damaged(archive, rng) if rng.random() < 0.2 else archive
    assert read_or_refused(path, data, lambda _: fetched(entry, folder / "cache"), DataError) is None
    assert not (folder / "cache").exists(), "something was left of what was refused"
    return False


def damaged_cache(rng: Rng, folder: Path) -> bool:
    """Files in the cache that are no longer what was fetched."""
    entry = CATALOGUE["mnist"]
    place = folder / "cache2" / "mnist"
    place.mkdir(parents=True, exist_ok=True)
    for name in entry.md5:
        if not (place / name).exists():
            (place / name).write_bytes(IDX[0])
    path = place / str(rng.choice(list(entry.md5)))
    found = read_or_refused(path, damaged(IDX[0], rng), lambda _: load("mnist", data_dir=folder / "cache2"), DataError)
    assert found is None
    return False


# -- a run's folder --------------------------------------------------------------------------------------------------


def strange_configuration(rng: Rng, folder: Path) -> bool:
    text = as_text(warped(STATE["config"], rng), rng).encode()
    data = damaged(text, rng, head=len(text)) if rng.random() < 0.3 else text
    (folder / "run2").mkdir(exist_ok=True)
    return any_value_error(
        folder / "run2" / "config.json", data, lambda path: job_of(["--resume", "--out", str(path.parent)])
    )


def strange_metrics(rng: Rng, folder: Path) -> bool:
    """What is in metrics.jsonl when a run goes on: the lines that a checkpoint knows and perhaps more, or refused."""
    path, lines = folder / "metrics.jsonl", [json.dumps({"event": "epoch", "epoch": k}).encode() for k in range(5)]
    before, after = (b"".join(line + b"\n" for line in part) for part in (lines[:3], lines[3:]))
    there = damaged(before + after, rng)

    def going_on(path: Path) -> bytes:
        metrics = Metrics(path)
        metrics.cut(Mark.after(before))
        metrics.append({"event": "result"})
        assert [record["event"] for record in metrics][-1] == "result"
        assert Mark.after(path.read_bytes()) == metrics.mark()
        return path.read_bytes()

    kept = there[: len(before)] == before
    assert any_value_error(path, there, going_on) == (kept or not there)
    assert path.read_bytes() == ((before if kept else b"") + b'{"event": "result"}\n' if kept or not there else there)
    return kept


SHARES: dict[Case, int] = {
    damaged_checkpoint: 25_000, hostile_checkpoint: 20_000, hostile_header: 8_000, resumed: 5_000,
    damaged_npz: 12_000, hostile_npz: 8_000, damaged_weights: 5_000, damaged_idx: 6_000, damaged_batches: 2_000,
    damaged_sheets: 2_000, damaged_cache: 1_000, strange_configuration: 5_000, strange_metrics: 1_000,
}  # fmt: skip
"""Files of each kind in the long form: 100,000 in all."""


def fuzz(case: Case, folder: Path, first: int, count: int) -> dict[str, Any]:
    accepted = 0
    for number in range(first, first + count):
        try:
            accepted += case(np.random.default_rng([number, count]), folder)
        except BaseException as error:
            kind = type(error).__name__
            raise AssertionError(f"{case.__name__}, case [{number}, {count}]: {kind}: {error}") from error
    return {"accepted": accepted, "refused": count - accepted}


@pytest.mark.parametrize("case", SHARES, ids=lambda case: case.__name__)
def test_foreign_files(case: Case, tmp_path: Path) -> None:
    in_a_child(lambda: fuzz(case, tmp_path, 10**6, SHARES[case] // 50), megabytes=400)


@pytest.mark.slow
@pytest.mark.parametrize("case", SHARES, ids=lambda case: case.__name__)
def test_foreign_files_for_long(case: Case, tmp_path: Path) -> None:
    found = in_a_child(lambda: fuzz(case, tmp_path, 0, SHARES[case]), megabytes=400)
    print(f"{case.__name__}: {SHARES[case]:,} files, {found['accepted']:,} accepted, memory +{found['grew']:.0f} MB")
    assert sum(SHARES.values()) == 100_000
