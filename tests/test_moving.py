"""Connections move: the same go and come as by brute force, counts stay exact, and a run's bits survive everything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparsecore.kernels.cpu.change import moving_key

from sparsecore import train
from sparsecore.data import Dataset, Split
from sparsecore.layers import MaxPool2d, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.prune import (
    REGROW,
    RIGL,
    SET,
    Method,
    PruneError,
    Rewirer,
    RewiringSchedule,
    at_random,
    of_all,
    of_candidates,
)
from sparsecore.prune.schedule import polynomial
from sparsecore.runs.checkpoint import read
from sparsecore.runs.trainer import Trainer
from sparsecore.runtime.devices import set_threads
from sparsecore.storage.growth import free_places, units_of, whole_units
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, filters, uniform_random
from sparsecore.training.callbacks import Callback
from sparsecore.training.optimizers import SGD, Adam

from .command.given import bits

METHODS = {
    "set": SET, "rigl": RIGL, "exact": Method(of_all), "regrow": REGROW,
    "exact regrow": Method(of_all, towards=polynomial()),
    "rows": Method(of_candidates(2.5), by_row=True), "exact rows": Method(of_all, by_row=True),
    "random rows, sparser": Method(at_random, by_row=True, towards=polynomial()),
}  # fmt: skip


def data(shape: tuple[int, ...] = (30,), samples: int = 96) -> Dataset:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((samples, int(np.prod(shape)))).astype(np.float32)
    y = rng.integers(0, 4, samples, dtype=np.int32)
    return Dataset("noise", "made here", Split(x, y), Split(x[:20], y[:20]), shape, 4, (0.0,) * 1, (1.0,) * 1)


def mlp(dtype: Any = np.float32, sparsity: float = 0.8) -> Network:
    rng = np.random.default_rng(3)
    return Network(
        [
            SparseLinear(uniform_random(24, 30, sparsity, rng), relu=True, rng=rng, dtype=dtype),
            SparseLinear(uniform_random(16, 24, sparsity, rng), relu=True, rng=rng, dtype=dtype),
            SparseLinear(dense(4, 16), rng=rng, dtype=dtype),
        ]
    )


def images(granularity: str) -> Network:
    rng = np.random.default_rng(4)
    second = uniform_random(6, 5 * 9, 0.7, rng)
    if granularity == "filter":
        second = filters(uniform_random(6, 5, 0.5, rng), 3)
    return Network(
        [
            SparseConv2d(dense(5, 2 * 9), (2, 6, 6), 3, padding=1, relu=True, rng=rng),
            MaxPool2d((5, 6, 6), 2),
            SparseConv2d(second, (5, 3, 3), 3, padding=1, relu=True, rng=rng),
            SparseLinear(uniform_random(4, 54, 0.5, rng), rng=rng),
        ]
    )


class Brute(Callback):
    """Before each update works out, in plain NumPy on whole matrices, what must be there after it; then compares."""

    def __init__(self, rewirer: Rewirer) -> None:
        self.rewirer, self.updates = rewirer, 0

    def started(self, trainer: Any) -> None:
        self.rewirer.started(trainer)

    def stepped(self, trainer: Any) -> None:
        if not self.rewirer.schedule.due(trainer.steps_done):
            return
        network = trainer.network
        paths = [path for path in network.sparse if not network.patterns[path].is_full]
        wanted = {path: self.expected(trainer, path, number) for number, path in enumerate(paths)}
        before = {path: self.numbers(trainer, path) for path in paths}
        self.rewirer.update(trainer)
        self.updates += 1
        for path, there in wanted.items():
            pattern = network.patterns[path]
            assert np.array_equal(pattern.to_scipy().toarray() != 0, there), (self.updates, path)
            for name, old in before[path].items():
                assert np.array_equal(self.numbers(trainer, path)[name], np.where(there, old, 0)), (path, name)

    @staticmethod
    def numbers(trainer: Any, path: str) -> dict[str, Any]:
        """The weights and the optimizer's columns as whole matrices, zero where there is no connection."""
        pattern = trainer.network.patterns[path]
        row = trainer.network.table.by_path[f"{path}.weight"]
        found = {}
        columns = {"values": trainer.network.table.values} | trainer.optimizer.columns
        for name, column in columns.items():
            found[name] = np.zeros(pattern.shape, column.dtype)
            found[name][pattern.rows, pattern.indices] = trainer.network.device.get(column)[row.slice]
        return found

    def expected(self, trainer: Any, path: str, number: int) -> Any:
        method, schedule, step = self.rewirer.method, self.rewirer.schedule, trainer.steps_done
        pattern = trainer.network.patterns[path]
        layer = trainer.network[path]
        size = 9 if self.rewirer.filters and isinstance(layer, SparseConv2d) else 1
        rows, columns = pattern.shape[0], pattern.shape[1] // size
        weight = self.numbers(trainer, path)["values"].reshape(rows, columns, size)
        there = (pattern.to_scipy().toarray() != 0).reshape(rows, columns, size)[..., 0]
        gradient = trainer.network.device.get(trainer.gradient_at(path, dense(*pattern.shape)))
        gradient = gradient.reshape(rows, columns, size)
        matters, slope = np.abs(weight), np.abs(gradient)
        if size > 1:
            matters, slope = np.square(weight), np.square(gradient)
        matters, slope = matters.sum(2), slope.sum(2)
        stretches = [[k] for k in range(rows)] if method.by_row else [list(range(rows))]
        units = units_of(pattern, size)
        key, drawn = int(moving_key(0, step, number)), np.zeros_like(there)
        counts = []
        for stretch in stretches:
            held, possible = int(there[stretch].sum()), len(stretch) * columns
            goal = held
            if method.towards is not None:
                s = method.towards(schedule.progress(step), *self.rewirer._sparsities(path))
                goal = min(held, int(np.rint((1 - s) * possible)))
            counts.append((goal, min(int(np.rint(schedule.at(step) * goal)), possible - held), possible - held))
        times = method.comes.args[0] if isinstance(method.comes, partial) else None  # of_candidates
        asked = [
            free if method.comes is of_all else min(come, free) if times is None
            else min(int(np.ceil(times * come)), free)
            for _, come, free in counts
        ]  # fmt: skip
        edges = np.arange(rows + 1) if method.by_row else np.array([0, rows])
        places = free_places(units, edges, np.array(asked), key)
        drawn[places.rows, places.columns] = True
        after = np.zeros_like(there)
        for stretch, (goal, come, _) in zip(stretches, counts, strict=True):
            flat = [(r, c) for r in stretch for c in range(columns)]
            stored = [at for at in flat if there[at]]
            stay = sorted(stored, key=lambda at: -matters[at])[: goal - come]  # a stable sort: of equals the first
            for at in stay:
                after[at] = True
            able = [at for at in flat if (at not in stay if method.comes is of_all else drawn[at])]
            ranked = able if method.comes is at_random else sorted(able, key=lambda at: -slope[at])
            for at in ranked[:come]:
                after[at] = True
        return np.repeat(after, size, axis=1)


def rewirer(method: Method, every: int = 4, end: int = 44, **options: Any) -> Rewirer:
    if method.towards is not None:
        options = {"targets": 0.9, "initial": 0.7} | options
    return Rewirer(method, RewiringSchedule(every, end, 0.4), **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", [lambda: SGD(0.1, 0.9, 1e-3), lambda: Adam(0.01)], ids=["SGD", "Adam"])
def test_the_same_connections_go_and_come_as_by_brute_force(method: str, optimizer: Callable[[], Any]) -> None:
    brute = Brute(rewirer(METHODS[method]))
    Trainer(mlp(), data(), optimizer(), epochs=8, batch_size=16, callbacks=[brute]).run()
    assert brute.updates == 11


@pytest.mark.parametrize("method", ["set", "rigl", "exact", "regrow", "exact rows"])
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_convolutions_move_by_weights_and_by_filters(method: str, granularity: str) -> None:
    found = METHODS[method]
    whole = granularity == "filter"
    brute = Brute(rewirer(found, filters=whole, **({"targets": 0.8, "initial": 0.5} if found.towards else {})))
    network = images(granularity)
    Trainer(network, data((2, 6, 6)), SGD(0.05, 0.9), epochs=8, batch_size=16, callbacks=[brute]).run()
    assert brute.updates == 11
    if whole:
        assert all(units_of(network.patterns[path], 9) is not None for path in ("2",))


@pytest.mark.parametrize("method", ["exact", "exact regrow", "exact rows"])
def test_blocks_of_rows_choose_as_all_rows_at_once_do(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecore.prune.methods.EXACT_BLOCK", 100)
    brute = Brute(rewirer(METHODS[method]))
    Trainer(mlp(sparsity=0.9), data(), SGD(0.1, 0.9), epochs=8, batch_size=16, callbacks=[brute]).run()
    assert brute.updates == 11


def test_the_gradient_of_absent_connections_is_that_of_a_dense_network() -> None:
    """In float64, and of the stored ones the bits of the step itself."""
    network = mlp(np.float64)
    for _, layer in network.walk():
        layer.bias[...] = np.random.default_rng(0).standard_normal(len(layer.bias))  # off the ReLU's kink
    trainer = Trainer(network, data(), SGD(1e-30), epochs=1, batch_size=48)

    class Look(Callback):
        def stepped(self, trainer: Any) -> None:
            full = []
            for path, layer in network.walk():
                matrix = layer.to_scipy().toarray()
                whole = dense(*matrix.shape)
                full.append(SparseLinear(whole, matrix.ravel(), layer.bias, relu=layer.relu, dtype=np.float64))
                own = trainer.gradient_at(path, layer.pattern)
                assert np.array_equal(own, network.views(trainer._step.grads)[path]["weight"])
            twin = Network(full)
            other = Trainer(twin, data(), SGD(1e-30), epochs=1, batch_size=48)
            other.store.shuffle(0, 0)
            other._step.run((trainer.state.batch - 1) * 48, 48)
            for path, layer in network.walk():
                wanted = twin.views(other._step.grads)[path]["weight"]
                found = trainer.gradient_at(path, dense(*layer.pattern.shape))
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())

    trainer.callbacks.append(Look())
    trainer.run()

@pytest.mark.parametrize("format", ["csr", "coo"])
def test_a_gradient_asked_of_ever_other_connections_has_the_bits_of_one_asked_once(format: Any) -> None:
    """Of fewer than before, more, none, all, and after another step: on the same recorded call or a new one."""
    network = mlp()
    for path in network.sparse:
        layer = network[path]
        assert isinstance(layer, SparseLinear)
        layer.format = format
        layer.take_pattern(layer.pattern, layer.plan_of(layer.pattern))
    trainer = Trainer(network, data(), SGD(0.01), epochs=1, batch_size=16)
    trainer.prepare()
    trainer.store.shuffle(0, 0)
    rng, step = np.random.default_rng(0), trainer._step
    for k, density in enumerate((0.2, 0.1, 0.0, 0.15, 0.4, 1.0, 0.3)):
        if k % 3 == 0:
            step.run(16 * (k // 3), 16)
            shapes = {path: network.patterns[path].shape for path in network.sparse}
            every = {path: step.gradient_at(path, dense(*shape)).copy() for path, shape in shapes.items()}
        for path, full in every.items():
            shape = shapes[path]
            asked, _ = SparsityPattern.from_dense(rng.random(shape) < density)
            found = step.gradient_at(path, asked).copy()
            whole = SparseLinear(asked, format=format, dtype=network.dtype)
            sampled = step._workspaces[16].at(path).sampled
            once = np.empty(asked.nnz, network.dtype)
            network.device.launcher().sddmm(whole.plan.forward, sampled.grid, sampled.dy, sampled.x, once)
            assert np.array_equal(found, once)
            near = full.reshape(shape)[asked.rows, asked.indices]
            np.testing.assert_allclose(found, near, rtol=0, atol=1e-5 * np.abs(full).max())


def test_an_update_records_nothing_and_lays_out_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one records how gradients are sampled; all others, of as many candidates or fewer, play that."""
    from sparsecore.kernels.cpu.launch import Tape

    from sparsecore.storage import plan

    trainer = Trainer(mlp(), data(), SGD(0.1, 0.9), epochs=1, batch_size=16)
    moves = rewirer(RIGL, 1, 20)
    trainer.prepare()
    moves.started(trainer)
    trainer.store.shuffle(0, 0)
    for k in range(3):
        trainer._step.run(16 * k, 16)
        trainer.state.batch = k + 1
        assert sum(layer.came for layer in moves.update(trainer)) > 0
        if k == 0:
            for owner, name in ((Tape, "append"), (plan, "laid_out"), (plan, "layout_of"), (plan, "_rows_alone")):
                monkeypatch.setattr(owner, name, lambda *given, name=name, **options: pytest.fail(name))


def test_counts_are_exact_for_ever_and_the_end_is_the_goal() -> None:
    network = mlp(sparsity=0.7)
    trainer = Trainer(network, data(), SGD(0.1, 0.9), epochs=30, batch_size=16, callbacks=[rewirer(REGROW, 4, 136)])
    trainer.run()
    for path, size in (("0", 720), ("1", 384)):
        assert network.patterns[path].nnz == round(0.1 * size)
    still = mlp(sparsity=0.7)
    before = {path: pattern.nnz for path, pattern in still.patterns.items()}
    Trainer(still, data(), SGD(0.1, 0.9), epochs=30, batch_size=16, callbacks=[rewirer(RIGL, 4, 136)]).run()
    assert before == {path: pattern.nnz for path, pattern in still.patterns.items()}


def test_a_fixed_fan_in_stays() -> None:
    network = Network([SparseLinear(SparsityPattern((6, 30), np.arange(7) * 9, np.tile(np.arange(9), 6)), relu=True),
                       SparseLinear(dense(4, 6))])  # fmt: skip
    Trainer(network, data(), SGD(0.1), epochs=8, batch_size=16, callbacks=[rewirer(METHODS["rows"])]).run()
    assert network.patterns["0"].fan_in.tolist() == [9] * 6
    assert network.patterns["0"].indices.tolist() != np.tile(np.arange(9), 6).tolist()


@pytest.mark.parametrize("method", ["set", "rigl", "exact", "regrow"])
def test_the_same_bits_for_any_number_of_threads(method: str) -> None:
    found = []
    try:
        for threads in (1, 2, 3, 7):
            set_threads(threads)
            network = mlp()
            Trainer(network, data(), SGD(0.1, 0.9), epochs=8, batch_size=16, callbacks=[rewirer(METHODS[method])]).run()
            found.append((network.params.tobytes(), [p.indices.tobytes() for p in network.patterns.values()]))
    finally:
        set_threads(2)
    assert all(each == found[0] for each in found)


def test_an_update_of_equal_size_leaves_recorded_steps_valid() -> None:
    network = mlp()
    versions = []

    class Note(Callback):
        def stepped(self, trainer: Any) -> None:
            versions.append(network.version)

    callbacks = [rewirer(RIGL), Note()]
    Trainer(network, data(), SGD(0.1, 0.9), epochs=8, batch_size=16, callbacks=callbacks).run()
    assert len(set(versions)) == 1


# -- on the command line ---------------------------------------------------------------------------------------------

MOVING = ["lenet300", "--dataset", "mnist-subset", "--hidden", "40,20", "--every", "20", "--epochs", "4", "--quiet",
          "--no-curves", "--save-every", "0"]  # fmt: skip


@pytest.mark.parametrize(
    "how", [("set",), ("rigl",), ("rigl", "--grow", "exact", "--fixed-fan-in"), ("regrow", "--start-sparsity", "0.7")],
    ids=lambda how: " ".join(how),
)  # fmt: skip
def test_a_run_that_is_resumed_has_the_same_bits(how: tuple[str, ...], tmp_path: Path) -> None:
    words = [*MOVING, "--sparsity", "0.9", "--rewire", *how]
    assert train.main([*words, "--out", str(tmp_path / "whole")]) == 0

    class Stop(Callback):
        def stepped(self, trainer: Any) -> None:
            if trainer.steps_done in (20, 95, 100):
                trainer.stop()

    from sparsecore.commands.options import read as read_line
    from sparsecore.commands.training import run

    config = read_line([*words, "--out", str(tmp_path / "cut")]).config()
    trainer = run(config, out=tmp_path / "cut", callbacks=[Stop()])
    stops = 1
    while trainer.state.result is None:
        trainer = run(out=tmp_path / "cut", resume=True, callbacks=[Stop()])
        stops += 1
    assert stops == 4
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
    one, other = read(tmp_path / "cut"), read(tmp_path / "whole")
    assert one.arrays.keys() == {"tried:0", "tried:1"}
    for name in one.arrays:
        assert np.array_equal(one.arrays[name], other.arrays[name])
    assert one.network.patterns == other.network.patterns


def test_what_a_run_records(tmp_path: Path) -> None:
    from .command.given import records

    words = [*MOVING, "--sparsity", "0.9", "--rewire", "rigl", "--out", str(tmp_path / "r")]
    assert train.main(words) == 0
    lines = [line for line in records(tmp_path / "r") if line["event"] == "rewire"]
    assert [line["step"] for line in lines] == list(range(20, 190, 20))
    for line in lines:
        for layer in line["layers"]:
            assert layer["went"] == layer["came"] and layer["connections"] <= layer["tried"]
    first = lines[0]["layers"][0]
    assert first["came"] == round(lines[0]["fraction"] * first["connections"])
    tried = [line["layers"][0]["tried"] for line in lines]
    assert tried == sorted(tried) and tried[-1] > 1.5 * tried[0] - first["connections"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rewire rigl", "--rewire: needs --sparsity"),
        ("--rewire rigl --sparsity 0.9 --fraction 0", "--fraction: expected a fraction above 0 and below 1"),
        ("--rewire rigl --sparsity 0.9 --fraction 1", "--fraction: expected a fraction above 0 and below 1"),
        ("--rewire rigl --sparsity 0.9 --until 1.5", "--until: expected a fraction above 0 and below 1"),
        ("--rewire rigl --sparsity 0.9 --every 10000", "--every: must be within the first 189 of the run's 252 steps"),
        ("--rewire rigl --sparsity 0.9 --grow 0.5", "--grow: expected exact, or a number from 1"),
        ("--rewire set --sparsity 0.9 --grow exact", "--grow: goes with --rewire rigl or regrow"),
        ("--rewire rigl --sparsity 0.9 --prune gradual --prune-to 0.95", "--prune: not with --rewire"),
        ("--rewire rigl --dense", "--dense: not with --rewire"),
        ("--rewire rigl --sparsity 0.1 --fraction 0.9", "places are free: move a smaller fraction"),
        ("--rewire rigl --sparsity 0", "has all connections already"),
        ("--rewire regrow --radix 4,10", "--rewire regrow: needs --sparsity"),
        ("--rewire regrow --sparsity 0.99999 --start-sparsity 0.5 --every 5", "no connections would be left at"),
        ("--rewire regrow --sparsity 0.9995 --fixed-fan-in --every 5", "connections would be left at sparsity 0.9995"),
        ("--rewire rigl --sparsity 0.9 --start-sparsity 0.5", "--start-sparsity: goes with --rewire regrow only"),
        ("--rewire regrow --sparsity 0.5 --start-sparsity 0.8", "--start-sparsity: must be at most --sparsity"),
        ("--every 5", "--every: goes with --rewire"),
        ("--fixed-fan-in", "--fixed-fan-in: goes with --rewire"),
    ],
)
def test_what_cannot_be_is_refused_by_one_line_and_nothing_is_made(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = [word for word in MOVING if word not in ("--every", "20")]
    begin.insert(begin.index("--hidden") + 1, "40,20") if "40,20" not in begin else None
    assert train.main([*begin, *words.split(), "--out", str(tmp_path / "r")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "r").exists()


# -- in Python -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(0, 10, 0.3), (10, 5, 0.3), (1, 10, 0.0), (1, 10, 1.0), (1, 10, float("nan"))])
def test_a_schedule_is_in_range(numbers: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RewiringSchedule(*numbers)


def test_a_layer_that_cannot_move_is_refused() -> None:
    empty = Network([SparseLinear(SparsityPattern((3, 30), [0, 0, 0, 0], [])), SparseLinear(dense(4, 3))])
    for layers, network, message in (
        (["0"], empty, "has no connections that could move"), (["2"], mlp(), "has all connections already"),
        ([2], mlp(), "has all connections already"), (["0"], mlp(sparsity=0.05), "places are free"),
    ):  # fmt: skip
        with pytest.raises(PruneError, match=message):
            Rewirer(RIGL, RewiringSchedule(4, 40, 0.4), layers=layers).check(network)
    with pytest.raises(PruneError, match="stores parts of filters"):
        Rewirer(RIGL, RewiringSchedule(4, 40), layers=["2"], filters=True).check(images("weight"))
    with pytest.raises(ValueError, match="targets"):
        Rewirer(REGROW, RewiringSchedule(4, 40))


def test_units_are_whole_filters() -> None:
    units = uniform_random(5, 7, 0.5, np.random.default_rng(0))
    assert units_of(whole_units(units, 9), 9) == units
    assert units_of(uniform_random(5, 63, 0.5, np.random.default_rng(0)), 9) is None
    assert units_of(uniform_random(5, 62, 0.5, np.random.default_rng(0)), 9) is None


@pytest.mark.parametrize("start", [0.01, 0.05, 0.2])
def test_a_layer_that_begins_nearly_full_ends_at_the_sparsity_that_was_asked_for(start: float) -> None:
    """No more come than there are free places: what went for the sake of others would be missing for good."""
    net = mlp(np.float32, start)
    rewirer = Rewirer(REGROW, RewiringSchedule(2, 20, 0.3), layers=[0], targets={0: 0.3}, initial=start, seed=1)
    Trainer(net, data(), SGD(0.1), epochs=4, batch_size=16, callbacks=[rewirer]).run()
    assert net.patterns[0].nnz == round(0.7 * 24 * 30)


def test_sparsities_must_name_the_layers_that_move() -> None:
    net, schedule = mlp(), RewiringSchedule(2, 20)
    for given in ({"targets": {1: 0.9}}, {"targets": 0.9, "initial": {"1": 0.8}}):
        with pytest.raises(PruneError, match=r"layer 0, .*: (targets|initial) must have a sparsity for it, .* of 1$"):
            Rewirer(REGROW, schedule, layers=[0], **given).check(net)
