"""Disks that are full, folders that go away: said before training where it can be known, and nothing lost under way."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sparsecore import files
from sparsecore.files import append, replace
from sparsecore.inspect.pictures import draw
from sparsecore.runs.checkpoint import CheckpointError, read, save
from sparsecore.runs.folder import RunFolderError
from sparsecore.runs.trainer import Callback, Trainer
from sparsecore.study.reporting.markdown import write_markdown
from sparsecore.study.reporting.page import write_page
from sparsecore.study.reporting.report import write_csv
from tests.reliability.runs import digest, digest_of, network, trainer
from tests.study.given import made_up

ROOT = Path(__file__).resolve().parents[2]
MINE = ["lenet300", "--dataset", "mine.npz", "--epochs", "3", "--batch-size", "40", "--warm-up", "0"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("mine.npz", x=rng.integers(0, 256, (200, 20), np.uint8), y=np.arange(200) % 5)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where this process may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = shutil.which("mount") and os.name == "posix" and os.geteuid() == 0
    if not made or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], stderr=-3).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a disk quota: what grows past it fails with EFBIG. (Python ignores the signal that comes with it.)"""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class At(Callback):
    """Does something after a step."""

    def __init__(self, step: int, do: object) -> None:
        self.step, self.do = step, do

    def stepped(self, trainer: Trainer) -> None:
        if trainer.done == self.step:
            assert callable(self.do)
            self.do()


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def test_too_little_space_is_known_before_training(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(RunFolderError, match=r"a run needs [\d,]+ bytes there, got 0 free: choose another folder"):
        trainer("csr", out=small_disk / "run").run()
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_disk_that_fills_up_under_way(small_disk: Path) -> None:
    """The last checkpoint is whole, and once there is room the run goes on to the bits that it would have had."""
    out = small_disk / "run"
    stopped = trainer("csr", out=out, save_every=0.0, check_every_step=True)
    stopped.callbacks.append(At(5, lambda: fill(small_disk)))
    with pytest.raises((CheckpointError, RunFolderError), match="No space left on device"):
        stopped.run()
    assert not list(out.glob(".*"))
    saved = read(out)
    assert saved.state["run"]["batch"] + 4 * saved.state["run"]["epoch"] == 4
    (small_disk / "ballast").unlink()
    again = trainer("csr")
    resumed = Trainer(saved.network, again.dataset, again.optimizer, epochs=2, batch_size=27, seed=5, out=out)
    resumed.restore(saved)
    resumed.run()
    assert digest_of(resumed) == digest("csr")


def test_a_quota_reached_under_way() -> None:
    out = Path("run")
    stopped = trainer("csr", out=out, save_every=0.0, check_every_step=True)
    stopped.run()
    size = (out / "model.safetensors").stat().st_size
    with files_of_at_most(size - 500), pytest.raises(CheckpointError, match=r"File too large.*is kept"):
        save(network("csr"), out / "model.safetensors", velocity=stopped.optimizer.velocity, state={"x": "y" * 5000})
    assert digest_of(stopped) == digest("csr") and read(out).state["run"]["epoch"] == 2
    assert not list(out.glob(".*"))


def test_a_line_is_added_whole_or_not_at_all() -> None:
    path = Path("lines")
    append(path, b"first\n")
    with files_of_at_most(20), pytest.raises(OSError, match=r"too large: 'lines'$"):
        append(path, b"x" * 100)
    assert path.read_bytes() == b"first\n"
    append(path, b"last\n")
    assert path.read_bytes() == b"first\nlast\n"


def test_a_file_is_replaced_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("file")
    replace(path, b"old")
    with files_of_at_most(10), pytest.raises(OSError, match=r"too large: 'file'$"):
        replace(path, b"x" * 100, Path("previous"))
    assert path.read_bytes() == b"old" and not Path("previous").exists()

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        replace(path, b"new")
    assert path.read_bytes() == b"old" and sorted(map(str, Path().iterdir())) == ["file", "mine.npz"]


def test_reports_and_pictures_are_replaced_whole_or_not_at_all() -> None:
    pytest.importorskip("matplotlib")
    report, net = made_up(), network("csr")
    writers = (
        lambda: write_page(report, Path("report.html")), lambda: write_markdown(report, Path("results.md")),
        lambda: write_csv(report, Path("runs.csv")), lambda: draw(net, Path("pictures")),
    )  # fmt: skip
    for write in writers:
        write()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert {"layers.png", "made-up.png", "runs.csv"} <= {path.name for path in before}
    with files_of_at_most(300):
        for write in writers:
            with pytest.raises(OSError, match="too large"):
                write()
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_folder_that_goes_away_under_way() -> None:
    stopped = trainer("csr", out="run", save_every=0.0, check_every_step=True)
    stopped.callbacks.append(At(3, lambda: shutil.rmtree("run")))
    with pytest.raises(CheckpointError, match=r"cannot be written .No such file or directory"):
        stopped.run()
    assert stopped.done == 3


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["sparsecore.train", *MINE], 1),
        pytest.param(["sparsecore.train", *MINE, "--quiet"], 1, marks=pytest.mark.slow),
        (["sparsecore.data", "list"], 1),
        pytest.param(
            ["sparsecore.prune", "net.safetensors", "--sparsity", "0.5", "--out", "pruned.safetensors"],
            1,
            marks=pytest.mark.slow,
        ),
        pytest.param(["sparsecore.inspect", "net.safetensors", "--json"], 1, marks=pytest.mark.slow),
        (["sparsecore.evaluate", "net.safetensors", "--dataset", "images.npz"], 1),
    ],
)
def test_output_that_cannot_be_written(words: list[str], status: int) -> None:
    """As when it goes to a file on a full disk, or to a reader that has left."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    save(network("csr"), "net.safetensors")
    np.savez("images.npz", x=np.random.default_rng(0).integers(0, 256, (50, 24), np.uint8), y=np.arange(50) % 5)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", *words], stdout=full, stderr=-1, text=True, env=environment)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr, done.stderr
    Path("pruned.safetensors").unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-m", *words], stdout=-1, stderr=-1, text=True, env=environment)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait() == status
    assert not process.stderr.read()
