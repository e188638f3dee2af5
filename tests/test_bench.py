"""The benchmarks compare engines that do the same thing, and say what they measured in the promised form."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import epoch, latency, scaling, steps
from bench.engines import Contender, contenders, numpy_hand, sparsecore
from bench.environment import AVX2, FORCED, THREADS, settled
from bench.halves import half_contenders
from bench.options import Options
from bench.problem import Problem, as_dense, training_problem
from bench.tables import markdown
from bench.timing import Budget, Entry, Row, fastest_rows, interleaved
from sparsecore.data import load
from sparsecore.runtime.devices import cpu
from sparsecore.topology import dense, uniform_random

ROOT = Path(__file__).resolve().parent.parent
ENGINES = {"sparsecore", "torch-eager", "torch-hand", "numpy-hand", "torch-csr", "scipy"}


def plainly(problem: Problem, steps: int) -> list[float]:
    """Losses of these many steps, in float64 and with nothing clever."""
    weights = [as_dense(p, w).astype(np.float64) for p, w in zip(problem.patterns, problem.weights, strict=True)]
    masks = [as_dense(p, np.ones(p.nnz)) for p in problem.patterns]
    biases = [np.zeros(len(w)) for w in weights]
    batch = np.arange(len(problem.x))
    losses = []
    for _ in range(steps):
        h = [problem.x.astype(np.float64)]
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            z = h[-1] @ w.T + b
            h.append(z if k == len(weights) - 1 else np.maximum(z, 0))
        losses.append(cross_entropy(h[-1], problem.labels))
        dy = np.exp(h[-1]) / np.exp(h[-1]).sum(1, keepdims=True)
        dy[batch, problem.labels] -= 1
        dy /= len(batch)
        for k in reversed(range(len(weights))):
            dw, db = (dy.T @ h[k]) * masks[k], dy.sum(0)
            dy = (dy @ weights[k]) * (h[k] > 0)
            weights[k] -= problem.rate * dw
            biases[k] -= problem.rate * db
    return losses


def cross_entropy(logits: Any, labels: Any) -> float:
    z = np.asarray(logits, np.float64)
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]))


def name(contender: Contender) -> str:
    return f"{contender.engine} {contender.variant}".strip()


STEPS = [
    pytest.param(contender, topology, id=f"{name(contender)}, {topology}")
    for contender in contenders("step", 1) + contenders("step", 2)[:1]
    for topology in ("dense", "random", "radix")
    if contender.suits(topology, 0)
]


@pytest.mark.parametrize(("contender", "topology"), STEPS)
def test_engines_learn_the_same(contender: Contender, topology: str) -> None:
    """From the same values, on the same batch; a batch that fills its last tile only in part."""
    problem = training_problem((784, 300, 100, 10), topology, 0.9, batch=40, rate=0.1)
    expected = plainly(problem, 5)
    assert expected[-1] < 0.8 * expected[0], "a problem on which nothing is learned shows nothing"
    step = contender.make(problem)
    losses = []
    for _ in expected:
        step.run()
        losses.append(cross_entropy(step.result(), problem.labels))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


HALF_STEPS = [
    pytest.param(contender, topology, id=f"{name(contender)}, {topology}")
    for contender in half_contenders("lenet300", 1) for topology in ("dense", "random", "radix")
    if contender.suits(topology, 0)
]  # fmt: skip


@pytest.mark.parametrize(("contender", "topology"), HALF_STEPS)
def test_engines_learn_the_same_in_bfloat16_but_for_rounding(contender: Contender, topology: str) -> None:
    problem = training_problem((784, 300, 100, 10), topology, 0.9, batch=40, rate=0.1)
    expected, step, losses = plainly(problem, 5), contender.make(problem), []
    for _ in expected:
        step.run()
        losses.append(cross_entropy(step.result(), problem.labels))
    np.testing.assert_allclose(losses, expected, rtol=0.01)
    assert np.abs(np.array(losses) / expected - 1).max() > 1e-5, "nothing was rounded"


def test_steps_in_bfloat16_have_a_table_of_their_own() -> None:
    fields = {"bench": "step", "model": "lenet300", "batch": 128, "threads": 1, "gflops": 1.0}
    times = {"dense": {"sparsecore": 4, "sparsecore bf16": 2, "numpy-hand": 8, "torch-hand": 6, "torch bf16": 3,
                       "torch-eager": 5}, "random": {"sparsecore": 1, "sparsecore bf16": 0.5, "torch-csr": 2}}
    rows = [fields | {"topology": topology, "sparsity": 0.9 * (topology == "random"), "engine": engine, "ms": ms}
            for topology, each in times.items() for engine, ms in each.items()]  # fmt: skip
    *_, full, sparse = [[cell.strip() for cell in line.strip("| ").split("|")] for line in
                        steps.table(rows).splitlines() if line.startswith("|")]  # fmt: skip
    assert full == ["dense", "4", "2", "6", "3", "–", "2.00×", "3.00×", "1.50×", "–", "1"]
    assert sparse == ["random 90%", "1", "0.5", "–", "–", "2", "2.00×", "12.00×", "6.00×", "4.00×", "1"]


@pytest.mark.parametrize("topology", ["dense", "random"])
@pytest.mark.parametrize("what", ["gather", "sample"])
def test_kernels_compute_the_same(what: str, topology: str) -> None:
    rng = np.random.default_rng(1)
    pattern = dense(30, 70) if topology == "dense" else uniform_random(30, 70, 0.8, rng)
    data = rng.standard_normal(pattern.nnz, np.float32)
    x, dy = rng.standard_normal((70, 20), np.float32), rng.standard_normal((30, 20), np.float32)
    if what == "gather":
        operands, expected = (data, x), as_dense(pattern, data) @ x
    else:
        operands, expected = (dy, x), (dy @ x.T)[pattern.rows, pattern.indices]
    for contender in contenders(what, 1):
        if contender.suits(topology, 0):
            timed = contender.make(pattern, *operands)
            timed.run()
            timed.run()  # a result is overwritten, never added to
            np.testing.assert_allclose(timed.result(), expected, rtol=1e-4, atol=1e-4, err_msg=name(contender))


def test_layer_steps_compute_the_same() -> None:
    """From weights of zero, with ones coming in from both sides, one step takes rate · batch off every weight."""
    pattern, batch = dense(30, 70), 20
    for step, biases in (
        (numpy_hand.LayerStep(pattern, batch, "C"), 0),
        (numpy_hand.LayerStep(pattern, batch, "F"), 0),
        (sparsecore.LayerStep(pattern, batch, 1), 1),
    ):
        step.run()
        step.run()
        np.testing.assert_allclose(step.result(), np.full((30, batch), -1e-3 * batch * (70 + biases)), rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 4])
def test_answers_are_the_same(batch: int) -> None:
    ways = latency.answers(training_problem((784, 300, 100, 10), "random", 0.9, batch))
    wanted = np.asarray(ways.pop(("scipy", ""))())
    assert wanted.shape == (batch, 10)
    for (engine, way), run in ways.items():
        expected = wanted.argmax(1) if way == "predict" else wanted
        np.testing.assert_allclose(np.asarray(run()), expected, rtol=1e-4, atol=1e-5, err_msg=f"{engine} {way}")


def test_epochs_see_the_same_numbers() -> None:
    """NumPy's epoch normalises the bytes as the store does."""
    data = load("mnist-subset")
    train = data.train.take(np.arange(50))
    peer = epoch.NumpyEpoch(data, train, training_problem((784, 20, 10, 10), "dense", 0, batch=50))
    peer.rng = np.random.default_rng(3)
    peer.run()
    order = np.random.default_rng(3).permutation(50)
    expected = (train.x[order] / 255.0 - data.mean[0]) / data.std[0]
    np.testing.assert_allclose(peer.step.x.T, expected, atol=1e-5)
    np.testing.assert_array_equal(peer.step.truth.argmax(0), train.y[order])


def test_calls_take_turns() -> None:
    seen = []
    calls = [lambda name=name: seen.append(name) for name in "ABC"]
    times = interleaved(calls, Budget(seconds=0, rounds=4, turn=0))
    assert len(times) == 3
    assert min(times) >= 0
    assert "".join(seen) == "AABBCC" + "AAABBBCCC" * 4  # two to begin with; then one that is not timed and two that are


def test_a_short_call_fills_its_turn() -> None:
    count = 0

    def call() -> None:
        nonlocal count
        count += 1

    interleaved([call], Budget(seconds=0, rounds=1, turn=0.001))
    assert count > 100


def test_the_fastest_variant_makes_the_row() -> None:
    def busy(turns: int) -> Any:
        return lambda: sum(range(turns))

    fields = {"engine": "numpy-hand", "sparsity": 0.0, "flops": 10**6}
    entries = [Entry(fields | {"variant": str(turns)}, busy(turns)) for turns in (200_000, 20, 100_000)]
    entries.append(Entry(fields | {"sparsity": 0.5, "variant": "other"}, busy(50_000)))
    rows = fastest_rows(entries, Budget(seconds=0, rounds=3, turn=0))
    assert [row["variant"] for row in rows] == ["20", "other"]
    assert rows[0]["gflops"] == pytest.approx(1 / rows[0]["ms"])


def points(*times: float) -> list[Row]:
    """Rows at 50, 75 and 87.5% of 1,000 connections."""
    return [
        {"sparsity": 1 - 0.5**k, "connections": 1000 * 0.5**k, "ms": ms, "engine": "sparsecore"}
        for k, ms in enumerate(times, start=1)
    ]


def test_slope_and_crossover() -> None:
    assert scaling.slope(points(8, 4, 2)) == pytest.approx(1)
    assert scaling.slope(points(8, 8, 8)) == pytest.approx(0)
    own: Row = {"ms": 8.0}
    assert scaling.crossover(points(8, 4, 2), own).startswith("faster than our own dense at every sparsity from 50%")
    assert scaling.crossover(points(16, 4, 2), own) == "as fast as our own dense at 65% sparsity"  # kept: 0.5 · 0.5^½
    assert scaling.crossover(points(16, 12, 9), own).startswith("slower than our own dense up to 88%")


def test_tables_are_markdown() -> None:
    lines = markdown("Title", ["a", "b"], [["one", "1"], ["three", "1,234"]]).splitlines()
    assert lines == ["Title", "", "| a     |     b |", "|-------|------:|", "| one   |     1 |", "| three | 1,234 |"]


def test_the_environment_frees_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in FORCED:
        monkeypatch.setenv(variable, "Haswell")
    wanted = settled(2)
    assert not set(FORCED) & set(wanted)
    assert [wanted[variable] for variable in THREADS] == ["2", "2", "2"]
    assert {name: settled(2, avx2=True)[name] for name in AVX2} == AVX2
    assert {**settled(2, avx2=True), **AVX2} == {**wanted, **AVX2}


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Row], bytes]:
    """Everything there is, at its smallest, where PyTorch cannot be imported and BLAS is told to be slow."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "torch.py").write_text("raise ImportError('not here')")
    rows, plot = folder / "rows.json", folder / "plot.png"
    done = bench(
        "--quick", "--json", str(rows), "--plot", str(plot), PYTHONPATH=str(folder), OPENBLAS_CORETYPE="Haswell"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(rows.read_text()), plot.read_bytes()


def test_rows_are_as_promised(quick: tuple[str, list[Row], bytes]) -> None:
    rows = quick[1]
    for row in rows:
        kinds = {"bench": str, "model": str, "sparsity": float, "batch": int, "threads": int, "ms": float}
        assert {name: type(row[name]) for name in kinds} == kinds, row
        assert row["topology"] in ("random", "radix", "channel", "dense")
        assert row["engine"] in ENGINES
        assert 0 <= row["sparsity"] < 1
        assert (row["sparsity"] == 0) == (row["topology"] == "dense")
        assert row["ms"] > 0
    kernels = {"ceiling", "roofline", "gather", "sample", "product", "conv"}
    benches = kernels | {"step", "scaling", "threads", "epoch", "pack", "profile", "busy", "large", "latency"}
    assert {row["bench"] for row in rows} == benches
    steps = {(row["engine"], row["topology"]) for row in rows if row["bench"] == "step"}
    ours = {("sparsecore", topology) for topology in ("dense", "random", "radix")}
    assert steps == ours | {("numpy-hand", "dense"), ("scipy", "random"), ("scipy", "radix")}
    keys = [tuple(v for name, v in row.items() if name not in ("ms", "mean_ms", "gflops", "variant")) for row in rows]
    assert len(set(keys)) == len(keys), "a row appears twice"


def test_what_is_printed_names_the_machine_and_what_is_missing(quick: tuple[str, list[Row], bytes]) -> None:
    printed = quick[0]
    assert printed.count("OPENBLAS_CORETYPE") == 1, "said once, then started again without it"
    assert "bit registers" in printed
    assert "Ceiling: sgemm" in printed
    assert "PyTorch is not installed" in printed
    assert "nan" not in printed.lower()


def test_the_plot_is_a_picture(quick: tuple[str, list[Row], bytes]) -> None:
    assert quick[2].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["walk"], "must be one of step, gather"),
        (["step", "--sparsity", "90"], "must be between 0 and 1, got 90"),
        (["step", "--batch", "0"], "must be at least 1, got 0"),
        (["step", "--model", "vgg"], "choose from"),
        (["gather", "--activations", "bfloat16"], "--activations bfloat16 is for step, on a CPU"),
        (["epoch", "--model", "lenet5"], "epoch is not for lenet5, which has step, conv"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(arguments: list[str], words: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("name", "wanted"), [("busy", "PyTorch's threads"), ("large", "torch CSR")])
def test_tables_beside_pytorch(name: str, wanted: str) -> None:
    pytest.importorskip("torch")
    module, before = import_module(f"bench.{name}"), cpu().given
    rows = module.measure(Options(threads=2, quick=True))
    table = module.table(rows)
    assert wanted in table and "–" not in table
    assert all(row["ms"] > 0 for row in rows)
    assert cpu().given == before


def test_what_optimizers_cost_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    from bench import optimizers

    optimizers.main((0.9,), quick=True)
    table = capsys.readouterr().out
    assert "| 90%" in table and "AdamW over it" in table


def test_what_width_costs_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    from bench import wider

    wider.main(quick=True)
    first, *others = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "×" in line]
    connections = [int(cells[3].replace(",", "")) for cells in (first, *others)]
    assert len(others) == 4 and max(connections) - min(connections) < 100, "as many connections in all"


def test_what_moving_connections_costs_is_timed() -> None:
    from bench import dynamic

    for method in dynamic.METHODS.values():
        step, update, steps = dynamic.update("lenet300", 0.9, method, 2)
        assert min(step, update, steps) > 0
    assert "300 rows, 200 empty" in dynamic.rows(quick=True)


def test_what_pruning_costs_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    from bench import pruning

    pruning.main((0.9,), quick=True)
    title, _, head, _, dense, sparse, *_ = capsys.readouterr().out.splitlines()
    assert "LeNet-300-100" in title and "built at it" in head
    assert [line.split("|")[2].strip() for line in (dense, sparse)] == ["266,200", "27,520"]


def test_a_twin_has_as_many_connections_in_each_layer() -> None:
    from sparsecore.models.lenet300 import lenet300

    from bench.pruning import twin
    from sparsecore.prune import to_sparsity

    network = lenet300()
    to_sparsity(network, 0.97)
    built = twin(network)
    assert [p.nnz for p in built.patterns.values()] == [p.nnz for p in network.patterns.values()]
    assert built.patterns != network.patterns
