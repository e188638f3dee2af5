"""A user's .npz: what is read, and how the unusable is refused."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.data import DataError, load, npz, splits

Y = np.arange(40) % 4


def pixels(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(np.uint8)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize(("given_shape", "shape"), [
    ((40, 6), (6,)), ((40, 2, 3), (1, 2, 3)), ((40, 3, 4, 5), (3, 4, 5)),
])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_saved_is_loaded(tmp_path: Path, given_shape: tuple, shape: tuple, dtype: Any, order: str) -> None:
    x = np.asarray(pixels(*given_shape), dtype=dtype, order=order)
    np.savez(tmp_path / "mine.npz", x=x, y=Y.astype(">i8"), x_test=x[:8], y_test=Y[:8].astype(np.uint8))
    data = load(tmp_path / "mine.npz")
    assert data.source == f"{tmp_path / 'mine.npz'}: 40 train, 8 test"
    assert (data.shape, data.classes) == (shape, 4)
    assert data.train.x.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    assert np.array_equal(data.train.x, x.reshape(40, -1)) and np.array_equal(data.train.y, Y)
    assert np.array_equal(data.test.x, x[:8].reshape(8, -1)) and np.array_equal(data.test.y, Y[:8])
    unit = 255 if dtype == np.uint8 else 1
    channels = shape[0] if len(shape) == 3 or dtype != np.uint8 else 1  # a table's columns are channels, too
    by_channel = x.astype(np.float64).reshape(40, channels, -1) / unit
    assert np.allclose(data.mean, by_channel.mean(axis=(0, 2))) and np.allclose(data.std, by_channel.std(axis=(0, 2)))


def test_moments_do_not_depend_on_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "mine.npz", x=pixels(40, 2, 3, 5), y=Y)
    whole = load(tmp_path / "mine.npz")
    monkeypatch.setattr(splits, "BLOCK", 7)
    blocks = load(tmp_path / "mine.npz")
    assert np.allclose(whole.mean, blocks.mean, rtol=1e-12) and np.allclose(whole.std, blocks.std, rtol=1e-12)


def test_without_a_test_set_a_fifth_is_held_out(tmp_path: Path) -> None:
    x = np.arange(40, dtype=np.float32)[:, None]
    np.savez_compressed(tmp_path / "mine.npz", x=x, y=Y)
    data, again = load(tmp_path / "mine.npz"), load(tmp_path / "mine.npz")
    assert data.source.endswith(": 32 train, 8 test (held out)")
    assert np.bincount(data.test.y).tolist() == [2, 2, 2, 2]
    assert sorted([*data.train.x[:, 0], *data.test.x[:, 0]]) == list(range(40))
    assert np.array_equal(data.test.x, again.test.x)


X = pixels(40, 6)
FLOATS = X.astype(np.float64)
NAN, INF, TOO_LARGE = FLOATS.copy(), FLOATS.copy(), FLOATS.copy()
NAN[7, 2], INF[39, 0], TOO_LARGE[3, 3] = np.nan, -np.inf, 1e39


@pytest.mark.parametrize(("arrays", "words"), [
    ({"y": Y}, "x is missing"),
    ({"x": X}, "y is missing"),
    ({"x": X, "y": Y, "x_test": X}, "y_test is missing"),
    ({"x": X, "y": Y, "y_test": Y}, "x_test is missing"),
    ({"x": X.astype(np.int64), "y": Y}, "x: expected uint8 or floating, got int64"),
    ({"x": X > 3, "y": Y}, "x: expected uint8 or floating, got bool"),
    ({"x": X.astype(complex), "y": Y}, "got complex128"),
    ({"x": X.astype(object), "y": Y}, "x: expected uint8 or floating, got object"),
    ({"x": X, "y": Y.astype(object)}, "y: expected integers, got object"),
    ({"x": X, "y": Y.astype(float)}, "y: expected integers, got float64"),
    ({"x": X[:, 0], "y": Y}, "x: expected 2, 3 or 4 dimensions"),
    ({"x": X.reshape(40, 1, 1, 1, 6), "y": Y}, "x: expected 2, 3 or 4 dimensions"),
    ({"x": X, "y": Y[:, None]}, "y: expected 1 dimension"),
    ({"x": X, "y": Y[0]}, "y: expected 1 dimension"),
    ({"x": X, "y": np.arange(40) * 3}, "y: expected classes with two or more samples each, got 40 different labels"),
    ({"x": X, "y": Y - 1, "x_test": X, "y_test": Y}, r"y_test: expected labels as in y, -1, 0, 1, 2, got 3"),
    ({"x": X, "y": Y.astype(str), "x_test": X, "y_test": (Y + 1).astype(str)}, "expected labels as in y, .* got 4"),
    ({"images": X, "labels": Y.astype(float)}, "labels: expected integers, got float64; classes may be words too"),
    ({"images": X[:, 0], "labels": Y}, "images: expected 2, 3 or 4 dimensions"),
    ({"x": X[:0], "y": Y[:0]}, "x: expected at least one sample"),
    ({"x": X[:, :0], "y": Y}, "x: expected at least one sample with at least one value"),
    ({"x": X, "y": Y, "x_test": X[:0], "y_test": Y[:0]}, "x_test: expected at least one sample"),
    ({"x": X, "y": Y[:39]}, "y: expected 40 labels, one a sample, got 39"),
    ({"x": X, "y": Y, "x_test": X, "y_test": Y[:1]}, "y_test: expected 40 labels, one a sample, got 1"),
    ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "y_test: expected labels 0 to 3 as in y, got 4"),
    ({"x": X, "y": Y * 0 + 3}, "y: expected two or more classes, got only the label 3"),
    ({"x": X, "y": Y, "x_test": X[:, 1:], "y_test": Y}, r"x_test: expected samples like x's, .*\(6,\).* \(5,\)"),
    ({"x": X, "y": Y, "x_test": FLOATS, "y_test": Y}, "x_test: expected samples like x's, uint8 .* got float64"),
    ({"x": NAN, "y": Y}, "x: expected finite float32 values, got NaN or Inf, first in sample 7"),
    ({"x": INF, "y": Y}, "first in sample 39"),
    ({"x": TOO_LARGE, "y": Y}, "first in sample 3"),
    ({"x": FLOATS, "y": Y, "x_test": NAN, "y_test": Y}, "x_test: expected finite"),
    ({"x": X * 0, "y": Y}, "x: expected values that differ"),
    ({"x": X[:3], "y": Y[:3]}, "y: expected enough samples of a class to hold one out"),
])
def test_the_unusable_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=words):
        load(tmp_path / "mine.npz")
    refused(tmp_path / "mine.npz")


@pytest.mark.parametrize(("y", "names"), [
    (np.array(["cat", "dog", "eel", "fly"])[Y], ("cat", "dog", "eel", "fly")),
    (np.array(["b", "a", "d", "ç"])[Y], ("a", "b", "d", "ç")),
    (np.array([b"no", b"yes"])[Y % 2], ("no", "yes")),
    (Y - 1, ("-1", "0", "1", "2")),
    (Y + 37, ("37", "38", "39", "40")),
    (Y * 100, ("0", "100", "200", "300")),
    (Y.astype(np.uint64) + np.uint64(2**63), tuple(str(2**63 + k) for k in range(4))),
])
def test_labels_of_any_kind_are_classes_with_names(tmp_path: Path, y: np.ndarray, names: tuple[str, ...]) -> None:
    np.savez(tmp_path / "mine.npz", x=X, y=y, x_test=X[:8], y_test=y[:8])
    data = load(tmp_path / "mine.npz")
    said = [each.decode() if isinstance(each, bytes) else str(each) for each in y.tolist()]
    assert data.names == names and data.classes == len(names)
    assert [names[k] for k in data.train.y] == said and [names[k] for k in data.test.y] == said[:8]
    assert data.source.endswith(f", classes {', '.join(names)}")


@pytest.mark.parametrize("keys", [
    ("x_train", "y_train", "x_test", "y_test"), ("images", "labels", "test_images", "test_labels"),
    ("X", "Y", "X_test", "Y_test"), ("train_images", "train_labels", "test_images", "test_labels"),
    ("data", "target", "test_data", "test_target"),
])
def test_usual_names_of_arrays_are_known(tmp_path: Path, keys: tuple[str, ...]) -> None:
    np.savez(tmp_path / "other.npz", **dict(zip(keys, (X, Y, X[:8], Y[:8]), strict=True)), val_images=X)
    np.savez(tmp_path / "mine.npz", x=X, y=Y, x_test=X[:8], y_test=Y[:8])
    other, mine = load(tmp_path / "other.npz"), load(tmp_path / "mine.npz")
    for split in ("train", "test"):
        for part in ("x", "y"):
            assert np.array_equal(getattr(getattr(other, split), part), getattr(getattr(mine, split), part))


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.npz")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "folder.npz")
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY", b"x,y\n1,2\n"):
        (tmp_path / "mine.npz").write_bytes(content)
        refused(tmp_path / "mine.npz")


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


@pytest.mark.parametrize(("head", "words"), [
    ("{'descr': '|u1', 'fortran_order': False, 'shape': (40, 10**12), }", "could not read"),
    ("{'descr': '|u1', 'fortran_order': False, 'shape': (40, 1000000000000), }", "expected 40,000,000,000,000 bytes"),
    ("{'descr': '|u1', 'fortran_order': False, 'shape': (-40, -6), }", "at least one sample"),
    ("{'descr': '|O', 'fortran_order': False, 'shape': (40, 6), }", "got object"),
    ("{'descr': '|u1'}", "could not read"),
    ("__import__('os').abort()", "could not read"),
    ("(" * 5000, "could not read"),
])
def test_a_header_that_lies_is_refused_before_its_data_are_read(tmp_path: Path, head: str, words: str) -> None:
    zipped(tmp_path / "mine.npz", {"x": header(head) + bytes(240), "y": npy(Y)})
    assert words in refused(tmp_path / "mine.npz")


def test_pickles_stay_closed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "exploded",))

    np.savez(tmp_path / "mine.npz", x=X, y=np.array([Bomb()] * 40, dtype=object))
    (tmp_path / "exploded").unlink(missing_ok=True)
    refused(tmp_path / "mine.npz")
    assert not (tmp_path / "exploded").exists()


def test_zip_bombs_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, x=np.zeros((40, 2 << 20), dtype=np.uint8), y=Y)  # 80 MiB from 80 kB
    monkeypatch.setattr(npz, "_read_member", None)
    assert "looks like a zip bomb" in refused(path)
    monkeypatch.setattr(npz, "LIMIT", 1 << 20)
    assert "expected arrays of at most 1,048,576 bytes in all" in refused(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_altered_file_is_refused(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "mine.npz"
    save(path, x=X, y=Y)
    with zipfile.ZipFile(path) as archive:
        checksum = struct.pack("<I", archive.getinfo("x.npy").CRC)
    path.write_bytes(path.read_bytes().replace(checksum, bytes(4)))
    assert "CRC" in refused(path)


@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = folder / f"good-{(packed := data.draw(st.booleans()))}.npz"
    if not good.exists():
        (np.savez_compressed if packed else np.savez)(good, x=X, y=Y)
    raw = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "zero"])):
            case "flip":
                raw[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 50))]
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=20))
            case "zero":
                raw[at : at + 4] = bytes(4)
        if not raw:
            break
    (folder / "bad.npz").write_bytes(raw)
    try:
        loaded = load(folder / "bad.npz")
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert np.array_equal(np.sort(np.concatenate([loaded.train.x, loaded.test.x]), axis=0), np.sort(X, axis=0))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_with_their_channels_last_are_transposed_and_that_is_said(
    tmp_path: Path, channels: int, dtype: Any
) -> None:
    x = pixels(40, channels, 9, 8).astype(dtype)
    for name, images in ("first", x), ("last", np.ascontiguousarray(x.transpose(0, 2, 3, 1))):
        np.savez(tmp_path / f"{name}.npz", x=images, y=Y, x_test=images[:8], y_test=Y[:8])
    first, last = (load(tmp_path / f"{name}.npz") for name in ("first", "last"))
    assert last.source == f"{tmp_path / 'last.npz'}: 40 train, 8 test, 9×8×{channels} taken as {channels}×9×8"
    assert first.source == f"{tmp_path / 'first.npz'}: 40 train, 8 test"
    assert (last.shape, last.mean, last.std) == (first.shape, first.mean, first.std)
    assert np.array_equal(last.train.x, first.train.x) and np.array_equal(last.test.x, first.test.x)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 3), (4, 9, 4), (16, 5, 3), (2, 8, 1), (9, 8, 2), (9, 8, 5), (72,)])
def test_samples_that_may_be_anything_else_stay_as_they_are(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "mine.npz", x=(x := pixels(40, *shape)), y=Y, x_test=x, y_test=Y)
    data = load(tmp_path / "mine.npz")
    assert data.shape == shape and np.array_equal(data.train.x, x.reshape(40, -1)) and "taken as" not in data.source
