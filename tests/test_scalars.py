"""Single numbers that callers give: of any library's kind, or refused by one line that names them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sparsecore import SGD, Adam, Network, SparseLinear, Trainer
from sparsecore.data import Dataset
from sparsecore.gradcheck import gradcheck
from sparsecore.layers import Dropout
from sparsecore.prune import (
    REGROW,
    RIGL,
    Rewirer,
    RewiringSchedule,
    gradual,
    iterative,
    of_candidates,
    one_time,
    refresh,
    rewind,
)
from sparsecore.prune.schedule import PruningSchedule, polynomial
from sparsecore.scalars import number, seed_of, whole
from sparsecore.topology import dense, uniform_random
from sparsecore.topology.wiring import Link, Wiring
from sparsecore.training.schedules import constant, cosine, step_decay, warm_up

NO_NUMBERS = (None, "3", b"3", [], object(), 1j, True, np.ones(3))
NO_WHOLE = (*NO_NUMBERS, 1.5, float("nan"), float("inf"), np.float32(2))
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((40, 8)).astype(np.float32), np.arange(40) % 3


def network(sparsity: float = 0.8) -> Network:
    rng = np.random.default_rng(0)
    first = SparseLinear(uniform_random(40, 8, sparsity, rng), relu=True, rng=rng)
    return Network([first, SparseLinear(dense(3, 40), rng=rng)])


def trainer(**given: Any) -> Trainer:
    return Trainer(network(), Dataset.from_arrays(X, Y), SGD(0.1), **({"epochs": 1, "batch_size": 8} | given))


def test_numbers_of_any_library_are_numbers() -> None:
    for three in (3, np.int8(3), np.uint64(3), np.array(3)):
        assert whole("n", three) == 3 and type(whole("n", three)) is int
    assert RewiringSchedule(100, 0.75 * 1000).due(700) and cosine(4.0)(4) == 0
    assert Adam(betas=np.array([0.5, 0.9])).description() == Adam(betas=(0.5, 0.9)).description()
    for three in (3, 3.0, np.float16(3), np.array(3.0)):
        assert number("x", three) == 3 and type(number("x", three)) is float
    assert np.isnan(number("x", float("nan"))) and number("x", -np.inf) == -np.inf
    assert seed_of((1 << 64) - 1) == (1 << 64) - 1


@pytest.mark.parametrize("value", NO_WHOLE, ids=lambda value: type(value).__name__)
def test_what_is_none_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^steps must be a whole number, got ") as raised:
        whole("steps", value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"^seed must be a whole number, got "):
        seed_of(value)
    if any(value is each for each in NO_NUMBERS):
        with pytest.raises(ValueError, match=r"^rate must be a number, got "):
            number("rate", value)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 1 << 70])
def test_seeds_are_of_64_bits(seed: int) -> None:
    schedule = RewiringSchedule(2, 9)
    for door in (seed_of, lambda seed: Rewirer(RIGL, schedule, seed=seed), lambda seed: refresh(network(), seed)):
        with pytest.raises(ValueError, match=r"^seed must be at least 0 and less than 2\*\*64, got"):
            door(seed)


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "SGD: lr": SGD, "SGD: momentum": lambda v: SGD(0.1, v), "SGD: weight_decay": lambda v: SGD(0.1, 0.9, v),
    "Adam: lr": Adam, "Adam: eps": lambda v: Adam(eps=v), "Adam: betas": lambda v: Adam(betas=(0.9, v)),
    "Dropout: rate": lambda v: Dropout((6,), v), "cosine: final": lambda v: cosine(4, v),
    "step_decay: factor": lambda v: step_decay(4, v), "the exponent": polynomial,
    "fraction": lambda v: RewiringSchedule(2, 9, v), "of_candidates: times": of_candidates,
    "gradcheck: eps": lambda v: gradcheck(network(), X, labels=Y, eps=v), "save_every": lambda v: trainer(save_every=v),
}  # fmt: skip
STEPS = ("cosine: steps", "step_decay: every", "warm_up: steps", "every", "end")
"""Of which a whole float will do."""
WHOLE: dict[str, Callable[[Any], Any]] = {
    "cosine: steps": cosine, "step_decay: every": step_decay, "warm_up: steps": lambda v: warm_up(v, constant()),
    "every": lambda v: RewiringSchedule(v, 9), "end": lambda v: RewiringSchedule(2, v),
    "pruning: start": one_time, "pruning: end": lambda v: gradual(0, v, 1),
    "pruning: every": lambda v: gradual(0, 9, v), "pruning: rounds": lambda v: iterative(0, 9, v),
    "pruning: before": lambda v: PruningSchedule(0, 9, 1, polynomial(), v),
    "compile: batch": lambda v: network().compile(v), "seed": lambda v: refresh(network(), v),
    "epochs": lambda v: trainer(epochs=v), "batch_size": lambda v: trainer(batch_size=v),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_asked_for_at_every_door(name: str) -> None:
    for value in NO_NUMBERS:
        with pytest.raises(ValueError, match=rf"^{name} must be ") as raised:
            NUMBERS[name](value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_are_asked_for_at_every_door(name: str) -> None:
    for value in (each for each in NO_WHOLE if name not in STEPS or not isinstance(each, np.float32)):
        with pytest.raises(ValueError, match=rf"^{name} must be a (whole )?number, got ") as raised:
            WHOLE[name](value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("times", [0, 0.5, -1, float("nan"), float("inf")])
def test_no_fewer_candidates_than_come(times: float) -> None:
    with pytest.raises(ValueError, match=r"^of_candidates: times must be at least 1 and finite, got"):
        of_candidates(times)


@pytest.mark.parametrize("value", [-0.1, float("nan"), 1.0, 3])
def test_sparsities_at_the_end_are_fractions(value: float) -> None:
    for targets in (value, {0: value}):
        with pytest.raises(ValueError, match=r"^targets must be at least 0 and below 1, got"):
            Rewirer(REGROW, RewiringSchedule(2, 9), targets=targets)


@pytest.mark.parametrize(("name", "value"), [
    ("kind", "Random"), ("kind", None), ("distribution", "ERK"), ("distribution", 5), ("expander", "regular"),
])  # fmt: skip
def test_words_of_a_wiring(name: str, value: Any) -> None:
    wiring = Wiring(**({"kind": "random", "sparsity": 0.5} | {name: value}))
    for ask in (lambda: wiring.patterns([Link(8, 40)], 0), lambda: wiring.counts([Link(8, 40)])):
        with pytest.raises(ValueError, match=rf"^{name} must be one of .*, got {value!r}$"):
            ask()


@pytest.mark.parametrize("optimizer", [SGD, 5, "sgd"])
def test_values_are_not_set_anew_for_the_sake_of_what_is_no_optimizer(optimizer: Any) -> None:
    net, earlier = network(), network()
    before = net.params.copy()
    for call in (lambda: refresh(net, 3, optimizer), lambda: rewind(net, earlier, optimizer)):
        with pytest.raises(TypeError, match="optimizer must be one of sparsecore's, or None, got"):
            call()
    assert np.array_equal(net.params, before)
