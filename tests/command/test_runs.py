"""The command as users meet it: the main job, wirings, options, terminals and pipes."""

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import sparsecore
from sparsecore import evaluate, train
from sparsecore.runs.checkpoint import read
from tests.command.given import RADIX, bits, command, environment, records


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
    assert config["options"]["radix"] == [[10, 10]]
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

    assert evaluate.main(["run", "--latency"]) == 0
    out, err = capsys.readouterr()
    assert not err
    found_lines = [re.fullmatch(r"(\d+) samples?: p50 ([\d.]+) [µm]s, p99 ([\d.]+) [µm]s, of [\d,]+ calls", line)
                   for line in out.splitlines()[-3:]]  # fmt: skip
    assert [line and line[1] for line in found_lines] == ["1", "16", "256"]
    assert evaluate.main(["run", "--latency", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["batch"] for each in found["latency"]] == [1, 16, 256]
    assert all(0 < each["p50_ms"] <= each["p99_ms"] and each["calls"] >= 20 for each in found["latency"])

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
        assert train.main([*arguments, "--out", f"r{threads}", "--quiet", "--no-curves"]) == 0
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


def test_a_relu_on_the_logits_is_kept_and_can_kill_classes() -> None:
    command = ["lenet300", "--relu-logits", "--dataset", "mnist-subset", "--epochs", "1", "--quiet", "--no-curves"]
    assert train.main([*command, "--out", "r"]) == 0
    logits = sparsecore.load("r").logits(np.random.default_rng(0).integers(0, 256, (50, 784)).astype(np.uint8))
    assert logits.min() == 0 < logits.max()
    assert train.main(["--from", "r", "--relu-logits", "--epochs", "1", "--quiet", "--no-curves", "--out", "more"]) == 0
    assert train.main([*command[:1], *command[2:], "--out", "plain"]) == 0
    assert [sparsecore.load(name).layers[-1].relu for name in ("plain", "more")] == [False, True]


def test_a_run_that_moves_connections_says_so_in_its_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["lenet300", "--dataset=mnist-subset", "--hidden=30,20", "--epochs=4", "--every=50", "--no-curves"]
    for words, sparser in ((["rigl", "--sparsity", "0.9"], ""), (["regrow", "--sparsity", "0.98"], "  to 9")):
        assert train.main([*small, "--rewire", *words, "--out", words[0]]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f"{words[0]} after every 50 steps until step 189: 30% of a layer's connections move" in lines[8]
        epochs = [line for line in lines if line.startswith("epoch ")]
        moves = [line for line in records(words[0]) if line["event"] == "rewire"]
        assert len(moves) == 3 and len(epochs) == 4
        came = sum(layer["came"] for layer in moves[0]["layers"])
        assert f"  moved {came:,}{sparser}" in epochs[0] and "  ever tried " in epochs[0]
        assert "moved" not in epochs[3], "nothing moves in the last quarter"
