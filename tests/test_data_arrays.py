"""A user's own arrays, tables, folders and items: what is made of them, and how the unusable is refused."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse

from sparsecore.data import DataError, Dataset, Split, folders, load
from sparsecore.data.answers import Answers
from sparsecore.data.batches import Batches
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import rows_of_tiles
from sparsecore.runtime.workspace import Workspace

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 5)).astype(np.float32), np.arange(60) % 3
PIXELS = RNG.integers(256, size=(60, 3, 9, 8), dtype=np.uint8)


def same(a: Dataset, b: Dataset) -> None:
    """The same data, whatever their names."""
    assert (a.shape, a.classes, a.mean, a.std, a.answers) == (b.shape, b.classes, b.mean, b.std, b.answers)
    for one, other in ((a.train, b.train), (a.test, b.test)):
        assert one.samples(0, len(one)).dtype == other.x.dtype
        assert np.array_equal(one.samples(0, len(one)), other.samples(0, len(other)))
        assert np.array_equal(one.y, other.y)


# ------------------------------------------------------------------------------------------------------------ arrays


class Framed:
    """What pandas' frames and series show of themselves."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self.array, dtype)


@pytest.mark.parametrize("made", [
    np.asarray, np.asfortranarray, lambda x: x.astype(np.float64), lambda x: x.astype(">f4"), lambda x: x.tolist(),
    sparse.csr_array, lambda x: Framed(x), lambda x: x[::1, ::-1][:, ::-1],
])
def test_arrays_of_any_kind_are_taken(made: Callable[[Any], Any]) -> None:
    same(Dataset.from_arrays(made(X), Y.tolist()), Dataset.from_arrays(X, Y))


@pytest.mark.parametrize("dtype", [np.int64, np.int16, bool])
def test_whole_numbers_are_numbers_and_only_uint8_is_pixels(dtype: Any) -> None:
    x = RNG.integers(2, size=(60, 4)).astype(dtype)
    data = Dataset.from_arrays(x, Y, x_test=x[:6], y_test=Y[:6])
    assert data.train.x.dtype == np.float32 and np.array_equal(data.train.x, x)
    assert len(data.mean) == 4 and np.allclose(data.mean, x.mean(axis=0)) and np.allclose(data.std, x.std(axis=0))
    assert Dataset.from_arrays(PIXELS, Y).train.x.dtype == np.uint8


def test_means_are_of_columns_and_of_channels() -> None:
    table = Dataset.from_arrays(X * [1, 10, 100, 1, 1] + 3, Y, x_test=X, y_test=Y)
    assert np.allclose(table.std, (X * [1, 10, 100, 1, 1]).std(axis=0), rtol=1e-5)
    images = Dataset.from_arrays(PIXELS, Y, x_test=PIXELS[:3], y_test=Y[:3])
    assert np.allclose(images.mean, PIXELS.mean(axis=(0, 2, 3)) / 255) and len(images.std) == 3


def test_images_with_their_channels_last_are_transposed_and_that_is_said() -> None:
    last = Dataset.from_arrays(np.moveaxis(PIXELS, 1, -1), Y)
    same(last, Dataset.from_arrays(PIXELS, Y))
    assert "9×8×3 taken as 3×9×8" in last.source


@given(st.integers(2, 5), st.integers(0, 2**32), st.booleans())
def test_labels_come_back_by_their_names(classes: int, seed: int, words: bool) -> None:
    rng = np.random.default_rng(seed)
    values = np.unique(rng.integers(-(2**40), 2**40, 3 * classes))[:classes]
    values = np.array([f"class {value}" for value in values]) if words else values
    y = values[rng.permutation(np.arange(20 * classes) % classes)]
    data = Dataset.from_arrays(rng.random((len(y), 2)), y)
    whole = np.concatenate([[data.names[k] for k in split.y] for split in (data.train, data.test)])
    assert sorted(whole) == sorted(map(str, y)) and data.classes == classes
    assert [str(value) for value in np.unique(y)] == list(data.names)


def test_numbers_that_float32_does_not_tell_apart_are_said() -> None:
    x = np.random.default_rng(0).random((60, 4))
    x[:, 1], x[:, 3] = 1e9 + np.arange(60) / 4, 7
    said = Dataset.from_arrays(x, np.arange(60) % 3).source
    assert said.endswith("; column 2 of numbers that are one in float32: subtract their mean first")
    x[:, 0] = 1e12 + np.arange(60)
    assert "; column 1 and 1 others of numbers" in Dataset.from_arrays(x, np.arange(60) % 3).source
    assert "float32" not in Dataset.from_arrays(x - x.mean(0), np.arange(60) % 3).source


def test_words_may_be_numpys_strings_of_any_length() -> None:
    y = np.array(["a", "much longer", "c"] * 20, np.dtypes.StringDType())
    data = Dataset.from_arrays(np.random.default_rng(0).random((60, 2)), y)
    assert data.names == ("a", "c", "much longer") and data.classes == 3


@pytest.mark.parametrize("shape", [(60,), (60, 1), (60, 3)])
def test_numbers_are_targets_that_a_step_reads_standardised(shape: tuple[int, ...]) -> None:
    y = RNG.standard_normal(shape) * 50 + 1000
    data = Dataset.from_arrays(X, y, x_test=X[:6], y_test=y[:6], loss="mse")
    rows = y.reshape(60, -1)
    assert data.classes == rows.shape[1] and data.numbers and data.names == ()
    assert np.allclose(data.train.targets, rows) and not data.train.y.any()
    assert data.answers is not None
    assert np.allclose(data.answers.mean, rows.mean(axis=0)) and np.allclose(data.answers.std, rows.std(axis=0))
    train, validation = data.without(0.2, seed=1)
    assert len(validation.targets) == len(validation) == 12  # type: ignore[arg-type]
    assert np.allclose(train.answers.mean, train.train.targets.mean(axis=0))  # type: ignore[union-attr]


@pytest.mark.parametrize(("options", "words"), [
    ({"x": X[:59]}, "y: expected 59 labels, one a sample, got 60"),
    ({"x": X[:, 0]}, "x: expected 2, 3 or 4 dimensions, got shape"),
    ({"x": X[:, :0]}, "x: expected at least one sample"),
    ({"x": X.astype(complex)}, "x: expected numbers, got complex128"),
    ({"x": X.astype(str)}, "x: expected numbers, got <U"),
    ({"x": [[1, 2], [3]] * 30}, "x must hold rows of one length"),
    ({"x": np.ma.masked_less(X, 0)}, "x has hidden entries"),
    ({"x": np.where(X[7, 2] == X, np.nan, X)}, "x: expected finite float32 values, got NaN or Inf, first in sample 7"),
    ({"x": X * 0}, "x: expected values that differ"),
    ({"y": Y.astype(float)}, "y: expected integers, got float64; classes may be words too"),
    ({"y": np.eye(3)[Y].astype(int)}, r"y: expected 1 dimension, got shape \(60, 3\); .*argmax"),
    ({"y": Y * 0}, "y: expected two or more classes, got only the label 0"),
    ({"y": np.array([None] * 60)}, "y: expected integers, got object"),
    ({"x_test": X}, "y_test: expected x, y, x_test, y_test, got none"),
    ({"x_test": X[:, 1:], "y_test": Y}, "x_test: expected samples like x's"),
    ({"x_test": X, "y_test": Y + 1}, "y_test: expected labels 0 to 2 as in y, got 3"),
    ({"x_test": X, "y_test": Y - 1}, "y_test: expected labels 0 to 2 as in y, got -1"),
    ({"loss": "hinge"}, "loss: expected one of cross-entropy, mse, got 'hinge'"),
    ({"held_out": 1.5}, "held_out: expected a fraction above 0 and below 1, got 1.5"),
    ({"loss": "mse", "y": np.full(60, 4.0)}, "y: expected numbers that differ, got 4 alone"),
    ({"loss": "mse", "y": np.full(60, np.nan)}, "y: expected finite float32 values, .* first in sample 0"),
    ({"loss": "mse", "y": Y.astype(str)}, "y: expected numbers, got <U"),
    ({"loss": "mse", "x_test": X, "y_test": X}, "y_test: expected .* numbers a sample as in y"),
])
def test_unusable_arrays_are_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=f"^mine: .*{words}|^mine: {words}") as caught:
        Dataset.from_arrays(**{"x": X, "y": Y, "name": "mine"} | options)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------- a network's classes and others'


def test_classes_are_known_by_their_names_whatever_their_order() -> None:
    data = Dataset.from_arrays(X, np.array(["eel", "cat", "dog"])[Y])
    theirs = Answers(("ant", "dog", "eel", "cat"))
    found = data.answered_by(theirs, 4)
    assert found.classes == 4 and found.names == theirs.names
    for split, before in ((found.train, data.train), (found.test, data.test)):
        assert [theirs.names[k] for k in split.y] == [data.names[k] for k in before.y]
    numbered = Dataset.from_arrays(X, np.array([3, 7, 9])[Y]).answered_by(None, 10)
    assert set(numbered.train.y) == {3, 7, 9} and numbered.answers is None and numbered.classes == 10
    with pytest.raises(DataError, match="expected the network's classes, ant, bee, got cat, dog, eel"):
        data.answered_by(Answers(("ant", "bee")), 2)
    with pytest.raises(DataError, match="expected numbers, which the network tells, got classes"):
        data.answered_by(Answers(mean=(0.0,), std=(1.0,)), 1)


@pytest.mark.parametrize("wrong", [
    {}, {"names": ("a", "a")}, {"names": ("a", 1)}, {"mean": (1.0,)}, {"mean": (1.0,), "std": (0.0,)},
    {"mean": (np.inf,), "std": (1.0,)}, {"names": ("a",), "mean": (0.0,), "std": (1.0,)},
])
def test_answers_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="answers: expected"):
        Answers(**wrong)


# ------------------------------------------------------------------------------------------------------------- tables


def table(path: Path, header: list[str] | None, *columns: Any, separator: str = ",") -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([header] if header else [])
        writer.writerows(zip(*columns, strict=True))
    return str(path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_its_columns(tmp_path: Path, separator: str) -> None:
    names = np.array(["red, ish", "green", "blue"])
    columns = X[:, 0], X[:, 1], names[Y], X[:, 2]
    path = table(tmp_path / "t.csv", ["a", "b", "kind", "c d"], *columns, separator=separator)
    same(load(path, target="kind"), Dataset.from_arrays(X[:, :3], names[Y]))


def test_a_table_without_names_has_numbers_for_them_and_may_tell_numbers(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", None, X[:, 0], Y, X[:, 1])
    same(load(path, target="2"), Dataset.from_arrays(X[:, :2], Y))
    found = load(path, target="3", loss="mse")
    assert found.numbers and found.shape == (2,) and "1 number to predict" in found.source
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "t.csv").read_bytes())  # as Excel saves it
    same(load(path, target="2"), Dataset.from_arrays(X[:, :2], Y))


@pytest.mark.parametrize(("text", "target", "words"), [
    ("", "y", "expected rows of numbers, got none"),
    ("a,y\n", "y", "expected rows of numbers, got none"),
    ("a,y\n1,2\n3\n", "y", "line 3: expected 2 cells, got 1"),
    ("a,y\n1,u\n2,v\n", None, "expected a column to be told, one of a, y, got no --target"),
    ("a,y\n1,u\n2,v\n", "z", "one of a, y, got 'z'"),
    ("y\nu\nv\n", "y", "expected columns beside 'y', which is the only one"),
    ("a,y,y\n1,u,v\n", "y", "expected one column of the name 'y', got 2"),
    ("a,y\n1,u\nx,v\n", "y", "line 3, column 'a': expected a finite number, got 'x'; words become numbers"),
    ("a,y\n1,u\n,v\n", "y", "line 3, column 'a': expected a finite number, got nothing"),
    ("a,y\n\n\n1,u\n\nx,v\n", "y", "line 6, column 'a': expected a finite number, got 'x'"),
    ("a,y\n1,\"u\nu\"\n2,v\n\n3\n", "y", "line 6: expected 2 cells, got 1"),
    ("a,y\n1,u\nnan,v\n", "y", "line 3, column 'a': expected a finite number, got 'nan'$"),
    ("a,y\n1,u\n2, \n", "y", "line 3, column 'y': expected a class, got nothing"),
])
def test_unusable_tables_are_refused_in_one_line(tmp_path: Path, text: str, target: str | None, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path / "t.csv", target=target)
    assert str(caught.value).startswith(f"{tmp_path / 't.csv'}: ") and "\n" not in str(caught.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,y\n\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"expected a \.csv file in UTF-8"):
        load(tmp_path / "t.csv", target="y")
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "none.csv", target="y")
    np.savez(tmp_path / "t.npz", x=X, y=Y)
    with pytest.raises(DataError, match=r"target y: goes with a \.csv file only"):
        load(tmp_path / "t.npz", target="y")
    with pytest.raises(DataError, match="mnist-subset: is of images and their classes, got loss mse"):
        load("mnist-subset", loss="mse")


# ------------------------------------------------------------------------------------------------------------ folders


def pictures(root: Path, names: dict[str, int], pixels: np.ndarray = PIXELS) -> None:
    """Images 0, 1, 2, … of a class each in its folder."""
    at = 0
    for name, count in names.items():
        (root / name).mkdir(parents=True)
        for _ in range(count):
            Image.fromarray(np.squeeze(pixels[at].transpose(1, 2, 0))).save(root / name / f"{at:03}.png")
            at += 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_images_has_a_class_a_folder(tmp_path: Path, channels: int) -> None:
    pictures(tmp_path, {"cat": 20, "dog": 25}, PIXELS[:, :channels])
    (tmp_path / "cat" / "notes.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    same(load(tmp_path), Dataset.from_arrays(PIXELS[:45, :channels], np.repeat(["cat", "dog"], [20, 25])))
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "dog" / "999.png")  # grey among coloured
    assert load(tmp_path).shape == (channels, 9, 8)


def test_a_folder_of_images_may_have_splits_and_numbers_for_names(tmp_path: Path) -> None:
    pictures(tmp_path / "train", {str(k): 2 for k in range(11)})
    pictures(tmp_path / "val", {"0": 1, "10": 3})
    data = load(tmp_path)
    assert data.answers is None and data.classes == 11 and (len(data.train), len(data.test)) == (22, 4)
    assert np.bincount(data.train.y).tolist() == [2] * 11 and data.test.y.tolist() == [0, 10, 10, 10]


def test_unusable_folders_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: str, **how: Any) -> None:
        with pytest.raises(DataError, match=words) as caught:
            load(tmp_path, **how)
        assert "\n" not in str(caught.value)

    refused("expected images in a folder for each class, two or more, or x.npy and y.npy, got nothing in it")
    pictures(tmp_path, {"cat": 3})
    refused("expected images in a folder for each class, .* got cat")
    pictures(tmp_path, {"dog": 3})
    refused("expected arrays in .npy files for the loss mse", loss="mse")
    with monkeypatch.context() as without:
        without.setitem(__import__("sys").modules, "PIL", None)
        refused("images need Pillow: pip install pillow")
    monkeypatch.setattr(folders, "memory", lambda: 2000)
    refused("6 images need 1,296 bytes of memory, of which this machine has 1,000 to spare")
    monkeypatch.undo()
    odd = tmp_path / "dog" / "odd.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(odd)
    refused("odd.png: expected an image of 8×9 pixels as 000.png, got 9×9")
    Image.fromarray(np.zeros((9, 8), np.uint16)).save(odd)
    refused("odd.png: expected an image of 8 bits a channel, got one of Pillow's mode I;16")
    odd.write_bytes(b"no image")
    refused("odd.png: expected an image, could not read it")
    good = (tmp_path / "cat" / "000.png").read_bytes()
    odd.write_bytes(good[: len(good) // 2])
    refused("odd.png: expected an image, could not read it")
    odd.unlink()
    for name in "cat", "dog":
        (tmp_path / name).rename(tmp_path / f"{name}s")
    pictures(tmp_path / "train", {"cat": 3, "dog": 3})
    pictures(tmp_path / "test", {"eel": 3})
    refused("test: expected folders of the classes cat, dog, got eel")


# -------------------------------------------------------------------------------------------------------- memory maps


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("split", [True, False])
def test_arrays_in_files_are_read_in_place_and_trained_on_alike(tmp_path: Path, dtype: Any, split: bool) -> None:
    x = PIXELS.astype(dtype)
    np.save(tmp_path / "x_train.npy", x)
    np.save(tmp_path / "y_train.npy", np.array(["b", "a", "c"])[Y])
    test: dict[str, Any] = {}
    if split:
        np.save(tmp_path / "x_test.npy", x[:9])
        np.save(tmp_path / "y_test.npy", np.array(["b", "a", "c"])[Y[:9]])
        test = {"x_test": x[:9], "y_test": np.array(["b", "a", "c"])[Y[:9]]}
    mapped, plain = load(tmp_path), Dataset.from_arrays(x, np.array(["b", "a", "c"])[Y], **test)
    same(mapped, plain)
    same(load(tmp_path / "x_train.npy"), plain)
    base: Any = mapped.train.x
    while not isinstance(base, np.memmap):
        base = base.base
    assert np.shares_memory(mapped.train.x, base)
    for pair in (mapped, plain), tuple(data.without(0.3, seed=2)[0] for data in (mapped, plain)):
        packed = [Batches(data.train, data.shape, data.mean, data.std, cpu()) for data in pair]
        assert np.shares_memory(packed[0]._x, base)
        for epoch in range(2):
            results = []
            for batches in packed:
                batches.shuffle(3, epoch)
                batches.seek(2, 13)
                tiles, labels = batches.pack(Workspace(batches.device))
                results.append((batches.order.tolist(), rows_of_tiles(tiles.data, 13), labels.data[:13].tolist()))
            assert results[0][0] == results[1][0] and results[0][2] == results[1][2]
            assert np.array_equal(results[0][1], results[1][1])
        packed[0].order = packed[0].order[::-1]
        assert packed[0].order.tolist() == packed[1].order[::-1].tolist()


def test_unusable_files_of_arrays_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: str) -> None:
        with pytest.raises(DataError, match=words) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)

    np.save(tmp_path / "x.npy", PIXELS)
    refused("expected x.npy, y.npy; y.npy is missing, got x.npy")
    np.save(tmp_path / "y.npy", np.array([object()] * 60))
    refused("y.npy: expected an array in an .npy file, could not read it")
    np.save(tmp_path / "y.npy", Y[:50])
    refused("y.npy: expected 60 labels, one a sample, got 50")
    np.save(tmp_path / "y.npy", Y)
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:-100])
    refused("x.npy: expected an array in an .npy file, could not read it")
    np.save(tmp_path / "x.npy", np.where(PIXELS[5, 0, 0, 0] == PIXELS, np.nan, PIXELS).astype(np.float32))
    refused("x must hold finite numbers, got NaN or Inf, first in sample|expected finite")
    np.save(tmp_path / "x.npy", np.moveaxis(PIXELS, 1, -1).astype(np.float64))
    assert load(tmp_path).shape == (3, 9, 8)
    monkeypatch.setattr("sparsecore.data.arrays.memory", lambda: 100_000)
    refused("x.npy: expected uint8 or float32 in C's order, with channels first, to be read in place: float64")


def test_rows_that_are_not_there_are_refused() -> None:
    x, y = np.zeros((4, 2), np.uint8), np.zeros(2, np.int32)
    for rows in ([0, 4], [-1, 0], [1, 1], [2, 1]):
        with pytest.raises(DataError, match="rows must be"):
            Split(x, y, rows=np.array(rows))


# -------------------------------------------------------------------------------------------------------------- items


class Items:
    """A map-style data set, as PyTorch has them."""

    def __init__(self, items: list[Any], **about: Any) -> None:
        self.items = items
        vars(self).update(about)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Any:
        return self.items[k]


class Names:
    names = ("eel", "cat", "dog")


@pytest.mark.parametrize("made", [
    lambda: Items(list(zip(X, Y, strict=True))),
    lambda: Items([[x, int(y)] for x, y in zip(X, Y, strict=True)]),
    lambda: Items([{"idx": 3, "features": x.tolist(), "label": y} for x, y in zip(X, Y, strict=True)]),
])
def test_items_of_any_form_are_taken(made: Callable[[], Items]) -> None:
    same(Dataset.from_items(made()), Dataset.from_arrays(X, Y))


@pytest.mark.parametrize("about", [{"classes": list(Names.names)}, {"features": {"label": Names}}])
def test_items_bring_their_images_and_the_names_of_their_classes(about: dict[str, Any]) -> None:
    images = [Image.fromarray(each.transpose(1, 2, 0)) for each in PIXELS]
    items = [{"image": image, "label": int(y)} for image, y in zip(images, Y, strict=True)]
    data = Dataset.from_items(Items(items, **about), test=Items(items[:9]))
    assert data.names == Names.names and data.shape == (3, 9, 8) and data.train.y.tolist() == Y.tolist()
    assert np.array_equal(data.train.x, PIXELS.reshape(60, -1)) and len(data.test) == 9


def failing(k: int) -> Any:
    raise KeyError(k)


@pytest.mark.parametrize(("items", "words"), [
    (iter([]), "expected items with a length, numbered from 0, got list_iterator"),
    (Items([]), "expected items, got none"),
    (Items([3]), "item 0: expected a pair of sample and label, or a mapping with both, got int"),
    (Items([{"picture": 3, "label": 1}]), "item 0: expected an entry such as image and one such as label, got picture"),
    (Items([(X[0], 0), (X[0, :2], 1)]), r"item 1: expected float32 of shape \(5,\) as of item 0, got .* \(2,\)"),
    (Items([(X[0], [0]), (X[0], [0, 1])]), "expected labels of one shape, got others"),
    (Items([([[1], [2, 3]], 0)]), "item 0: .*rows of one length"),
    ({1: (X[0], 0)}, "item 0: cannot be had"),
])
def test_unusable_items_are_refused_in_one_line(items: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"^mine: {words}") as caught:
        Dataset.from_items(items, name="mine")
    assert "\n" not in str(caught.value)
