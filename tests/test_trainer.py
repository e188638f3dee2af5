"""The loop: the same bits with any number of threads and after any interruption, and nothing silent."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparsecore.models.lenet300 import lenet300

import sparsecore
from sparsecore.data import Dataset, Split, load
from sparsecore.data.augmentation import Augmentation
from sparsecore.data.batches import Batches
from sparsecore.network import Network
from sparsecore.runs import checkpoint
from sparsecore.runs.checkpoint import CheckpointError, read
from sparsecore.runs.folder import RunFolderError
from sparsecore.runs.metrics import Mark
from sparsecore.runs.state import RunState, as_json, from_json
from sparsecore.runs.trainer import Callback, Diverged, Progress, Trainer
from sparsecore.runtime.devices import cpu, get_threads, set_threads
from sparsecore.topology import fit_radix_net, uniform_random
from sparsecore.training.evaluation import Evaluation, check_fit
from sparsecore.training.optimizers import SGD
from sparsecore.training.schedules import cosine, step_decay, warm_up
from sparsecore.training.step import Step


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """1,000 of the embedded digits: eight steps an epoch, the last of 104 samples."""
    whole = load("mnist-subset")
    train, test = (
        Split(s.x[: n * 4 : 4].copy(), s.y[: n * 4 : 4].copy()) for s, n in ((whole.train, 1000), (whole.test, 300))
    )
    return Dataset("digits", "some digits", train, test, whole.shape, whole.classes, whole.mean, whole.std)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = get_threads()
    yield
    set_threads(before)


def network(sparsity: float | None = 0.9) -> Network:
    if sparsity is None:
        return lenet300(seed=3)
    rng = np.random.default_rng(3)
    return lenet300([uniform_random(300, 784, sparsity, rng), uniform_random(100, 300, sparsity, rng)], seed=3)


def trainer(dataset: Dataset, start: Network | None = None, **options: Any) -> Trainer:
    sgd = {name: options.pop(name) for name in ("nesterov", "clip_norm") if name in options}
    optimizer = SGD(options.pop("lr", 0.1), 0.9, 1e-4, **sgd)
    options = {"epochs": 3, "seed": 5, "schedule": cosine(24)} | options
    return Trainer(start if start is not None else network(), dataset, optimizer, **options)


class StopAfter(Callback):
    """Stops a run after so many steps of it."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def stepped(self, trainer: Trainer) -> None:
        self.left -= 1
        if self.left == 0:
            trainer.stop()


def bits(done: Trainer) -> tuple[Any, ...]:
    """All that a run learned and said, to the bit."""
    assert done.optimizer.velocity is not None
    said = [{key: record[key] for key in record if "seconds" not in key and key != "step_ms"}
            for record in done.metrics]  # fmt: skip
    return done.network.params.tobytes(), done.optimizer.velocity.tobytes(), said


# -- the numbers -----------------------------------------------------------------------------------------------------

PINNED = [2.5018194, 2.25849888, 2.28466144, 1.58278642, 1.36150561]


def test_pinned_losses() -> None:
    """The first five losses of the main job on the embedded digits.

    Processors with other registers sum in other orders. In float64 the same five losses differ from these by 3e-8 of
    themselves, which is what the order of sums in float32 is worth here; the tolerance is thirty times that.
    """
    data = load("mnist-subset")
    wired = fit_radix_net([[10, 10]], (784, 300, 100)).patterns
    start = lenet300(wired, seed=0)
    store = Batches(data.train, (784,), data.mean, data.std, cpu())
    store.shuffle(0, 0)
    step = Step(start, store, SGD(0.2, 0.9, 5e-4))
    losses = []
    for k in range(5):
        step.run(128 * k, 128)
        losses.append(step.totals().mean_loss)
    np.testing.assert_allclose(losses, PINNED, rtol=1e-6)


def test_first_epoch_against_plain_arithmetic(digits: Dataset) -> None:
    """The whole loop beside a dense float64 one in NumPy: shuffling, normalising, the short batch, SGD, the totals."""
    start = network()
    w = [layer.to_scipy().toarray().astype(np.float64) for layer in start.layers]  # type: ignore[attr-defined]
    b = [layer.params["bias"].astype(np.float64) for layer in start.layers]
    masks = [layer.pattern.to_scipy().toarray() for layer in start.layers]  # type: ignore[attr-defined]
    v = [np.zeros_like(a) for a in (*w, *b)]
    order = np.random.Generator(np.random.Philox(key=[5, 1 << 32])).permutation(1000)
    x = (digits.train.x / 255 - digits.mean[0]) / digits.std[0]
    total, correct = 0.0, 0
    for k in range(8):
        rows = order[128 * k : 128 * (k + 1)]
        hs = [x[rows]]
        for wk, bk in zip(w[:2], b[:2], strict=True):
            hs.append(np.maximum(hs[-1] @ wk.T + bk, 0))
        z = hs[-1] @ w[2].T + b[2]
        top = z.max(axis=1, keepdims=True)
        p = np.exp(z - top)
        y = digits.train.y[rows]
        total += float((np.log(p.sum(axis=1)) + top[:, 0] - z[np.arange(len(rows)), y]).sum())
        correct += int((z.argmax(axis=1) == y).sum())
        dz = p / p.sum(axis=1, keepdims=True)
        dz[np.arange(len(rows)), y] -= 1
        dz /= len(rows)
        grads: list[Any] = [None] * 6
        for layer in (2, 1, 0):
            grads[layer], grads[layer + 3] = (dz.T @ hs[layer]) * masks[layer], dz.sum(axis=0)
            dz = (dz @ w[layer]) * (hs[layer] > 0)
        lr = 0.1 * (1 + math.cos(math.pi * k / 24)) / 2
        for each, (param, grad) in enumerate(zip((*w, *b), grads, strict=True)):
            v[each] = 0.9 * v[each] + grad + 1e-4 * param
            param -= lr * v[each]
    done = trainer(digits, start, epochs=1)
    done.run()
    record = next(iter(done.metrics))
    assert record["train_loss"] == pytest.approx(total / 1000, rel=1e-4)
    assert record["train_accuracy"] == pytest.approx(correct / 1000, abs=0.002)
    for layer, weight in zip(start.layers, w, strict=True):
        np.testing.assert_allclose(layer.to_scipy().toarray(), weight, atol=2e-4)  # type: ignore[attr-defined]


def test_learns(digits: Dataset) -> None:
    done = trainer(digits, epochs=6, schedule=cosine(48))
    result = done.run()
    assert result is not None
    assert result["test_accuracy"] > 0.75
    losses = [record["train_loss"] for record in list(done.metrics)[:-1]]
    assert losses[-1] < 0.3 < losses[0]


# -- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [None, 0.9])
def test_threads_do_not_matter(digits: Dataset, sparsity: float | None) -> None:
    found = []
    for count in (1, 2, 3):
        set_threads(count)
        done = trainer(digits, network(sparsity), epochs=2, validation=0.1)
        done.run()
        found.append(bits(done))
    assert found[0] == found[1] == found[2]


def test_seeds_matter(digits: Dataset) -> None:
    first, again, other = (trainer(digits, seed=seed) for seed in (5, 5, 6))
    for each in (first, again, other):
        each.run()
    assert bits(first) == bits(again) != bits(other)


@pytest.mark.parametrize("steps", [1, 5, 8, 9, 16, 23, 24])
def test_resumed_run_is_the_uninterrupted_one(digits: Dataset, tmp_path: Path, steps: int) -> None:
    """Stopped in an epoch, at its last step, at its first, at the run's last; everything optional in use."""
    options: dict[str, Any] = {
        "validation": 0.1,
        "schedule": warm_up(4, step_decay(6, 0.5)),
        "clip_norm": 2.0,
        "nesterov": True,
    }
    whole = trainer(digits, **options)
    whole.run()
    stopped = trainer(digits, callbacks=[StopAfter(steps)], out=tmp_path / "run", **options)
    assert stopped.run() is None
    saved = read(tmp_path / "run")
    resumed = trainer(digits, saved.network, out=tmp_path / "run", **options)
    resumed.restore(saved)
    result = resumed.run()
    assert bits(resumed) == bits(whole)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(resumed.metrics)
    assert lines[-1] == result


def test_looking_and_saving_change_nothing(digits: Dataset, tmp_path: Path) -> None:
    plain = trainer(digits)
    plain.run()
    watched = trainer(digits, out=tmp_path / "run", save_every=0.0, check_every_step=True)
    watched.run()
    assert bits(watched) == bits(plain)


def test_resuming_from_every_checkpoint(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process had been killed after each of the checkpoints that it wrote."""
    kept: list[tuple[bytes, bytes]] = []
    real = checkpoint.replace

    def remembering(path: Path, pieces: Any, previous: Path) -> None:
        real(path, pieces, previous)
        kept.append((path.read_bytes(), path.with_name("metrics.jsonl").read_bytes()))

    monkeypatch.setattr(checkpoint, "replace", remembering)
    whole = trainer(digits, epochs=2, out=tmp_path / "run", save_every=0.0, check_every_step=True)
    whole.run()
    monkeypatch.undo()
    assert len(kept) >= 18
    for data, lines in kept:
        (tmp_path / "model.safetensors").write_bytes(data)
        (tmp_path / "metrics.jsonl").write_bytes(lines)
        saved = read(tmp_path)
        again = trainer(digits, saved.network, epochs=2, out=tmp_path)
        again.restore(saved)
        if not again.state.finished:
            again.metrics.append({"event": "past the checkpoint"})
        again.run()
        assert bits(again) == bits(whole)


# -- what it says ----------------------------------------------------------------------------------------------------


def test_folder(digits: Dataset, tmp_path: Path) -> None:
    done = trainer(digits, out=tmp_path / "a" / "run", config={"model": "mine", "note": [1]}, validation=0.2)
    result = done.run()
    folder = tmp_path / "a" / "run"
    names = {"config.json", "metrics.jsonl", "model.safetensors", "best.safetensors"}
    earlier = {"model.safetensors.previous", "best.safetensors.previous"}
    assert names <= {path.name for path in folder.iterdir()} <= names | earlier
    assert json.loads((folder / "config.json").read_text()) == {"model": "mine", "note": [1]}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(done.metrics)
    assert [line["event"] for line in lines] == ["epoch"] * 3 + ["result"]
    assert [line["epoch"] for line in lines[:-1]] == [1, 2, 3]
    assert lines[-1] == result
    assert result is not None
    assert result["model"] == "mine"
    assert (result["dataset"], result["device"], result["seed"], result["epochs"]) == ("digits", "cpu", 5, 3)
    assert (result["connections"], result["sparsity"]) == (done.network.connections, done.network.sparsity)
    assert result["test_accuracy"] == lines[2]["test_accuracy"]
    assert result["train_seconds"] == pytest.approx(sum(line["seconds"] for line in lines[:-1]))
    assert result["step_ms"] == pytest.approx(1000 * result["train_seconds"] / (3 * 7))


def test_sparsity_is_of_the_sparse_layers(digits: Dataset) -> None:
    done = trainer(digits, epochs=1)
    result = done.run()
    assert result is not None
    assert result["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert result["connections"] == round(0.1 * (300 * 784 + 100 * 300)) + 1000
    assert result["global_sparsity"] == pytest.approx(1 - result["connections"] / (300 * 784 + 100 * 300 + 1000))


def test_evaluation_is_numpys(digits: Dataset) -> None:
    done = trainer(digits, epochs=1)
    result = done.run()
    assert result is not None
    assert result["test_accuracy"] == np.mean(done.network.predict(digits.test.x) == digits.test.y)
    z = done.network.logits(digits.test.x).astype(np.float64)
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), digits.test.y]
    assert result["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    norm = done.network.normalisation
    assert norm is not None
    again = Evaluation(done.network, digits.test, norm, cpu())()
    assert (again.accuracy, again.mean_loss) == (result["test_accuracy"], result["test_loss"])


def test_validation_is_held_out(digits: Dataset) -> None:
    done = trainer(digits, validation=0.25, epochs=1)
    assert len(done.store) == 750
    done.run()
    train, held_out = digits.holdout(0.25, seed=5)
    record = next(iter(done.metrics))
    assert record["validation_accuracy"] == np.mean(done.network.predict(held_out.x) == held_out.y)
    assert len(train) == 750


def test_callbacks(digits: Dataset) -> None:
    class Watching(Callback):
        def __init__(self) -> None:
            self.heard: list[str] = []
            self.progress: list[Progress] = []

        def started(self, trainer: Trainer) -> None:
            self.heard.append("started")

        def stepped(self, trainer: Trainer) -> None:
            self.heard.append("step")

        def looked(self, progress: Progress) -> None:
            self.progress.append(progress)

        def recorded(self, record: dict[str, Any]) -> None:
            self.heard.append(record["event"])

    watching = Watching()
    done = trainer(digits, callbacks=[watching], epochs=2, check_every_step=True)
    done.run()
    assert watching.heard == ["started", *["step"] * 8, "epoch", *["step"] * 8, "epoch", "result"]
    assert [(p.epoch, p.step, p.steps, p.epochs) for p in watching.progress] == [
        (epoch, step, 8, 2) for epoch in range(2) for step in range(1, 9)
    ]
    assert [p.totals.samples for p in watching.progress[:8]] == [128 * k for k in range(1, 8)] + [1000]


def test_learning_rate_follows_the_schedule(digits: Dataset) -> None:
    seen: list[float] = []

    class Watching(Callback):
        def stepped(self, trainer: Trainer) -> None:
            seen.append(trainer.optimizer.lr)

    trainer(digits, epochs=2, schedule=step_decay(5, 0.5), lr=0.4, callbacks=[Watching()]).run()
    assert seen == pytest.approx([0.4 * 0.5 ** (k // 5) for k in range(16)])


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_divergence_stops_the_run(digits: Dataset, tmp_path: Path) -> None:
    class Explode(Callback):
        def stepped(self, trainer: Trainer) -> None:
            if (trainer.state.epoch, trainer.state.batch) == (1, 3):
                trainer.network.layers[1].params["weight"][7] = np.nan

    done = trainer(digits, out=tmp_path / "run", save_every=0.0, check_every_step=True, callbacks=[Explode()])
    with pytest.raises(Diverged) as error:
        done.run()
    line = str(error.value)
    assert "epoch 2, by step 3 of 8" in line
    assert "SparseLinear(300→100)" in line
    assert "--lr, now 0.1" in line
    assert "--clip-norm" in line
    assert "last good checkpoint is kept" in line
    assert "\n" not in line
    saved = read(tmp_path / "run")
    assert np.isfinite(saved.network.params).all()
    assert (saved.state["run"]["epoch"], saved.state["run"]["batch"]) == (1, 2)


def test_divergence_is_found_without_looking_at_every_step(digits: Dataset, tmp_path: Path) -> None:
    done = trainer(digits, lr=1e9, out=tmp_path / "run")
    with pytest.raises(Diverged, match=r"epoch 1, by step 8 of 8"):
        done.run()
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_divergence_names_the_layer_whose_outputs_it_began_in(digits: Dataset, layer: int) -> None:
    start = network()
    start.layers[layer].params["weight"][:] = 3e38
    with pytest.raises(Diverged) as error:
        trainer(digits, start, check_every_step=True).run()
    began = f"not finite: began in the outputs of layer {layer}, {start.layers[layer]!r}; in "
    assert "in epoch 1, by step 1 of 8 (loss nan" in str(error.value)
    assert began in str(error.value) and str(error.value).isprintable()


def test_divergence_names_the_layer_whose_gradients_it_began_in(digits: Dataset) -> None:
    """The loss is still finite then: outputs are about 1, but what comes back to the first layer is about 1e39."""
    start = network()
    for layer, weight, bias in zip(start.layers, (0.0, 1e24, 1e18), (1e-44, 0.0, 0.0), strict=True):
        layer.params["weight"][:], layer.params["bias"][:] = weight, bias
    start.layers[2].params["weight"][:500] *= -1
    with pytest.raises(Diverged, match=r"by step 1 of 8 \(loss \d.*: began in the gradients of layer 0, SparseLinear"):
        trainer(digits, start, check_every_step=True).run()
    with pytest.raises(Diverged, match="with --check-every-step a run stops where it begins"):
        trainer(digits, start, epochs=1).run()


def test_saved_after_every_so_many_epochs(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    real = Trainer.save

    def counting(self: Trainer) -> None:
        saved.append(self.state.epoch)
        real(self)

    monkeypatch.setattr(Trainer, "save", counting)
    trainer(digits, epochs=5, save_every=1e9, save_epochs=2, out=tmp_path / "run").run()
    assert saved == [2, 4, 5]


def test_looked_at_after_every_so_many_epochs_and_at_the_end(digits: Dataset) -> None:
    run = trainer(digits, epochs=5, evaluate_every=2)
    result = run.run()
    epochs = [each for each in run.metrics if each["event"] == "epoch"]
    assert [each["epoch"] for each in epochs if "test_accuracy" in each] == [2, 4, 5]
    assert result is not None and result["test_accuracy"] == epochs[-1]["test_accuracy"]
    often = trainer(digits, epochs=5)
    often.run()
    assert run.network.params.tobytes() == often.network.params.tobytes(), "looks change nothing"


def test_full_disk_during_training(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = checkpoint.replace, 0

    def filling_up(path: Path, data: bytes, previous: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(28, "No space left on device")
        real(path, data, previous)

    monkeypatch.setattr(checkpoint, "replace", filling_up)
    with pytest.raises(CheckpointError, match="No space left"):
        trainer(digits, out=tmp_path / "run", save_every=0.0, check_every_step=True).run()
    monkeypatch.undo()
    saved = read(tmp_path / "run")
    assert saved.state["run"]["batch"] == 3
    whole, resumed = trainer(digits), trainer(digits, saved.network, out=tmp_path / "run")
    resumed.restore(saved)
    whole.run()
    resumed.run()
    assert bits(whole) == bits(resumed)


def test_folder_that_cannot_be_used(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    steps: list[int] = []

    class Count(Callback):
        def stepped(self, trainer: Trainer) -> None:
            steps.append(1)

    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(RunFolderError):
            trainer(digits, out=out, callbacks=[Count()]).run()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000})())
    with pytest.raises(RunFolderError, match="1,000 free"):
        trainer(digits, out=tmp_path / "run", callbacks=[Count()]).run()
    assert not steps


def test_numbers_may_be_numpys(digits: Dataset, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"seed": 3, "epochs": 2, "batch_size": 100}
    wrapped = {name: np.int64(value) for name, value in numbers.items()}
    bits = []
    for name, given, kind in (("plain", numbers, float), ("numpy", wrapped, np.float32)):
        optimizer = SGD(kind(0.125), kind(0.5), kind(0.0), nesterov=np.bool_(True), clip_norm=kind(1))
        made = Trainer(network(), digits, optimizer, out=tmp_path / name, config={"a": kind(0.5)}, **given)
        assert made.run() is not None
        found = read(tmp_path / name)
        again = Trainer(
            found.network, digits, SGD(0.125, 0.5, nesterov=True, clip_norm=1.0), out=tmp_path / name, **numbers
        )
        again.restore(found)
        assert again.state.finished
        bits.append(made.network.params.tobytes())
    assert bits[0] == bits[1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1 and at most the 1,000 training samples, got 0"),
        ({"batch_size": 1001}, "got 1,001"),
        ({"validation": 1.5}, "validation fraction must be between 0 and 1"),
        ({"validation": -0.5}, "validation fraction must be between 0 and 1"),
    ],
)
def test_options_out_of_range(digits: Dataset, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        trainer(digits, **options)


def test_data_and_network_must_fit(digits: Dataset) -> None:
    features = Split(np.zeros((10, 5), np.float32), np.arange(10, dtype=np.int32))
    with pytest.raises(ValueError, match=r"takes samples of 784 features, got 5"):
        check_fit(network(), Dataset("other", "", features, features, (5,), 10, (0.0,), (1.0,)))
    many = Dataset("many", "", digits.train, digits.test, digits.shape, 11, digits.mean, digits.std)
    with pytest.raises(ValueError, match=r"tells 10 classes apart, got 11"):
        trainer(many)


def test_checkpoint_of_another_run(digits: Dataset, tmp_path: Path) -> None:
    trainer(digits, callbacks=[StopAfter(3)], out=tmp_path / "run").run()
    moved = Dataset("digits", "", digits.train, digits.test, digits.shape, 10, (0.2,), digits.std)
    for other, options in ((digits, {"seed": 6}), (digits, {"batch_size": 64}), (digits, {"epochs": 4}), (moved, {})):
        saved = read(tmp_path / "run")
        with pytest.raises(CheckpointError, match="expected a checkpoint of this run"):
            trainer(other, saved.network, **options).restore(saved)
    saved = read(tmp_path / "run")
    with pytest.raises(ValueError, match="own network"):
        trainer(digits).restore(saved)


def test_other_data_or_labels_are_refused_always(digits: Dataset, tmp_path: Path) -> None:
    trainer(digits, callbacks=[StopAfter(3)], out=tmp_path / "run").run()
    labels, pixels = digits.train.y.copy(), digits.test.x.copy()
    labels[7], pixels[0, 0] = (labels[7] + 1) % 10, pixels[0, 0] ^ 1
    for train, test in ((Split(digits.train.x, labels), digits.test), (digits.train, Split(pixels, digits.test.y))):
        other = Dataset("digits", "", train, test, digits.shape, 10, digits.mean, digits.std)
        saved = read(tmp_path / "run")
        with pytest.raises(CheckpointError, match="other samples or labels"):
            trainer(other, saved.network).restore(saved)
    saved = read(tmp_path / "run")
    del saved.state["identity"]["data"], saved.state["settings"], saved.state["changes"]  # as it was written before
    trainer(digits, saved.network).restore(saved)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lr", {"lr": 0.2}), ("nesterov", {"nesterov": True}), ("clip_norm", {"clip_norm": 2.0}),
        ("schedule", {"schedule": cosine(30)}), ("augment", {"augment": Augmentation((1, 28, 28), 2, False)}),
    ],
)  # fmt: skip
def test_other_settings_are_refused_unless_they_are_given_and_then_recorded(
    digits: Dataset, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    trainer(digits, callbacks=[StopAfter(3)], out=folder).run()
    saved = read(folder)
    with pytest.raises(CheckpointError, match=f"{name} was "):
        trainer(digits, saved.network, **options).restore(saved)
    with pytest.raises(CheckpointError, match="changing: expected some of"):
        trainer(digits, saved.network).restore(saved, changing=["rate"])
    again = trainer(digits, saved.network, out=folder, **options)
    again.restore(saved, changing=[name])
    again.run()
    found = read(folder)
    (change,) = found.state["changes"]
    assert (change["epoch"], change["batch"]) == (0, 3)
    assert change[name] == [saved.state["settings"][name], found.state["settings"][name]]
    trainer(digits, found.network, **options).restore(found)


def test_the_folder_of_an_earlier_run_is_left_alone(digits: Dataset, tmp_path: Path) -> None:
    trainer(digits, epochs=1, out=tmp_path / "run").run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for begin in (Trainer.run, Trainer.prepare):
        with pytest.raises(RunFolderError, match="there is a run in it"):
            begin(trainer(digits, epochs=1, out=tmp_path / "run"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("seed", [-1, 1.5, None, 1 << 64])
def test_seeds_are_looked_at_before_anything_is_made(digits: Dataset, tmp_path: Path, seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be"):
        trainer(digits, seed=seed, out=tmp_path / "run")
    with pytest.raises(ValueError, match="seed"):
        sparsecore.run(sparsecore.RunConfig(model="lenet300", dataset="mnist-subset", seed=seed), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


GOOD_STATE = as_json(RunState(metrics=Mark(3, "abc"), result={"event": "result"}))


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1}, {"epoch": 1.0}, {"epoch": True}, {"batch": "3"}, {"totals": [1.0, 2]}, {"totals": "abc"},
        {"totals": [float("nan"), 1, 2]}, {"totals": [1.0, 2.0, 3]}, {"totals": None}, {"train_seconds": None},
        {"train_seconds": float("inf")}, {"epoch_seconds": "1"}, {"history": 3}, {"history": [3]}, {"history": [{}]},
        {"history": "ab"}, {"metrics": 3}, {"metrics": [-1, "abc"]}, {"metrics": [3, 4]}, {"metrics": [3, "abc", 1]},
        {"metrics": "abc"}, {"result": 3}, {"result": []},
    ],
)  # fmt: skip
def test_hostile_states(change: dict[str, Any]) -> None:
    assert as_json(from_json(GOOD_STATE)) == GOOD_STATE
    with pytest.raises(CheckpointError):
        from_json(GOOD_STATE | change)
    for name in GOOD_STATE:
        with pytest.raises(CheckpointError):
            from_json({key: value for key, value in GOOD_STATE.items() if key != name})
    for other in (None, [], 3, "state"):
        with pytest.raises(CheckpointError):
            from_json(other)


def test_a_last_batch_that_no_layer_could_be_trained_on_is_refused_before_a_folder_is_made(tmp_path):
    """Batch normalisation of features needs two samples; it would find that out at the end of the first epoch."""
    options = {"model": "mlp", "dataset": "mnist-subset", "batch_norm": True, "batch_size": 7_999}
    with pytest.raises(ValueError, match=r"batch_size: layer .* at least 2 samples at once, and 7,999 .* leave 1 of"):
        sparsecore.run(sparsecore.RunConfig(**options), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
