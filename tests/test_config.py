"""A run as a value: what it may be, how it is written down and read again; Python and commands mean the same by it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsecore
from sparsecore import RunConfig, run, train
from sparsecore.commands.build import optimizer_of
from sparsecore.commands.options import WITHOUT_FLAG, read, written
from sparsecore.commands.recipes import resolved
from sparsecore.runs import checkpoint
from sparsecore.runs.config import ConfigError, from_saved, saved, settings
from sparsecore.runs.kinds import flag
from sparsecore.runs.trainer import Callback
from tests.command.given import bits, command, environment, records

SMALL: dict[str, Any] = {"model": "lenet300", "dataset": "mnist-subset", "hidden": (30, 20), "epochs": 1}
WORDS = ["lenet300", "--dataset", "mnist-subset", "--hidden", "30,20", "--epochs", "1"]
GOOD: dict[str, Any] = {
    "model": "lenet5", "dataset": "mine.npz", "target": "kind", "loss": "mse",
    "radix": ((2, 5), (10,)), "expander": "explicit", "random": True,
    "dense": True, "widths": (8, 3, 1), "hidden": (30, 20), "sparsity": (0.5, 0.0), "granularity": "channel",
    "distribution": "uniform", "sparse_all": True, "padding": 2, "width": 0.5, "batch_norm": True,
    "relu_logits": True, "format": "coo",
    "prune": "gradual", "prune_to": 0.95, "prune_threshold": 0.05, "prune_quality": 1.5, "prune_by": "curvature",
    "prune_global": True, "prune_start": 10,
    "prune_end": 200, "prune_every": 20, "prune_exponent": 2.0, "prune_empty": True, "start_from": "/runs/a",
    "rewind": 469, "rewire": "regrow", "every": 50, "fraction": 0.25, "until": 0.5, "grow": "exact",
    "fixed_fan_in": True, "start_sparsity": 0.0,
    "epochs": 3, "batch_size": 100, "optimizer": "adam", "lr": 0.05, "momentum": 0.8, "nesterov": True,
    "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 1e-4, "clip_norm": 2.0, "schedule": "step:5:0.5",
    "warm_up": 0.25, "augment": "2,flip", "seed": 7, "validation": 0.1, "patience": 5,
    "dataset_name": "mine", "data_dir": "cache",
    "device": "cuda:1", "activations": "bfloat16", "threads": 2, "evaluate_every": 4, "save_every": 0.5,
    "save_epochs": 2, "check_every_step": True, "local_batch_norm": True, "lr_found": True,
}  # fmt: skip
"""A value for each field."""
TOGETHER: list[tuple[str, ...]] = [
    ("radix", "widths", "sparse_all", "format", "granularity"), ("radix", "hidden"), ("width", "batch_norm"),
    ("expander", "sparsity", "granularity", "hidden", "padding"), ("random", "sparsity", "distribution"),
    ("dense", "relu_logits"),
    ("prune", "prune_to", "prune_by", "prune_global", "prune_start", "prune_end", "prune_every", "prune_exponent",
     "prune_empty", "rewind"),
    ("rewire", "sparsity", "every", "fraction", "until", "grow", "fixed_fan_in", "start_sparsity"),
    ("start_from", "rewind", "dataset", "target", "loss", "data_dir"), ("optimizer", "betas", "eps"),
    ("lr", "momentum", "nesterov", "weight_decay", "clip_norm", "schedule", "warm_up", "augment", "batch_size"),
    ("epochs", "seed", "validation", "patience", "dataset_name", "device", "activations", "threads", "evaluate_every",
     "save_every", "save_epochs", "check_every_step", "local_batch_norm", "lr_found"),
]  # fmt: skip
"""Fields that go together."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def configs() -> list[RunConfig]:
    return [RunConfig(model="lenet300", **{name: GOOD[name] for name in names}) for names in TOGETHER]


# -- a value ---------------------------------------------------------------------------------------------------------


def test_every_field_has_a_good_value_here() -> None:
    names = {setting.name for setting in settings()}
    assert set(GOOD) == names == {field.name for field in fields(RunConfig)}
    assert names - {name for names in TOGETHER for name in names} == {"model", "prune_threshold", "prune_quality"}


def test_it_is_frozen_and_can_be_compared_and_hashed() -> None:
    config = RunConfig(model="lenet300", radix=[[10, 10]], lr=1, hidden=None)  # type: ignore[arg-type]
    assert config == RunConfig(model="lenet300", radix=((10, 10),), lr=1.0)
    assert len({config, replace(config), replace(config, seed=1)}) == 2
    with pytest.raises(FrozenInstanceError):
        config.seed = 3  # type: ignore[misc]


def test_numbers_of_numpy_are_numbers() -> None:
    config = RunConfig(epochs=np.int64(3), lr=np.float32(0.5), sparsity=np.float64(0.9), random=True)  # type: ignore[arg-type]
    assert (type(config.epochs), type(config.lr), config.lr, config.sparsity) == (int, float, 0.5, 0.9)
    json.dumps(config.as_dict())


@pytest.mark.parametrize("config", configs(), ids=str)
def test_json_and_command_lines_give_it_back(config: RunConfig) -> None:
    assert RunConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    assert from_saved(json.loads(json.dumps(saved(config, "1")))) == config
    given = {s.name: getattr(config, s.name) for s in settings() if getattr(config, s.name) != s.default}
    words = written({name: value for name, value in given.items() if name not in WITHOUT_FLAG})
    assert read([*words, "lenet300"]).config() == replace(config, dataset_name=None, lr_found=False)


def test_earlier_names_and_spellings_are_understood() -> None:
    old = {"model": "lenet5", "expander": "fixed", "sparsity": "0.5,0.9", "hidden": "8,8,16", "pattern": "channel",
           "look_epochs": 4, "prune": "gradual", "prune_to": "0.9,0.9,0", "rewind": "20"}  # fmt: skip
    assert RunConfig.from_dict(old) == RunConfig(
        model="lenet5", expander="fixed", sparsity=(0.5, 0.9), hidden=(8, 8, 16), granularity="channel",
        evaluate_every=4, prune="gradual", prune_to=(0.9, 0.9, 0.0), rewind=20,
    )  # fmt: skip
    options = {"model": "lenet300", "dataset": "/there/mine.npz", "from": "/runs/a", "format": "csr"}
    record = {"version": "0.1.0", "model": "lenet300", "asked": "mine.npz", "options": options}
    assert from_saved(record) == RunConfig(
        model="lenet300", dataset="/there/mine.npz", dataset_name="mine.npz", start_from="/runs/a"
    )
    line = ["lenet5", "--random", "--sparsity", "0.9", "--pattern", "weight", "--look-epochs", "3"]
    assert read(line).fields == read([
        "lenet5", "--random", "--sparsity", "0.9", "--granularity", "weight", "--evaluate-every", "3",
    ]).fields  # fmt: skip


def test_recipes_fill_what_is_not_said() -> None:
    sparse = resolved(RunConfig(model="lenet300", radix=((10, 10),)))
    assert (sparse.lr, sparse.momentum, sparse.epochs, sparse.format, sparse.dataset) == (0.1, 0.9, 40, "csr", "mnist")
    assert sparse.betas is None and sparse.padding is None
    pruned = resolved(RunConfig(model="lenet300", prune="gradual", prune_to=0.9, lr=0.2))
    assert (pruned.lr, pruned.epochs, pruned.weight_decay) == (0.2, 80, 6e-4)
    assert resolved(RunConfig(model="lenet5", dataset="cifar10")).padding == 2
    assert resolved(RunConfig(model="lenet300", epochs=1, prune="gradual", prune_to=0.9)).warm_up == 0.5
    adam = resolved(RunConfig(model="lenet300", optimizer="adam"))
    assert (adam.lr, adam.betas, adam.eps, adam.weight_decay, adam.momentum) == (1e-3, (0.9, 0.999), 1e-8, 0.0, None)
    assert resolved(RunConfig(model="lenet300", optimizer="adamw")).weight_decay == 0.01
    for config in (sparse, pruned, adam):
        assert resolved(config) == config


def test_optimizers_are_those_that_are_asked_for() -> None:
    def made(**given: Any) -> dict[str, Any]:
        return optimizer_of(resolved(RunConfig(model="lenet300", **given))).description()

    assert made(nesterov=True, lr=0.3) == sparsecore.SGD(0.3, 0.9, 3e-4, nesterov=True).description()
    assert made(optimizer="adam", eps=1e-6) == sparsecore.Adam(eps=1e-6).description()
    assert made(optimizer="adamw", betas=(0.8, 0.9)) == sparsecore.AdamW(betas=(0.8, 0.9)).description()


# -- refused ---------------------------------------------------------------------------------------------------------

MODELS = "lenet300, lenet5, mlp, vgg11, resnet20, resnet32, resnet56"
BAD: dict[str, list[Any]] = {
    "model": [3, "", "a\0b", ["lenet300"]], "dataset": [True, 1.5], "start_from": [0, ""], "data_dir": [[]],
    "radix": [10, (10, 10), ((1, 10),), ((2.5,),), (), "10,x", "10,10"], "widths": [3, (0,), (True,), ()],
    "hidden": [(300, -1), "300"], "sparsity": ["0.9", 1, -0.1, float("nan"), (0.9, 1.0), ()],
    "expander": [True, "ring"], "granularity": ["filter", "rows:0", "rows:", "block:4", 4, "rows:2 ", "rows:٣"],
    "distribution": ["er", True], "format": ["csc", 1], "padding": [-1, 101, 2.0],
    "width": [0, -1, "2", float("inf")], "batch_norm": [1, "yes"],
    "random": [1, "yes", None], "dense": [0], "relu_logits": ["true"],
    "prune": [True, "never"], "prune_to": [0, 1.2, (0, 0), "0.9"], "prune_threshold": [0, -1, "x"],
    "prune_quality": [float("inf")], "prune_by": ["size"], "prune_start": [-1, 1.0, 10**40], "prune_every": [0],
    "prune_exponent": [0], "rewind": ["soon", -1, "20", True, 1.5],
    "rewire": [True, "granet"], "every": [0, 1.5], "fraction": [0, 1, "0.3"], "until": [0, 1, float("nan")],
    "grow": [0.5, "all", True, float("inf")], "fixed_fan_in": [1, None], "start_sparsity": [1, -0.1],
    "epochs": [0, 1.5, "3", True, 10**10, float("nan")], "batch_size": [0, "128"], "optimizer": ["rmsprop", None, 3],
    "lr": [0, -1, float("nan"), "0.1", 10**400, True], "momentum": [1, -0.1], "nesterov": [1],
    "betas": [0.9, (0.9,), (0.9, 1), (0.9, 0.99, 0.999), "0.9,0.999"], "eps": [0], "weight_decay": [-1],
    "clip_norm": [0], "schedule": ["linear", "step", "step:0", 5], "warm_up": [-1], "augment": ["4,mirror", 4],
    "seed": [-1, 2**63, 1.0, None], "validation": [1, -0.1], "device": ["tpu", "cuda:", 0],
    "activations": ["half", None, 16], "threads": [0, 257],
    "evaluate_every": [0], "save_every": [-1, float("inf")], "save_epochs": [0], "check_every_step": [1],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_wrong_values_are_refused_by_the_name_of_their_field(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises(ConfigError, match=f"^{name}: expected .*, got ") as caught:
            RunConfig(**{name: value})
        line = str(caught.value)
        assert line.isprintable() and len(line) < 1000 and "--" not in line
        assert caught.value.on_command_line().startswith(f"{flag(name)}: expected ")


@pytest.mark.parametrize(
    ("given", "python", "flags"),
    [
        ({"radix": ((2, 2),), "random": True}, "random: not allowed with radix", "--random: not allowed with --radix"),
        ({"widths": (8, 3, 1)}, "widths: goes with radix only", "--widths: goes with --radix only"),
        ({"random": True}, "try random=True, sparsity=0.9", "try --random --sparsity 0.9"),
        ({"expander": "fixed"}, "try expander='fixed', sparsity=0.9", "try --expander fixed --sparsity 0.9"),
        ({"radix": ((10, 10),), "sparsity": 0.9}, "sparsity: not with radix", "--sparsity: not with --radix"),
        ({"start_from": "a", "hidden": (3, 2)}, "hidden: not with start_from", "--hidden: not with --from"),
        ({"prune_to": 0.9}, "prune_to: goes with prune", "--prune-to: goes with --prune"),
        ({"prune": "gradual"}, "needs one of prune_to, prune_threshold and prune_quality, got none; try prune_to=0.9",
         "needs one of --prune-to, --prune-threshold and --prune-quality, got none; try --prune-to 0.9"),
        ({"prune": "gradual", "prune_quality": 1.0}, "prune_quality: not with prune gradual",
         "--prune-quality: not with --prune gradual"),
        ({"every": 50}, "every: goes with rewire set, rigl or regrow; try rewire='rigl'",
         "--every: goes with --rewire set, rigl or regrow; try --rewire rigl"),
        ({"rewire": "set"}, "rewire: needs sparsity, the fraction without connections",
         "--rewire: needs --sparsity, the fraction without connections"),
        ({"rewire": "rigl", "sparsity": 0.9, "prune": "gradual", "prune_to": 0.95}, "prune: not with rewire",
         "--prune: not with --rewire"),
        ({"rewind": "initial"}, "rewind: goes with prune, or with start_from",
         "--rewind: goes with --prune, or with --from"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum: goes with optimizer sgd, got adam",
         "--momentum: goes with --optimizer sgd, got adam"),
        ({"eps": 1e-6}, "eps: goes with optimizer adam or adamw, got sgd",
         "--eps: goes with --optimizer adam or adamw, got sgd"),
        ({"momentum": 0, "nesterov": True}, "nesterov: needs a momentum above 0",
         "--nesterov: needs a --momentum above 0"),
    ],
)  # fmt: skip
def test_combinations_are_refused_in_the_words_of_who_asked(given: dict[str, Any], python: str, flags: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig(**given)
    assert python in str(caught.value) and flags in caught.value.on_command_line()
    with pytest.raises(ConfigError):
        RunConfig.from_dict(given)


def test_unknown_fields_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^epoch: no such field; did you mean epochs\?$"):
        RunConfig.from_dict({"epoch": 3})
    with pytest.raises(ConfigError, match=r"^xyzzy: no such field$"):
        RunConfig.from_dict({"xyzzy": 3})
    with pytest.raises(TypeError, match="epoch"):
        RunConfig(epoch=3)  # type: ignore[call-arg]
    for record in (None, 3, [], {}, {"options": 3}, {"model": "mine"}):
        with pytest.raises(ConfigError, match="expected an entry options"):
            from_saved(record)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, f"expected a model, one of {MODELS}, got none"),
        ({"model": "vgg"}, f"expected a model, one of {MODELS}, got 'vgg'"),
        ({"model": "lenet300", "padding": 2}, "padding: lenet300 has no convolutions"),
        (SMALL | {"warm_up": 1}, "warm_up: must be shorter than the 1 epochs, got 1"),
        (SMALL | {"augment": "28"}, "augment: augmentation moves images"),
        (SMALL | {"prune": "gradual", "prune_to": 0.9, "prune_end": 64}, "prune_start, prune_end: must be in order"),
        (SMALL | {"prune": "one-time", "prune_to": 0.9, "prune_start": 63, "rewind": "initial"}, "rewind: leaves no"),
        (SMALL | {"rewire": "rigl", "sparsity": 0.9, "every": 48}, "every: must be within the first 47 of the run's"),
        (SMALL | {"random": True, "sparsity": (0.9, 0.5, 0.5)}, "sparsity: give one for all sparse layers or one for"),
        (SMALL | {"batch_size": 8001}, "batch_size must be at least 1 and at most the 8,000 training samples"),
        (SMALL | {"dataset": "none.npz"}, "none.npz: no such file"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        run(RunConfig(**given), out="run")
    assert problem in str(caught.value) and str(caught.value).isprintable() and "--" not in str(caught.value)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"epoch": 3}, "epoch: no such field; did you mean epochs?"), ({"epochs": "3"}, "epochs: expected a whole"),
        ({"lr": None}, None), ({"nesterov": 1}, "nesterov: expected true or false, got 1"),
        ({"optimizer": "adam"}, "momentum: goes with optimizer sgd, got adam"),
        ({"radix": [[10, 10]], "random": False}, "sparsity: not with radix"),
        ({"radix": "10,x"}, "radix: expected radices above 1"),
        ({"model": "vgg"}, f"expected a model, one of {MODELS}, got 'vgg'"),
    ],
)  # fmt: skip
def test_a_configuration_that_was_tampered_with(
    capsys: pytest.CaptureFixture[str], change: dict[str, Any], problem: str | None
) -> None:
    run(RunConfig(**SMALL, random=True, sparsity=0.5), out="run")
    Path("run/model.safetensors").unlink()
    Path("run/metrics.jsonl").unlink()
    path = Path("run/config.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"options": record["options"] | change}))
    before = {each.name: each.read_bytes() for each in Path("run").iterdir() if each.suffix != ".previous"}
    if problem is None:  # what is not said is the recipe's
        assert train.main(["--resume", "--out", "run", "--quiet"]) == 0
        return
    Path("run/model.safetensors.previous").unlink(missing_ok=True)
    assert train.main(["--resume", "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
    assert {each.name: each.read_bytes() for each in Path("run").iterdir()} == before


# -- the same run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "lenet300", "dataset": "mnist-subset", "epochs": 2, "radix": ((10, 10),)},
         ["lenet300", "--dataset", "mnist-subset", "--epochs", "2", "--radix", "10,10"]),
        (SMALL | {"prune": "gradual", "prune_to": 0.9, "rewind": "initial", "seed": 3, "validation": 0.1},
         [*WORDS, "--prune", "gradual", "--prune-to", "0.9", "--rewind", "initial", "--seed", "3", "--validation=0.1"]),
        (SMALL | {"rewire": "regrow", "sparsity": 0.95, "every": 15, "grow": "exact", "fixed_fan_in": True},
         [*WORDS, "--rewire", "regrow", "--sparsity", "0.95", "--every", "15", "--grow", "exact", "--fixed-fan-in"]),
        (SMALL | {"expander": "fixed", "sparsity": 0.9, "format": "coo"},
         [*WORDS, "--expander", "--sparsity", "0.9", "--format", "coo"]),
        (SMALL | {"optimizer": "adamw", "lr": 0.01, "betas": (0.8, 0.99)},
         [*WORDS, "--optimizer", "adamw", "--lr", "0.01", "--betas", "0.8,0.99"]),
    ],
    ids=["sparse", "pruned", "moving", "coo", "adamw"],
)  # fmt: skip
def test_python_gives_the_bits_of_the_command_line(given: dict[str, Any], words: list[str]) -> None:
    done = run(RunConfig(**given, threads=1), out="python")
    subprocess.run(command(*words, "--threads", 1, "--out", "line"), env=environment(), check=True, capture_output=True)
    assert done.network.params.tobytes() == sparsecore.load("line").params.tobytes()
    for name in ("python", "line"):
        assert set(checkpoint.read(name).columns) == set(done.optimizer.names)
    said = [[{k: v for k, v in each.items() if "seconds" not in k and k != "step_ms"} for each in records(name)]
            for name in ("python", "line")]  # fmt: skip
    assert said[0] == said[1] and done.state.result == records("python")[-1]
    assert Path("python/config.json").read_bytes() == Path("line/config.json").read_bytes()


class _StopAfter(Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def stepped(self, trainer: Any) -> None:
        if trainer.steps_done == self.steps:
            trainer.stop()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_run_goes_on_where_it_stopped(optimizer: Any) -> None:
    config = RunConfig(**SMALL | {"epochs": 2}, optimizer=optimizer, prune="one-time", prune_to=0.5)
    whole = run(config, out="whole")
    cut = run(config, out="cut", callbacks=[_StopAfter(80)])
    assert cut.state.result is None and cut.steps_done == 80
    with pytest.raises(ValueError, match="there is a run in it: go on with it"):
        run(config, out="cut")
    with pytest.raises(ConfigError, match=r"^lr: in cut it was .*, got 0\.07"):
        run(replace(config, lr=0.07), out="cut", resume=True)
    with pytest.raises(ConfigError, match=r"^seed: in cut it was 0, got 1"):
        run(replace(config, seed=1), out="cut", resume=True)
    again = run(replace(config, evaluate_every=2, threads=1), out="cut", resume=True)
    assert again.network.params.tobytes() == whole.network.params.tobytes()
    for name in whole.optimizer.names:
        assert again.optimizer.columns[name].tobytes() == whole.optimizer.columns[name].tobytes()
    assert run(out="cut", resume=True).state.result == again.state.result


def test_a_run_from_a_network_goes_on_where_it_stopped() -> None:
    run(RunConfig(**SMALL, prune="one-time", prune_to=0.5), out="first")
    config = RunConfig(start_from="first", rewind="fresh", epochs=2)
    run(config, out="whole")
    run(config, out="cut", callbacks=[_StopAfter(70)])
    assert train.main(["--resume", "--out", "cut", "--quiet"]) == 0
    assert bits("cut") == bits("whole")
    config = from_saved(json.loads(Path("cut/config.json").read_text()))
    assert (config.model, config.dataset) == ("lenet300", "mnist-subset")
    assert config.start_from == str(Path("first").absolute())


def test_python_needs_something_to_run() -> None:
    for arguments, problem in (
        ({}, "config: needed where there is no run"), ({"resume": True}, "resume: needs out"),
        ({"resume": True, "out": "nowhere"}, "resume: expected a run's folder, got nowhere"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=problem):
            run(**arguments)  # type: ignore[arg-type]


def test_the_package_gives_them_out_without_importing_anything_first() -> None:
    code = "import sys, sparsecore; assert 'numpy' not in sys.modules; sparsecore.RunConfig(model='lenet300')"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


# -- the page --------------------------------------------------------------------------------------------------------


def test_the_page_lists_every_field_as_it_is() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "config.md").read_text(encoding="utf-8")
    for setting in settings():
        default = "" if setting.default is None else f"`{setting.default!r}`"
        word = f"`{flag(setting.name)}`" if setting.name not in ("dataset_name", "lr_found") else ""
        row = f"| `{setting.name}` | {word} | {default} | {setting.help.replace('|', chr(92) + '|')} |"
        assert row in page, row
