"""Files that earlier versions wrote: they load, predict what they did, and their runs end as they would have then.

`fixtures/format1` was written by `fixtures/make_format1.py` at the commit that its `expected.json` names. Bits are
compared on a processor like the one that wrote them. On another, sums are rounded in another order and training carries
that on: what a run comes to is compared within TOLERANCE.

dW of convolutions has been summed in another order since. `lenet5`, which has some, is compared within TOLERANCE with
what it came to then, and to the bit with what it comes to now, `resumed` or begun `anew`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparsecore.kernels.compile import register_bytes

import sparsecore
from sparsecore import train
from sparsecore.data import load

HERE = Path(__file__).parent / "fixtures" / "format1"
EXPECTED = json.loads((HERE / "expected.json").read_text())
FILES: dict[str, dict[str, Any]] = EXPECTED["files"]
SAME_BITS = (platform.machine(), register_bytes()) == (EXPECTED["machine"], EXPECTED["register_bytes"])
TOLERANCE = {
    "norm": 1e-5,  # of the parameters, relative
    "sum": 1e-5,  # of the parameters, relative to the largest that as many of this norm can have
    "test_accuracy": 0.002,
    "test_loss": 1e-4,
}
"""With registers of 16 and of 32 bytes instead of 64, norm, sum and loss differ by 3e-8 at most, accuracy not at all; a
velocity that is lost changes the norm by 1e-4 to 2e-2, and the loss by 3e-3 or more."""
QUIET = ["--threads", "1", "--quiet", "--no-curves"]


def of_kind(*kinds: str) -> list[str]:
    return [name for name, file in FILES.items() if file["kind"] in kinds]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = sparsecore.get_threads()
    yield
    sparsecore.set_threads(before)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(HERE / "logits.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file or a run's folder, to be written to."""
    old, new = HERE / request.param, tmp_path / request.param
    return Path(shutil.copytree(old, new) if old.is_dir() else shutil.copy(old, new))


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_ended_as_expected(folder: Path, name: str, *, slack: float = 1, anew: bool = False) -> None:
    """The run is finished, told each epoch once, and came to what it came to then: to the bit, or within so many times
    TOLERANCE on another processor.
    """
    network, wanted, lines = sparsecore.load(folder), FILES[name], records(folder)
    epochs = [line["epoch"] for line in lines if line["event"] == "epoch"]
    assert epochs == list(range(1, lines[-1]["epochs"] + 1))
    assert [line["event"] for line in lines].count("result") == 1
    params = network.params.astype(np.float64)
    assert (str(network.params.dtype), params.size) == (wanted["dtype"], wanted["size"])
    assert (network.connections, network.sparsity) == (wanted["connections"], wanted["sparsity"])
    assert lines[-1]["event"] == "result"
    assert np.linalg.norm(params) == pytest.approx(wanted["norm"], rel=slack * TOLERANCE["norm"])
    largest = wanted["norm"] * params.size**0.5
    assert params.sum() == pytest.approx(wanted["sum"], abs=slack * TOLERANCE["sum"] * largest)
    for key in ("test_accuracy", "test_loss"):
        assert lines[-1][key] == pytest.approx(wanted[key], abs=slack * TOLERANCE[key])
    if SAME_BITS:
        exact = wanted | wanted.get("anew" if anew else "resumed", {})
        assert hashlib.sha256(network.params.tobytes()).hexdigest() == exact["sha256"]
        assert [lines[-1][key] for key in ("test_accuracy", "test_loss")] == [
            exact[key] for key in ("test_accuracy", "test_loss")
        ]


@pytest.mark.parametrize("name", FILES)
def test_the_network_predicts_what_it_did(name: str, arrays: dict[str, np.ndarray]) -> None:
    broken = name == "previous-beside-broken"
    network = sparsecore.load(HERE / name / ("model.safetensors.previous" if broken else ""))
    stem = name.removesuffix(".safetensors")
    x, wanted = arrays.get(f"{stem}.x", arrays["digits"]), arrays[f"{stem}.logits"]
    logits = network.logits(np.concatenate([x] * 16))[: len(x)]  # few samples are summed in another order
    np.testing.assert_allclose(network.logits(x), logits, rtol=1e-5, atol=1e-5 * np.abs(logits).max())
    assert logits.dtype == network.dtype == wanted.dtype
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    assert np.array_equal(network.predict(x), wanted.argmax(1))
    if SAME_BITS:
        assert logits.tobytes() == wanted.tobytes()


def test_what_no_logit_shows_is_kept() -> None:
    network = sparsecore.load(HERE / "layers.safetensors")
    layers: Any = network.layers
    assert [type(layer).__name__ for layer in layers] == [
        "SparseConv2d", "ReLU", "MaxPool2d", "SparseConv2d", "AvgPool2d", "Flatten", "Dropout", "SparseLinear",
        "SparseLinear",
    ]  # fmt: skip
    assert layers[6].rate == 0.25
    assert [layers[k].format for k in (0, 3, 7, 8)] == ["csr", "coo", "coo", "csr"]
    assert [layers[k].relu for k in (0, 3, 7, 8)] == [False, True, True, False]
    assert (layers[0].stride, layers[0].padding, layers[0].dilation) == ((1, 2), (1, 0), (2, 1))
    assert tuple(map(int, network.sparse)) == (3, 7)
    assert sparsecore.load(HERE / "plain.safetensors").normalisation is None


@pytest.mark.parametrize("copied", of_kind("network"), indirect=True)
def test_a_network_saved_again_is_the_same(copied: Path, arrays: dict[str, np.ndarray]) -> None:
    network = sparsecore.load(copied)
    sparsecore.save(network, copied.with_name("again.safetensors"))
    again = sparsecore.load(copied.with_name("again.safetensors"))
    assert again.params.tobytes() == network.params.tobytes()
    assert [layer.config() for layer in again.layers] == [layer.config() for layer in network.layers]
    x = arrays[f"{copied.stem}.x"]
    assert again.logits(x).tobytes() == network.logits(x).tobytes()


@pytest.mark.parametrize(
    "copied", [name for name in of_kind("command") if name != "previous-beside-broken"], indirect=True
)
def test_a_run_goes_on_to_the_end_it_would_have_had(copied: Path) -> None:
    assert train.main(["--resume", "--out", str(copied), *QUIET]) == 0
    assert_ended_as_expected(copied, copied.name)


@pytest.mark.parametrize("copied", of_kind("api"), indirect=True)
def test_a_run_of_the_library_goes_on_too(copied: Path) -> None:
    """Dropout, and float64: networks that no command line makes."""
    sparsecore.set_threads(1)
    options = FILES[copied.name]["options"]
    read = vars(sys.modules[sparsecore.load.__module__])["read"]  # stands beside `load`, wherever that is
    saved = read(copied)
    trainer = sparsecore.Trainer(
        saved.network, load("mnist-subset"),
        sparsecore.SGD(options["lr"], options["momentum"], options["weight_decay"]),
        epochs=options["epochs"], batch_size=options["batch_size"], seed=options["seed"], out=copied,
    )  # fmt: skip
    trainer.restore(saved)
    assert trainer.run() is not None
    assert_ended_as_expected(copied, copied.name)


@pytest.mark.parametrize("copied", ["pruned", "rewound"], indirect=True)
def test_pruning_under_way_goes_on_to_its_goal(copied: Path) -> None:
    def pruned() -> list[dict[str, Any]]:
        return [line for line in records(copied) if line["event"] == "prune"]

    before, goal = pruned(), {"pruned": 0.9, "rewound": 0.8}[copied.name]
    assert 0 < before[-1]["sparsity"] < goal - 0.1
    assert train.main(["--resume", "--out", str(copied), *QUIET]) == 0
    after = pruned()
    assert after[: len(before)] == before
    steps = [line["step"] for line in after]
    assert len(after) > len(before)
    assert steps == sorted(set(steps))
    assert sparsecore.load(copied).sparsity == pytest.approx(goal, abs=1e-3)


@pytest.mark.parametrize("copied", ["radix", "pruned", "lenet5"], indirect=True)
def test_a_configuration_alone_begins_the_same_run_again(copied: Path) -> None:
    """From the first step on, rounding can come to decide what is the largest of a window: hence the slack."""
    (copied / "model.safetensors").unlink()
    (copied / "metrics.jsonl").unlink()
    assert train.main(["--resume", "--out", str(copied), *QUIET]) == 0
    assert_ended_as_expected(copied, copied.name, slack=100, anew=True)


@pytest.mark.parametrize("copied", ["previous-alone"], indirect=True)
def test_the_previous_checkpoint_is_used_when_the_last_is_gone(copied: Path) -> None:
    """It is of the first epoch's end; the lines that the second one told are told again."""
    assert [path.name for path in copied.glob("model*")] == ["model.safetensors.previous"]
    assert [line["epoch"] for line in records(copied)] == [1, 2]
    first = sparsecore.load(copied / "model.safetensors.previous")
    assert sparsecore.load(copied).params.tobytes() == first.params.tobytes()
    assert train.main(["--resume", "--out", str(copied), *QUIET]) == 0
    assert_ended_as_expected(copied, copied.name)


@pytest.mark.parametrize("copied", ["previous-beside-broken"], indirect=True)
def test_a_broken_checkpoint_is_refused_and_the_previous_one_named(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing falls back unasked; once the broken file is deleted, the run goes on."""
    with pytest.raises(sparsecore.CheckpointError, match=r"model\.safetensors\.previous"):
        sparsecore.load(copied)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert train.main(["--resume", "--out", str(copied), *QUIET]) == 2
    assert "model.safetensors.previous" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    (copied / "model.safetensors").unlink()
    assert train.main(["--resume", "--out", str(copied), *QUIET]) == 0
    assert_ended_as_expected(copied, copied.name)


@pytest.mark.parametrize("copied", ["finished"], indirect=True)
def test_a_finished_run_says_so(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert train.main(["--resume", "--out", str(copied), "--no-curves"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"the run in {copied} is finished"
    assert "test accuracy 80.00% after 1 epochs; 3,360 connections" in last
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert_ended_as_expected(copied, "finished")


def test_a_new_run_starts_from_an_old_one(tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert train.main(["--from", str(HERE / "pruned"), "--epochs", "1", "--out", str(new), *QUIET]) == 0
    old = sparsecore.load(HERE / "pruned")
    assert sparsecore.load(new).patterns == old.patterns


def test_no_run_names_a_place_of_the_machine_that_wrote_it() -> None:
    for path in HERE.glob("*/config.json"):
        options = json.loads(path.read_text()).get("options", {})
        assert not any(Path(str(value)).is_absolute() for value in options.values())
