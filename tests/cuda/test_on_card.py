"""The quarter of an hour on a card, rehearsed: the whole script on the emulated device, whatever goes wrong in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import cuda as bench
from bench import on_card_report
from bench.on_card import about, cases, checks, floors, inputs, parts, plugin, results, tests, tools
from bench.on_card.cards import CARDS, H200, T4, like
from bench.on_card.cases import Case
from sparsecore.runtime.devices import cuda

from .emulator import build, peers, stand_in
from .machines import machine

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["about", "tests", "times", "train", "tools"]

emulated = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not() or "")

BARE = ("pooch", "platformdirs", "requests", "matplotlib", "torch", "pytest_benchmark", "sklearn", "joblib")
"""What a lent machine may lack."""
PROFILE = '''\
"ID","Kernel Name","Grid Size","gpu__time_duration.sum","launch__registers_per_thread"
"","","","us","register/thread"
"0","spmm_1","(10, 1, 1)","4.20","48"
"1","sgd","(2, 1, 1)","2.10","30"
'''


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine where CuPy is the emulated device, tools are there, and much else is not."""
    folder = tmp_path_factory.mktemp("lent")
    site, tool = folder / "site", folder / "bin"
    site.mkdir()
    tool.mkdir()
    for name in BARE:
        (site / f"{name}.py").write_text(f"raise ImportError('no {name} on this machine')\n")
    (site / "cupy.py").write_text(
        "import os, sys, time\n"
        "fault = os.environ.get('FAULT')\n"
        "if fault == 'fail': raise RuntimeError('cudaErrorIllegalAddress')\n"
        "if fault == 'overrun': time.sleep(600)\n"
        "from tests.cuda.emulator import peers\n"
        "sys.modules.update(peers.modules())\n"
    )
    step = f"while [ \"$1\" != '{sys.executable}' ]; do shift; done; \"$@\""
    for name, says in {
        "ncu": f"{step} || exit 1; echo '{PROFILE}'",
        "compute-sanitizer": f"[ -z \"$FAULT\" ] || {{ {step} || exit 9; }}; echo '========= ERROR SUMMARY: 0 errors'",
    }.items():
        (tool / name).write_text(f"#!/bin/sh\n{says}\n")
        (tool / name).chmod(0o755)
    path = f"{tool}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(site), "PATH": path, "PYTHON": sys.executable}


class Rehearsal:
    """The script at work, with a fault or without: which it is waited for only when it is asked."""

    def __init__(self, lent: dict[str, str], folder: Path, fault: str, seconds: float) -> None:
        self.out, self.seconds = folder / fault, seconds
        command = ["bash", str(ROOT / "bench" / "on_card.sh"), str(self.out), "--small", "--seconds", str(seconds)]
        given = {"env": lent | {"FAULT": fault.replace("none", "")}, "cwd": folder}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **given)

    def ended(self) -> tuple[dict[str, str], str]:
        """How each part ended, and what the script printed."""
        text, _ = self.process.communicate(timeout=300)
        print(text)  # shown by `pytest -rP`, or if it fails
        files = list(self.out.iterdir())
        assert len(files) <= 8 and all(file.stat().st_size < 16 << 20 for file in files)
        rows = list(results.read(self.out, "parts"))
        assert sum(row["seconds"] for row in rows) < self.seconds
        ended = {row["part"]: row["how"] for row in rows}
        assert self.process.returncode == any(how != "done" for how in ended.values())
        return ended, text


@pytest.fixture(scope="module")
def rehearsals(lent: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Rehearsal]]:
    """Three at a time: one waits for its parts' time to be over, and one has little to do."""
    folder, limits = tmp_path_factory.mktemp("rehearsals"), {"none": parts.TOTAL, "fail": parts.TOTAL, "overrun": 20.0}
    found = {fault: Rehearsal(lent, folder, fault, seconds) for fault, seconds in limits.items()}
    yield found
    for each in found.values():
        each.process.kill()


@emulated
def test_the_whole_script_on_the_emulated_device(rehearsals):
    ended, text = rehearsals["none"].ended()
    out = rehearsals["none"].out
    assert list(ended) == [*PARTS, "report"] and set(ended.values()) == {"done"}, (out / parts.LOG).read_text()[-9000:]
    rows = {name: list(results.read(out, name)) for name in PARTS}
    assert rows["about"][0]["what"] == "python"
    assert {"emulated"} == {row["name"] for row in rows["about"] if "name" in row}
    assert any(row["what"] == "a step on the card" for row in rows["about"])
    assert rows["tests"][-1] == {"counts": {"passed": 2}}
    found = {row["what"] for row in rows["times"] if row["bench"] == "ceiling"}
    assert found == {"memory", "cache", "float32", "launch"}
    timed = [row for row in rows["times"] if "engine" in row]
    assert timed and all(row["ms"] > 0 and row["error"] <= checks.TOLERANCE for row in timed)
    done = {Case(*(row[name] for name in Case._fields)) for row in timed if row["engine"] == "sparsecore"}
    assert done == set(cases.cases(small=True))
    assert {row["engine"] for row in timed} == {"sparsecore", "cublas", "cupyx"}
    last = [row for row in rows["train"] if row["event"] == "result"]
    assert [row["on"] for row in last] == ["cuda", "cpu"]
    assert last[0]["train_loss"] == pytest.approx(last[1]["train_loss"], rel=1e-4)
    assert [row["tool"] for row in rows["tools"]] == ["ncu", "ncu", "ncu", "memcheck", "racecheck"]
    for line in ("tests: 2 passed", "Measured, µs:", "Furthest from the floor", "training on cuda", "ERROR SUMMARY: 0"):
        assert line in text


@emulated
@pytest.mark.parametrize("fault, how", [("fail", "failed"), ("overrun", "stopped")])
def test_the_next_part_runs_whatever_happens(rehearsals, fault, how):
    ended, _ = rehearsals[fault].ended()
    if fault == "overrun" and ended["tools"] == "failed":  # it ends its tools in time, and says so
        ended["tools"] = how
    assert {part: ended[part] for part in PARTS} == dict.fromkeys(PARTS, how)
    log = (rehearsals[fault].out / parts.LOG).read_text()
    assert all(f"== {part}: at most" in log for part in PARTS)
    assert how == "stopped" or log.count("cudaErrorIllegalAddress") >= len(PARTS)


def test_a_part_that_ends_nothing_is_killed_with_all_it_started(tmp_path):
    """Children in its session too, and whoever does not listen; and what it says is cut in its middle."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    (tmp_path / "deaf.py").write_text(
        f"import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', {deaf!r}])\n"
        f"print('child', child.pid, flush=True)\nprint('x' * {3 * parts.MOST_LOG}, flush=True)\n"
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)\n"
    )
    (tmp_path / "fine.py").write_text("print('the end')\n")
    out, path = tmp_path / "out", os.environ.get("PYTHONPATH", "")
    out.mkdir()
    some = [parts.Part("deaf", "deaf", 480, 0), parts.Part("fine", "fine", 240, 240)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{path}")
        began = time.monotonic()
        deaf_part, fine = parts.run_all(out, some, 2.4)
    assert time.monotonic() - began < 5
    assert (deaf_part.how, fine.how) == ("stopped", "done") and deaf_part.limit <= 1.2
    log = (out / parts.LOG).read_text()
    assert len(log) < parts.MOST_LOG + 1000 and "[...]" in log and log.rstrip().endswith("the end")
    assert ended(int(log.split("child ")[1].split()[0]))


def ended(process: int) -> bool:
    """Whether a process is no more, or will be once somebody asks for its status."""
    for _ in range(50):
        try:
            if "zombie" in Path(f"/proc/{process}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_the_folder_must_be_empty(tmp_path):
    (tmp_path / "a").write_text("")
    run = subprocess.run(
        [sys.executable, "-m", "bench.on_card", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr == f"{tmp_path}: expected a folder that is empty or not there, found files in it\n"


TESTS = """
import os, time
import numpy as np, pytest

pytestmark = pytest.mark.gpu

def test_first(): pass

def test_fails():
    wanted, given, pair = np.arange(3.0), {"x": np.ones((2, 2), np.float32)}, 7
    assert wanted.sum() == pair

def test_breaks_the_card():
    import cupy
    cupy.broken = True
    raise RuntimeError("cudaErrorIllegalAddress")

def test_dies(): os._exit(11)

def test_hangs(): time.sleep(60)

def test_last(): pass
"""
CUPY = """
broken = False
class cuda:
    class Device:
        def __init__(self, number): pass
        def synchronize(self):
            if broken: raise RuntimeError("cudaErrorIllegalAddress")
class zeros:
    def __init__(self, *given): pass
    def get(self): pass
"""


def test_tests_begin_again_behind_one_that_takes_all_down(tmp_path, monkeypatch):
    """A test that fails, one after which the card is gone, one that ends the process, and one that hangs."""
    for name, text in (("test_some.py", TESTS), ("cupy.py", CUPY), ("pytest.ini", "[pytest]\nmarkers = gpu")):
        (tmp_path / name).write_text(text)
    out = tmp_path / "out"
    out.mkdir()
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    for name, value in {results.OUT: str(out), results.SECONDS: "0.8", "PYTHONPATH": path}.items():
        monkeypatch.setenv(name, value)
    tests.begin_again((*tests.COMMAND, "-c", str(tmp_path / "pytest.ini"), str(tmp_path / "test_some.py")))
    rows = list(results.read(out, "tests"))
    outcomes = {row["test"].split("::")[1]: row["outcome"] for row in rows if "outcome" in row}
    assert outcomes == {
        "test_first": "passed", "test_fails": "failed", "test_breaks_the_card": "failed", "test_dies": "died",
        "test_hangs": "died", "test_last": "passed",
    }  # fmt: skip
    assert len([row for row in rows if "outcome" not in row]) == 6  # none was begun twice
    assert "Timeout" in (out / parts.LOG).read_text()  # where the one that hangs was


def test_what_a_failing_test_was_given_is_saved(tmp_path, monkeypatch):
    monkeypatch.setenv(results.OUT, str(tmp_path))
    large = np.zeros(inputs.MOST_OF_ONE + 1, np.int8)

    def fails(x: Any) -> None:
        pair, size = (x, [1]), 3
        raise AssertionError(pair, size, large)

    for number in range(2):
        with pytest.raises(AssertionError) as excinfo:
            fails(np.arange(6.0).reshape(2, 3))
        names = inputs.save(excinfo)
        assert names[f"{number}/fails.x"] == "float64 (2, 3)" and names[f"{number}/fails.size"] == "3"
        assert names[f"{number}/fails.large"].endswith("too large to save")
    with np.load(tmp_path / inputs.NAME) as saved:
        for name in ("0/fails.x", "1/fails.x", "1/fails.pair.0"):
            np.testing.assert_array_equal(saved[name], np.arange(6.0).reshape(2, 3))
    monkeypatch.setattr(inputs, "MOST", 0)
    assert "too large" in inputs.save(excinfo)["2/fails.x"]


def test_the_most_important_tests_are_first():
    names = [
        "test_tree.py::test_a", "test_cupy.py::test_a", "test_bench.py::test_everything_is_timed_on_a_card",
        "test_engine.py::test_files", "test_engine.py::test_losses_are[x]", "test_kernels.py::test_images[x]",
    ]  # fmt: skip
    assert sorted(names, key=plugin.rank) == [names[k] for k in (5, 4, 3, 0, 1, 2)]


def test_lines_that_were_cut_off_are_left_out(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n3\n{"a": 2}\n{"a": ')
    assert list(results.read(tmp_path, "x")) == [{"a": 1}, {"a": 2}] and not list(results.read(tmp_path, "y"))


def test_versions_are_held_to_what_the_package_asks_for(monkeypatch):
    assert dict(about.required())["numpy"] == "2.1" and dict(about.required())["cupy-cuda13x"] == "13.6"
    monkeypatch.setattr(about, "required", lambda: [("numpy", "999.1"), ("scipy", "1.14.1"), ("no-such-package", "1")])
    found = {row["what"]: row for row in about.libraries()}
    assert found["numpy"]["old"] and not found["scipy"]["old"] and found["no-such-package"]["missing"]


def test_what_is_wrong_is_not_timed(monkeypatch, tmp_path):
    """Of a kernel and of a step: a row that says how wrong, and none for the time."""
    from bench.engines import Contender, sparsecore
    from bench.on_card import times

    class Wrong:
        def __init__(self, *given: Any) -> None:
            self.right = sparsecore.Step(given[0], 1) if len(given) == 1 else sparsecore.Gather(*given, 1, "csr")

        def run(self) -> None:
            self.right.run()

        def result(self) -> Any:
            return self.right.result() * np.float32(1.001)

    def broken(*given: Any) -> Any:
        raise MemoryError("no room")

    wrong = [Contender("sparsecore", "csr", "both", Wrong), Contender("cublas", "", "both", broken)]
    monkeypatch.setattr(bench, "contenders", lambda what, on, model: wrong)
    for case in cases.cases(small=True)[1], cases.cases(small=True)[-2]:
        first, second = times.rows(case, None, True)
        assert first["failed"].startswith("relative error 1.0e-03") and "MemoryError" in second["failed"]
        assert "ms" not in first | second
    (row,) = times.rows(cases.Case("gather", "4x-4", "random", 0.9, 16), None, True)
    assert row["engine"] == "all" and "Error" in row["failed"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_errors_are_relative(bad):
    assert checks.error([3, 4], [3, 4]) == 0 and checks.error([3, 4.005], [3, 4]) == pytest.approx(0.001)
    assert checks.error([3, bad], [3, 4]) == np.inf


def test_tools_that_are_missing_slow_or_fail(monkeypatch, capfd):
    assert tools.used(tools.Tool("x", "no-such-tool-here", ()), 1) == [{"tool": "x", "missing": True}]
    monkeypatch.setattr(tools, "STEP", ())
    began, script = time.monotonic(), "sleep 60 & echo it is $!; sleep 60"  # the first holds its output open
    (slow,) = tools.used(tools.Tool("x", "sh", ("-c", script)), 0.3)
    assert slow["failed"] == "not done after 0 s" and time.monotonic() - began < 5
    assert ended(int(capfd.readouterr().out.split("it is ")[1].split()[0]))
    (fails,) = tools.used(tools.Tool("x", "sh", ("-c", "echo '========= ERROR SUMMARY: 3 errors'; exit 9")), 5)
    assert fails["failed"].startswith("exit status 9") and fails["says"] == "ERROR SUMMARY: 3 errors"
    (none,) = tools.used(tools.Tool("ncu", "true", ()), 5)
    assert none["failed"] == "no launch was profiled"
    first, second = tools.profiled(f"==PROF== Connected\n{PROFILE}")
    assert first["Kernel Name"] == "spmm_1" and second["gpu__time_duration.sum [us]"] == "2.10"


# ------------------------------------------------------------------------------------------ what is timed, and how


class _Lines:
    """Which lines of some modules' functions run while it is entered, and which there are."""

    def __init__(self, *modules: Any) -> None:
        self.files = {module.__file__: set[int]() for module in modules}
        self.mode = sys.gettrace()

    def __enter__(self) -> _Lines:
        sys.settrace(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self.mode)

    def _called(self, frame: Any, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in self.files else None

    def _line(self, frame: Any, event: str, argument: Any) -> Any:
        self.files[frame.f_code.co_filename].add(frame.f_lineno)
        return self._line

    def missed(self) -> list[str]:
        found = []
        for file, ran in self.files.items():
            text = Path(file).read_text()
            lines = text.splitlines()
            waiting, functions = [compile(text, file, "exec")], []
            while waiting:
                code = waiting.pop()
                inner = [const for const in code.co_consts if hasattr(const, "co_lines")]
                waiting += inner
                if code.co_flags & 1 and code.co_name not in ("<lambda>", "_both"):  # all else ran at import
                    functions.append(code)
            inside = ((line, code.co_firstlineno) for code in functions for _, _, line in code.co_lines() if line)
            there, left = {line for line, first in inside if line > first}, ('"', "raise NotImplementedError")
            skipped = {k for k, line in enumerate(lines, 1) if line.strip().startswith(left)}
            found += [f"{Path(file).name}:{line}: {lines[line - 1].strip()}" for line in sorted(there - ran - skipped)]
        return found


@emulated
def test_every_line_that_times_a_card_runs_on_the_emulated_one(monkeypatch):
    """bench/cuda.py, the libraries it is beside, the ceilings: all that stands between two events."""
    from bench.engines import cupy_peers, sparsecore
    from bench.on_card import ceilings
    from bench.options import Options
    from sparsecore.runtime import devices

    eager = {"torch-eager": lambda problem: sparsecore.Step(problem, 1)}
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True))
    monkeypatch.setitem(sys.modules, "bench.engines.torch_cuda", SimpleNamespace(STEPS={"lenet300": eager}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(bench.MODELS, "lenet300", (120, 110, 100, 10))
    with peers.installed():
        devices.gpu.cache_clear()
        try:
            with _Lines(bench, cupy_peers, ceilings) as lines:
                on = bench.gpu("cuda")
                assert bench.describe(on) == "emulated; cupy emulated, CUDA 13000, driver 13000"
                monkeypatch.setattr(bench.kernels, "sizes", lambda options: [((120, 110), 16)])
                for what in bench.BENCHES:
                    rows = bench.measure(Options(quick=True, sparsities=(0.9,), batches=(16,)), what, on)
                    assert all(row["ms"] > 0 for row in rows) and f"{what}, " in bench.table(rows)
                    others = {"step": ("torch-eager", "bfloat16"), "gather": ("cupyx",)}.get(what, ())
                    assert {row["engine"] for row in rows} == {"sparsecore", "cublas", *others}
                for ways, made in ((cupy_peers.DENSE, _dense), (cupy_peers.SPARSE, _sparse)):
                    for what in ways:
                        made(what, ways[what])
                found = {row["what"]: row for row in ceilings.ceilings(True)}
                assert found["launch"]["seconds"] > 0 and all(row.get("rate", 1) > 0 for row in found.values())
                with pytest.raises(ValueError, match=r"^never run on hardware here"):
                    bench.gpu("cuda:9")
                monkeypatch.setitem(sys.modules, "torch", None)
                assert not bench.torch_sees_a_card()
        finally:
            devices.gpu.cache_clear()
    assert lines.missed() == []


def _dense(what: str, ways: dict[str, Any]) -> None:
    """By calls and as a graph: the same, and right."""
    from bench.problem import layer_pattern, training_problem

    pattern, rng = layer_pattern((40, 60), "dense", 0.0), np.random.default_rng(0)
    x, dy = rng.standard_normal((60, 16), np.float32), rng.standard_normal((40, 16), np.float32)
    data = rng.standard_normal(pattern.nnz, np.float32)
    problem = training_problem((60, 40, 20, 10), "dense", 0.0, 16, rate=0.05)
    for make in ways.values():
        if what == "step":
            assert checks.step_error(make(problem), checks.step_reference(problem)) < checks.TOLERANCE
            continue
        timed = make(pattern, data if what == "gather" else dy, x)
        timed.run()
        if what == "gather":
            assert checks.gather_error(timed.result(), pattern, data, x) < checks.TOLERANCE
        else:
            assert checks.sample_error(timed.result(), pattern, dy, x) < checks.TOLERANCE


def _sparse(what: str, ways: dict[str, Any]) -> None:
    from bench.problem import layer_pattern

    pattern, rng = layer_pattern((40, 60), "random", 0.8), np.random.default_rng(0)
    x, data = rng.standard_normal((60, 16), np.float32), rng.standard_normal(pattern.nnz, np.float32)
    for make in ways.values():
        timed = make(pattern, data, x)
        timed.run()
        assert what == "gather" and checks.gather_error(timed.result(), pattern, data, x) < checks.TOLERANCE


def test_events_want_to_be_recorded():
    begin, end = stand_in.Event(), stand_in.Event()
    with pytest.raises(stand_in.CUDARuntimeError, match="not recorded"):
        end.synchronize()
    begin.record()
    with pytest.raises(stand_in.CUDARuntimeError, match="not recorded"):
        stand_in.get_elapsed_time(begin, end)
    time.sleep(0.002)
    end.record()
    assert 2 <= stand_in.get_elapsed_time(begin, end) < 1000


@pytest.mark.parametrize("model", ["lenet300", "lenet5"])
def test_steps_of_pytorch_are_ours(model):
    """What torch_cuda times on a card, in PyTorch on the processor; only its graphs need a card."""
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")
    from bench.engines import torch_cuda

    problem = cases.problem_of(Case("step", model, "dense", 0.0, 16))
    step = torch_cuda.STEPS[model]["torch-eager"](problem, on="cpu")
    assert checks.step_error(step, checks.step_reference(problem)) < checks.TOLERANCE


# ------------------------------------------------------------------------------------------ predictions


def test_work_is_counted_once():
    """A gather and a sample alone, by their shapes and as a recording has them."""
    from bench.problem import training_problem

    for topology, sparsity in (("dense", 0.0), ("random", 0.9)):
        problem = training_problem((784, 300, 10), topology, sparsity, 128)
        gather, *_ = floors.step_works(problem)
        alone = floors.layer_work(Case("gather", "784x300", topology, sparsity, 128))
        assert gather.flops == alone.flops and gather.requested == alone.requested
        assert gather.bytes == alone.bytes + 4 * 300  # the biases
        assert sum(work.flops for work in floors.step_works(problem)) == problem.flops
    work = floors.layer_work(Case("gather", "784x300", "random", 0.9, 128))
    assert work == (8 * 23520 + 512 * 1084, 8 * 23520 + 512 * (23520 + 300), 2 * 23520 * 128)
    work = floors.layer_work(Case("sample", "784x300", "dense", 0.0, 100))  # in seven tiles, of 112 lanes
    assert work.requested == 4 * 235200 + 4 * 58800 + 448 * (58800 + 235200 / 8)


def test_floors_are_the_longer_of_bytes_and_operations():
    memory = floors.Work(4.8e9, 0, 67e6)
    assert memory.floor(H200) == pytest.approx(1e-3)
    assert floors.Work(5.5e6, 0, 0).floor(H200) == pytest.approx(1e-6)  # which the cache holds
    assert floors.Work(5.5e6, 0, 0).floor(T4) == pytest.approx(5.5 / 0.32e6)  # which a T4's does not
    assert floors.Work(0, 0, 67e9).floor(H200) == pytest.approx(1e-3)
    assert floors.Work(0, 5.5e9, 67e9).seconds(H200) == pytest.approx(1e-3 + H200.launch)
    assert like("NVIDIA H200") is H200 and like("Tesla T4") is T4 and like("NVIDIA L4") is None
    assert [card.name for card in CARDS] == ["H200", "H100", "T4"]


@emulated
@pytest.mark.parametrize("model", ["lenet300", "lenet5"])
def test_launches_are_those_that_a_card_is_given(model):
    """A recorded step on the emulated device: one launch a call, and one more where few connections are cut up."""
    from bench.engines import sparsecore

    case = Case("step", model, "random", 0.9, 16)
    with machine("forward"):
        step = sparsecore.Step(cases.problem_of(case), 1, device=cuda())
        step.run()
        before = stand_in.traffic().launches
        step.run()
        launches = stand_in.traffic().launches - before
    expected = len(floors.works(case))
    assert expected <= launches <= expected + (2 if model == "lenet5" else 0)


def test_the_readme_has_what_is_predicted():
    text = (ROOT / "kernels" / "cuda" / "README.md").read_text(encoding="utf-8")
    assert floors.table() in text, "python -m bench.on_card.floors prints another table"
    for what in ("LeNet-300-100", "sgd", "FFMA"):
        assert what in text


# ------------------------------------------------------------------------------------------ the report


def test_the_report_says_what_is_furthest_from_its_floor(tmp_path):
    row = {"bench": "gather", "model": "784x300", "topology": "random", "sparsity": 0.9, "batch": 128}
    dense, larger = row | {"topology": "dense", "sparsity": 0.0}, row | {"model": "1024x1024"}
    found: dict[str, list[dict[str, Any]]] = {
        "about": [{"what": "card", "name": "NVIDIA H200", "cupy": "14", "nvrtc": "13.0", "driver": 13000},
                  {"what": "numpy", "version": "1.0", "least": "2.1", "old": True},
                  {"what": "pooch", "missing": True, "least": "1.8"}],
        "parts": [{"part": "about", "how": "done", "seconds": 1.0, "limit": 90}],
        "tests": [{"test": "a"}, {"test": "a", "outcome": "failed", "error": "x\nE  not equal"},
                  {"test": "b", "outcome": "passed"}],
        "times": [{"bench": "ceiling", "what": "memory", "rate": 4.3e12},
                  {"bench": "ceiling", "what": "launch", "seconds": 1e-6},
                  row | {"engine": "sparsecore", "ms": 0.009}, row | {"engine": "cupyx", "ms": 0.018},
                  dense | {"engine": "cublas", "ms": 0.0045}, larger | {"engine": "sparsecore", "ms": 1.0},
                  larger | {"engine": "cupyx", "failed": "Traceback\nMemoryError: no room"}],
        "train": [{"on": "cuda", "event": "result", "epochs": 2, "test_accuracy": 0.95, "train_seconds": 1.5,
                   "step_ms": 0.1}],
    }  # fmt: skip
    for name, rows in found.items():
        for each in rows:
            results.write(name, each, tmp_path)
    text = "\n".join(on_card_report.report(tmp_path))
    for line in (
        "NVIDIA H200; cupy 14, NVRTC 13.0, driver 13000", "too old: numpy 1.0, asked for 2.1",
        "missing: pooch (from 1.8 on)", "tests: 1 failed, 1 passed", "failed: a: E  not equal", "memory: 4.3, 4.8 TB/s",
        "launch: 1, 2 µs", "failed: gather 1024x1024, random 90%, 128, cupyx: MemoryError: no room",
        "training on cuda: 2 epochs, test accuracy 95.00%, 1.50 s, 100 µs a step",
    ):  # fmt: skip
        assert line in text
    line = next(line for line in text.splitlines() if line.startswith("| gather 784x300, random 90%"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "9" and float(cells[2]) == pytest.approx(1 + 1e-6 * 12_383_040 / 5.5, abs=0.01)
    assert cells[-2:] == ["0.50×", "2.00×"]
    assert text.index("×: gather 1024x1024") < text.index("×: gather 784x300, random")
