"""Columns find their places by their names: in files, in data frames, and in what a network is asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecore import evaluate, train
from sparsecore.data import DataError, Dataset, load
from sparsecore.data.columns import names_of, places
from sparsecore.data.normalisation import Normalisation
from sparsecore.prune.__main__ import main as prune
from sparsecore.runs.checkpoint import load as load_network
from tests.test_data_arrays import X, Y, same, table
from tests.test_own_data import SMALL

NAMES = ("age", "height", "mass", "pulse", "steps")
TABLE = X * [1, 10, 100, 1, 1]
OTHER = [3, 0, 4, 2, 1]


class Frame:
    """What pandas' and Polars' data frames show of themselves."""

    def __init__(self, array: Any, columns: Any) -> None:
        self.array, self.columns, self.shape, self.ndim = np.asarray(array), columns, np.shape(array), 2

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self.array, dtype)


def shuffled(array: Any) -> Frame:
    return Frame(array[:, OTHER], [NAMES[k] for k in OTHER])


@pytest.mark.parametrize(("columns", "names"), [
    (NAMES, NAMES), ([f" {name}" for name in NAMES], NAMES), (["a", "", "b", "c", "d"], ()),
    (np.array(NAMES), NAMES), (list(NAMES), NAMES), (range(5), ()), ("aabbc", ()), (None, ()),
    ((1, "b"), ()), (lambda: NAMES, ()),
])  # fmt: skip
def test_frames_say_their_names_where_these_are_words_that_differ(columns: Any, names: Any) -> None:
    assert names_of(Frame(TABLE, columns)) == names
    assert names_of(TABLE) == ()


def test_places_of_columns() -> None:
    assert places(NAMES, NAMES, "x") is None and places((), NAMES, "x") is None and places(NAMES, (), "x") is None
    found = places([NAMES[k] for k in OTHER], NAMES, "x")
    assert found is not None and np.array_equal(TABLE[:, OTHER][:, found], TABLE)
    with pytest.raises(ValueError, match=r"^x: expected the columns a, b, got them without b and with c$"):
        places(("a", "c"), ("a", "b"), "x")
    with pytest.raises(ValueError, match=r"^x: expected the columns a, b, got them with c$"):
        places(("a", "b", "c"), ("a", "b"), "x")


def test_a_frame_to_test_on_may_have_its_columns_in_another_order() -> None:
    data = Dataset.from_arrays(Frame(TABLE, NAMES), Y, x_test=shuffled(TABLE[:20]), y_test=Y[:20])
    same(data, Dataset.from_arrays(TABLE, Y, x_test=TABLE[:20], y_test=Y[:20]))
    assert data.columns == NAMES == data.normalisation.columns
    with pytest.raises(DataError, match=r"arrays: x_test: expected the columns age, .* without pulse and with weight"):
        strange = Frame(TABLE, ["age", "height", "mass", "weight", "steps"])
        Dataset.from_arrays(Frame(TABLE, NAMES), Y, x_test=strange, y_test=Y)


def test_data_in_other_columns_is_the_same_data() -> None:
    data = Dataset.from_arrays(shuffled(TABLE), Y).in_columns(NAMES)
    same(data, Dataset.from_arrays(TABLE, Y))
    assert data.in_columns(()) is data and data.in_columns(NAMES) is data


@pytest.mark.parametrize("columns", [("a",), ("a", "a"), ("a", 1), ["a", "b"], None, 3])
def test_a_normalisation_has_a_name_for_each_column_or_none(columns: Any) -> None:
    with pytest.raises(ValueError, match="columns must be 2 names that differ"):
        Normalisation((2,), (0.0,), (1.0,), "float32", columns)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run on kinds.csv; other.csv has the same in another order, strange.csv under another name."""
    monkeypatch.chdir(tmp_path)
    table(Path("kinds.csv"), [*NAMES, "kind"], *TABLE.T, Y)
    table(Path("other.csv"), [NAMES[3], "kind", *(NAMES[k] for k in OTHER[1:])], TABLE.T[3], Y, *TABLE.T[OTHER[1:]])
    table(Path("strange.csv"), ["weight", *NAMES[1:], "kind"], *TABLE.T, Y)
    assert train.main([*SMALL, "--dataset", "kinds.csv", "--target", "kind", "--out", "run"]) == 0
    return "run"


def test_a_table_is_evaluated_whatever_the_order_of_its_columns(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for name in ("kinds.csv", "other.csv"):
        capsys.readouterr()
        assert evaluate.main([run, "--dataset", name, "--json"]) == 0
        answers.append(capsys.readouterr().out.replace(name, ""))
    assert answers[0] == answers[1]
    assert evaluate.main([run, "--dataset", "strange.csv"]) == 2
    assert capsys.readouterr().err.endswith(
        "strange.csv: expected the columns age, height, mass, pulse, steps, got them without age and with weight\n"
    )


def test_runs_that_go_on_from_one_and_prunings_read_columns_as_it_did(run: str) -> None:
    for name in ("kinds.csv", "other.csv"):
        more = ["--dataset", name, "--from", run, "--out", f"on {name}"]
        assert train.main([*SMALL[3:], *more]) == 0
        asked = [run, "--sparsity", "0.5", "--by", "gradient", "--dataset", name, "--out", f"{name}.safetensors"]
        assert prune(asked) == 0
    for one, other in (("on kinds.csv", "on other.csv"), ("kinds.csv.safetensors", "other.csv.safetensors")):
        assert np.array_equal(load_network(one).params, load_network(other).params)


def test_a_network_asked_by_a_frame_finds_its_columns_and_remembers_them(run: str) -> None:
    network = load_network(run)
    assert network.normalisation is not None and network.normalisation.columns == NAMES
    assert load("kinds.csv", target="kind").columns == NAMES
    x = TABLE.astype(np.float32)
    for many in (x[:3], np.tile(x, (40, 1))):
        wanted = network.logits(many)
        for asked in (network.logits, network.compile(len(many)), lambda x: network.logits(x, 7)):
            assert np.array_equal(asked(shuffled(many)), wanted)
        assert np.array_equal(network.normalisation(shuffled(many)), network.normalisation(many))
    with pytest.raises(ValueError, match=r"^Network\(.*: expected the columns age, .* got them without age and with w"):
        network.predict(Frame(x, ["w", *NAMES[1:]]))


def test_tables_without_names_are_read_by_position(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bare.csv").write_text(Path("kinds.csv").read_text().split("\n", 1)[1])
    assert load("bare.csv", target="6").columns == ()
    answers = []
    for more in (["kinds.csv"], ["bare.csv", "--target", "6"]):
        capsys.readouterr()
        assert evaluate.main([run, "--json", "--dataset", *more]) == 0
        answers.append(capsys.readouterr().out.replace(more[0], ""))
    assert answers[0] == answers[1]


def test_a_frame_of_several_kinds_of_numbers_is_numbers() -> None:
    """As pandas has it of truths beside floats, or of numbers that may be missing."""
    mixed = TABLE.round(1).astype(object)
    mixed[:, 1] = TABLE[:, 1] > 0
    mixed[:, 2] = [np.bool_(each) for each in TABLE[:, 2] > 0]
    plain = mixed.astype(np.float64)
    same(Dataset.from_arrays(Frame(mixed, NAMES), Y), Dataset.from_arrays(plain, Y))
    for cell in (None, "3", 1j):
        mixed[7, 3] = cell
        with pytest.raises(DataError, match=f"arrays: x: expected numbers, got {cell!r} in sample 7, column 'pulse'$"):
            Dataset.from_arrays(Frame(mixed, NAMES), Y)
