"""`mpiexec -n R python -m sparsecore.train`: one run of R processes, however it begins, is resumed, and ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecore.runs.checkpoint import read

from .given import HERE, PACED, command, needs_mpi, started

pytestmark = needs_mpi
RUN = ("-m", "sparsecore.train", "mlp", "--hidden=24", "--batch-norm", "--random", "--sparsity=0.8",
       "--dataset=mnist-subset", "--threads=1", "--no-curves")  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without the times."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: each[key] for key in each if "seconds" not in key and key != "step_ms"} for each in found]


def bits(folder: Path) -> tuple[Any, ...]:
    saved = read(folder)
    return saved.network.table.values.tobytes(), saved.velocity.tobytes(), lines(folder)


def values(folder: Path) -> Any:
    return np.asarray(read(folder).network.table.values, np.float64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = started(2, *RUN, "--batch-size=128", "--epochs=2", f"--out={folder / 'run'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("epoch   1") == done.stdout.count("test accuracy") == 1, "one rank speaks"
    assert "\x1b" not in done.stdout and not done.stderr
    return folder / "run"


def test_a_batch_is_each_ranks(whole: Path) -> None:
    options = json.loads((whole / "config.json").read_text(encoding="utf-8"))["options"]
    assert options["batch_size"] == 256


def test_a_run_goes_on_with_other_ranks(whole: Path, tmp_path: Path) -> None:
    """From a checkpoint of four ranks by one process: to rounding, in float32, over two epochs."""
    out = f"--out={tmp_path / 'run'}"
    killed = under_way(4, tmp_path / "run", "--batch-size=64")
    os.kill(ranks_of(tmp_path / "run")[0], signal.SIGKILL)
    said = killed.communicate(timeout=30)[0]
    assert killed.returncode != 0, said
    done = started(1, *RUN, "--resume", out)
    assert done.returncode == 0, done.stdout + done.stderr
    np.testing.assert_allclose(values(tmp_path / "run"), values(whole), atol=2e-3)
    assert [each["event"] for each in lines(tmp_path / "run")] == [each["event"] for each in lines(whole)]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("if rank == 1: words += ['--lr=0.3']", "rank 1: lr: expected 0.1, as rank 0 has, got 0.3"),
        ("if rank == 1: among.VERSION = '9.9'", "rank 1: version: expected 0.1.0, as rank 0 has, got 9.9"),
        ("if rank == 1: spoilt()", "rank 1: data: expected "),
        ("if rank == 1: words += ['--epochs=none']", "rank 1: python -m sparsecore.train: argument --epochs"),
        ("if rank == 1: fails_later()", "rank 1: Traceback"),
    ],
    ids=["options", "version", "data", "words", "a bug"],
)
def test_a_rank_that_differs_ends_the_job_in_one_line(words: str, named: str, tmp_path: Path) -> None:
    program = tmp_path / "job.py"
    program.write_text(f"{DIFFERENT}\n{words}\nsys.exit(train.main(words))\n", encoding="utf-8")
    began = time.monotonic()
    done = started(2, str(program), *RUN[2:], "--epochs=2", f"--out={tmp_path / 'run'}")
    assert done.returncode != 0 and time.monotonic() - began < 30
    said = [line for line in (done.stdout + done.stderr).splitlines() if named in line]
    assert len(said) == 1, done.stdout + done.stderr


DIFFERENT = """
import os, sys
import sparsecore.commands.among as among
from sparsecore import train
from sparsecore.commands import build
from sparsecore.training.loop import Loop

words, rank = sys.argv[1:], int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", 0)))

def spoilt():
    whole = build.load
    def load(*names, **options):
        found = whole(*names, **options)
        found.train.x.setflags(write=True)
        found.train.x[7, 300] ^= 1
        return found
    build.load = load

def fails_later():
    def fails(self, record):
        raise RuntimeError("a bug of this rank's alone")
    Loop._notify = fails
"""


def test_what_all_refuse_is_said_once(tmp_path: Path) -> None:
    done = started(2, *RUN, "--epochs=none")
    said = [line for line in (done.stdout + done.stderr).splitlines() if "sparsecore.train" in line]
    assert done.returncode == 2 and len(said) == 1 and "rank" not in said[0]


def test_processes_that_mpi_does_not_know_of_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of srun without --mpi: each would write to the folder."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    done = started(1, *RUN)
    assert done.returncode == 2 and "one of 4 processes, and MPI knows of this one alone" in done.stderr


def wait_for(path: Path, job: Any) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert job.poll() is None and time.monotonic() < end, job.communicate()[0]
        time.sleep(0.02)


def under_way(ranks: int, folder: Path, *words: str) -> subprocess.Popen[str]:
    """A run that saves after every step, has saved, and has a second of steps before it."""
    job = subprocess.Popen(
        command(ranks, "-c", PACED, *RUN[2:], *words, "--epochs=2", "--save-every=0", f"--out={folder}"),
        env=os.environ | HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for(folder / "model.safetensors", job)
    return job


def ranks_of(folder: Path) -> list[int]:
    """The processes that mpiexec has started on words that name a folder."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                words, around = ((each / name).read_bytes() for name in ("cmdline", "environ"))
            except OSError:
                continue
            if str(folder).encode() in words and (b"OMPI_COMM_WORLD_RANK=" in around or b"PMI_RANK=" in around):
                found.append(int(each.name))
    return found


def killed_and_resumed(folder: Path, draws: random.Random, ranks: int = 2) -> None:
    """Kill a rank of a run at some moment; look at what is left, and go on."""
    job = under_way(ranks, folder, "--batch-size=128")
    time.sleep(draws.random() * 0.5)
    os.kill(draws.choice(ranks_of(folder)), signal.SIGKILL)
    began = time.monotonic()
    said = job.communicate(timeout=30)[0]
    assert time.monotonic() - began < 30 and job.returncode != 0 and "rank" in said, said
    assert ranks_of(folder) == [], "no process is left"
    read(folder)  # whole
    done = started(ranks, *RUN, "--resume", f"--out={folder}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_killed_rank_ends_the_job_which_goes_on_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    killed_and_resumed(tmp_path / "run", random.Random(0))
    assert bits(tmp_path / "run") == bits(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_ranks_are_killed_at_random(whole: Path, tmp_path: Path, seed: int) -> None:
    killed_and_resumed(tmp_path / "run", random.Random(seed))
    assert bits(tmp_path / "run") == bits(whole)


def test_a_signal_to_one_rank_stops_all_and_saves(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = under_way(2, folder, "--batch-size=128")
    os.kill(max(ranks_of(folder)), signal.SIGTERM)
    said = job.communicate(timeout=30)[0]
    assert job.returncode != 0 and "and saved; to go on" in said, said
    assert started(2, *RUN, "--resume", f"--out={folder}").returncode == 0
    assert bits(folder) == bits(whole)
