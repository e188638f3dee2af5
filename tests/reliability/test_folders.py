"""Two runs on one folder, names that lead elsewhere, file systems that refuse: one run at a time, and whole files."""

from __future__ import annotations

import contextlib
import errno
import io
import multiprocessing
import os
import random
import shutil
import signal
import stat
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecore import evaluate, train
from sparsecore.data import DataError, cache, load
from sparsecore.data.catalogue import MNIST
from sparsecore.files import append, replace, sync
from sparsecore.prune import __main__ as prune
from sparsecore.prune.weights import read_weights
from sparsecore.runs import lock
from sparsecore.runs.checkpoint import read
from sparsecore.runs.folder import METRICS, RunFolder, RunFolderError
from sparsecore.runs.lock import FolderLock
from sparsecore.runs.metrics import Mark, Metrics
from sparsecore.runs.trainer import Trainer
from sparsecore.study import __main__ as study
from sparsecore.study.making.archive import read_archives
from sparsecore.study.making.outcome import read_outcome, records
from tests.reliability.runs import StopAt, command, digest, digest_of, kept, trainer

FREE = ["--save-every", "0", "--check-every-step", "--threads", "1", "--quiet", "--no-curves"]
WORDS = ["lenet300", "--dataset", "flat.npz", "--random", "--sparsity", "0.9", "--epochs", "2", "--batch-size", "80",
         "--warm-up", "0", *FREE]  # fmt: skip

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("flat.npz", x=rng.integers(0, 256, (200, 20), np.uint8), y=np.arange(200) % 5)


# -- two runs on one folder ------------------------------------------------------------------------------------------


def contend(number: int, words: list[str], start: Any, done: list[Any]) -> None:
    """One of two: a run that has got the folder goes on once the other has been refused, or after 20 seconds."""
    real = Trainer.prepare

    def prepare(self: Trainer) -> None:
        real(self)
        done[1 - number].wait(20)

    Trainer.prepare = prepare  # type: ignore[method-assign]  # in this process alone
    start.wait(20)
    with open(f"said-{number}", "w") as said, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = train.main(words)
    done[number].set()
    os._exit(status)


def contest(words: list[str]) -> int:
    """Two processes run these words at once, while a third reads: which one won. The other was refused in one line."""
    forked = multiprocessing.get_context("fork")
    start, done = forked.Barrier(2), [forked.Event(), forked.Event()]
    both = [forked.Process(target=contend, args=(number, words, start, done)) for number in range(2)]
    for each in both:
        each.start()
    while any(each.exitcode is None for each in both):
        if RunFolder("run").has_checkpoint():
            read("run")
            RunFolder("run").config()
            list(Metrics(Path("run", METRICS)))
        time.sleep(0.001)
    statuses = [each.exitcode for each in both]
    assert sorted(map(str, statuses)) == ["0", "2"], [statuses, *(Path(f"said-{k}").read_text() for k in range(2))]
    refused = Path(f"said-{statuses.index(2)}").read_text()
    assert refused.count("\n") == 1 and ("another run is at work" in refused or "there is a run in it" in refused)
    return statuses.index(0)


def contests(times: int) -> None:
    """Runs begun anew and runs gone on with, in turn; whoever wins comes to the undisturbed bits."""
    assert command(*WORDS, "--out", "whole") == 0
    whole = kept(Path("whole"))
    trainer_stopped = multiprocessing.get_context("fork").Process(target=stopped_after, args=(2,))
    trainer_stopped.start()
    trainer_stopped.join()
    for k in range(times):
        shutil.rmtree("run", ignore_errors=True)
        if resume := k % 2 == 1:
            shutil.copytree("stopped", "run")
        contest([*(["--resume", *FREE] if resume else WORDS), "--out", "run"])
        assert kept(Path("run")) == whole
        assert {path.name for path in Path("run").iterdir()} == {path.name for path in Path("whole").iterdir()}


def stopped_after(steps: int) -> None:
    real = Trainer.prepare

    def prepare(self: Trainer) -> None:
        self.callbacks.append(StopAt(steps))
        real(self)

    Trainer.prepare = prepare  # type: ignore[method-assign]
    command(*WORDS, "--out", "stopped")


@forks
def test_two_processes_on_one_folder() -> None:
    contests(6)


@forks
@pytest.mark.slow
def test_two_processes_on_one_folder_two_hundred_times() -> None:
    contests(200)
    print("200 pairs of runs begun or resumed at once in one folder: 200 refused in one line, no torn read, the "
          "undisturbed bits")  # fmt: skip


def test_two_trainers_on_one_folder() -> None:
    first, second = trainer("csr", out="run"), trainer("csr", out="run")
    first.prepare()
    with pytest.raises(RunFolderError, match="there is a run in it"):
        second.run()
    second.begin_again()
    with pytest.raises(RunFolderError, match="run: another run is at work there: wait until it is done"):
        second.run()
    first.run()
    assert digest_of(first) == digest("csr") and kept(Path("run"))[0] == first.network.params.tobytes()


def test_a_folder_is_free_between_two_stretches_of_a_run() -> None:
    """In a notebook a run that was stopped waits for ever; another may go on with it, and then the first may not."""
    first = trainer("csr", out="run", callbacks=[StopAt(2)])
    first.run()
    saved = read("run")
    assert first.run() is not None, "nobody was there meanwhile"
    first = trainer("csr", out="other", callbacks=[StopAt(2)])
    first.run()
    saved = read("other")
    again = trainer("csr")
    second = Trainer(saved.network, again.dataset, again.optimizer, epochs=2, batch_size=27, seed=5, out="other")
    second.restore(saved)
    second.run()
    before = {path.name: path.read_bytes() for path in Path("other").iterdir()}
    for go_on in (first.run, first.save, lambda: first.record({"event": "note"})):
        with pytest.raises(RunFolderError, match="another has gone on with it since: restore its checkpoint"):
            go_on()
    assert {path.name: path.read_bytes() for path in Path("other").iterdir()} == before
    assert kept(Path("other"))[:3] == kept(Path("run"))[:3]


@forks
def test_a_lock_ends_with_its_process() -> None:
    """Not with those that it forked, as PyTorch's loaders and joblib do; and a child is not the one who has it."""
    Path("run").mkdir()
    ours = FolderLock(Path("run"))
    ours.take()
    if (child := os.fork()) == 0:
        status = 1
        with contextlib.suppress(RunFolderError):
            ours.take()
            status = 0
        ours.release()
        if status:
            signal.pause()  # outlives the holder's release, and is then not in anybody's way
        os._exit(0)
    with pytest.raises(RunFolderError, match="another run is at work"):
        FolderLock(Path("run")).take()
    ours.release()
    theirs = FolderLock(Path("run"))
    theirs.take()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    theirs.release()
    assert not list(Path("run").iterdir())


@pytest.mark.parametrize(("code", "message"), [(errno.ENOLCK, None), (errno.EIO, "Input/output error")])
def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch, code: int, message: str | None) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock, "lock", refuse)
    done = trainer("csr", out="run")
    if message is None:
        done.run()
        assert digest_of(done) == digest("csr")
    else:
        with pytest.raises(RunFolderError, match=message):
            done.run()


# -- names that lead elsewhere, and what a write leaves ---------------------------------------------------------------


def planted(path: Path, victim: Path) -> None:
    """A link under each name that a writer might take beside a file, as far as it can be guessed."""
    for name in (f".{path.name}.writing", f".{path.name}.tmp", f"{path.name}.tmp", f"{path.name}.previous"):
        path.with_name(name).symlink_to(victim)


def test_nothing_is_written_through_a_planted_link() -> None:
    victim, path = Path("victim"), Path("file")
    victim.write_bytes(b"precious")
    planted(path, victim)
    replace(path, b"first")
    replace(path, b"second", Path("file.previous"))
    assert path.read_bytes() == b"second" and Path("file.previous").read_bytes() == b"first"
    Path("run").mkdir()
    for name in (METRICS, lock.NAME):
        Path("run", name).symlink_to(victim.absolute())
    with pytest.raises(RunFolderError):
        trainer("csr", out="run").run()
    Path("lines").symlink_to(victim)
    for write in (lambda: append(Path("lines"), b"more"), lambda: sync(Path("lines"))):
        with pytest.raises(OSError, match="symbolic links"):
            write()
    assert victim.read_bytes() == b"precious"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_no_write_waits_at_a_fifo() -> None:
    os.mkfifo(".file.writing")
    replace(Path("file"), b"data")
    os.mkfifo("lines")
    for write in (lambda: append(Path("lines"), b"more"), lambda: sync(Path("lines"))):
        with pytest.raises(OSError, match=r"FIFO|No such device"):
            write()
    reader = os.open("lines", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="expected a file, got a FIFO"):
        append(Path("lines"), b"more")
    os.close(reader)
    replace(Path("lines"), b"a file now")
    assert Path("lines").read_bytes() == b"a file now"


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_files_permissions_are_kept() -> None:
    before = os.umask(0o022)
    try:
        for mode in (0o600, 0o640, 0o664, 0o444):
            path = Path(f"file-{mode:o}")
            replace(path, b"old")
            assert stat.S_IMODE(path.stat().st_mode) == 0o644, "a new one's are the process's"
            path.chmod(mode)
            replace(path, b"new", Path(f"previous-{mode:o}"))
            assert [stat.S_IMODE(Path(name).stat().st_mode) for name in (path, f"previous-{mode:o}")] == [mode] * 2
        done = trainer("csr", out="run", callbacks=[StopAt(3)])
        done.run()
        for path in Path("run").iterdir():
            path.chmod(0o600)
        done.run()
        assert {stat.S_IMODE(path.stat().st_mode) for path in Path("run").iterdir()} == {0o600}
    finally:
        os.umask(before)


def test_many_writers_of_one_file() -> None:
    """Each writes a file of its own: whoever looks finds all of one of them, and in the end nothing is left over."""
    from concurrent.futures import ThreadPoolExecutor

    path, chance = Path("file"), random.Random(0)
    contents = [bytes([k]) * chance.randrange(1, 200_000) for k in range(40)]
    replace(path, contents[0])
    with ThreadPoolExecutor(4) as pool:
        written = [pool.submit(replace, path, data) for data in contents]
        while not all(each.done() for each in written):
            assert path.read_bytes() in contents
    for each in written:
        each.result()
    assert sorted(map(str, Path().iterdir())) == ["file", "flat.npz"]


@forks
def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays() -> None:
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    living, mine, other = (
        Path(f".file.{number}-0a1b.writing") for number in (os.getppid(), os.getpid(), f"{os.getppid()}9x")
    )
    gone = Path(f".file.{dead}-0a1b.writing"), Path(".file.writing")
    for left in (living, mine, other, *gone, Path(".filex.writing")):
        left.touch()
    replace(Path("file"), b"data")
    assert {*Path().glob(".*")} == {living, other, Path(".filex.writing")}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EIO, errno.EACCES])
def test_a_folder_that_cannot_be_brought_to_the_disk(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The file is in place, and the run goes on."""
    real: Callable[[int], None] = os.fsync

    def refuse_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    done = trainer("csr", out="run", save_every=0.0, check_every_step=True)
    done.run()
    assert digest_of(done) == digest("csr")


def test_a_file_system_without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    done = trainer("csr", out="run", save_every=0.0, check_every_step=True)
    done.run()
    assert kept(Path("run"))[0] == done.network.params.tobytes()


# -- what is read -----------------------------------------------------------------------------------------------------


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train.main, "prune": prune.main, "evaluate": evaluate.main, "study": study.main
}  # fmt: skip


def config_of(path: Path) -> object:
    return RunFolder(path.parent).config()


def lines_of(path: Path) -> object:
    return list(Metrics(path))


def cut(path: Path) -> object:
    return Metrics(path).cut(Mark.after(b""))


def of_a_cache(path: Path) -> object:
    return cache.read(replace_fields(MNIST, name="set", md5={path.name: "0" * 32}), path.parent.parent)


def given(*words: str) -> Callable[[Path], object]:
    """A command, which says one line and ends with 2."""

    def told(path: Path) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            status = COMMANDS[words[0]]([word.format(path) for word in words[1:]])
        assert status == 2 and said.getvalue().count("\n") == 1
        raise ValueError(said.getvalue())

    return told


READERS = {
    "config": ("set/config.json", config_of),
    "metrics": ("set/metrics.jsonl", lines_of),
    "metrics to go on with": ("set/metrics.jsonl", cut),
    "checkpoint": ("set/model.safetensors", read),
    "a folder's checkpoint": ("set/model.safetensors", lambda path: read(path.parent)),
    "data": ("set/data.npz", load),
    "weights": ("set/weights.npz", read_weights),
    "safetensors": ("set/weights.safetensors", read_weights),
    "cached": ("set/train-images-idx3-ubyte", of_a_cache),
    "runs": ("set/runs.jsonl", lambda path: read_archives([path])),
    "train": ("set/data.npz", given("train", "lenet300", "--dataset", "{}")),
    "resume": ("set/config.json", given("train", "--resume", "--out", "set")),
    "prune": ("set/weights.npz", given("prune", "{}", "--sparsity", "0.5", "--out", "o.safetensors")),
    "evaluate": ("set/model.safetensors", given("evaluate", "{}")),
    "study": ("set/runs.jsonl", given("study", "--quick", "--from", "{}", "--dry-run")),
}  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a terabyte of nothing", "a folder"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_not_read(reader: str, kind: str) -> None:
    """One line within a second: nothing hangs, and no memory is asked for."""
    name, do = READERS[reader]
    path = Path(name)
    path.parent.mkdir()
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    begin = time.monotonic()
    tracemalloc.start()
    try:
        said = f"{kind}|expected at most .* bytes|holds no checkpoint"
        with pytest.raises(ValueError, match=f"^[^\n]*({said})[^\n]*\n?$"):
            do(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begin < 5 and peak < 100 << 20


def test_an_outcome_that_is_no_file_is_none() -> None:
    Path("run").mkdir()
    os.mkfifo("run/outcome.json")
    os.mkfifo("run/metrics.jsonl")
    assert read_outcome(Path("run")) is None and records(Path("run")) == []


def test_data_larger_than_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecore.data.npz.memory", lambda: 3000)
    with pytest.raises(DataError, match="expected arrays of at most 3,000 bytes in all, got"):
        load("flat.npz")
