"""Interrupts and errors at any moment of a run made with the library, which then goes on to the undisturbed bits."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from sparsecore.runs.checkpoint import read
from sparsecore.runs.trainer import Callback, Trainer
from sparsecore.runtime.devices import get_threads, set_threads

from .runs import digest, digest_of, network, trainer

HOOKS = ("started", "stepped", "looked", "recorded")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = get_threads()
    set_threads(1)
    yield
    set_threads(before)


class Raises(Callback):
    """Raises in one of its methods when that is called for the n-th time."""

    def __init__(self, hook: str, number: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.hook, self.left, self.error = hook, number, error

    def _told(self, hook: str) -> None:
        if hook == self.hook:
            self.left -= 1
            if self.left == 0:
                raise self.error

    def started(self, trainer: Any) -> None:
        self._told("started")

    def stepped(self, trainer: Any) -> None:
        self._told("stepped")

    def looked(self, progress: Any) -> None:
        self._told("looked")

    def recorded(self, record: Any) -> None:
        self._told("recorded")


class Signals:
    """Sends this process a SIGINT at the n-th line of Python that is run in the library."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __enter__(self) -> Signals:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        if "sparsecore" not in frame.f_globals.get("__name__", "") or "numba" in frame.f_code.co_filename:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self._trace


def on_to_the_end(run: Trainer) -> str:
    assert run.run() is not None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return digest_of(run)


def restored(run: Trainer, kind: str, folder: Path) -> Trainer:
    """As another process goes on from what `run` saves now."""
    run.save()
    saved = read(folder)
    options: dict[str, Any] = {"callbacks": [], "out": folder}
    again = trainer(kind, **options)
    going_on = Trainer(saved.network, again.dataset, again.optimizer, epochs=2, batch_size=27, seed=5, out=folder)
    going_on.callbacks[:] = again.callbacks
    going_on.restore(saved)
    return going_on


def lines_of(kind: str) -> int:
    """How many lines of Python a run takes, once everything is compiled."""
    with Signals(1 << 60) as counting:
        assert trainer(kind).run() is not None
    return (1 << 60) - counting.left


def interrupted_at_random(count: int, tmp_path: Path) -> int:
    came = 0
    kinds = ("csr", "pruned", "dropout")
    wanted = {kind: digest(kind, out=tmp_path / f"whole-{kind}") for kind in kinds}
    lines = {kind: lines_of(kind) for kind in kinds}
    for number in range(count):
        rng, kind = Random(number), kinds[number % len(kinds)]
        folder = tmp_path / str(number)
        run = trainer(kind, out=folder, save_every=rng.choice([0.0, 1e9]), check_every_step=rng.random() < 0.5)
        try:
            with Signals(rng.randrange(1, lines[kind])):
                run.run()
        except KeyboardInterrupt:
            came += 1
        if rng.random() < 0.4 and (run.state.epoch or run.state.batch):
            run = restored(run, kind, folder)
        assert on_to_the_end(run) == wanted[kind], f"interrupt {number}"
    return came


def test_keyboard_interrupts_at_random_moments(tmp_path: Path) -> None:
    assert interrupted_at_random(60, tmp_path) >= 50


@pytest.mark.slow
def test_many_keyboard_interrupts_at_random_moments(tmp_path: Path) -> None:
    assert interrupted_at_random(500, tmp_path) >= 450


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("hook", HOOKS)
def test_raised_by_every_hook_at_every_time(hook: str, error: type[BaseException]) -> None:
    """The pruner, which is told after the one that raises, is told all the same."""
    wanted = digest("pruned")
    for number in range(1, {"started": 1, "stepped": 8, "looked": 8, "recorded": 7}[hook] + 1):
        run = trainer("pruned", callbacks=[Raises(hook, number, error)], check_every_step=True)
        with pytest.raises(error):
            run.run()
        assert on_to_the_end(run) == wanted, (hook, number)


def test_saved_after_a_hook_raised_and_restored(tmp_path: Path) -> None:
    wanted = digest("pruned")
    for number in range(1, 9):
        folder = tmp_path / str(number)
        run = trainer("pruned", callbacks=[Raises("stepped", number)], out=folder)
        with pytest.raises(KeyboardInterrupt):
            run.run()
        assert on_to_the_end(restored(run, "pruned", folder)) == wanted


@pytest.mark.parametrize("after", [False, True])
def test_a_step_that_was_cut_off_is_done_once(after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever thread the exception comes to: the step's own count says whether it was applied."""
    wanted, found = digest("pruned"), []

    def elsewhere() -> None:
        for number in range(1, 9):
            run, calls = trainer("pruned"), 0
            real = run._step.run

            def cut_off(start: int, batch: int, real: Any = real, number: int = number) -> None:
                nonlocal calls
                calls += 1
                if calls == number and not after:
                    raise KeyboardInterrupt
                real(start, batch)
                if calls == number:
                    raise KeyboardInterrupt

            run._step.run = cut_off  # type: ignore[method-assign]
            try:
                run.run()
            except KeyboardInterrupt:
                assert run.run() is not None
                found.append(digest_of(run))

    worker = threading.Thread(target=elsewhere)
    worker.start()
    worker.join()
    assert found == [wanted] * 8


def test_a_run_ends_where_its_last_record_was_refused(tmp_path: Path) -> None:
    run = trainer("csr", callbacks=[Raises("recorded", 2, OSError)], out=tmp_path / "run")
    with pytest.raises(OSError):
        run.run()
    assert (run.state.epoch, run.state.finished) == (2, False)
    assert on_to_the_end(restored(run, "csr", tmp_path / "run")) == digest("csr")


def test_stop_is_asked_once() -> None:
    class Stops(Callback):
        def stepped(self, trainer: Any) -> None:
            if trainer.steps_done == 3:
                trainer.stop()

    run = trainer("csr", callbacks=[Stops()])
    assert run.run() is None
    assert on_to_the_end(run) == digest("csr")
    early = trainer("csr")
    early.stop()
    assert early.run() is None and early.steps_done == 0
    assert early.run() is not None


def test_an_optimizer_of_another_run_begins_anew() -> None:
    first = trainer("csr", schedule=lambda step: 0.5**step)
    first.run()
    velocity = first.optimizer.velocity.copy()
    second = Trainer(network("csr"), first.dataset, first.optimizer, epochs=2, batch_size=27, seed=5)
    assert second.base_lr == 0.05
    assert on_to_the_end(second) == digest("csr")
    third = Trainer(network("csr"), first.dataset, first.optimizer, epochs=2, batch_size=27, seed=5)
    third.optimizer.lr = 0.07
    assert third.base_lr == 0.05, "the rate is taken when the run is made"
    assert np.abs(velocity).max() > 0
    halves = [trainer("csr", callbacks=[Raises("stepped", 3)]) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        halves[0].run()
    other = Trainer(network("csr"), first.dataset, halves[0].optimizer, epochs=1, batch_size=27)
    other.run()
    with pytest.raises(ValueError, match="used by another run since"):
        halves[0].run()
