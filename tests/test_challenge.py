"""The Graph Challenge's networks to the last connection, its rule to the last zero, and samples that die on the way
against SciPy in float64; files that are not what they should be are one line."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import reference
from sparsecore.kernels.cpu.launch import Launcher
from sparsecore.kernels.cpu.lives import choose_living, count_lives, move_living, unpack_bits
from sparsecore.kernels.layout import LANES, Grid
from sparsecore.kernels.tuning import LIVES_SIFTED, PEN_LINES

from sparsecore.data import load
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import layout_of, linear_grid
from sparsecore.study.challenge import networks, tables
from sparsecore.study.challenge.command import main
from sparsecore.study.challenge.flow import Herd, lengths
from sparsecore.study.challenge.inference import Answer, Queue, infer
from sparsecore.study.challenge.inputs import Inputs, from_digits
from sparsecore.study.challenge.inputs import read as read_inputs
from sparsecore.study.challenge.networks import CEILING, Weights, generated
from sparsecore.study.challenge.packed import packed
from sparsecore.topology import radix_net

from .kernel_checks import POOLS, Guarded, assert_close, assert_same_bits, patterns


def dense(pattern: SparsityPattern) -> Any:
    return sp.csr_matrix((np.ones(pattern.nnz), pattern.indices, pattern.indptr), pattern.shape).toarray()


def matrix(weights: Weights) -> Any:
    """(inputs, outputs), in float64, as the challenge writes a layer."""
    pattern = weights.pattern
    return sp.csr_matrix((weights.data.astype(np.float64), pattern.indices, pattern.indptr), pattern.shape).T.tocsr()


def expected(x: Any, layers: list[Weights], bias: float) -> tuple[list[int], Any]:
    """How many samples live after each layer, and which do after the last: the rule, in float64."""
    y, lives = x.astype(np.float64), []
    for layer in layers:
        z = y @ matrix(layer)
        y = np.minimum(np.maximum(z + np.where(z != 0, bias, 0), 0), CEILING)
        lives.append(int(np.count_nonzero(y.any(axis=1))))
    return lives, np.flatnonzero(y.any(axis=1))


def inputs_of(x: Any) -> Inputs:
    found = Inputs(*x.shape)
    found.put(0, x)
    return found


# ------------------------------------------------------------------------------------------ networks


def test_the_first_layers_are_the_radix_net_and_later_ones_permute_its_inputs() -> None:
    base = [dense(pattern).T for pattern in radix_net([[2] * 6], [16] * 7)]
    draws, order = np.random.RandomState(5489), np.arange(1024)
    for layer, made in enumerate(generated(1024, 20)):
        if layer in (6, 12, 18):
            order = np.argsort(np.argsort(np.argsort(draws.rand(1024))))
        wanted = np.kron(np.ones((16, 16)), np.eye(64) + np.roll(np.eye(64), -(2 ** (layer % 6)), axis=1))
        assert np.array_equal(base[layer % 6], wanted)
        assert np.array_equal(dense(made.pattern).T, wanted[order])
        assert made.data.dtype == np.float32 and set(made.data) == {1 / 16} and len(made.data) == 32 * 1024
    assert layer == 19


@pytest.mark.parametrize("neurons", [32, 128, 4096])
def test_other_widths_are_of_the_same_family(neurons: int) -> None:
    nodes = neurons // 16
    block = nodes.bit_length() - 1
    layers = list(generated(neurons, block + 1))
    family = radix_net([[2] * block], [16] * (block + 1))
    assert [layer.pattern for layer in layers[:block]] == family
    assert set(layers[block].pattern.fan_in) == {32} and (neurons == 32 or layers[block].pattern != family[0])


@pytest.mark.parametrize("neurons", [0, 16, 24, 1000, 96])
def test_widths_that_make_no_network_are_refused(neurons: int) -> None:
    with pytest.raises(ValueError, match=f"neurons must be 16 times a power of two, such as 1024, got {neurons}"):
        next(generated(neurons, 1))


# ------------------------------------------------------------------------------------------ kernels


@given(patterns(), st.integers(0, 2**32), st.sampled_from([np.float32, np.float64]), st.sampled_from([0, 0, 3]))
@settings(max_examples=60, deadline=None)
def test_sums_with_a_ceiling(pattern: SparsityPattern, seed: int, dtype: Any, block: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = pattern.shape
    tiles = int(rng.integers(1, 10))
    layout = layout_of(pattern, pattern.indices, block)._replace(most_group=4)
    data = rng.standard_normal(pattern.nnz).astype(dtype)
    x = (rng.integers(0, 3, (tiles, columns, LANES)) * (rng.random((tiles, 1, LANES)) < 0.7)).astype(dtype)
    x[rng.random(x.shape) < 0.01] = np.nan
    bias = rng.choice([-1.0, -0.3, 0.0, 0.5, 2.0], rows).astype(dtype) if rng.random() < 0.9 else None
    ceiling, grid, memory = float(rng.choice([0.5, 2.0, 32.0])), linear_grid(tiles, columns, rows), Guarded(shift=1)
    out, data = memory.empty((tiles, rows, LANES), dtype), memory.put(data)
    Launcher(POOLS[0]).spmm(layout, grid, data, memory.put(x), bias, out, ceiling=ceiling)
    memory.assert_intact()
    exact, magnitude = np.full((2, *out.shape), np.nan)
    reference.spmm(layout, grid, data, x, bias, exact, ceiling=ceiling)
    reference.spmm(layout, grid, abs(data), abs(x), None if bias is None else abs(bias), magnitude)
    assert_close(out, exact, magnitude, max(pattern.fan_in) + 1)


def test_a_bias_is_added_where_a_sum_is_not_zero_and_nowhere_else() -> None:
    pattern = SparsityPattern((5, 2), [0, 2, 4, 6, 8, 8], [0, 1] * 4)
    data, bias = np.array([1, -1] * 4, np.float32), np.array([0.5, -0.5, 0.0, 40.0, 0.5], np.float32)
    x = np.zeros((1, 2, LANES), np.float32)
    x[0, :, :4] = [[1, 3, 2, 9], [1, 2, 3, 0]]  # sums 0, 1, -1, 9, and 0 of nothing
    out = np.full((1, 5, LANES), np.nan, np.float32)
    layout = layout_of(pattern, pattern.indices)
    for compute in (Launcher(POOLS[0]).spmm, reference.spmm):
        compute(layout, linear_grid(1, 2, 5), data, x, bias, out, ceiling=32.0)
        assert out[0, :, :4].tolist() == [[0, 1.5, 0, 9.5], [0, 0.5, 0, 8.5], [0, 1, 0, 9], [0, 32, 32, 32], [0] * 4]
        assert not out[0, :, 4:].any()


def test_sums_with_a_ceiling_have_the_same_bits_on_any_threads() -> None:
    layer = packed(next(generated(128, 1)), np.arange(128), PEN_LINES)
    x = np.random.default_rng(0).random((128, PEN_LINES * LANES), np.float32)
    grid, bias = Grid(1, 0, 0, 1, 0, 0, PEN_LINES, LANES, LANES, PEN_LINES * LANES), np.full(128, -0.3, np.float32)

    def call(launcher: Launcher) -> list[Any]:
        y = np.full_like(x, np.nan)
        launcher.spmm(layer.layout, grid, layer.data, x, bias, y, ceiling=CEILING)
        return [y]

    assert_same_bits(call)


@given(st.integers(1, 70), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_those_who_live_close_up_behind_those_who_wait(features: int, lines: int, layers: int, seed: int) -> None:
    """Samples through layers that kill at random, into two pens one behind the other: against lists."""
    rng, lanes, memory = np.random.default_rng(seed), lines * LANES, Guarded(shift=1)
    low, high = (memory.empty((features, lanes), np.float32) for _ in range(2))
    names_out, state_out, lives = np.zeros(2 * lanes, np.int64), np.zeros(2, np.int64), np.zeros(layers, np.int64)
    ages, moves = np.zeros(lanes, np.int64), np.zeros((lines, 7), np.int64)
    waiting: list[int] = []
    values: dict[int, Any] = {}
    total = np.zeros(layers, np.int64)
    for turn in range(4):
        used = int(rng.integers(1, lanes + 1))
        state, names = np.array([used, 0]), np.arange(lanes) + 1000 * turn
        alive = np.full(lanes, True)
        y = np.zeros((features, lanes), np.float32)
        for layer in range(layers):
            alive &= rng.random(lanes) < 0.7
            y = np.where(alive, 0, np.zeros((features, lanes))).astype(np.float32)
            y[rng.integers(0, features, lanes), np.arange(lanes)] = np.where(alive, rng.random(lanes) + 0.1, 0)
            count_lives(y, state, ages, 0, lines)
            total[layer] += np.count_nonzero(alive[:used])
        choose_living(state, names, lines, ages, lives, moves, names_out, state_out, 0, 1)
        for first in range(lines):
            move_living(y, moves, low, high, first, first + 1)
        for lane in np.flatnonzero(alive[:used]):
            waiting.append(int(names[lane]))
            values[int(names[lane])] = y[:, lane]
        assert state_out[0] == len(waiting) and not ages.any() and np.array_equal(lives, total)
        places = (state_out[1] + np.arange(len(waiting))) % (2 * lanes)
        assert names_out[places].tolist() == waiting
        for name, place in zip(waiting, places, strict=True):
            assert np.array_equal((low, high)[place // lanes][:, place % lanes], values[name])
        if len(waiting) >= lanes:  # a half is taken
            state_out[:] = [len(waiting) - lanes, (state_out[1] + lanes) % (2 * lanes)]
            waiting = waiting[lanes:]
    memory.assert_intact()


def test_bits_become_lines_of_ones_and_zeros() -> None:
    bits = np.random.default_rng(0).random((70, 9)) < 0.4
    x = np.full((9, 3 * LANES), np.nan, np.float32)
    unpack_bits(inputs_of(bits).words, np.array([0, 2]), x, 0, 3)
    assert np.array_equal(x[:, : 70 - 32], bits[32:].T) and not x[:, 70 - 32 :].any()


@given(patterns(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_packed_layer_is_the_layer_in_another_order(pattern: SparsityPattern, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = pattern.shape
    data, place = rng.standard_normal(pattern.nnz).astype(np.float32), rng.permutation(columns)
    layer = packed(Weights(pattern, data), place, 2)
    x, y = rng.random((columns, 2 * LANES), np.float32), np.full((rows, 2 * LANES), np.nan, np.float32)
    here = np.empty_like(x)
    here[place] = x
    grid = Grid(1, 0, 0, 1, 0, 0, 2, LANES, LANES, 2 * LANES)
    layout = layer.layout._replace(most_group=4)  # one kernel to compile
    Launcher(POOLS[0]).spmm(layout, grid, layer.data, here, None, y)
    exact = sp.csr_matrix((data.astype(np.float64), pattern.indices, pattern.indptr), pattern.shape) @ x
    assert sorted(layer.order) == list(range(rows))
    assert np.allclose(y, exact[layer.order], rtol=1e-5, atol=1e-5)
    classes = {tuple(pattern.indices[a:b]) for a, b in zip(pattern.indptr[:-1], pattern.indptr[1:], strict=True)}
    assert len(layout.offsets) == sum(map(len, classes))  # each class's columns are there once


# ------------------------------------------------------------------------------------------ inference


def random_network(neurons: int, layers: int, seed: int) -> list[Weights]:
    """Values of all kinds at the places of the family's network, scaled so that samples die here and there."""
    rng = np.random.default_rng(seed)
    return [
        Weights(layer.pattern, (0.03 + 0.3 * rng.standard_normal(len(layer.data))).astype(np.float32))
        for layer in generated(neurons, layers)
    ]


def same(a: Answer, b: Answer) -> bool:
    return np.array_equal(a.lives, b.lives) and np.array_equal(a.categories, b.categories)


@pytest.mark.parametrize("bias", [-0.3, 0.2])
@pytest.mark.parametrize("samples", [1, 130, 1000])
def test_small_networks_of_all_kinds_of_values_against_scipy(samples: int, bias: float) -> None:
    rng = np.random.default_rng(samples)
    x = rng.random((samples, 64)) < rng.random((samples, 1)) * 0.1
    layers = random_network(64, 14, 0)
    found = infer(inputs_of(x), iter(layers), bias, repeats=2)
    lives, left = expected(x, layers, bias)
    assert found.lives.tolist() == lives and found.categories.tolist() == left.tolist()
    assert 0 < len(left) < samples or samples == 1
    assert found.worked == 2048 * sum([samples, *lives[:-1]]) and found.nominal == 14 * 2048 * samples
    assert len(found.seconds) == 2 and min(found.seconds) <= found.median <= max(found.seconds)


def test_threads_and_windows_change_nothing() -> None:
    x = np.random.default_rng(1).random((1500, 64)) < 0.06
    layers = random_network(64, 20, 1)
    one = infer(inputs_of(x), iter(layers), -0.3)
    assert one.window[0] == 20 and 0 < len(one.categories) < 1500
    assert one.lives.tolist() == expected(x, layers, -0.3)[0]
    for threads, window in (2, 1 << 30), (3, 1), (1, 1), (2, 5 * one.window[1] // 20):
        other = infer(inputs_of(x), iter(layers), -0.3, threads=threads, window=window, repeats=2)
        assert same(one, other)
        held = other.window[0]
        assert held == {1: 1, 1 << 30: 20}.get(window, held) and 1 <= held <= 20 and other.window[1] <= one.window[1]
        assert window in (1, 1 << 30) or 1 < held < 10


def test_the_official_network_against_scipy() -> None:
    digits, layers = np.asarray(load("mnist-subset").train.x), list(generated(1024, 120))
    inputs = from_digits(digits, 400, 1024)
    found = infer(inputs, iter(layers), -0.3, threads=2)
    x = (inputs.words[:, np.newaxis, :] >> np.arange(LANES)[:, np.newaxis] & 1).reshape(400, 1024)
    lives, left = expected(x, layers, -0.3)
    assert found.lives.tolist() == lives and found.categories.tolist() == left.tolist()
    assert 2 <= len(left) <= 40 and found.lives[0] > 300


def test_nobody_may_be_left() -> None:
    found = infer(inputs_of(np.zeros((40, 64), bool)), generated(64, 5), -0.3, window=1)
    assert found.lives.tolist() == [0] * 5 and found.categories.tolist() == [] and found.worked == 40 * 2048


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 2), (0, 7), (3, 1), (0, 120), (0, 1920), (5, 9), (50, 400)])
def test_stages_are_all_layers_and_end_where_samples_die(first: int, count: int) -> None:
    found = lengths(first, count)
    ends = first + np.cumsum(found)
    assert min(found) > 0 and ends[-1] == first + count
    assert set(LIVES_SIFTED) & set(range(first + 1, first + count)) <= set(ends.tolist())
    assert len(found) <= len(LIVES_SIFTED) + 5


def test_a_queue_that_is_closed_gives_nothing() -> None:
    herds = [Herd(np.array([k]), None) for k in range(3)]
    queue = Queue(iter(herds))
    assert next(queue) is herds[0]
    queue.close()
    assert list(queue) == []


def test_digits_are_resized_and_cut() -> None:
    from PIL import Image

    digits = np.asarray(load("mnist-subset").train.x)[:20]
    for neurons, side in (1024, 32), (4096, 64):
        words = from_digits(digits, 20, neurons).words
        for k in (0, 15, 16, 19):
            image = Image.fromarray(digits[k].reshape(28, 28)).resize((side, side), Image.Resampling.BILINEAR)
            assert np.array_equal(words[k // LANES] >> k % LANES & 1, np.asarray(image).ravel() > 200)
        assert not (words[1] >> 4).any()


# ------------------------------------------------------------------------------------------ files


def write(path: Path, lines: list[str]) -> Path:
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_layer(path: Path, layer: Weights, seed: int) -> None:
    entries = matrix(layer).tocoo()
    lines = [f"{i + 1}\t{j + 1}\t{v}" for i, j, v in zip(entries.row, entries.col, entries.data, strict=True)]
    write(path, list(np.random.default_rng(seed).permutation(lines)))


@pytest.mark.parametrize("end", [".tsv", ".tsv.gz"])
def test_layers_and_images_are_read_as_they_were_written(tmp_path: Path, end: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(tables, "BLOCK", 1000)
    for k, layer in enumerate(made := random_network(64, 3, 2)):
        write_layer(tmp_path / f"n64-l{k + 1}{end}", layer, k)
    for got, layer in zip(networks.read(tmp_path, 64, 3), made, strict=True):
        assert got.pattern == layer.pattern and np.array_equal(got.data, layer.data)
    x = np.random.default_rng(3).random((50, 64)) < 0.5
    lines = [f"{i + 1}\t{j + 1}\t1" for i, j in np.argwhere(x)]
    file = write(tmp_path / f"images{end}", lines[::-1])
    assert np.array_equal(read_inputs(file, 50, 64).words, inputs_of(x).words)
    assert np.array_equal(read_inputs(file, 20, 64).words, inputs_of(x[:20]).words)
    assert tables.categories(write(tmp_path / f"c{end}", ["3", "1", "49"]), 48).tolist() == [0, 2]
    assert tables.categories(write(tmp_path / f"none{end}", []), 48).tolist() == []


BAD = {
    "1\t2": "expected row, column and value with tabs between, got '1\\t2'",
    "1\t2\tx": "expected row, column and value with tabs between, got '1\\t2\\tx'",
    "1 2 1": "expected row, column and value with tabs between, got '1 2 1'",
    "": "expected row, column and value with tabs between, got ''",
    "1\t2\tnan": "expected row, column and value with tabs between, got '1\\t2\\tnan'",
    "0\t2\t1": "expected a row from 1 to ",
    "1\t65\t1": "expected a column from 1 to 64, got 65",
    "1\t2.5\t1": "expected a column from 1 to 64, got 2.5",
    "1_0\t2\t1": "expected row, column and value with tabs between, got '1_0\\t2\\t1'",
    "1\t2\t1e39": "expected a value that float32 holds, got 1e+39",
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(tables, "BLOCK", 3)
    file = write(tmp_path / "n64-l1.tsv", [f"{k}\t1\t1" for k in range(1, 8)] + [bad, "9\t1\t1"])
    for read in (lambda: read_inputs(file, 50, 64), lambda: list(networks.read(tmp_path, 64, 1))):
        with pytest.raises(ValueError, match=re.escape(f"{file}, line 8: {BAD[bad]}")) as error:
            read()
        assert "\n" not in str(error.value)


def test_other_bad_files_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "i.tsv", ["1\t1\t1", "1\t2\t0.5"])
    with pytest.raises(ValueError, match=re.escape(f"{file}, line 2: expected the value 1, got 0.5")):
        read_inputs(file, 4, 64)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: has neither n64-l1.tsv nor n64-l1.tsv.gz")):
        next(networks.read(tmp_path, 64, 1))
    file = write(tmp_path / "n64-l1.tsv", ["3\t4\t1", "1\t1\t1", "3\t4\t1"])
    with pytest.raises(ValueError, match=re.escape(f"{file}, line 3: connection 3, 4 is there twice")):
        next(networks.read(tmp_path, 64, 1))
    file = write(tmp_path / "c.tsv", ["1", "2", "zero"])
    with pytest.raises(ValueError, match=re.escape(f"{file}, line 3: expected one number, got 'zero'")):
        tables.categories(file, 4)
    for bad in ("0", "60001", "1e300"):
        file = write(tmp_path / "d.tsv", ["1", bad])
        message = f"{file}, line 2: expected an input's number, from 1 to 60000, got {float(bad):.15g}"
        with pytest.raises(ValueError, match=re.escape(message)):
            tables.categories(file, 4)
    file = write(tmp_path / "n64-l1.tsv", [])
    with pytest.raises(ValueError, match=re.escape(f"{file}: expected a line for each connection, got none")):
        next(networks.read(tmp_path, 64, 1))
    whole = write(tmp_path / "e.tsv.gz", [f"{k}" for k in range(1, 5000)])
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match=re.escape(f"{whole}: the compressed file is damaged")):
        tables.categories(whole, 4)


# ------------------------------------------------------------------------------------------ the command


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, list[int]]:
    """A file of images, and the categories, counted from 1, that two layers leave of them."""
    x = np.random.default_rng(5).random((90, 1024)) < np.linspace(0, 0.5, 90)[:, np.newaxis]
    write(tmp_path / "images.tsv.gz", [f"{i + 1}\t{j + 1}\t1" for i, j in np.argwhere(x)])
    left = expected(x, list(generated(1024, 7)), -0.3)[1] + 1
    assert 5 < len(left) < 85
    return tmp_path, left.tolist()


def command(folder: Path, *more: str) -> list[str]:
    return ["--layers", "7", "--samples", "90", "--images", str(folder / "images.tsv.gz"), "--repeats", "2", *more]


def test_the_command_says_what_came_out(files: tuple[Path, list[int]], capsys: Any) -> None:
    folder, left = files
    good = write(folder / "good.tsv", [str(k) for k in left])
    assert main(command(folder, "--categories", str(good))) == 0
    said = capsys.readouterr()
    assert f"categories: {len(left)} of 90" in said.out and said.err == "" and f"compared with {good}" in said.out
    for word in ("worked: ", "nominal: ", "alive after layer 1: ", "median of 2", "memory: ", "7 layers at a time"):
        assert word in said.out
    assert main(command(folder, "--json", "--threads", "2")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["categories"] == left and record["checked"] is False and record["agrees"] is None
    assert record["nominal_edges"] == 90 * 7 * 32768 and record["alive"][-1] == len(left) and record["threads"] == 2
    assert record["worked_edges"] == 32768 * sum([90, *record["alive"][:-1]]) and record["peak_bytes"] > 1 << 20


def test_the_command_says_where_categories_differ(files: tuple[Path, list[int]], capsys: Any) -> None:
    folder, left = files
    bad = write(folder / "bad.tsv", [str(k) for k in left[2:]] + ["1"])
    assert main(command(folder, "--categories", str(bad), "--json")) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["agrees"] is False
    assert said.err.endswith(f"{bad}: 1 of its categories did not come out, 2 others did; the first: 1\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--neurons", "1000"], "argument --neurons: invalid choice: 1000"),
        (["--layers", "0"], "argument --layers: expected a whole number from 1 to 100000, such as 120, got '0'"),
        (["--samples", "60001"], "argument --samples: expected a whole number from 1 to 60000"),
        (["--images", "nowhere.tsv"], "nowhere.tsv"),
    ],
)
def test_what_cannot_be_followed_is_one_line(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err
