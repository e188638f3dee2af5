"""What a run takes of memory is said before it is taken, held to what is then taken, and refused where too much."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from bench import memory as measured
from sparsecore import RunConfig
from sparsecore.commands import plan as planning
from sparsecore.commands.build import build
from sparsecore.commands.plan import of_a_rank, plan
from sparsecore.commands.recipes import resolved
from sparsecore.console.arguments import UsageError
from sparsecore.data import load
from sparsecore.data.normalisation import Normalisation
from sparsecore.data.outline import Outline, outline
from sparsecore.evaluate import main as evaluate
from sparsecore.prune.__main__ import main as prune
from sparsecore.runs.checkpoint import read, save
from sparsecore.runtime import memory, processors
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.paper import Paper, sized
from sparsecore.storage.conv_plan import ConvPlan
from sparsecore.storage.counted import arrays_of
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.train import main
from sparsecore.training.evaluation import store_of
from sparsecore.training.needs import answering, needs
from sparsecore.training.optimizers import SGD
from sparsecore.training.step import Step

SMALL = {"dataset": "mnist-subset", "epochs": 1, "batch_size": 128}
RUNS = {
    "dense": {"model": "lenet300", "dense": True},
    "radix, adam": {"model": "lenet300", "radix": [[10, 10]], "optimizer": "adam"},
    "random, wide": {"model": "lenet300", "random": True, "sparsity": 0.9, "hidden": (600, 200), "batch_size": 48},
    "coo": {"model": "lenet300", "random": True, "sparsity": 0.8, "format": "coo"},
    "moving": {"model": "lenet300", "random": True, "sparsity": 0.9, "rewire": "set", "every": 20},
    "convolutions": {"model": "lenet5", "dense": True},
    "bfloat16": {"model": "lenet5", "dense": True, "activations": "bfloat16"},
    "sparse convolutions": {"model": "lenet5", "random": True, "sparsity": 0.7, "optimizer": "adam"},
}
QUICK = ("LeNet-300-100, dense", "784-3000-1000-10, dense, 512")


@pytest.mark.parametrize("name", RUNS)
def test_what_a_run_keeps_is_what_the_plan_says(name: str) -> None:
    config = RunConfig(**SMALL | RUNS[name])
    planned = plan(config).needs
    trainer = build(resolved(config))
    trainer.prepare()
    for each in trainer.evaluations.values():
        each.prepare()
    for own in planned.layers:
        workspaces = trainer._step._workspaces.values()
        arrays = [array for each in workspaces for array in each.at(own.path)._arrays.values() if array.ndim]
        found = {id(a): a for a in arrays if not np.may_share_memory(a, trainer._step.grads)}
        assert own.activations == sum(a.nbytes for a in found.values()), own.path
    columns = trainer.network.table.values.nbytes * (2 + len(trainer.optimizer.columns))
    assert sum(each.numbers for each in planned.layers) == pytest.approx(columns, rel=0.01)
    connections = trainer.network.connections
    assert sum(each.connections for each in planned.layers) == pytest.approx(connections, rel=0.03)
    kept = sum(each.nbytes for every in trainer.evaluations.values()
               for workspace in every._step._workspaces.values() for each in workspace.arrays())  # fmt: skip
    assert planned.evaluation == kept


@pytest.mark.skipif(not measured.STATUS.exists(), reason="reads /proc")
@pytest.mark.parametrize("name", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow)
                                  for each in measured.RUNS])  # fmt: skip
def test_a_process_takes_within_fifteen_percent_of_the_plan(name: str, tmp_path) -> None:
    config = measured.given(name, measured.write_images(tmp_path / "images.npz"))
    assert measured.planned(config) == pytest.approx(measured.peak(config), rel=0.15)


@pytest.mark.parametrize("model", ["lenet300", "lenet5"])
def test_activations_in_bfloat16_are_counted_as_such(model: str) -> None:
    data = load("mnist-subset")
    trainer = build(resolved(RunConfig(**SMALL | {"model": model, "random": True, "sparsity": 0.8})))
    network = trainer.network.to(activations="bfloat16")
    planned = needs(network, Outline.of(data), SGD(0.1), batch_size=128)
    store = store_of(network, data.train, Normalisation(data.shape, data.mean, data.std), cpu())
    step = Step(network, store, SGD(0.1))
    for size in {128, len(data.train) % 128 or 128}:
        step.prepare(size)
    for own in planned.layers:
        arrays = [each for workspace in step._workspaces.values() for each in workspace.at(own.path).arrays()]
        found = {id(a): a.nbytes for a in arrays if a.ndim and not np.may_share_memory(a, step.grads)}
        assert own.activations == sum(found.values()), own.path


def test_a_plan_that_only_goes_forward_keeps_what_it_walks() -> None:
    pattern = SparsityPattern.full((32, 16 * 9))
    plan = ConvPlan(pattern, (16, 8, 8), (32, 8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    assert plan.forward
    kept = sum(array.nbytes for array in arrays_of(plan))
    assert kept < 12 * pattern.nnz  # 4 bytes for where a connection is, 4 for where it reads, and those of rows
    assert plan.phases
    assert "rows" not in vars(pattern)


def test_a_layer_of_a_billion_connections_is_planned_at_once_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda ranks=1: 16 << 30)
    config = RunConfig(**SMALL | {"model": "lenet300", "dense": True, "hidden": (1_276_000, 10)})
    begin = time.perf_counter()
    found = plan(config)
    assert time.perf_counter() - begin < 1
    assert found.needs.layers[0].connections == 784 * 1_276_000 > 1e9
    assert not found.fits
    with pytest.raises(UsageError, match=r"no batch size would fit; ask for fewer connections$"):
        build(resolved(config))


def test_the_batch_that_would_fit_is_named_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(**SMALL | {"model": "lenet5", "dense": True, "batch_size": 2048})
    smaller = plan(RunConfig(**SMALL | {"model": "lenet5", "dense": True, "batch_size": 512}))
    monkeypatch.setattr(memory, "available", lambda ranks=1: smaller.total)
    with pytest.raises(UsageError, match=r"a batch of \d+ would fit \(--batch-size \d+\)$") as refused:
        build(resolved(config))
    named = int(str(refused.value).split()[-1].rstrip(")"))
    assert 256 <= named < 2048  # not 512 itself: what a batch leaves for an epoch's last step counts too
    build(resolved(RunConfig(**SMALL | {"model": "lenet5", "dense": True, "batch_size": named})))


def test_ranks_share_the_machine_but_not_their_own_limits(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   1000 kB\n")
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(processors, "MEMBERSHIP", tmp_path / "none")
    assert memory.available() == 1000 << 10
    assert memory.available(4) == 250 << 10


@pytest.mark.parametrize(("membership", "files"), [
    ("0::/job\n", {"job/memory.max": "900000", "job/memory.current": "500000",
                   "job/memory.stat": "anon 1\ninactive_file 100000\n"}),
    ("4:memory:/job\n", {"memory/job/memory.limit_in_bytes": "900000", "memory/job/memory.usage_in_bytes": "500000",
                         "memory/job/memory.stat": "total_inactive_file 100000\n"}),
])  # fmt: skip
def test_control_groups_limit_memory(tmp_path, monkeypatch: pytest.MonkeyPatch, membership: str, files: dict) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(processors, "GROUPS", tmp_path)
    monkeypatch.setattr(processors, "MEMBERSHIP", tmp_path / "membership")
    assert memory.available() == 500_000


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture) -> None:
    words = ["lenet300", "--dense", "--dataset", "mnist-subset", "--plan"]
    assert main(words) == 0
    assert "all layers" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["layers"][0]["connections"] == 235_200
    assert found["batch_that_fits"] is None
    assert main([word for word in words if word != "--plan"] + ["--json"]) == 2


def test_a_plan_that_does_not_fit_names_the_batch_that_would(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["lenet5", "--dense", "--dataset", "mnist-subset", "--plan", "--batch-size"]
    smaller = plan(RunConfig(**SMALL | {"model": "lenet5", "dense": True, "batch_size": 512}))
    monkeypatch.setattr(planning, "_available", lambda ranks: smaller.total)
    assert main([*words, "2048"]) == 2
    said = capsys.readouterr()
    named = int(said.err.split()[-1].rstrip(")"))
    assert "all layers" in said.out
    assert f"a batch of {named} would fit (--batch-size {named})" in said.err
    assert main([*words, "2048", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["batch_that_fits"] == named
    assert main([*words, str(named)]) == 0


@pytest.mark.parametrize("words", [
    "mlp --hidden 8 --random --sparsity 0.9 --granularity channel", "mlp --hidden 8 --random --sparsity 0.99999",
    "resnet20 --width 0.25 --augment none --radix 3/3*17",
    "mlp --hidden 8 --rewire rigl --sparsity 0.9 --epochs 1 --batch-size 4000",
    "mlp --hidden 8 --prune one-time --prune-to 0.9 --prune-start 1000000", "mlp --hidden 8 --epochs 1 --warm-up 3",
    "mlp --hidden 8 --random --sparsity 0.9,0.5,0.5",
])  # fmt: skip
def test_a_plan_refuses_what_the_run_would_in_the_same_words(capsys: pytest.CaptureFixture, words: str) -> None:
    command = [*words.split(), "--dataset", "mnist-subset", "--quiet", "--no-curves"]
    said = []
    for more in (["--plan"], []):
        assert main([*command, *more]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and said[0].count("\n") == 1


@pytest.mark.parametrize("granularity", ["channel", "rows:4", "block:2,2"])
def test_a_plan_counts_connections_as_they_will_be(granularity: str) -> None:
    config = RunConfig(**SMALL | {
        "model": "resnet20", "dense": False, "random": True, "sparsity": 0.9, "granularity": granularity, "width": 0.25,
        "augment": "none",
    })  # fmt: skip
    network = build(resolved(config)).network
    found = {each.path: each.connections for each in plan(config).needs.layers if each.connections}
    assert found == {path: pattern.nnz for path, pattern in network.patterns.items()}


@pytest.mark.parametrize(("words", "problem"), [
    ("--radix 10", "one radix a sparse layer"), ("--radix 10,10 --widths 8,3", "one width a layer"),
    ("--dense --sparsity 0.9", "sparsity"),
])  # fmt: skip
def test_a_plan_of_what_cannot_be_made_says_why(capsys: pytest.CaptureFixture, words: str, problem: str) -> None:
    assert main(["lenet300", "--dataset", "mnist-subset", "--plan", *words.split()]) == 2
    assert problem in capsys.readouterr().err


def test_evaluating_and_pruning_are_refused_where_they_do_not_fit(
    tmp_path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "network.safetensors")
    save(build(resolved(RunConfig(**SMALL | {"model": "lenet300", "dense": True}))).network, path)
    evaluating = answering(read(path).network, outline("mnist-subset"))
    commands = {
        evaluating: [evaluate, path, "--dataset", "mnist-subset"],
        266_200 * 32: [prune, path, "--sparsity", "0.5", "--out", str(tmp_path / "pruned.safetensors")],
        3 << 20: [prune, path, "--sparsity", "0.5", "--by", "gradient", "--dataset", "mnist-subset", "--out",
                  str(tmp_path / "other.safetensors")],
    }  # fmt: skip
    for too_little, (command, *words) in commands.items():
        monkeypatch.setattr(memory, "available", lambda processes=1, left=too_little - 1: left)
        assert command(words) == 2
        line = capsys.readouterr().err
        assert f"bytes of memory, and {too_little - 1:,} are available" in line
        assert line.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["network.safetensors"]
    monkeypatch.undo()
    assert evaluate(commands[evaluating][1:]) == 0


def test_a_gpu_keeps_what_steps_use_and_the_host_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu, on_gpu = (plan(RunConfig(**SMALL | {"model": "lenet5", "dense": True, "device": name}))
                      for name in ("cpu", "cuda"))  # fmt: skip
    assert on_gpu.needs.computing == on_cpu.needs.computing
    assert on_gpu.total < on_cpu.total
    assert "MB on cuda" in str(on_gpu)


def test_arrays_on_paper_have_sizes_and_no_memory() -> None:
    array = sized((10**6, 10**6), np.float32)
    assert array.nbytes == array.own == 4 * 10**12
    assert array[10:20].own == 0
    array[...] = 1
    with pytest.raises(MemoryError):
        sized((2**40, 2**40), np.int8)
    assert Paper("cuda").name == "cuda"
    assert planning.plan is plan


def test_a_rank_is_planned_with_its_part_of_a_batch() -> None:
    ranks = SimpleNamespace(size=3, here=2)
    config, here = of_a_rank(RunConfig(model="lenet300", batch_size=100), ranks)
    assert (config.batch_size, here) == (34, 2)
    assert of_a_rank(config, None) == (config, 1)
