"""The commands as users meet them: one line for what is wrong, nothing lost, the same bits after any interruption."""

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsecore
from sparsecore import evaluate, train
from sparsecore.checkpoint import read
from sparsecore.interrupts import Interrupts
from sparsecore.metrics import Mark
from sparsecore.step import Step

ROOT = Path(__file__).resolve().parent.parent
RADIX = ["lenet300", "--radix", "10,10", "--dataset", "mnist-subset"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sparsecore.train", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | more


def bits(folder: Path | str) -> tuple[Any, ...]:
    """What a run in a folder learned and said."""
    saved = read(folder)
    said = [
        {key: record[key] for key in record if "seconds" not in key and key != "step_ms"}
        for record in records(folder)
    ]
    return saved.network.params.tobytes(), saved.velocity.tobytes(), said


def records(folder: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


# -- the main job ----------------------------------------------------------------------------------------------------


def test_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*RADIX, "--out", "run"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert not err
    assert lines[0] == "MNIST, embedded subset: 8,000 train, 2,000 test"
    assert "widths 8,3,1" in lines[1]
    assert "SparseLinear(784→300)  300×784       23,520     90.0%" in lines
    assert len([line for line in lines if line.startswith("epoch")]) == 40
    result = records("run")[-1]
    assert result["event"] == "result"
    assert {
        key: result[key] for key in ("model", "dataset", "device", "seed", "epochs", "connections", "sparsity")
    } == {
        "model": "lenet300",
        "dataset": "mnist-subset",
        "device": "cpu",
        "seed": 0,
        "epochs": 40,
        "connections": 27_520,
        "sparsity": 0.9,
    }
    assert result["test_accuracy"] >= 0.95
    assert 0 < result["train_seconds"] < 60
    assert result["step_ms"] == pytest.approx(1000 * result["train_seconds"] / (40 * 63))
    assert f"{result['test_accuracy']:.2%}" in lines[-1]
    config = json.loads(Path("run/config.json").read_text())
    assert config["options"]["radix"] == "10,10"
    names = {"config.json", "metrics.jsonl", "model.safetensors"}
    assert (
        names <= {path.name for path in Path("run").iterdir()} <= names | {"model.safetensors.previous", "curves.png"}
    )

    assert evaluate.main(["run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["test_accuracy"], found["test_loss"]) == (result["test_accuracy"], result["test_loss"])
    assert (found["samples"], found["connections"], found["sparsity"]) == (2000, 27_520, 0.9)
    assert evaluate.main(["run/model.safetensors", "--dataset", "mnist-subset", "--threads", "1"]) == 0
    assert f"{result['test_accuracy']:.2%}" in capsys.readouterr().out

    test = sparsecore.data.load("mnist-subset").test
    assert np.mean(sparsecore.load("run").predict(test.x) == test.y) == result["test_accuracy"]


@pytest.mark.parametrize(
    ("wiring", "connections"),
    [
        (["--dense"], 266_200),
        ([], 266_200),
        (["--radix", "10,10", "--widths", "8,30,1"], 235_200 + 30_000 + 1000),
        (["--radix", "2,50"], 784 * 300 // 50 + 300 * 100 // 2 + 1000),
        (["--random", "--sparsity", "0.95"], 11_760 + 1500 + 1000),
        (["--expander", "--sparsity", "0.9"], 23_400 + 3000 + 1000),
        (["--expander", "explicit", "--sparsity", "0.9"], 23_400 + 3000 + 1000),
        (["--expander", "bernoulli", "--sparsity", "0.9"], None),
        (["--random", "--sparsity", "0.95,0.5"], 11_760 + 15_000 + 1000),
        (["--random", "--sparsity", "0.9", "--sparse-all"], 23_520 + 3000 + 100),
        (["--random", "--sparsity", "0.9", "--hidden", "3000,100"], 235_200 + 30_000 + 1000),
        (["--dense", "--hidden", "30,20,10"], 784 * 30 + 600 + 200 + 100),
        (["--radix", "10,10", "--hidden", "500,200"], 39_200 + 10_000 + 2000),
    ],
)
def test_wirings(capsys: pytest.CaptureFixture[str], wiring: list[str], connections: int | None) -> None:
    run = ["--dataset", "mnist-subset", "--epochs", "1", "--quiet", "--no-curves", "--out", "r"]
    assert train.main(["lenet300", *wiring, *run]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert not Path("r/curves.png").exists()
    result = records("r")[-1]
    if connections is None:
        assert 25_500 < result["connections"] < 29_500
    else:
        assert result["connections"] == connections
    assert result["test_accuracy"] > 0.7


def test_options_reach_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        *RADIX, "--epochs", "2", "--batch-size", "100", "--lr", "0.1", "--momentum", "0.8", "--nesterov", "--seed", "7",
        "--weight-decay", "0", "--clip-norm", "1.5", "--schedule", "step:1:0.25", "--warm-up", "0.5", "--threads", "1",
        "--format", "coo", "--validation", "0.1", "--check-every-step", "--save-every", "0", "--device", "cpu",
    ]  # fmt: skip
    assert train.main([*options, "--out", "r"]) == 0
    first, second, result = records("r")
    assert first["lr"] == pytest.approx(0.1)
    assert second["lr"] == pytest.approx(0.025)
    assert "validation_accuracy" in first
    assert result["seed"] == 7
    saved = read("r")
    assert [layer.config()["format"] for layer in saved.network.layers] == ["coo", "coo", "csr"]
    assert "validation" in capsys.readouterr().out


def test_same_bits_with_any_threads(capsys: pytest.CaptureFixture[str]) -> None:
    for threads in (1, 2):
        arguments = ["lenet300", "--dataset", "mnist-subset", "--epochs", "1", "--threads", str(threads)]
        assert train.main([*arguments, "--out", f"r{threads}", "--quiet"]) == 0
    assert bits("r1") == bits("r2")


def test_on_a_terminal() -> None:
    """A live bar and a table, seen through a pseudo-terminal."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        command(*RADIX, "--epochs", 40), stdout=other, env=environment(TERM="xterm", COLUMNS="120")
    )
    os.close(other)
    seen = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
    assert process.wait() == 0
    text = seen.decode()
    assert "images/s" in text
    assert "│ SparseLinear(784→300)" in text
    assert text.rstrip().splitlines()[-1].find("test accuracy") >= 0
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is given back


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_encoding_and_a_reader_that_leaves(encoding: str) -> None:
    arguments = command(*RADIX, "--epochs", 3)
    done = subprocess.run(arguments, env=environment(PYTHONIOENCODING=encoding), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


# -- what is wrong -----------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, str]] = [
    ("", "expected a model, one of lenet300"),
    ("lenet301", "expected a model, one of lenet300"),
    ("lenet300 extra", "unrecognized arguments: extra"),
    ("lenet300 --radix", "--radix: expected one argument"),
    ("lenet300 --radix 10", "one radix a sparse layer"),
    ("lenet300 --radix 10,10,10", "got 3 radices (10,10,10): try"),
    ("lenet300 --radix 10,1", "expected radices above 1"),
    ("lenet300 --radix 10,x", "expected radices above 1"),
    ("lenet300 --radix 10,", "expected radices above 1"),
    ("lenet300 --radix 10,10/", "expected radices above 1"),
    ("lenet300 --radix 99999999999999999999,2", "expected radices above 1"),
    ("lenet300 --radix 20,20", "more than the 100"),
    ("lenet300 --radix 10,10 --sparsity 0.9", "--sparsity: not with --radix"),
    ("lenet300 --radix 10,10 --dense", "not allowed with"),
    ("lenet300 --radix 10,10 --random --sparsity 0.9", "not allowed with"),
    ("lenet300 --radix 10,10 --widths 8,3", "one width a layer"),
    ("lenet300 --radix 10,10 --widths 30,8,1", "try 8,30,1"),
    ("lenet300 --radix 10,10 --widths 8,a,1", "expected positive whole numbers"),
    ("lenet300 --radix 10,10 --widths 8,0,1", "expected positive whole numbers"),
    ("lenet300 --radix 10,10 --widths 8,2000000000,1", "ask for fewer"),
    ("lenet300 --widths 8,3,1", "--widths: goes with --radix only"),
    ("lenet300 --sparsity 0.9", "try --random --sparsity 0.9"),
    ("lenet300 --dense --sparsity 0.9", "try --random --sparsity 0.9"),
    ("lenet300 --random", "--random: needs --sparsity"),
    ("lenet300 --expander", "--expander: needs --sparsity"),
    ("lenet300 --expander ring --sparsity 0.9", "one of fixed, bernoulli, explicit, got 'ring'"),
    ("lenet300 --random --sparsity 1", "at least 0 and below 1"),
    ("lenet300 --random --sparsity -0.1", "at least 0 and below 1"),
    ("lenet300 --random --sparsity nan", "at least 0 and below 1"),
    ("lenet300 --random --sparsity 0.9,1", "at least 0 and below 1"),
    ("lenet300 --random --sparsity 0.9,", "at least 0 and below 1"),
    ("lenet300 --random --sparsity 0.9,0.5,0.5", "one for each of 2 (784→300, 300→100), got 3"),
    ("lenet300 --random --sparsity 0.9999999", "no connections"),
    ("lenet300 --random --sparsity 0.9 --pattern channel", "this model has none"),
    ("lenet300 --pattern weight", "--pattern: goes with --radix, --expander or --random"),
    ("lenet5 --random --sparsity 0.9 --pattern filter", "one of channel, weight, got 'filter'"),
    ("lenet5 --radix 10,10", "divide both sizes of the layer 20→50: try 2,5"),
    ("lenet300 --radix 10,10 --widths 8,30,1 --hidden 300,100", "--hidden: not with --widths"),
    ("lenet300 --hidden 300,0", "positive whole numbers"),
    ("lenet5 --hidden 20,50", "3 hidden layers, two of channels and one of neurons, got 2"),
    ("lenet5 --radix 2,5 --sparse-all", "one radix a sparse layer: there are 4"),
    ("lenet300 --augment -1", "expected none, or pixels such as 4 or 4,flip"),
    ("lenet300 --augment 4,mirror", "expected none, or pixels such as 4 or 4,flip"),
    ("lenet300 --dataset mnist-subset --augment 28", "--augment: augmentation moves images of 28×28 by fewer"),
    ("lenet300 --padding 2", "--padding: lenet300 has no convolutions"),
    ("lenet5 --padding -1", "expected a whole number from 0 to 100"),
    ("lenet300 --format csc", "one of csr, coo, got 'csc'"),
    ("lenet300 --dataset letters", "one of mnist, fashion-mnist, cifar10, mnist-subset"),
    ("lenet300 --dataset none.npz", "none.npz: no such file"),
    ("lenet300 --dataset cifar10 --data-dir nowhere", "python -m sparsecore.data fetch cifar10"),
    ("lenet300 --epochs 0", "expected a whole number from 1"),
    ("lenet300 --epochs 1.5", "expected a whole number from 1"),
    ("lenet300 --epochs ten", "expected a whole number from 1"),
    ("lenet300 --epochs 1" + "0" * 5000, "expected a whole number from 1"),
    ("lenet300 --batch-size 0", "expected a whole number from 1"),
    ("lenet300 --dataset mnist-subset --batch-size 8001", "at most the 8,000 training samples"),
    ("lenet300 --dataset mnist-subset --validation 0.5 --batch-size 4001", "at most the 4,000 training samples"),
    ("lenet300 --lr 0", "expected a number above 0"),
    ("lenet300 --lr -1", "expected a number above 0"),
    ("lenet300 --lr inf", "expected a number above 0"),
    ("lenet300 --lr nan", "expected a number above 0"),
    ("lenet300 --lr fast", "got 'fast'"),
    ("lenet300 --momentum 1", "at least 0 and below 1"),
    ("lenet300 --momentum 0 --nesterov", "--nesterov: needs a --momentum above 0"),
    ("lenet300 --weight-decay -1", "expected a number of at least 0"),
    ("lenet300 --clip-norm 0", "expected a number above 0"),
    ("lenet300 --schedule linear", "expected constant, cosine, or step:EPOCHS"),
    ("lenet300 --schedule step", "expected constant, cosine, or step:EPOCHS"),
    ("lenet300 --schedule step:0", "expected constant, cosine, or step:EPOCHS"),
    ("lenet300 --schedule step:1:2:3", "expected constant, cosine, or step:EPOCHS"),
    ("lenet300 --schedule step:5:nan", "expected constant, cosine, or step:EPOCHS"),
    ("lenet300 --schedule cosine:3", "expected constant, cosine, or step:EPOCHS"),
    ("lenet300 --dataset mnist-subset --epochs 3 --warm-up 3", "shorter than the 3 epochs"),
    ("lenet300 --seed -1", "expected a whole number from 0"),
    ("lenet300 --seed 99999999999999999999", "expected a whole number from 0"),
    ("lenet300 --threads 0", "from 1 to 256"),
    ("lenet300 --threads 1000000", "from 1 to 256"),
    ("lenet300 --validation 1", "at least 0 and below 1"),
    ("lenet300 --dataset mnist-subset --validation 0.00001", "leaves none"),
    ("lenet300 --device tpu", "one of cpu, cuda, cuda:1 and auto, got 'tpu'"),
    ("lenet300 --epoch 3", "unrecognized arguments: --epoch"),
    ("lenet300 --save-every -1", "expected a number of at least 0"),
    ("lenet300 --resume", "--resume: needs --out"),
    ("lenet300 --resume --out nowhere", "nowhere"),
    ("--resume --out .", "expected a model"),
    ("lenet300 --out", "--out: expected one argument"),
]


def one_line(capsys: pytest.CaptureFixture[str], program: str = "python -m sparsecore.train") -> str:
    err = capsys.readouterr().err
    assert err.startswith(f"{program}: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert len(err) < 500
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(("line", "problem"), WRONG)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str, problem: str) -> None:
    assert train.main(line.split()) == 2
    assert problem in one_line(capsys)
    assert not list(tmp_path.iterdir())
    arguments = line.split()
    if "--out" not in arguments:
        assert train.main([*arguments, "--out", "run"]) == 2
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "word", ["", " ", "a\nb", "a\0b", "\x1b[31m", "\ud800", "%s %d", "--", "@file", "é" * 1000, "-" * 50]
)
def test_strange_words(capsys: pytest.CaptureFixture[str], tmp_path: Path, word: str) -> None:
    for arguments in (
        [word], ["lenet300", word], ["lenet300", "--radix", word], ["lenet300", "--dataset", word],
        ["lenet300", "--resume", "--out", word], ["lenet300", "--seed", word], ["lenet300", f"--{word}"],
    ):  # fmt: skip
        if arguments in (["lenet300", "--"], ["lenet300", "--dataset", "--"]):
            continue
        assert train.main(arguments) == 2, arguments
        one_line(capsys)
        assert not list(tmp_path.iterdir())


def test_no_cuda(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert train.main(["lenet300", "--device", "cuda"]) == 2
    assert "pip install 'sparsecore[cuda]'" in one_line(capsys)
    for name in ("cuda:", "cuda:x", "cuda:-1", "cuda1", "gpu", "cuda:²"):
        assert train.main(["lenet300", "--device", name]) == 2
        assert "one of cpu, cuda, cuda:1 and auto" in one_line(capsys)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for module in (train, evaluate):
        with pytest.raises(SystemExit) as end:
            module.main(["--help"])
        assert end.value.code == 0
        assert "for example" in capsys.readouterr().out


def test_folders_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("file").touch()
    Path("used").mkdir()
    Path("used/metrics.jsonl").touch()
    before = sorted(tmp_path.rglob("*"))
    for out in ("file", "file/below", "used", "x" * 300, "/proc/run"):
        assert train.main([*RADIX, "--out", out]) == 2, out
        one_line(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_disk_that_is_full(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000})())
    assert train.main([*RADIX, "--out", "run"]) == 2
    assert "1,000 free" in one_line(capsys)
    assert not Path("run").exists()


def test_divergence(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*RADIX, "--lr", "1e9", "--out", "run", "--quiet"]) == 1
    assert "--clip-norm" in one_line(capsys)


def test_evaluate_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.safetensors").write_bytes(b"broken")
    sparsecore.save(sparsecore.Network([sparsecore.ReLU((784,))]), "net.safetensors")
    np.savez("other.npz", x=np.eye(12, 5, dtype=np.float32), y=np.arange(12) % 3)
    for line, problem in (
        ("", "the following arguments are required: DIR"),
        ("nowhere", "no such file"),
        (".", "no checkpoint"),
        ("broken.safetensors", "could not read it"),
        ("net.safetensors", "say --dataset"),
        ("net.safetensors --dataset letters", "one of mnist"),
        ("net.safetensors --dataset other.npz", "takes samples of 784 features, got 5"),
        ("net.safetensors --threads x", "from 1 to 256"),
    ):
        assert evaluate.main(line.split()) == 2, line
        assert problem in one_line(capsys, "python -m sparsecore.evaluate"), line


# -- interruptions -----------------------------------------------------------------------------------------------------


class After:
    """Raises a signal after so many training steps: `Step.run` is called for evaluations too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int, do: Callable[[], None]) -> None:
        real = Step.run

        def run(step: Step, start: int, batch: int) -> None:
            nonlocal steps
            real(step, start, batch)
            steps -= step.optimizer is not None
            if steps == 0:
                steps = -1
                do()

        monkeypatch.setattr(Step, "run", run)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("steps", [1, 63, 70])
def test_interrupted_and_resumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, status: int, steps: int
) -> None:
    options = [*RADIX, "--epochs", "3", "--validation", "0.01", "--quiet"]
    assert train.main([*options, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        After(patch, steps, lambda: signal.raise_signal(number))
        assert train.main([*options, "--out", "cut"]) == status
    assert "to go on: python -m sparsecore.train --resume --out cut" in one_line(capsys)
    assert records("cut")[-1:] != records("whole")[-1:]
    assert train.main(["--resume", "--out", "cut", "--quiet"]) == 0
    assert bits("cut") == bits("whole")
    assert [line["event"] for line in records("cut")] == ["epoch"] * 3 + ["result"]
    assert signal.getsignal(number) not in (None, signal.SIG_IGN)


def test_interrupted_without_a_folder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    After(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGINT))
    assert train.main(RADIX) == 130
    assert "nothing is saved" in one_line(capsys)


def test_interrupted_while_loading(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecore.data.load", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
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
    options = [*RADIX, "--epochs", "10", "--validation", "0.1", "--save-every", "0", "--check-every-step", "--quiet"]
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


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The folder of a run that was stopped in its second epoch."""
    with monkeypatch.context() as patch:
        After(patch, 70, lambda: signal.raise_signal(signal.SIGINT))
        assert train.main([*RADIX, "--epochs", "3", "--lr", "0.1", "--out", "cut", "--threads", "1"]) == 130
    capsys.readouterr()
    return "cut"


def test_resume_accepts_what_was_said(cut: str) -> None:
    arguments = [*RADIX, "--epochs", "3", "--lr", "1e-1", "--threads", "2", "--quiet", "--resume", "--out", cut]
    assert train.main(arguments) == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--lr 0.2", "--lr: in cut it was 0.1, got 0.2"),
        ("--epochs 4", "--epochs: in cut it was 3, got 4"),
        ("--radix 2,50", "--radix: in cut it was 10,10, got 2,50"),
        ("--nesterov", "--nesterov: in cut it was not given"),
        ("--dense", "--dense"),
        ("--dataset mnist", "--dataset: in cut it was mnist-subset"),
        ("--seed 1", "--seed: in cut it was 0, got 1"),
    ],
)
def test_resume_refuses_another_run(capsys: pytest.CaptureFixture[str], cut: str, line: str, problem: str) -> None:
    before = {path.name: path.read_bytes() for path in Path(cut).iterdir()}
    assert train.main(["lenet300", *line.split(), "--resume", "--out", cut]) == 2
    assert problem in one_line(capsys)
    assert {path.name: path.read_bytes() for path in Path(cut).iterdir()} == before


def test_run_is_not_overwritten(capsys: pytest.CaptureFixture[str], cut: str) -> None:
    before = {path.name: path.read_bytes() for path in Path(cut).iterdir()}
    assert train.main([*RADIX, "--out", cut]) == 2
    assert "--resume" in one_line(capsys)
    assert {path.name: path.read_bytes() for path in Path(cut).iterdir()} == before


def test_finished_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*RADIX, "--epochs", "1", "--out", "run"]) == 0
    result = capsys.readouterr().out.splitlines()[-1]
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    assert train.main(["--resume", "--out", "run"]) == 0
    assert capsys.readouterr().out.splitlines() == ["the run in run is finished", result]
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_resume_without_a_checkpoint_starts_over(capsys: pytest.CaptureFixture[str], cut: str) -> None:
    Path(cut, "model.safetensors").unlink()
    assert train.main(["--resume", "--out", cut, "--quiet"]) == 0
    assert train.main([*RADIX, "--epochs", "3", "--lr", "0.1", "--out", "whole", "--quiet"]) == 0
    assert bits(cut) == bits("whole")
    Path("empty").mkdir()
    assert train.main([*RADIX, "--epochs", "3", "--lr", "0.1", "--resume", "--out", "empty", "--quiet"]) == 0
    assert bits("empty") == bits("whole")


def test_resume_with_a_broken_checkpoint(capsys: pytest.CaptureFixture[str], cut: str) -> None:
    path = Path(cut, "model.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    assert train.main(["--resume", "--out", cut]) == 2
    assert "model.safetensors: expected a safetensors file" in one_line(capsys)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"options": 3}', '{"options": {}}', '{"options": {"model": "--help"}}', "[" * 100_000,
     '{"options": {"model": "lenet300", "help": true}, "x": 1}', '{"options": {"model": "lenet300", "epochs": "many"}}',
     '{"options": {"model": "lenet300", "radix": ' + "[" * 900 + "]" * 900 + "}}", '{"options": {"model": [[]]}}'],
)  # fmt: skip
def test_resume_with_a_strange_configuration(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("run").mkdir()
    Path("run/config.json").write_text(text)
    if "help" in text and "x" in text:  # an option of a command alone, which is not looked at
        return
    assert train.main(["--resume", "--out", "run"]) == 2
    one_line(capsys)
    assert [path.name for path in Path("run").iterdir()] == ["config.json"]


def test_resume_from_elsewhere_with_own_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 20)).astype(np.float32), np.arange(400) % 4
    x[np.arange(400), y] += 3
    np.savez("mine.npz", x=x, y=y)
    options = ["lenet300", "--random", "--sparsity=0.8,0.9", "--dataset=mine.npz", "--epochs=3", "--batch-size=50"]
    assert train.main([*options, "--out", "whole", "--quiet"]) == 0
    with monkeypatch.context() as patch:
        After(patch, 9, lambda: signal.raise_signal(signal.SIGINT))
        assert train.main([*options, "--out", "cut"]) == 130
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert train.main(["--resume", "--out", "../cut", "--quiet"]) == 0
    assert bits("../cut") == bits("../whole")
    assert evaluate.main(["../cut"]) == 0
    x[0, 0] += 1
    np.savez("../mine.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        After(patch, 9, lambda: signal.raise_signal(signal.SIGINT))
        assert train.main([*options, "--out", "cut2"]) == 130
    np.savez("mine.npz", x=2 * x, y=y)
    capsys.readouterr()
    assert train.main(["--resume", "--out", "cut2", "--quiet"]) == 2
    assert "expected a checkpoint of this run" in one_line(capsys)


def test_a_relu_on_the_logits_is_kept_and_can_kill_classes() -> None:
    command = ["lenet300", "--relu-logits", "--dataset", "mnist-subset", "--epochs", "1", "--quiet"]
    assert train.main([*command, "--out", "r"]) == 0
    logits = sparsecore.load("r").logits(np.random.default_rng(0).integers(0, 256, (50, 784)).astype(np.uint8))
    assert logits.min() == 0 < logits.max()
    assert train.main(["--from", "r", "--relu-logits", "--epochs", "1", "--quiet", "--out", "more"]) == 0
    assert train.main([*command[:1], *command[2:], "--out", "plain"]) == 0
    assert [sparsecore.load(name).layers[-1].relu for name in ("plain", "more")] == [False, True]
