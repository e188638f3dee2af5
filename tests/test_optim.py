"""Optimizers against the same rules written as loops in float64 and against PyTorch's, and what they keep."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparsecore.models.lenet5 import lenet5, links

from sparsecore.data import Split
from sparsecore.data.batches import Batches
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.workspace import Workspace
from sparsecore.topology.wiring import full
from sparsecore.training.optimizers import SGD, Adam, AdamW, Optimizer
from sparsecore.training.step import Step

from .small import network, numbers, store


class ByHand:
    """The rule, one number at a time."""

    def __init__(self, lr, momentum=0.0, weight_decay=0.0, nesterov=False, clip_norm=None):
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.nesterov, self.clip_norm, self.velocity = nesterov, clip_norm, {}

    def step(self, w, dw):
        norm, new = math.sqrt(sum(g * g for g in dw)), []
        scale = 1.0 if self.clip_norm is None or norm <= self.clip_norm else self.clip_norm / norm
        for k, (value, slope) in enumerate(zip(w, dw, strict=True)):
            slope = slope * scale + self.weight_decay * value
            self.velocity[k] = self.momentum * self.velocity.get(k, 0.0) + slope
            new.append(
                value - self.lr * (slope + self.momentum * self.velocity[k] if self.nesterov else self.velocity[k])
            )
        return new


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(
    size=st.integers(0, 70),
    lr=st.floats(0, 1),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    weight_decay=st.sampled_from([0.0, 1e-4, 0.1]),
    clip_norm=st.sampled_from([None, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_the_rule(dtype, size, lr, momentum, nesterov, weight_decay, clip_norm, seed):
    nesterov = nesterov and momentum > 0
    sgd = SGD(lr, momentum, weight_decay, nesterov=nesterov, clip_norm=clip_norm)
    hand = ByHand(lr, momentum, weight_decay, nesterov, clip_norm)
    w = numbers((size,), seed, dtype)
    by_hand, workspace = w.tolist(), Workspace()
    for step in range(5):
        if step == 3:
            sgd.lr = hand.lr = lr / 2  # what a schedule does
        dw = numbers((size,), seed + step + 1, dtype)
        sgd.step(w, dw, workspace)
        by_hand = hand.step(by_hand, dw.tolist())
    error = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(w, by_hand, rtol=error, atol=error)
    np.testing.assert_allclose(sgd.velocity, [hand.velocity[k] for k in range(size)], rtol=error, atol=error)


def test_plain_descent_is_exactly_that():
    w = np.array([1.0, -2.0, 4.0])
    SGD(0.5).step(w, np.array([1.0, 1.0, -1.0]), Workspace())
    assert np.array_equal(w, [0.5, -2.5, 4.5])


def test_large_arrays_are_cut_into_parts():
    w, dw = numbers((600_000,), 1), numbers((600_000,), 2)
    wanted = w - 0.1 * dw
    SGD(0.1).step(w, dw, Workspace())
    np.testing.assert_allclose(w, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("norm, scaled_to", [(3.0, 2.0), (2.0, 2.0), (0.5, 0.5), (0.0, 0.0)])
def test_clipping_scales_only_what_is_longer(norm, scaled_to):
    dw = numbers((50,))
    dw *= norm / np.linalg.norm(dw)
    w = np.zeros(50)
    SGD(1.0, clip_norm=2.0).step(w, dw, Workspace())
    assert np.linalg.norm(w) == pytest.approx(scaled_to)
    if norm:
        assert np.allclose(w, -dw * scaled_to / norm)


def test_a_long_gradient_does_not_shorten_the_next():
    sgd, workspace = SGD(1.0, clip_norm=1.0), Workspace()
    w = np.zeros(2)
    sgd.step(w, np.array([30.0, 40.0]), workspace)
    assert np.allclose(w, [-0.6, -0.8])
    sgd.step(w, np.array([0.25, 0.0]), workspace)
    assert np.allclose(w, [-0.85, -0.8])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_no_number_does_not_pass_for_a_step(bad):
    w = np.ones(8)
    SGD(0.1, clip_norm=1.0).step(w, np.array([1.0] * 7 + [bad]), Workspace())
    assert np.isnan(w).any()


def test_a_norm_beyond_float32_is_still_clipped():
    w, dw = np.zeros(4, np.float32), np.full(4, 3e38, np.float32)
    SGD(1.0, clip_norm=1.0).step(w, dw, Workspace())
    assert np.allclose(w, -0.5)


def test_velocity_is_made_once_and_anew_for_other_parameters():
    sgd, workspace = SGD(0.1, 0.9), Workspace()
    w, dw = np.zeros(5), np.ones(5)
    sgd.step(w, dw, workspace)
    first = sgd.velocity
    sgd.step(w, dw, workspace)
    assert sgd.velocity is first and np.allclose(first, 1.9)
    sgd.step(np.zeros(4), np.ones(4), workspace)
    assert np.array_equal(sgd.velocity, np.ones(4))
    sgd.step(np.zeros(4, np.float32), np.ones(4, np.float32), workspace)
    assert sgd.velocity.dtype == np.float32 and np.array_equal(sgd.velocity, np.ones(4))


def test_gradients_are_not_changed():
    dw = numbers((9,))
    before = dw.copy()
    SGD(0.1, 0.9, 0.1, nesterov=True, clip_norm=0.1).step(np.ones(9), dw, Workspace())
    assert np.array_equal(dw, before)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"lr": -0.1}, "SGD: lr must be at least 0 and finite, got -0.1"),
        ({"lr": math.nan}, "SGD: lr must be at least 0 and finite, got nan"),
        ({"lr": math.inf}, "SGD: lr must be at least 0 and finite, got inf"),
        ({"lr": 1, "momentum": 1}, "SGD: momentum must be at least 0 and less than 1, got 1"),
        ({"lr": 1, "momentum": -0.5}, "SGD: momentum must be at least 0 and less than 1, got -0.5"),
        ({"lr": 1, "weight_decay": -1}, "SGD: weight_decay must be at least 0 and finite, got -1"),
        ({"lr": 1, "clip_norm": 0}, "SGD: clip_norm must be more than 0, or None, got 0"),
        ({"lr": 1, "clip_norm": math.nan}, "SGD: clip_norm must be more than 0, or None, got nan"),
        ({"lr": 1, "nesterov": True}, "SGD: nesterov needs momentum > 0, got momentum 0"),
    ],
)
def test_wrong_rates_are_refused(arguments, message):
    with pytest.raises(ValueError) as caught:
        SGD(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "w, dw",
    [
        (np.zeros(5), np.zeros(4)),
        (np.zeros(5), np.zeros(5, np.float32)),
        (np.zeros(5), np.zeros(10)[::2]),
        (np.zeros(10)[::2], np.zeros(5)),
        (np.zeros((2, 3)), np.zeros(6)),
        (np.zeros(5, np.int32), np.zeros(5, np.int32)),
        (np.zeros(5, np.float16), np.zeros(5, np.float16)),
    ],
)
def test_arrays_that_a_kernel_would_misread_are_refused(w, dw):
    sgd = SGD(0.1)
    with pytest.raises(ValueError, match=r"^SGD: params and grads must be contiguous floats and alike"):
        sgd.step(w, dw, Workspace())
    assert not w.any()


# ---------------------------------------------------------------------------------------------- Adam


class AdamByHand:
    """Kingma and Ba's algorithm 1, one number at a time; with `decoupled`, Loshchilov and Hutter's algorithm 2."""

    def __init__(self, lr, betas, eps, weight_decay, clip_norm, decoupled):
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.clip_norm, self.decoupled, self.t, self.m, self.v = clip_norm, decoupled, 0, {}, {}

    def step(self, w, dw):
        norm, new, (one, two) = math.sqrt(sum(g * g for g in dw)), [], self.betas
        scale = 1.0 if self.clip_norm is None or norm <= self.clip_norm else self.clip_norm / norm
        self.t += 1
        for k, (value, slope) in enumerate(zip(w, dw, strict=True)):
            slope = slope * scale + (0 if self.decoupled else self.weight_decay * value)
            self.m[k] = one * self.m.get(k, 0.0) + (1 - one) * slope
            self.v[k] = two * self.v.get(k, 0.0) + (1 - two) * slope**2
            mean, square = self.m[k] / (1 - one**self.t), self.v[k] / (1 - two**self.t)
            kept = value * (1 - self.lr * self.weight_decay) if self.decoupled else value
            new.append(kept - self.lr * mean / (math.sqrt(square) + self.eps))
        return new


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(
    size=st.integers(0, 70),
    lr=st.floats(0, 0.1),
    betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)]),
    weight_decay=st.sampled_from([0.0, 1e-4, 0.1]),
    clip_norm=st.sampled_from([None, 1e-3, 1e6]),
    seed=st.integers(0, 99),
)
def test_adams_rule(kind, dtype, size, lr, betas, weight_decay, clip_norm, seed):
    adam = kind(lr, betas, 1e-6, weight_decay, clip_norm=clip_norm)
    hand = AdamByHand(lr, betas, 1e-6, weight_decay, clip_norm, kind is AdamW)
    w = numbers((size,), seed, dtype)
    by_hand, workspace = w.tolist(), Workspace()
    for step in range(5):
        if step == 3:
            adam.lr = hand.lr = lr / 2
        dw = numbers((size,), seed + step + 1, dtype)
        adam.step(w, dw, workspace)
        by_hand = hand.step(by_hand, dw.tolist())
    error = 1e-3 if dtype == np.float32 else 1e-11
    np.testing.assert_allclose(w, by_hand, rtol=error, atol=error)
    np.testing.assert_allclose(adam.columns["m"], [hand.m[k] for k in range(size)], rtol=error, atol=error)
    np.testing.assert_allclose(adam.columns["v"], [hand.v[k] for k in range(size)], rtol=error, atol=error)
    assert adam.steps == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(-1), "Adam: lr must be at least 0 and finite, got -1"),
        (lambda: AdamW(1, (0.9, 1.0)), "AdamW: betas must be two numbers, at least 0 and less than 1, got (0.9, 1.0)"),
        (lambda: Adam(1, (0.9,)), "Adam: betas must be two numbers, at least 0 and less than 1, got (0.9,)"),
        (lambda: Adam(1, (math.nan, 0.9)), "Adam: betas must be two numbers, at least 0 and less than 1, got (nan, 0.9)"),
        (lambda: Adam(1, eps=0), "Adam: eps must be more than 0 and finite, got 0"),
        (lambda: AdamW(1, weight_decay=-1), "AdamW: weight_decay must be at least 0 and finite, got -1"),
        (lambda: Adam(1, clip_norm=0), "Adam: clip_norm must be more than 0, or None, got 0"),
    ],
)
def test_wrong_numbers_are_refused(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


# ---------------------------------------------------------------------------------------------- PyTorch's


def torch_lenet5(net):
    """The dense network in PyTorch, with the same values."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install 'sparsecore[peers]'")
    modules = []
    for layer in net.layers:
        kind = type(layer).__name__
        if kind == "SparseConv2d":
            modules.append(torch.nn.Conv2d(layer.in_shape[0], layer.out_shape[0], layer.kernel_size))
        elif kind == "SparseLinear":
            modules.append(torch.nn.Linear(layer.in_features, layer.out_features))
        else:
            modules.append(torch.nn.MaxPool2d(2) if kind == "MaxPool2d" else torch.nn.Flatten())
            continue
        modules[-1] = modules[-1].double()
        with torch.no_grad():
            modules[-1].weight.copy_(torch.from_numpy(layer.weight.reshape(modules[-1].weight.shape)))
            modules[-1].bias.copy_(torch.from_numpy(layer.bias))
        if layer.relu:
            modules.append(torch.nn.ReLU())
    return torch, torch.nn.Sequential(*modules)


RULES = {
    "SGD": (lambda: SGD(0.02, 0.9, 1e-3, nesterov=True), dict(lr=0.02, momentum=0.9, weight_decay=1e-3, nesterov=True)),
    "Adam": (lambda: Adam(1e-3, weight_decay=1e-2), dict(lr=1e-3, weight_decay=1e-2)),
    "AdamW": (lambda: AdamW(1e-3, (0.8, 0.99), 1e-7, 0.1), dict(lr=1e-3, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.1)),
}


def assert_goes_pytorchs_way(net, shape, rule, steps, batch):
    ours, theirs = RULES[rule]
    torch, model = torch_lenet5(net)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 10 * batch, np.int32)
    x = (rng.integers(0, 160, (10, math.prod(shape)))[y] + rng.integers(0, 96, (len(y), math.prod(shape)))).astype(np.uint8)
    step = Step(net, Batches(Split(x, y), shape, [0.4], [0.3], cpu(), np.float64), ours())
    images = torch.from_numpy(((x / 255 - 0.4) / 0.3).reshape(-1, *shape))
    labels, optimizer = torch.from_numpy(y.astype(np.int64)), getattr(torch.optim, rule)(model.parameters(), **theirs)
    for number in range(steps):
        start = number % 10 * batch
        step.run(start, batch)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[start : start + batch]), labels[start : start + batch]).backward()
        optimizer.step()
    wanted = np.concatenate([values.detach().numpy().ravel() for values in model.parameters()])
    apart = np.linalg.norm(net.params - wanted) / np.linalg.norm(wanted)
    assert apart < 1e-6, apart
    np.testing.assert_allclose(net.params, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("rule", RULES)
def test_a_small_lenet_goes_pytorchs_way(rule):
    patterns = [full(link) for link in links((1, 16, 16), every=True, hidden=(4, 6, 20))]
    net = lenet5(patterns, in_shape=(1, 16, 16), every=True, dtype=np.float64)
    assert_goes_pytorchs_way(net, (1, 16, 16), rule, 200, 8)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_lenet5_goes_pytorchs_way(rule):
    assert_goes_pytorchs_way(lenet5(dtype=np.float64), (1, 28, 28), rule, 200, 16)


# ---------------------------------------------------------------------------------------------- what is kept


MAKE = {"SGD": lambda: SGD(0.05, 0.9), "Adam": lambda: Adam(0.01), "AdamW": lambda: AdamW(0.01)}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
@pytest.mark.parametrize("kind", MAKE)
def test_copies_are_whole_and_independent(kind, copied):
    first = MAKE[kind]()
    nets, batches = [network(), network()], store()
    step = Step(nets[0], batches, first)
    step.run(0, 32)
    nets[1].params, second = nets[0].params, copied(first)
    other = Step(nets[1], store(), second)
    assert second.description() == first.description() and second.columns.keys() == first.columns.keys()
    for _ in range(3):
        step.run(32, 32), other.run(32, 32)
        assert np.array_equal(nets[0].params, nets[1].params)
    assert all(not np.shares_memory(first.columns[name], second.columns[name]) for name in first.columns)
    second.lr = 0.5
    assert first.lr != 0.5 and first.rates[0] != 0.5


@pytest.mark.parametrize("kind", MAKE)
def test_what_was_kept_is_taken_up_again(kind):
    nets, first = [network(), network()], MAKE[kind]()
    step = Step(nets[0], store(), first)
    step.run(0, 32), step.run(0, 32)
    kept = {name: column.copy() for name, column in first.columns.items()}
    description = json.loads(json.dumps(first.description()))
    assert description["kind"] == kind and set(kept) == set(first.names)
    nets[1].params, second = nets[0].params, MAKE[kind]()
    columns = second.columns
    second.restore(kept, description, "cpu")
    assert second.columns is columns, "whoever shares the columns goes on sharing them"
    other = Step(nets[1], store(), second)
    step.run(32, 32), other.run(32, 32)
    assert np.array_equal(nets[0].params, nets[1].params)


def test_another_optimizers_columns_are_refused():
    adam = Adam()
    for columns, description, message in (
        ({"velocity": np.zeros(3)}, SGD(0.1).description(), "Adam: expected what Adam has kept, got SGD's"),
        ({"m": np.zeros(3)}, adam.description(), r"Adam: expected the columns \['m', 'v'\], got \['m'\]"),
        ({"m": np.zeros(3), "v": np.zeros(3)}, adam.description() | {"steps": -1}, "Adam: steps must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            adam.restore(columns, description, "cpu")
        assert adam.columns == {} and adam.steps == 0


def test_means_that_begin_anew_are_corrected_anew():
    adam, workspace = Adam(0.1), Workspace()
    for size in (5, 4):
        w = np.zeros(size)
        adam.step(w, np.ones(size), workspace)
        np.testing.assert_allclose(w, -0.1, rtol=1e-6)
        assert adam.steps == 1


@pytest.mark.parametrize("kind", MAKE)
def test_stretches_that_do_not_decay(kind):
    """Cut into stretches, all decaying, the bits are the same; those that do not decay go without."""
    w, dw, outcomes = numbers((50,)), numbers((50,), 1), {}
    for name, runs in {
        "whole": None, "cut": ((0, 20, True), (20, 50, True)), "some": ((0, 20, True), (20, 50, False)), "none": ((0, 50, False),),
    }.items():  # fmt: skip
        optimizer, values = MAKE[kind](), w.copy()
        optimizer.__init__(0.01, weight_decay=0.5)
        for _ in range(3):
            optimizer.step(values, dw, Workspace(), runs)
        outcomes[name] = values
    assert np.array_equal(outcomes["cut"], outcomes["whole"])
    assert np.array_equal(outcomes["some"][:20], outcomes["whole"][:20])
    assert np.array_equal(outcomes["some"][20:], outcomes["none"][20:])
    assert not np.allclose(outcomes["none"], outcomes["whole"])


def test_a_rule_of_ones_own_clips_and_decays():
    class Descent(Optimizer):
        names = ("count",)

        def rule(self, kernels, w, dw, columns, *, decays):
            columns["count"] += 1
            w -= self.lr * (dw + (self.weight_decay * w if decays else 0))

    own, sgd = Descent(0.1, 0.2, clip_norm=1.0), SGD(0.1, 0.0, 0.2, clip_norm=1.0)
    values = [numbers((30,)), numbers((30,))]
    for _ in range(3):
        for each, w in zip((own, sgd), values, strict=True):
            each.step(w, numbers((30,), 1), Workspace())
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)
    assert np.array_equal(own.columns["count"], np.full(30, 3.0)) and own.description()["kind"] == "Descent"
