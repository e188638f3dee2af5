"""What is wrong is said in one line, before anything is made."""

import sys
from pathlib import Path

import numpy as np
import pytest

import sparsecore
from sparsecore import evaluate, train
from tests.command.given import RADIX, one_line

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
    ("lenet300 --random --sparsity 0.9,0.5,0.5", "--sparsity: give one for all sparse layers or one for each of 2"),
    ("lenet300 --random --sparsity 0.9999999", "no connections"),
    ("lenet300 --random --sparsity 0.9 --pattern channel", "--granularity channel: is for convolutions, and"),
    ("lenet300 --granularity weight", "--granularity: goes with --radix, --expander or --random"),
    ("lenet300 --pattern weight", "--granularity: goes with --radix, --expander or --random"),
    ("lenet5 --random --sparsity 0.9 --pattern filter", "one of channel, weight, rows:G and block:G,H, such as"),
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
    ("lenet300 --optimizer rmsprop", "one of sgd, adam, adamw, got 'rmsprop'"),
    ("lenet300 --optimizer adam --momentum 0.9", "--momentum: goes with --optimizer sgd, got adam"),
    ("lenet300 --optimizer adamw --nesterov", "--nesterov: goes with --optimizer sgd, got adamw"),
    ("lenet300 --betas 0.9,0.99", "--betas: goes with --optimizer adam or adamw, got sgd"),
    ("lenet300 --optimizer sgd --eps 1e-6", "--eps: goes with --optimizer adam or adamw, got sgd"),
    ("lenet300 --optimizer adam --betas 0.9", "two fractions of at least 0 and below 1, such as 0.9,0.999"),
    ("lenet300 --optimizer adam --betas 0.9,1", "two fractions of at least 0 and below 1"),
    ("lenet300 --optimizer adam --betas 0.9,x", "two fractions of at least 0 and below 1"),
    ("lenet300 --optimizer adam --eps 0", "expected a number above 0"),
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
    ("lenet300 --evaluate-every 0", "--evaluate-every: expected a whole number from 1"),
    ("lenet300 --look-epochs 0", "--look-epochs: expected a whole number from 1"),
    ("lenet300 --resume", "--resume: needs --out"),
    ("lenet300 --resume --out nowhere", "nowhere"),
    ("--resume --out .", "expected a model"),
    ("lenet300 --out", "--out: expected one argument"),
]


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
