"""What a run takes of memory is said before it is taken, held to what is then taken, and refused where too much."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from sparsecore import RunConfig
from sparsecore.commands import plan as planning
from sparsecore.commands.build import build
from sparsecore.commands.plan import plan
from sparsecore.commands.recipes import resolved
from sparsecore.console.arguments import UsageError
from sparsecore.runtime import memory, processors
from sparsecore.runtime.paper import Paper, sized
from sparsecore.train import main

SMALL = {"dataset": "mnist-subset", "epochs": 1, "batch_size": 128}
RUNS = {
    "dense": {"model": "lenet300", "dense": True},
    "radix, adam": {"model": "lenet300", "radix": [[10, 10]], "optimizer": "adam"},
    "random, wide": {"model": "lenet300", "random": True, "sparsity": 0.9, "hidden": (600, 200), "batch_size": 48},
    "coo": {"model": "lenet300", "random": True, "sparsity": 0.8, "format": "coo"},
    "moving": {"model": "lenet300", "random": True, "sparsity": 0.9, "rewire": "set", "every": 20},
    "convolutions": {"model": "lenet5", "dense": True},
    "sparse convolutions": {"model": "lenet5", "random": True, "sparsity": 0.7, "optimizer": "adam"},
}
MEASURE = """
import ctypes, json, sys
from sparsecore import RunConfig, run

def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key + ":"))

given, small = json.loads(sys.argv[1]), json.loads(sys.argv[2])
run(RunConfig(**small))  # kernels and libraries are there from now on
ctypes.CDLL(None).malloc_trim(0)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
run(RunConfig(**given))
print(status("VmHWM") - before)
"""


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("given", [
    {"model": "lenet300", "dense": True, "hidden": (2000, 1000), "batch_size": 512},
    pytest.param({"model": "lenet300", "random": True, "sparsity": 0.9, "hidden": (6000, 2000), "optimizer": "adam"},
                 marks=pytest.mark.slow),
    pytest.param({"model": "lenet300", "dense": True, "hidden": (3000, 1000), "prune": "gradual", "prune_to": 0.9},
                 marks=pytest.mark.slow),
    pytest.param({"model": "lenet300", "random": True, "sparsity": 0.95, "hidden": (6000, 2000), "rewire": "rigl",
                  "every": 20, "epochs": 2}, marks=pytest.mark.slow),
    pytest.param({"model": "lenet5", "dense": True}, marks=pytest.mark.slow),
])  # fmt: skip
def test_the_peak_is_within_fifteen_percent_of_the_plan(given: dict) -> None:
    whole = SMALL | given
    words = [json.dumps(each) for each in (whole, whole | ({"hidden": (128, 100)} if "hidden" in whole else {}))]
    done = subprocess.run([sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, check=True)
    assert plan(RunConfig(**whole)).needs.total == pytest.approx(int(done.stdout.split()[-1]), rel=0.15)


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
    assert main([word for word in words if word != "--plan"] + ["--json"]) == 2


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
