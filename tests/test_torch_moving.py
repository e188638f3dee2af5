"""Connections that move while PyTorch trains: as by brute force, as in our own trainer, with all optimizers know."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from sparsecore.kernels.cpu.change import moving_key  # noqa: E402
from torch import nn  # noqa: E402

from sparsecore.interop.torch import SparseConv2d, SparseLinear, rewire  # noqa: E402
from sparsecore.layers import MaxPool2d  # noqa: E402
from sparsecore.layers import SparseConv2d as ConvLayer  # noqa: E402
from sparsecore.layers import SparseLinear as LinearLayer  # noqa: E402
from sparsecore.network import Network  # noqa: E402
from sparsecore.prune import (  # noqa: E402
    REGROW,
    RIGL,
    SET,
    Method,
    Rewirer,
    RewiringSchedule,
    at_random,
    of_all,
)
from sparsecore.runs.trainer import Trainer  # noqa: E402
from sparsecore.storage.granularity import Granularity  # noqa: E402
from sparsecore.storage.growth import free_places, units_of  # noqa: E402
from sparsecore.topology import dense, filters, uniform_random  # noqa: E402
from sparsecore.training.optimizers import SGD, Adam  # noqa: E402

from .test_moving import METHODS, data  # noqa: E402

SCHEDULE = RewiringSchedule(2, 22, 0.4)
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's own threads wait for each other at every call, and longer than these small calls take."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def mlp(dtype: Any = torch.float64) -> Any:
    rng = np.random.default_rng(3)
    return nn.Sequential(
        SparseLinear(30, 24, pattern=uniform_random(24, 30, 0.8, rng), dtype=dtype), nn.ReLU(),
        SparseLinear(24, 16, pattern=uniform_random(16, 24, 0.8, rng), dtype=dtype), nn.ReLU(inplace=True),
        nn.Linear(16, 4, dtype=dtype),
    )  # fmt: skip


def images(granularity: str) -> Any:
    rng = np.random.default_rng(4)
    second = uniform_random(6, 5 * 9, 0.7, rng)
    if granularity == "filter":
        second = filters(uniform_random(6, 5, 0.5, rng), 3)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, dtype=torch.float64), nn.ReLU(), nn.MaxPool2d(2),
        SparseConv2d(second, 3, 1, 1, dtype=torch.float64), nn.ReLU(), nn.Flatten(),
        SparseLinear(54, 4, pattern=uniform_random(4, 54, 0.5, rng), dtype=torch.float64),
    )  # fmt: skip


def batches(shape: tuple[int, ...], dtype: Any = torch.float64, samples: int = 18) -> Any:
    generator = torch.Generator().manual_seed(1)
    while True:
        yield (torch.randn(samples, *shape, generator=generator, dtype=dtype),
               torch.randint(0, 4, (samples,), generator=generator))  # fmt: skip


class Brute:
    """A loop that works out before each update, in plain PyTorch and NumPy on whole matrices, what must be there."""

    def __init__(self, model: Any, optimizer: Any, method: Method, schedule: RewiringSchedule, **options: Any) -> None:
        self.model, self.optimizer, self.method, self.schedule = model, optimizer, method, schedule
        self.filters, self.targets = options.get("filters", False), options.get("targets")
        self.modules = {n: m for n, m in model.named_modules() if isinstance(m, SparseLinear | SparseConv2d)}
        self.initial = {name: module.pattern.sparsity for name, module in self.modules.items()}
        self.moving = rewire(model, optimizer, method=method, schedule=schedule, **options)
        self.steps = self.updates = 0

    def run(
        self, shape: tuple[int, ...], steps: int, backward: Callable[[Any, Any, Any], None] | None = None,
        dense: Callable[[Any, Any, Any], None] | None = None,
    ) -> None:  # fmt: skip
        """So many steps of the model by `backward`, whose gradients those of a dense twin by `dense` must be."""
        for (x, y), _ in zip(batches(shape), range(steps), strict=False):
            self.optimizer.zero_grad()
            gradients = self.of_a_dense_twin(x, y, dense or self.backward)
            (backward or self.backward)(self.model, x, y)
            for name, module in self.modules.items():
                there = gradients[name][module.pattern.rows, module.pattern.indices]
                np.testing.assert_allclose(module.weight.grad.numpy(), there, rtol=1e-9, atol=1e-14)
            self.optimizer.step()
            self.steps += 1
            due = self.schedule.due(self.steps)
            wanted = {n: self.expected(n, k, gradients[n]) for k, n in enumerate(self.modules)} if due else {}
            before = {name: self.numbers(module) for name, module in self.modules.items()}
            memory = [(m.weight, m.weight.data_ptr(), m.indices.data_ptr()) for m in self.modules.values()]
            held = {name: module.pattern.nnz for name, module in self.modules.items()}
            moved = self.moving.step()
            assert bool(moved) == due
            for name, there in wanted.items():
                module, now = self.modules[name], self.numbers(self.modules[name])
                assert np.array_equal(whole(module, np.ones(module.pattern.nnz)) != 0, there), (self.steps, name)
                for key, old in before[name].items():
                    assert np.array_equal(now[key], np.where(there, old, 0)), (name, key)
                assert module.indptr.tolist() == module.pattern.indptr.tolist()
                assert module.indices.tolist() == module.pattern.indices.tolist()
            for name, went, came, stayed, connections in moved:
                assert connections == self.modules[name].pattern.nnz == held[name] - went + came and stayed >= 0
                assert self.targets is not None or went == came
            for module, (weight, *at) in zip(self.modules.values(), memory, strict=True):
                assert module.weight is weight
                assert self.targets is not None or at == [weight.data_ptr(), module.indices.data_ptr()]
            self.updates += due

    @staticmethod
    def backward(model: Any, x: Any, y: Any) -> None:
        nn.functional.cross_entropy(model(x), y).backward()

    def of_a_dense_twin(self, x: Any, y: Any, backward: Callable[[Any, Any, Any], None]) -> dict[str, Any]:
        twin = nn.Sequential(*(
            m.to_linear() if isinstance(m, SparseLinear) else m.to_conv() if isinstance(m, SparseConv2d)
            else copy.deepcopy(m) for m in self.model
        ))  # fmt: skip
        twin.zero_grad()
        backward(twin, x, y)
        return {n: twin[int(n)].weight.grad.numpy().reshape(m.pattern.shape) for n, m in self.modules.items()}

    def numbers(self, module: Any) -> dict[str, Any]:
        """The weights and the optimizer's state as whole matrices, zero where there is no connection."""
        state = self.optimizer.state[module.weight]
        found = {key: each for key, each in state.items() if torch.is_tensor(each) and each.dim() == 1}
        assert len(found) == {"SGD": 1, "Adam": 3, "AdamW": 2, "RMSprop": 3, "Rprop": 2}[type(self.optimizer).__name__]
        return {key: whole(module, each.detach().numpy()) for key, each in {"": module.weight, **found}.items()}

    def expected(self, name: str, number: int, gradient: Any) -> Any:
        method, schedule, step, module = self.method, self.schedule, self.steps, self.modules[name]
        pattern = module.pattern
        size = 9 if self.filters and isinstance(module, SparseConv2d) else 1
        rows, columns = pattern.shape[0], pattern.shape[1] // size
        there = (whole(module, np.ones(pattern.nnz)) != 0).reshape(rows, columns, size)[..., 0]
        weight = whole(module, module.weight.detach().numpy())
        matters, slope = (
            (np.square(each.reshape(rows, columns, size)).sum(2) if size > 1 else np.abs(each))
            for each in (weight, gradient)
        )  # fmt: skip
        stretches = [[k] for k in range(rows)] if method.by_row else [list(range(rows))]
        counts = []
        for stretch in stretches:
            held, possible = int(there[stretch].sum()), len(stretch) * columns
            goal = held
            if method.towards is not None:
                s = method.towards(schedule.progress(step), min(self.initial[name], self.targets), self.targets)
                goal = min(held, int(np.rint((1 - s) * possible)))
            counts.append((goal, min(int(np.rint(schedule.at(step) * goal)), possible - held), possible - held))
        times = method.comes.args[0] if isinstance(method.comes, partial) else 1  # of_candidates
        asked = [min(int(np.ceil(times * come)), free) for _, come, free in counts]
        edges = np.arange(rows + 1) if method.by_row else np.array([0, rows])
        drawn = np.zeros_like(there)
        units = units_of(pattern, size)
        assert units is not None
        if method.comes is not of_all:
            places = free_places(units, edges, np.array(asked), int(moving_key(0, step, number)))
            drawn[places.rows, places.columns] = True
        after = np.zeros_like(there)
        for stretch, (goal, come, _) in zip(stretches, counts, strict=True):
            flat = [(r, c) for r in stretch for c in range(columns)]
            stay = sorted((at for at in flat if there[at]), key=lambda at: -matters[at])[: goal - come]
            able = [at for at in flat if (at not in stay if method.comes is of_all else drawn[at])]
            ranked = able if method.comes is at_random else sorted(able, key=lambda at: -slope[at])
            for at in stay + ranked[:come]:
                after[at] = True
        return np.repeat(after, size, axis=1)


def whole(module: Any, values: Any) -> Any:
    found = np.zeros(module.pattern.shape)
    found[module.pattern.rows, module.pattern.indices] = values
    return found


@pytest.mark.parametrize("method", METHODS)
def test_the_same_connections_go_and_come_as_by_brute_force(method: str) -> None:
    model, found = mlp(), METHODS[method]
    options = {"targets": 0.9} if found.towards else {}
    brute = Brute(model, OPTIMIZERS["SGD"](model.parameters()), found, SCHEDULE, **options)
    brute.run((30,), 24)
    assert brute.updates == 11


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", ["rigl", "regrow"])
def test_what_an_optimizer_knows_of_a_connection_moves_with_it(optimizer: str, method: str) -> None:
    model = mlp()
    options = {"targets": 0.9} if method == "regrow" else {}
    brute = Brute(model, OPTIMIZERS[optimizer](model.parameters()), METHODS[method], SCHEDULE, **options)
    brute.run((30,), 23)
    assert brute.updates == 11


@pytest.mark.parametrize("method", ["set", "rigl", "exact", "regrow"])
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_convolutions_move_by_weights_and_by_filters(method: str, granularity: str) -> None:
    model = images(granularity)
    options: dict[str, Any] = {"targets": 0.8} if METHODS[method].towards else {}
    options |= {"filters": True} if granularity == "filter" else {}
    brute = Brute(model, OPTIMIZERS["SGD"](model.parameters()), METHODS[method], SCHEDULE, **options)
    brute.run((2, 6, 6), 22)
    assert brute.updates == 11
    assert granularity == "weight" or units_of(model[3].pattern, 9) is not None


def in_parts(model: Any, x: Any, y: Any) -> None:
    for part in (slice(0, 5), slice(5, 18)):
        (nn.functional.cross_entropy(model(x[part]), y[part], reduction="sum") / len(x)).backward()


def twice_through_one_graph(model: Any, x: Any, y: Any) -> None:
    loss = nn.functional.cross_entropy(model(x), y)
    (0.25 * loss).backward(retain_graph=True)
    (0.75 * loss).backward()


def written_over(model: Any, x: Any, y: Any) -> None:
    """x and the gradients change as soon as they have been used; passes without a gradient come between."""
    x = x.clone()
    z = model(x)
    loss = nn.functional.cross_entropy(z, y)
    x.zero_()
    with torch.no_grad():
        model(torch.randn(7, 30, dtype=x.dtype))
    model(torch.randn(7, 30, dtype=x.dtype))
    loss.backward()


def recomputed(reentrant: bool) -> Callable[[Any, Any, Any], None]:
    def backward(model: Any, x: Any, y: Any) -> None:
        from torch.utils.checkpoint import checkpoint

        x = x.clone().requires_grad_()
        nn.functional.cross_entropy(checkpoint(model, x, use_reentrant=reentrant), y).backward()

    return backward


def adversarial(model: Any, x: Any, y: Any) -> None:
    """Gradients with respect to x alone come before and after; those before go through frozen weights, too."""
    loss, other = nn.functional.cross_entropy, (y + 1) % 4

    def attack() -> None:
        near = x.clone().requires_grad_()
        torch.autograd.grad(50 * loss(model(near), other), near)
        (50 * loss(model(near), other)).backward(inputs=[near])

    attack()
    model.requires_grad_(False)
    attack()
    model.requires_grad_(True)
    loss(model(x), y).backward()
    attack()


def beside_a_generator(model: Any, x: Any, y: Any) -> None:
    """Somebody else learns through the model, whose gradients are then set to None, or to zero."""
    for to_none in (True, False):
        (50 * nn.functional.cross_entropy(model(x.clone().requires_grad_()), (y + 1) % 4)).backward()
        model.zero_grad(set_to_none=to_none)
    nn.functional.cross_entropy(model(x), y).backward()


def beside_transforms(model: Any, x: Any, y: Any) -> None:
    """Derivatives that end in nobody's gradient, whose tensors end with their transforms."""
    torch.func.jacrev(model)(x[:2])
    torch.func.hessian(lambda x: model(x).square().sum())(x[:2])
    torch.func.jvp(model, (x,), (x,))
    torch.func.vmap(model)(x)
    nn.functional.cross_entropy(torch.func.vmap(model)(x), y).backward()


def of_each_sample(model: Any, x: Any, y: Any) -> None:
    """Gradients of each sample, whose mean is the step's."""
    values = dict(model.named_parameters())

    def loss(values: Any, x: Any, y: Any) -> Any:
        return nn.functional.cross_entropy(torch.func.functional_call(model, values, (x[None],)), y[None])

    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(values, x, y)
    for name, value in values.items():
        value.grad = found[name].mean(0).detach()


def asked_for(model: Any, x: Any, y: Any) -> None:
    """Parts of a batch, by a function that gives gradients."""
    values = list(model.parameters())
    for part in (slice(0, 5), slice(5, 18)):
        loss = nn.functional.cross_entropy(model(x[part]), y[part], reduction="sum") / len(x)
        for value, grad in zip(values, torch.autograd.grad(loss, values), strict=True):
            value.grad = grad if value.grad is None else value.grad + grad


@pytest.mark.parametrize(
    "backward", [
        in_parts, twice_through_one_graph, written_over, recomputed(True), recomputed(False), adversarial,
        beside_a_generator, beside_transforms, asked_for,
    ],
    ids=["in parts", "twice", "written over", "reentrant", "checkpoint", "adversarial", "generator", "transforms",
         "asked for"],
)  # fmt: skip
def test_all_gradients_of_a_step_count_however_they_come(backward: Callable[[Any, Any, Any], None]) -> None:
    model = mlp()
    brute = Brute(model, OPTIMIZERS["SGD"](model.parameters()), RIGL, SCHEDULE)
    brute.run((30,), 22, backward)
    assert brute.updates == 11


def test_gradients_of_each_sample_count_in_their_sum() -> None:
    """Of a mean it is a multiple, which chooses the same."""
    model = mlp()
    brute = Brute(model, OPTIMIZERS["SGD"](model.parameters()), RIGL, SCHEDULE)
    brute.run((30,), 22, of_each_sample)
    assert brute.updates == 11


def penalised(power: float) -> Callable[[Any, Any, Any], None]:
    """The loss has the norm of its own gradient in it, as that of a critic: weights count in second derivatives."""

    def backward(model: Any, x: Any, y: Any) -> None:
        x = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(x), y)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        (power * loss + slope.square().sum(1).add(1).log().sum()).backward()

    return backward


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_gradients_of_gradients_count(power: float) -> None:
    model = mlp()
    for k in (1, 3):
        model[k] = nn.Tanh()
    brute = Brute(model, OPTIMIZERS["SGD"](model.parameters()), RIGL, SCHEDULE)
    brute.run((30,), 22, penalised(power), penalised(power))
    assert brute.updates == 11


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda three: pickle.loads(pickle.dumps(three))])
@pytest.mark.parametrize("method", [SET, RIGL, REGROW])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_copy_of_the_whole_loop_goes_on_as_the_loop_does(copied: Any, method: Any, after: int) -> None:
    """Also from right before an update, whose passes are caught."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(SparseLinear(30, 20, sparsity=0.6))
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    targets = {"targets": 0.8} if method is REGROW else {}
    moving = rewire(model, optimizer, schedule=RewiringSchedule(2, 9, 0.4), method=method, seed=3, **targets)
    x = torch.randn(5, 30)

    def steps(model: Any, optimizer: Any, moving: Any, count: int) -> Any:
        for _ in range(count):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            moving.step()
        return model.state_dict()

    steps(model, optimizer, moving, after)
    found = steps(*copied((model, optimizer, moving)), 6 - after)
    wanted = steps(model, optimizer, moving, 6 - after)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_module_that_is_used_twice_is_scored_by_the_sum() -> None:
    shared = SparseLinear(12, 12, pattern=uniform_random(12, 12, 0.7, np.random.default_rng(0)), dtype=torch.float64)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    moving = rewire(model, optimizer, schedule=RewiringSchedule(1, 20, 0.4), method=Method(of_all))
    for _ in range(10):
        x, before, held = torch.randn(9, 3, 12, dtype=torch.float64), shared.pattern, shared.weight.detach().clone()
        twin = shared.to_linear()
        twin(torch.tanh(twin(x))).square().sum().backward()
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        weight, gradient = shared.weight.detach().clone(), twin.weight.grad.numpy()
        (moved,) = moving.step()
        stay = np.sort(np.argsort(-np.abs(weight.numpy()), kind="stable")[: len(held) - moved.came - moved.stayed])
        barred = np.zeros((12, 12), bool)
        barred[before.rows[stay], before.indices[stay]] = True
        scores = np.where(barred, -1, np.abs(gradient)).ravel()
        come = np.argsort(-scores, kind="stable")[: moved.came + moved.stayed]
        barred.ravel()[come] = True
        assert np.array_equal(whole(shared, 1) != 0, barred)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("method", ["set", "rigl", "exact", "regrow", "exact rows"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_our_own_trainer_moves_the_same_connections(kind: str, method: str, optimizer: str) -> None:
    rng, found = np.random.default_rng(7), METHODS[method]
    layers: list[Any] = [
        LinearLayer(uniform_random(24, 30, 0.7, rng), relu=True, rng=rng, dtype=np.float64),
        LinearLayer(uniform_random(16, 24, 0.7, rng), relu=True, rng=rng, dtype=np.float64),
        LinearLayer(dense(4, 16), rng=rng, dtype=np.float64),
    ]
    shape: tuple[int, ...] = (30,)
    if kind == "conv":
        shape = 2, 6, 6
        layers = [
            ConvLayer(uniform_random(5, 18, 0.5, rng), shape, 3, padding=1, relu=True, rng=rng, dtype=np.float64),
            MaxPool2d((5, 6, 6), 2),
            LinearLayer(uniform_random(4, 45, 0.5, rng), rng=rng, dtype=np.float64),
        ]
    network = Network(layers)
    starts = [layer.pattern for layer in layers if hasattr(layer, "pattern")]
    modules: list[Any] = []
    for layer in layers:
        if isinstance(layer, LinearLayer):
            modules += [nn.Flatten(), SparseLinear.of(layer.pattern, layer.weight, layer.bias, dtype=torch.float64)]
        elif isinstance(layer, ConvLayer):
            modules.append(SparseConv2d(layer.pattern, 3, 1, 1, weight=layer.weight, bias=layer.bias,
                                        dtype=torch.float64))  # fmt: skip
        else:
            modules.append(nn.MaxPool2d(2))
        modules += [nn.ReLU()] if getattr(layer, "relu", False) else []
    model = nn.Sequential(*modules)
    sparse = [k for k, layer in enumerate(layers) if hasattr(layer, "pattern") and not layer.pattern.is_full]
    full = [n for n, m in model.named_modules() if isinstance(m, SparseLinear) and m.pattern.is_full]
    initial = {str(k): layers[k].pattern.sparsity for k in sparse}
    options = {"targets": 0.85, "initial": initial} if found.towards else {}
    held = data(shape, 48)
    ours = {"SGD": SGD(0.1, 0.9), "Adam": Adam(0.01)}[optimizer]
    theirs = {"SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), "Adam": lambda p: torch.optim.Adam(p, 0.01)}
    rewirer = Rewirer(found, SCHEDULE, layers=sparse, seed=11, **options)
    Trainer(network, held, ours, epochs=23, batch_size=48, callbacks=[rewirer]).run()

    torch_optimizer = theirs[optimizer](model.parameters())
    goal = {"targets": 0.85} if found.towards else {}
    moving = rewire(model, torch_optimizer, schedule=SCHEDULE, method=found, skip=full, seed=11, **goal)
    x = torch.from_numpy(held.train.x.astype(np.float64)).reshape(-1, *shape)
    y = torch.from_numpy(held.train.y.astype(np.int64))
    for _ in range(23):
        torch_optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        torch_optimizer.step()
        moving.step()
    patterns = [network.patterns[str(k)] for k in range(len(layers)) if hasattr(layers[k], "pattern")]
    assert patterns == [m.pattern for m in model if isinstance(m, SparseLinear | SparseConv2d)]
    assert all((now == before) == before.is_full for now, before in zip(patterns, starts, strict=True))


@pytest.mark.parametrize("granularity", ["rows:3", "block:2,3"])
@pytest.mark.parametrize("method", ["set", "rigl", "exact"])
def test_groups_move_together_as_in_our_own_trainer(method: str, granularity: str) -> None:
    """The same connections, in whole units, by plans that walk rows in groups."""
    rng, cut = np.random.default_rng(7), Granularity.read(granularity)
    units = [cut.units((24, 30)), cut.units((5, 18), (3, 3))]
    first, second = (each.connections(uniform_random(*each.shape, 0.6, rng)) for each in units)
    for shape, pattern, each in (((30,), first, units[0]), ((2, 6, 6), second, units[1])):
        wired: Any = LinearLayer(pattern, relu=True, rng=rng, dtype=np.float64)
        same: Any = SparseLinear.of(pattern, wired.weight, wired.bias, dtype=torch.float64)
        if pattern is second:
            wired = ConvLayer(pattern, shape, 3, padding=1, relu=True, rng=rng, dtype=np.float64)
            same = SparseConv2d(pattern, 3, 1, 1, weight=wired.weight, bias=wired.bias, dtype=torch.float64)
        head = LinearLayer(dense(4, int(np.prod(wired.out_shape))), rng=rng, dtype=np.float64)
        full = SparseLinear.of(head.pattern, head.weight, head.bias, dtype=torch.float64)
        model, network = nn.Sequential(same, nn.ReLU(), nn.Flatten(), full), Network([wired, head])
        held = data(shape, 48)
        rewirer = Rewirer(METHODS[method], SCHEDULE, layers=[0], seed=11, granularity=granularity)
        Trainer(network, held, SGD(0.1, 0.9), epochs=23, batch_size=48, callbacks=[rewirer]).run()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        moving = rewire(model, optimizer, schedule=SCHEDULE, method=METHODS[method], skip=["3"], seed=11,
                        granularity=granularity)  # fmt: skip
        x = torch.from_numpy(held.train.x.astype(np.float64)).reshape(-1, *shape)
        for _ in range(23):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), torch.from_numpy(held.train.y.astype(np.int64))).backward()
            optimizer.step()
            moving.step()
        assert same.pattern == network.patterns[0] != pattern
        assert each.of(same.pattern) is not None
        assert all(layer.plan.together == (cut.rows, cut.channels) for layer in same._layers.values())
