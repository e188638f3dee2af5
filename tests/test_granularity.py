"""What comes and goes together: units are cut as a loop over the matrix cuts them, and nothing splits one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecore import RunConfig, run, train
from sparsecore.layers import Flatten, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.prune import (
    REGROW,
    RIGL,
    SET,
    Method,
    PruneError,
    Rewirer,
    RewiringSchedule,
    by_quality,
    by_threshold,
    of_all,
    to_sparsity,
)
from sparsecore.prune.__main__ import main as prune
from sparsecore.runs.checkpoint import read
from sparsecore.runs.trainer import Trainer
from sparsecore.storage.granularity import Granularity, Units
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, uniform_random
from sparsecore.topology.wiring import Link, Wiring
from sparsecore.training.callbacks import Callback
from sparsecore.training.optimizers import SGD
from tests.command.given import bits
from tests.test_moving import data

WORDS = ["weight", "channel", "rows:4", "rows:3", "block:2,3", "block:4,4"]


def number_of_unit(word: str, shape: tuple[int, int], pixels: int) -> Any:
    """Which unit each place of a matrix is in, by the definition: rows in groups, inputs in groups at one position."""
    groups = {"rows:4": (4, 1), "rows:3": (3, 1), "block:2,3": (2, 3), "block:4,4": (4, 4), "block:4,2": (4, 2)}
    rows, channels = groups.get(word, (1, 1))
    names: dict[tuple[int, ...], int] = {}
    found = np.empty(shape, int)
    for row in range(shape[0]):
        for column in range(shape[1]):
            channel, position = divmod(column, pixels)
            name = row // rows, channel // channels, 0 if word == "channel" else position
            found[row, column] = names.setdefault(name, len(names))
    return found


def held(pattern: SparsityPattern) -> Any:
    return pattern.to_scipy().toarray() != 0


def whole(word: str, pattern: SparsityPattern, pixels: int) -> bool:
    """Whether each unit is there as a whole or not at all."""
    number = number_of_unit(word, pattern.shape, pixels).ravel()
    share = np.bincount(number, held(pattern).ravel()) / np.bincount(number)
    return bool(np.isin(share, (0.0, 1.0)).all())


def drawn(seed: int) -> tuple[Granularity, Units, tuple[int, int]]:
    rng = np.random.default_rng(seed)
    kernel = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    found = Granularity(int(rng.integers(1, 6)), int(rng.integers(1, 6)), bool(rng.integers(2)))
    shape = int(rng.integers(1, 12)), int(rng.integers(1, 12)) * kernel[0] * kernel[1]
    return found, found.units(shape, kernel), kernel


@pytest.mark.parametrize("seed", range(60))
def test_units_stand_for_the_connections_that_a_loop_gives_them(seed: int) -> None:
    rule, units, kernel = drawn(seed)
    pixels, rng = kernel[0] * kernel[1], np.random.default_rng(seed + 1000)
    stored = uniform_random(*units.shape, rng.uniform(0.1, 0.9), rng)
    there, expected = held(stored), np.zeros(units.layer, bool)
    for row in range(units.layer[0]):
        for column in range(units.layer[1]):
            channel, position = divmod(column, pixels)
            place = channel // rule.channels
            expected[row, column] = there[
                row // rule.rows, place if rule.whole else place * pixels + position
            ]  # fmt: skip
    pattern = units.connections(stored)
    assert np.array_equal(held(pattern), expected)
    assert units.of(pattern) == stored
    owners = units.owners(pattern, stored)
    assert np.array_equal(np.bincount(owners, minlength=stored.nnz), units.held(stored))
    values = rng.standard_normal(pattern.nnz)
    gathered = units.gathered(values, pattern, stored).reshape(-1, units.size)
    assert np.allclose(gathered.sum(1), np.bincount(owners, values, stored.nnz), atol=1e-12)
    assert np.array_equal(np.count_nonzero(gathered, axis=1), units.held(stored))
    whole = np.flatnonzero(units.held(stored) > 1)
    if len(whole):  # without one connection of a larger unit it is no longer made of units
        broken = np.ones(pattern.nnz, bool)
        broken[np.flatnonzero(owners == whole[0])[-1]] = False
        assert units.of(pattern.select(broken)) is None


@pytest.mark.parametrize("word", ["", "rows", "rows:", "rows:0", "rows:-1", "rows:2.5", "block:4", "block:0,4",
                                  "block:4,4,4", "rows:9999999", "Rows:4", "filter"])  # fmt: skip
def test_what_is_no_granularity_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="one of channel, weight, rows:G and block:G,H"):
        Granularity.read(word)


# -- births -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("kind", ["random", "fixed", "bernoulli", "explicit"])
def test_births_are_of_whole_units_and_as_many_as_asked(word: str, kind: str) -> None:
    links = Link(6, 13, (3, 3)), Link(16, 24, (3, 3)), Link(30, 21)
    wiring = Wiring("random", sparsity=0.8, granularity=word)
    if kind != "random":
        wiring = Wiring("expander", expander=kind, sparsity=0.8, granularity=word)  # type: ignore[arg-type]
    made, note = wiring.patterns(links, 3)
    again, _ = wiring.patterns(links, 3)
    assert made == again and (":" not in word or word in note)
    for pattern, link in zip(made, links, strict=True):
        pixels = link.kernel_size[0] * link.kernel_size[1]
        number = number_of_unit(word, pattern.shape, pixels)
        assert whole(word, pattern, pixels)
        stored = len(np.unique(number[held(pattern)]))
        if kind == "random":
            assert stored == round(0.2 * (number.max() + 1))
        elif kind != "bernoulli":
            fan_in = [len(np.unique(number[row, held(pattern)[row]])) for row in range(pattern.shape[0])]
            assert set(fan_in) == {max(1, round(0.2 * len(np.unique(number[0]))))}


@pytest.mark.parametrize("word", ["rows:4", "block:4,4"])
def test_rows_that_share_columns_run_in_groups(word: str) -> None:
    """Forward in groups of 4 rows; backward too where inputs come together as well."""
    (pattern, other), _ = Wiring("random", sparsity=0.9, granularity=word).patterns(
        (Link(16, 32, (3, 3)), Link(64, 32)), 0
    )
    convolution = SparseConv2d(pattern, (16, 8, 8), 3, 1, 1, rng=np.random.default_rng(0))
    linear = SparseLinear(other, rng=np.random.default_rng(0))
    assert convolution.plan.forward.most_group == linear.plan.forward.most_group == 4
    assert len(convolution.plan.forward.starts) == len(linear.plan.forward.starts) == 32 // 4 + 1
    if word == "block:4,4":
        assert linear.plan.transposed.most_group == 4
        assert {phase.layout.most_group for phase in convolution.plan.phases} == {4}


def test_a_radix_net_knows_no_groups() -> None:
    with pytest.raises(ValueError, match=r"^granularity rows:2: not with radix"):
        Wiring("radix", ((2, 5),), granularity="rows:2").patterns((Link(20, 50, (5, 5)), Link(800, 500)), 0)


# -- pruning ----------------------------------------------------------------------------------------------------------


def images(word: str = "weight", sparsity: float = 0.0, rows: tuple[int, int] = (7, 9)) -> Network:
    rng = np.random.default_rng(4)
    channels, neurons = rows
    (first, second), _ = Wiring("random", sparsity=sparsity, granularity=word).patterns(
        (Link(2, channels, (3, 3)), Link(channels * 36, neurons)), 1
    )
    return Network(
        [
            SparseConv2d(first, (2, 6, 6), 3, padding=1, relu=True, rng=rng),
            Flatten((channels, 6, 6)),
            SparseLinear(second, relu=True, rng=rng),
            SparseLinear(dense(4, neurons), rng=rng),
        ],
        sparse=(0, 2),
    )


PIXELS = {"0": 9, "2": 1}


@pytest.mark.parametrize("word", WORDS)
def test_pruning_keeps_the_units_with_the_largest_sums_of_squares(word: str) -> None:
    network = images()
    before = {k: (network.patterns[k], network[k].params["weight"].copy()) for k in PIXELS}
    for sparsity in (0.5, 0.9):
        to_sparsity(network, sparsity, granularity=word)
        for path, (pattern, weight) in before.items():
            number = number_of_unit(word, pattern.shape, PIXELS[path])
            sums = np.bincount(number.ravel(), np.square(weight.astype(np.float64)))
            count = round((1 - sparsity) * len(sums))
            best = np.argsort(-sums, kind="stable")[:count]
            assert np.array_equal(held(network.patterns[path]), np.isin(number, best)), path


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("way", ["threshold", "quality"])
def test_a_threshold_is_compared_with_the_root_of_the_mean_square(word: str, way: str) -> None:
    network = images()
    before = {k: (network.patterns[k], network[k].params["weight"].copy()) for k in PIXELS}
    if way == "threshold":
        by_threshold(network, 0.08, granularity=word, allow_empty=True)
    else:
        by_quality(network, 1.0, granularity=word, allow_empty=True)
    for path, (pattern, weight) in before.items():
        number = number_of_unit(word, pattern.shape, PIXELS[path]).ravel()
        weight = weight.astype(np.float64)
        means = np.sqrt(np.bincount(number, weight**2) / np.bincount(number))
        limit = 0.08 if way == "threshold" else weight.std()
        clear = np.abs(means - limit) > 1e-5
        there = held(network.patterns[path]).ravel()
        assert np.array_equal(there[clear[number]], (means > limit)[number][clear[number]])
        assert whole(word, network.patterns[path], PIXELS[path])


def test_global_pruning_ranks_units_of_one_size_only() -> None:
    network = images()
    to_sparsity(network, 0.75, granularity="rows:3", globally=True)
    kept = sum(
        len(np.unique(number_of_unit("rows:3", pattern.shape, PIXELS[k])[held(pattern)]))
        for k, pattern in network.patterns.items() if k in PIXELS
    )  # fmt: skip
    assert kept == round(0.25 * (3 * 18 + 3 * 252))
    with pytest.raises(PruneError, match="units of one size"):
        to_sparsity(images(), 0.9, granularity="channel", globally=True)


def test_parts_of_units_are_refused_and_nothing_changes() -> None:
    network = images("weight", 0.5)
    before = dict(network.patterns)
    for word in ("rows:4", "block:2,2", "channel"):
        with pytest.raises(PruneError, match=f"stores parts of what granularity {word}"):
            to_sparsity(network, 0.9, granularity=word)
    assert dict(network.patterns) == before


# -- moving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("method", ["set", "rigl", "exact", "regrow", "rows"])
def test_moving_never_splits_a_unit(word: str, method: str) -> None:
    how = {"set": SET, "rigl": RIGL, "exact": Method(of_all), "regrow": REGROW, "rows": Method(of_all, by_row=True)}
    goes = {"targets": 0.8, "initial": 0.5} if how[method].towards else {}
    network = images(word, 0.5)
    before = {path: network.patterns[path] for path in PIXELS}
    weights: dict[str, Any] = {}
    rewirer = Rewirer(how[method], RewiringSchedule(3, 24, 0.3), granularity=word, **goes)  # type: ignore[arg-type]

    class Watch(Rewirer):
        def __init__(self) -> None:
            vars(self).update(vars(rewirer))

        def update(self, trainer: Any) -> Any:
            old = {p: (trainer.network.patterns[p], trainer.network[p].params["weight"].copy()) for p in PIXELS}
            done = super().update(trainer)
            for path, (pattern, weight) in old.items():
                now = trainer.network.patterns[path]
                assert whole(word, now, PIXELS[path])
                dense_before, dense_now = np.zeros(pattern.shape), np.zeros(pattern.shape)
                dense_before[pattern.rows, pattern.indices] = weight
                dense_now[now.rows, now.indices] = trainer.network[path].params["weight"]
                assert np.array_equal(dense_now, np.where(held(now), dense_before, 0)), path
            weights["updates"] = weights.get("updates", 0) + 1
            return done

    Trainer(network, data((2, 6, 6)), SGD(0.05, 0.9), epochs=4, batch_size=16, callbacks=[Watch()]).run()
    assert weights["updates"] == 8
    for path, pattern in before.items():
        number = number_of_unit(word, pattern.shape, PIXELS[path])
        now = network.patterns[path]
        stored = len(np.unique(number[held(now)]))
        goal = round(0.2 * (number.max() + 1)) if method == "regrow" else len(np.unique(number[held(pattern)]))
        assert stored == goal
    assert any(network.patterns[path] != pattern for path, pattern in before.items())


def test_what_comes_has_the_largest_sum_of_squares_of_its_gradients() -> None:
    """An exact update of rows in groups, by brute force on whole matrices."""
    network, compared = images("rows:4", 0.5), []
    rewirer = Rewirer(Method(of_all), RewiringSchedule(4, 12, 0.3), granularity="rows:4")

    class Brute(Rewirer):
        def __init__(self) -> None:
            vars(self).update(vars(rewirer))

        def update(self, trainer: Any) -> Any:
            wanted = {}
            for path, pixels in PIXELS.items():
                pattern = trainer.network.patterns[path]
                number = number_of_unit("rows:4", pattern.shape, pixels).ravel()
                units, there = number.max() + 1, held(pattern)
                weight, gradient = np.zeros(pattern.shape), trainer.gradient_at(path, dense(*pattern.shape))
                weight[pattern.rows, pattern.indices] = trainer.network[path].params["weight"]
                matters, slope = (np.bincount(number, np.square(each.astype(np.float64)).ravel(), units)
                                  for each in (weight, gradient))  # fmt: skip
                stored = np.bincount(number, there.ravel(), units) > 0
                come = round(self.schedule.at(trainer.steps_done) * stored.sum())
                order = np.argsort(np.where(stored, -matters, np.inf), kind="stable")
                stay = np.zeros(units, bool)
                stay[order[: stored.sum() - come]] = True
                best = np.argsort(np.where(stay, np.inf, -slope), kind="stable")[:come]
                stay[best] = True
                wanted[path] = stay[number].reshape(pattern.shape)
            done = super().update(trainer)
            compared.extend(np.array_equal(held(trainer.network.patterns[k]), there) for k, there in wanted.items())
            return done

    Trainer(network, data((2, 6, 6)), SGD(0.05, 0.9), epochs=4, batch_size=16, callbacks=[Brute()]).run()
    assert len(compared) == 6 and all(compared)


@pytest.mark.parametrize(
    ("word", "rows", "groups"),
    [("rows:4", (8, 12), (2, 3)), ("rows:6", (6, 12), (2, 4)), ("block:4,2", (8, 12), (2, 3))],
)
def test_rows_that_move_together_go_on_in_groups(word: str, rows: tuple[int, int], groups: tuple[int, int]) -> None:
    """At most 4 at once; updates move no address, and nothing is recorded again."""
    network, versions = images(word, 0.5, rows), []

    class Watch(Rewirer):
        def update(self, trainer: Any) -> Any:
            before = trainer.network.version
            done = super().update(trainer)
            versions.append(trainer.network.version - before)
            return done

    moves = Watch(RIGL, RewiringSchedule(3, 24, 0.3), granularity=word)
    trainer = Trainer(network, data((2, 6, 6)), SGD(0.05, 0.9), epochs=4, batch_size=16, callbacks=[moves])
    trainer.run()
    assert versions == [0] * 8
    for path, count in zip(PIXELS, groups, strict=True):
        layer: Any = network[path]
        assert len(layer.plan.forward.starts) - 1 == count, path
        fresh = layer.plan_of(layer.pattern)
        for one, other in ((layer.plan.forward, fresh.forward),):
            assert np.array_equal(one.indptr, other.indptr) and np.array_equal(one.offsets, other.offsets)
        x = np.random.default_rng(1).standard_normal((5, *layer.in_shape)).astype(np.float32)
        dy = np.random.default_rng(2).standard_normal((5, *layer.out_shape)).astype(np.float32)
        y, cache = layer.forward(x)
        dx, grads = layer.backward(dy, cache)
        layer.take_pattern(layer.pattern, fresh)
        again, cache = layer.forward(x)
        other_dx, other_grads = layer.backward(dy, cache)
        assert np.allclose(y, again, atol=1e-5) and np.allclose(dx, other_dx, atol=1e-5)
        assert np.allclose(grads["weight"], other_grads["weight"], atol=1e-4)


@pytest.mark.parametrize(
    ("word", "way"), [("rows:4", "rigl"), ("rows:4", "regrow"), ("block:4,2", "regrow"), ("channel", "regrow")]
)
def test_a_run_that_moves_units_goes_on_to_the_same_bits(
    word: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(
        model="lenet5", dataset="mnist-subset", hidden=(8, 12, 20), epochs=1, batch_size=400, every=3, rewire=way,
        sparsity=0.8, granularity=word, **({"start_sparsity": 0.4} if way == "regrow" else {}),
    )  # type: ignore[arg-type]  # fmt: skip

    class Stop(Callback):
        def __init__(self, step: int) -> None:
            self.step = step

        def stepped(self, trainer: Any) -> None:
            if trainer.steps_done == self.step:
                trainer.stop()

    run(config, out="whole")
    for step in (5, 11):
        run(config, out="parts", resume=step > 5, callbacks=[Stop(step)])
    run(config, out="parts", resume=True)
    assert bits(tmp_path / "whole") == bits(tmp_path / "parts")


def test_parts_of_groups_cannot_move() -> None:
    with pytest.raises(PruneError, match="stores parts of groups of rows:4, so whole ones cannot move"):
        Rewirer(SET, RewiringSchedule(4, 40), layers=[0], granularity="rows:4").check(images("weight", 0.5))
    with pytest.raises(ValueError, match="filters: not with granularity"):
        Rewirer(SET, RewiringSchedule(4, 40), granularity="rows:4", filters=True)


# -- the command lines ------------------------------------------------------------------------------------------------


def test_runs_are_born_pruned_and_moved_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    common = "lenet5 --dataset mnist-subset --hidden 8,12,20 --epochs 1 --batch-size 500 --no-curves --granularity"
    for number, options in enumerate([
        "rows:4 --random --sparsity 0.8", "block:4,2 --prune gradual --prune-to 0.8 --prune-every 2",
        "rows:3 --rewire rigl --sparsity 0.8 --every 3",
        "rows:4 --random --sparsity 0.5 --prune one-time --prune-to 0.8",
    ]):  # fmt: skip
        word = options.split()[0]
        assert train.main([*f"{common} {options}".split(), "--out", str(number)]) == 0
        network = read(str(number)).network
        for path in network.sparse:
            pixels = 25 if isinstance(network[path], SparseConv2d) else 1
            assert whole(word, network.patterns[path], pixels), (options, path)
            assert abs(network.patterns[path].sparsity - 0.8) < 0.05
    assert prune(["0", "--sparsity", "0.95", "--granularity", "rows:4", "--out", "less.safetensors"]) == 0
    assert all(whole("rows:4", p, 25 if k == "2" else 1) for k, p in read("less.safetensors").network.patterns.items()
               if k in ("2", "5"))  # fmt: skip
    again = ["lenet5", "--from", "0", "--prune", "one-time", "--prune-to", "0.9", "--granularity", "rows:2", "--out"]
    assert train.main([*again, "again", "--epochs", "1", "--batch-size", "500", "--quiet", "--no-curves"]) == 0
    assert whole("rows:2", read("again").network.patterns["2"], 25)
