"""Signals and kills at any moment: nothing is lost, and the same bits come after them."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsecore import train
from sparsecore.console.interrupts import Interrupts
from sparsecore.runs.checkpoint import read
from sparsecore.runs.metrics import Mark
from tests.command.given import RADIX, After, bits, command, environment, one_line, records


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("steps", [1, 63, 70])
def test_interrupted_and_resumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, status: int, steps: int
) -> None:
    options = [*RADIX, "--epochs", "3", "--validation", "0.01", "--quiet", "--no-curves"]
    assert train.main([*options, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        After(patch, steps, lambda: signal.raise_signal(number))
        assert train.main([*options, "--out", "cut"]) == status
    assert "to go on: python -m sparsecore.train --resume --out cut" in one_line(capsys)
    assert records("cut")[-1:] != records("whole")[-1:]
    assert train.main(["--resume", "--out", "cut", "--quiet", "--no-curves"]) == 0
    assert bits("cut") == bits("whole")
    assert [line["event"] for line in records("cut")] == ["epoch"] * 3 + ["result"]
    assert signal.getsignal(number) not in (None, signal.SIG_IGN)


def test_interrupted_without_a_folder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    After(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGINT))
    assert train.main(RADIX) == 130
    assert "nothing is saved" in one_line(capsys)


def test_interrupted_while_loading(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecore.commands.build.load", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert train.main([*RADIX, "--out", "run"]) == 143
    assert "before training began" in one_line(capsys)
    assert not Path("run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_leaves_at_once(number: int) -> None:
    code = f"""
import signal
from sparsecore.interrupts import Interrupts
with Interrupts() as interrupts:
    interrupts.stop = lambda: print("asked", flush=True)
    signal.raise_signal({int(number)})
    print("going on", flush=True)
    signal.raise_signal({int(number)})
    print("not reached", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\n")[:2], done.stderr) == (128 + number, ["asked", "going on"], "")
    assert "not reached" not in done.stdout


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_stopped_from_outside() -> None:
    """As a subprocess: the signal comes whenever it comes."""
    options = [*RADIX, "--epochs", "400", "--quiet"]
    process = subprocess.Popen(command(*options, "--out", "cut"), env=environment(), stderr=subprocess.PIPE, text=True)
    while not (Path("cut/metrics.jsonl").exists() and records("cut")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert err.count("\n") == 1
    assert 0 < len(records("cut")) < 400
    done = read("cut").state["run"]["epoch"]
    assert done == len(records("cut"))


def test_killed_at_any_moment() -> None:
    """From the process's first instruction on; `tests/reliability/test_kill.py` does it hundreds of times."""
    kills(3, random.Random(0))


def kills(times: int, chance: random.Random) -> None:
    """SIGKILL at random moments of a run that saves as often as it can; then the same final bits."""
    options = [*RADIX, "--epochs", "10", "--validation", "0.1", "--save-every", "0", "--check-every-step", "--quiet",
               "--no-curves"]  # fmt: skip
    subprocess.run(command(*options, "--out", "whole"), env=environment(), check=True, capture_output=True)
    killed = 0
    while killed < times:
        resume = ["--resume"] if Path("cut").exists() else []
        process = subprocess.Popen(
            command(*options, *resume, "--out", "cut"), env=environment(), stderr=subprocess.PIPE
        )
        try:
            process.wait(timeout=chance.uniform(0.5, 2.0))
            assert process.returncode == 0, process.communicate()[1]
            assert bits("cut") == bits("whole")
            subprocess.run(["rm", "-r", "cut"], check=True)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    resume = ["--resume"] if Path("cut").exists() else []
    subprocess.run(command(*options, *resume, "--out", "cut"), env=environment(), check=True, capture_output=True)
    assert bits("cut") == bits("whole")
    assert Mark.after(Path("cut/metrics.jsonl").read_bytes()) == Mark(*read("cut").state["run"]["metrics"])
