"""Command lines that nobody should type: each is refused by one line and leaves nothing, or does what it says.

Lines are drawn from each command's own options, with values that suit them and values that do not, and every command
meets good, damaged and absent files. Training stops before its first step; all else is real. `pytest -m slow` runs
10,000 lines, an ordinary run 200.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecore import evaluate, train
from sparsecore.data import __main__ as data
from sparsecore.data import loading
from sparsecore.data.sources import publishers
from sparsecore.inspect import __main__ as inspect
from sparsecore.inspect import pictures
from sparsecore.prune import __main__ as prune
from sparsecore.runs.checkpoint import read, save
from sparsecore.runs.trainer import Trainer
from tests.reliability.fuzz import Rng, damaged, in_a_child, watched
from tests.small import network

NUMBERS = ["0", "1", "2", "10", "0.5", "0.9", "-1", "-0.0", "1e-3", "1e400", "nan", "inf", "1_0", "٣", "0x10", "1,2",
           "9" * 30]  # fmt: skip
STRANGE = ["", " ", "a\nb", "a\0b", "\x1b[31m", "\ud800", "%s%n", "--", "-", "@file", "é" * 300, "-" * 40, "=",
           "--x=--y", "~", "~nobody", "*"]  # fmt: skip
FILES = ["run", "net.safetensors", "weights.npz", "mine.npz", "broken.safetensors", "broken.npz", "empty", "cut",
         "nowhere", "run/config.json", "."]  # fmt: skip
OUTS = ["new", "new.safetensors", "run", "cut", "empty", "mine.npz", "mine.npz/below", "x" * 300, "/proc/new", "a/b/c",
        "new/"]  # fmt: skip
LISTS = ["0.9", "0.9,0.5", "0.9,0.9,0", "1", "1.5", "0", "nan", "0.5,,", "-1,0"]
WORDS = ["lenet300", "lenet5", "vgg", "mnist", "mnist-subset", "fashion-mnist", "cifar10", "fetch", "list",
         "make-subset"]  # fmt: skip

Options = dict[str, list[str] | None]
"""The options of a command, and words that may follow; None for those that take none."""

TRAIN: Options = {
    "--radix": ["10,10", "2,5/10", "2,2", "2", "1,1", "0", "10,10,10", "2,x", "99999999999", "3,4/12"],
    "--expander": ["fixed", "bernoulli", "explicit", "other"], "--random": None, "--dense": None,
    "--widths": ["8,3,1", "8,30,1", "1", "0,1", "1,2,3,4", "2000000000,1,1", "x"],
    "--sparsity": ["0.9", "0.99999", "0", "1", "nan"], "--format": ["csr", "coo", "csc"],
    "--prune": ["one-time", "iterative", "gradual", "never"], "--prune-to": LISTS, "--prune-threshold": NUMBERS,
    "--prune-quality": NUMBERS, "--prune-by": ["magnitude", "gradient", "curvature", "x"], "--prune-global": None,
    "--prune-start": NUMBERS, "--prune-end": NUMBERS, "--prune-every": NUMBERS, "--prune-exponent": NUMBERS,
    "--prune-empty": None, "--rewire": ["set", "rigl", "regrow", "never"], "--every": NUMBERS, "--fraction": NUMBERS,
    "--until": NUMBERS, "--grow": [*NUMBERS, "exact", "all"], "--fixed-fan-in": None, "--start-sparsity": NUMBERS,
    "--from": FILES, "--rewind": ["initial", "fresh", "0", "3", "-1"],
    "--dataset": ["mine.npz", "broken.npz", "nowhere.npz", "mnist", "cifar10", "letters", "run"], "--data-dir": FILES,
    "--epochs": NUMBERS, "--batch-size": [*NUMBERS, "149", "151"], "--lr": NUMBERS, "--momentum": NUMBERS,
    "--optimizer": ["sgd", "adam", "adamw", "lion"], "--betas": ["0.9,0.999", "0.9", "0,0", "1,1"], "--eps": NUMBERS,
    "--hidden": ["30,20", "8", "0,1", "x"], "--granularity": ["weight", "channel", "rows:3", "block:2,5", "x"],
    "--width": NUMBERS, "--batch-norm": None, "--evaluate-every": NUMBERS,
    "--distribution": ["uniform", "erk", "er"], "--look-epochs": NUMBERS,
    "--pattern": ["weight"], "--save-epochs": NUMBERS, "--nesterov": None, "--weight-decay": NUMBERS,
    "--clip-norm": NUMBERS, "--warm-up": NUMBERS,
    "--schedule": ["constant", "cosine", "step:1:0.5", "step:0", "step", "cos"],
    "--seed": NUMBERS, "--validation": NUMBERS, "--threads": ["1", "2", "0", "257", "x"],
    "--device": ["cpu", "cuda", "tpu"], "--out": OUTS, "--resume": None, "--save-every": NUMBERS,
    "--check-every-step": None, "--quiet": None, "--help": None,
}  # fmt: skip
PRUNE: Options = {
    "--sparsity": LISTS, "--threshold": NUMBERS, "--quality": NUMBERS,
    "--by": ["magnitude", "gradient", "curvature", "x"], "--global": None, "--allow-empty": None, "--compact": None,
    "--granularity": ["weight", "channel", "rows:3", "x"],
    "--dataset": ["mine.npz", "broken.npz", "letters"], "--data-dir": FILES, "--out": OUTS, "--help": None,
}  # fmt: skip
INSPECT: Options = {
    "--json": None, "--pictures": OUTS, "--remove-dead": None, "--out": OUTS, "--help": None,
}  # fmt: skip
EVALUATE: Options = {
    "--dataset": ["mine.npz", "broken.npz", "mnist", "letters"], "--data-dir": FILES,
    "--threads": ["1", "2", "0", "257"], "--json": None, "--latency": None, "--help": None,
}  # fmt: skip
DATA: Options = {
    "--data-dir": [*FILES, "/proc/new", "x" * 300, "a/b"], "--source": ["mirror", "npm", "debian", "x"], "--help": None,
}  # fmt: skip


class Command:
    """A command line: its entry, its name, its options, and where its line begins from when it is to be good."""

    def __init__(self, main: Callable[[list[str]], int], options: Options, *starts: str) -> None:
        self.main, self.options, self.starts = main, options, [start.split() for start in starts]
        self.program = f"python -m {main.__module__.removesuffix('.__main__')}"

    def line(self, rng: Rng) -> list[str]:
        words = list(self.starts[int(rng.integers(0, len(self.starts)))]) if rng.random() < 0.7 else []
        for _ in range(int(rng.choice([0, 1, 1, 2, 2, 3, 5]))):
            chance = rng.random()
            if chance < 0.8:
                name = str(rng.choice(list(self.options)))
                values = self.options[name]
                if name == "--help" and rng.random() < 0.9:
                    continue
                words.append(name)
                if values is not None and rng.random() < 0.97:
                    value = str(rng.choice(values)) if rng.random() < 0.9 else any_of(rng)
                    words[-1:] = [f"{name}={value}"] if rng.random() < 0.2 else [name, value]
            else:
                words.insert(int(rng.integers(0, len(words) + 1)), any_of(rng))
        if len(words) > 1 and rng.random() < 0.05:
            words = [words[k] for k in rng.permutation(len(words))]
        return words


def any_of(rng: Rng) -> str:
    """A word that may stand anywhere."""
    group = [NUMBERS, STRANGE, FILES, OUTS, WORDS, list(TRAIN)][int(rng.integers(0, 6))]
    word = group[int(rng.integers(0, len(group)))]
    return "".join(map(str, rng.permutation(list(word)))) if rng.random() < 0.05 else word


MINE = "lenet300 --dataset mine.npz"
COMMANDS = [
    Command(train.main, TRAIN, MINE, f"{MINE} --out new", f"{MINE} --prune gradual --prune-to 0.9 --out new",
            f"{MINE} --random --sparsity 0.9", "--resume --out cut", "--resume --out run", "--from run --out new"),
    Command(prune.main, PRUNE, "run", "run --sparsity 0.9 --out new.safetensors", "net.safetensors --compact --out new",
            "weights.npz --threshold 0.1 --out new.safetensors", "net.safetensors --quality 0.5 --out new.safetensors"),
    Command(inspect.main, INSPECT, "run", "net.safetensors", "run --remove-dead --out new.safetensors"),
    Command(evaluate.main, EVALUATE, "run", "net.safetensors --dataset mine.npz"),
    Command(data.main, DATA, "list", "fetch mnist", "fetch fashion-mnist --source debian", "make-subset new.npz"),
]  # fmt: skip
SHARES = [5000, 2000, 1000, 1000, 1000]
"""Lines of each command in the long form: 10,000 in all."""

LINES = [pytest.param(*each, id=each[0].program) for each in zip(COMMANDS, SHARES, strict=True)]


def lay_out(folder: Path) -> None:
    """The files that lines speak of."""
    rng = np.random.default_rng(0)
    os.chdir(folder)
    x, y = rng.standard_normal((150, 20)).astype(np.float32), (np.arange(150) % 5).astype(np.int64)
    np.savez("mine.npz", x=x, y=y, x_test=x[:10], y_test=y[:10])
    np.savez("weights.npz", W1=x[:12], b1=x[0, :12], W2=x[:5, :12])
    save(network(), "net.safetensors")
    common = ["--dataset", "mine.npz", "--epochs", "1", "--quiet"]
    assert quietly(train.main, ["lenet300", "--random", "--sparsity", "0.9", *common, "--out", "run"])[0] == 0
    with stopped_before_the_first_step():
        assert quietly(train.main, ["lenet300", *common, "--out", "cut"])[0] == 0
    Path("empty").mkdir()
    for name in ("net.safetensors", "mine.npz"):
        Path(f"broken.{name.split('.')[1]}").write_bytes(damaged(Path(name).read_bytes(), rng))


@contextlib.contextmanager
def stopped_before_the_first_step() -> Iterator[None]:
    real = Trainer.run

    def run(self: Trainer) -> Any:
        self.stop()
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run", run)
        yield


@contextlib.contextmanager
def pictures_at_once() -> Iterator[None]:
    """Painting takes a second; `tests/test_inspect.py` looks at what is painted."""

    def saved(path: Path, paint: Any) -> Path:
        path.write_bytes(b"a picture")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "_saved", saved)
        yield


@contextlib.contextmanager
def without_a_network() -> Iterator[None]:
    def absent(*_: object) -> Any:
        raise publishers.SourceError("there is no network in this test")

    with pytest.MonkeyPatch.context() as patch:
        for kind in (publishers.Mirror, publishers.Npm, publishers.Debian):
            patch.setattr(kind, "get", absent)
        patch.setattr(loading, "fetch_at_once", lambda *_: None)
        yield


def quietly(main: Callable[[list[str]], int], words: list[str]) -> tuple[int, str, str]:
    """The exit status of a command, and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), watched():
        try:
            status = main(words)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """All files below a folder: their sizes and when they changed."""
    return {
        os.path.join(place, name): (found.st_size, found.st_mtime_ns)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if (found := os.lstat(os.path.join(place, name))) and not (name in folders and place == str(folder))
    }


def given_back(before: dict[str, tuple[int, int]], folder: Path, backup: Path) -> None:
    """What a line made or changed goes, so that the next one meets the files as they were."""
    if seen(folder) != before:
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.copytree(backup, folder, dirs_exist_ok=True)


def check(command: Command, words: list[str], folder: Path) -> bool:
    """Run a line; True if it was followed."""
    before = seen(folder)
    status, out, err = quietly(command.main, words)
    after = seen(folder)
    assert status in (0, 1, 2), f"status {status}"
    assert not [name for name in after if "/." in name.removeprefix(str(folder))], "left unfinished"
    if status == 0:
        stopped = err.startswith(f"{command.program}: stopped in epoch 1 after step 0")
        assert not err or stopped, f"said though all is well: {err!r}"
        new = [name for name in after if name not in before and name.endswith(".safetensors")]
        for name in new:
            read(name)
        return True
    assert err.startswith(f"{command.program}") and err.endswith("\n") and err.count("\n") == 1, f"not a line: {err!r}"
    assert err[:-1].isprintable() and len(err) < 1200 and "Traceback" not in err, err
    assert command.main is train.main or not out, f"partial output: {out!r}"
    assert after == before, f"refused, and yet changed: {set(after.items()) ^ set(before.items())}"
    return False


def fuzz(command: Command, folder: Path, first: int, count: int) -> dict[str, Any]:
    place, backup = folder / "here", folder / "backup"
    place.mkdir()
    os.environ["SPARSECORE_DATA_DIR"] = str(folder / "no-cache")
    lay_out(place)
    shutil.copytree(place, backup)
    followed, before = 0, seen(place)
    with stopped_before_the_first_step(), without_a_network(), pictures_at_once():
        for number in range(first, first + count):
            words = command.line(np.random.default_rng([number, count]))
            try:
                followed += check(command, words, place)
            except BaseException as error:
                raise AssertionError(f"{command.program} {words!r}: {type(error).__name__}: {error}") from error
            if seen(place) != before:
                given_back(before, place, backup)
                before = seen(place)
    return {"followed": followed}


@pytest.mark.parametrize(("command", "count"), LINES)
def test_lines(command: Command, count: int, tmp_path: Path) -> None:
    in_a_child(lambda: fuzz(command, tmp_path, 10**6, count // 50), megabytes=700)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "count"), LINES)
def test_lines_for_long(command: Command, count: int, tmp_path: Path) -> None:
    found = in_a_child(lambda: fuzz(command, tmp_path, 0, count), megabytes=700)
    print(f"{command.program}: {count:,} lines, {found['followed']:,} followed, memory +{found['grew']:.0f} MB")
    assert sum(SHARES) == 10_000
