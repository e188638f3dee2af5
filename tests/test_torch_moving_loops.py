"""What loops of PyTorch's have where connections move: resumed, watched, patched, compiled, in autocast, in ranks."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import nn  # noqa: E402

from sparsecore.interop.torch import SparseConv2d, SparseLinear, rewire  # noqa: E402
from sparsecore.prune import (  # noqa: E402
    REGROW,
    RIGL,
    SET,
    Method,
    RewiringSchedule,
)
from sparsecore.storage.granularity import Granularity  # noqa: E402
from sparsecore.storage.pattern import SparsityPattern  # noqa: E402
from sparsecore.topology import dense  # noqa: E402

from .test_moving import METHODS  # noqa: E402
from .test_torch_moving import SCHEDULE, batches, images, mlp, one_thread  # noqa: E402, F401

# -- what else a loop has --------------------------------------------------------------------------------------------


def trained(
    model: Any, optimizer: Any, moving: Any, steps: range, dtype: Any = torch.float64, scale: float = 1.0
) -> list[list[int]]:
    """Train; the columns of all connections after each step."""
    found = []
    for k, (x, y) in enumerate(batches((30,), dtype)):
        if k == steps.stop:
            return found
        if k in steps:
            optimizer.zero_grad()
            (scale * nn.functional.cross_entropy(model(x), y)).backward()
            optimizer.step()
            moving.step()
            found.append([c for m in model.modules() if hasattr(m, "pattern") for c in m.pattern.indices.tolist()])
    raise AssertionError


def start(method: Method = RIGL, seed: int = 5, **options: Any) -> tuple[Any, Any, Any]:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    return model, optimizer, rewire(model, optimizer, schedule=SCHEDULE, method=method, seed=seed, **options)


@pytest.mark.parametrize("method", ["set", "rigl", "regrow"])
@pytest.mark.parametrize("cut", [1, 8, 9])
def test_a_loop_that_is_resumed_moves_the_same_connections(method: str, cut: int) -> None:
    options = {"targets": 0.9} if method == "regrow" else {}
    torch.manual_seed(0)
    reference = trained(*start(METHODS[method], **options), range(22))
    assert len({tuple(each) for each in reference}) >= 11
    torch.manual_seed(0)
    first = start(METHODS[method], **options)
    assert trained(*first, range(cut)) == reference[:cut]
    states = pickle.loads(pickle.dumps([each.state_dict() for each in first]))
    torch.manual_seed(99)
    again = mlp()
    again.load_state_dict(states[0])
    optimizer = torch.optim.Adam(again.parameters(), 0.01)
    optimizer.load_state_dict(states[1])
    moving = rewire(again, optimizer, schedule=SCHEDULE, method=METHODS[method], **options)
    moving.load_state_dict(states[2])
    assert trained(again, optimizer, moving, range(cut, 22)) == reference[cut:]


def test_only_the_step_before_an_update_is_watched() -> None:
    model, optimizer, moving = start()
    for k, (x, y) in enumerate(batches((30,))):
        if k == 30:
            break
        armed = SCHEDULE.due(k + 1)
        assert all((m.caught is not None) == armed for m in model if isinstance(m, SparseLinear))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        assert [len(each) for each in moving._caught.values()] == [int(armed)] * 2
        moving.step()
        assert [len(each) for each in moving._caught.values()] == [0, 0]


def test_nobody_watches_when_the_moving_object_is_gone_and_modules_can_be_copied_meanwhile() -> None:
    model, optimizer, moving = start()
    trained(model, optimizer, moving, range(1))
    assert model[0].caught is not None
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin[0].caught is None
    del moving
    gc.collect()
    x = torch.randn(3, 30, dtype=torch.float64)
    model(x).sum().backward()
    assert model[0].caught() is None


def test_a_backward_pass_of_before_an_update_is_refused_after_it() -> None:
    model, optimizer, moving = start()
    trained(model, optimizer, moving, range(1))
    x = torch.randn(3, 30, dtype=torch.float64)
    loss = model(x).square().sum()
    model(x).square().sum().backward()
    assert len(moving.step()) == 2
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|has taken another pattern since"):
        loss.backward()
    assert model[0].weight.grad is None


def test_so_it_is_where_only_weights_have_gradients() -> None:
    module = SparseLinear(30, 24, sparsity=0.8, dtype=torch.float64)
    moving = rewire(module, torch.optim.SGD(module.parameters(), 0.1), schedule=RewiringSchedule(1, 9, 0.3))
    pending, now = (module(torch.randn(5, 30, dtype=torch.float64)).sum() for _ in range(2))
    now.backward()
    moving.step()
    with pytest.raises(RuntimeError, match="the module has taken another pattern since this forward pass"):
        pending.backward()
    assert module.weight.grad is None


def test_plans_are_patched_where_sizes_stay() -> None:
    model = images("weight")
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    moving = rewire(model, optimizer, schedule=RewiringSchedule(1, 9, 0.3))
    plans = []
    for _, (x, y) in zip(range(9), batches((2, 6, 6)), strict=False):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        assert len(moving.step()) == 2
        plans.append([next(iter(model[k]._layers.values())).plan for k in (3, 6)])
    assert all(each == plans[0] for each in plans) and plans[0][0].pattern is model[3].pattern


def test_a_state_that_shares_the_modules_memory_stays_whole() -> None:
    model, optimizer, moving = start()
    state = model.state_dict()
    trained(model, optimizer, moving, range(4))
    twin = mlp()
    twin.load_state_dict(state)
    x = torch.randn(3, 30, dtype=torch.float64)
    assert twin[0].pattern == model[0].pattern and torch.equal(twin(x), model(x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_update_by_gradients_or_weights_that_are_not_finite_is_left_out(bad: float) -> None:
    model, optimizer, moving = start()
    trained(model, optimizer, moving, range(1))
    before = [copy.deepcopy(each.state_dict()) for each in (model, optimizer)]
    model(torch.full((3, 30), bad, dtype=torch.float64)).sum().backward()
    with pytest.warns(RuntimeWarning, match=r"rewire: a gradient of \d is not finite at step 2: no connections moved"):
        assert moving.step() == []
    assert str(before) == str([each.state_dict() for each in (model, optimizer)])
    trained(model, optimizer, moving, range(1))
    model(torch.randn(3, 30, dtype=torch.float64)).sum().backward()
    with torch.no_grad():
        model[2].weight[3] = bad
    with pytest.warns(RuntimeWarning, match="rewire: a weight of 2 is not finite at step 4"):
        assert moving.step() == []
    assert np.array_equal(model[0].pattern.indices, before[0]["0.indices"])


def test_a_module_that_took_no_part_stays_and_a_step_without_any_is_refused() -> None:
    model, optimizer, moving = start()
    trained(model, optimizer, moving, range(1))
    before = model[0].pattern
    model[1:](torch.randn(3, 24, dtype=torch.float64)).sum().backward()
    assert [each.name for each in moving.step()] == ["2"] and model[0].pattern is before
    moving.step()
    with pytest.raises(RuntimeError, match="no gradient has come through the sparse modules before step 4"):
        moving.step()
    assert moving.steps == 4 and moving.step() == []


def test_a_module_used_around_its_own_reentrant_checkpoint_is_scored_by_all_of_its_passes() -> None:
    from torch.utils.checkpoint import checkpoint

    module = SparseLinear(12, 12, sparsity=0.5, dtype=torch.float64)
    moving = rewire(module, torch.optim.SGD(module.parameters(), 0.1), schedule=RewiringSchedule(1, 9, 0.3))
    for _ in range(2):  # the second pass adds to the first
        x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
        inner = checkpoint(module, torch.tanh(module(x)), use_reentrant=True)
        module(torch.tanh(inner)).square().sum().backward()
        torch.testing.assert_close(moving._caught[""].gradient(module.pattern), module.weight.grad)


def test_passes_whose_gradient_is_zero_where_connections_are_count_elsewhere() -> None:
    """As of inputs that are next to empty; gradients that were set to zero take theirs with them."""
    module = SparseLinear(4, 2, pattern=dense(2, 4).select([True, False] * 4), dtype=torch.float64)
    moving = rewire(module, torch.optim.SGD(module.parameters(), 0.1), schedule=RewiringSchedule(1, 9, 0.3))
    other, plain = torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    other[0, 1] = 5
    module(other).sum().backward()
    module(plain).sum().backward()
    caught = moving._caught[""]
    assert caught.gradient(dense(2, 4)).reshape(2, 4)[0].tolist() == [1, 6, 1, 1]
    module.zero_grad(set_to_none=False)
    module(plain).sum().backward()
    assert caught.gradient(dense(2, 4)).reshape(2, 4)[0].tolist() == [1, 1, 1, 1]


def masked(module: Any) -> None:
    torch.nn.utils.prune.identity(module, "weight")


def computed(module: Any) -> None:
    torch.nn.utils.parametrize.register_parametrization(module, "weight", nn.Identity())


def another(module: Any) -> None:
    module.load_state_dict(copy.deepcopy(module.state_dict()), assign=True)


def test_a_module_that_is_frozen_stays() -> None:
    model, optimizer, moving = start()
    trained(model, optimizer, moving, range(1))
    before = copy.deepcopy(model[2].state_dict())
    model[2].requires_grad_(False)
    x, y = next(batches((30,)))
    nn.functional.cross_entropy(model(x), y).backward()
    assert [each.name for each in moving.step()] == ["0"]
    assert all(torch.equal(before[name], now) for name, now in model[2].state_dict().items())


@pytest.mark.parametrize(("change", "message"), [
    (masked, "is computed anew"), (computed, "is computed anew"), (another, "is not among the optimizer's"),
])  # fmt: skip
def test_a_weight_that_has_become_another_is_refused_and_nothing_moves(change: Any, message: str) -> None:
    model, optimizer, moving = start()
    trained(model, optimizer, moving, range(1))
    change(model[2])
    x, y = next(batches((30,)))
    nn.functional.cross_entropy(model(x), y).backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"rewire: module 2, .*SparseLinear.16, 24.: its weight {message}"):
        moving.step()
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_float32_and_autocast(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), SparseLinear(24, 40, sparsity=0.8), nn.Tanh(), nn.Linear(40, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    moving = rewire(model, optimizer, schedule=RewiringSchedule(1, 100, 0.3))
    before, losses, moved = model[2].pattern, [], 0
    x, y = torch.randn(64, 30), torch.randint(0, 4, (64,))
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", getattr(torch, kind), enabled=kind != "float32"):
            loss = nn.functional.cross_entropy(model(x), y)
        (1024 * loss).backward()  # as a GradScaler does, whose scale changes no order
        for parameter in model.parameters():
            parameter.grad /= 1024
        optimizer.step()
        moved += sum(each.came for each in moving.step())
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0] and moved > 500 and model[2].pattern != before
    assert model[2].pattern.nnz == before.nnz == len(model[2].weight)


@pytest.mark.parametrize("method", [SET, RIGL, REGROW], ids=["set", "rigl", "regrow"])
def test_losses_fall_and_moving_finds_what_matters(method: Method) -> None:
    """Three inputs of 200 decide, and hardly any of the first connections read them."""
    options = {"targets": 0.98} if method is REGROW else {}
    torch.manual_seed(1)
    x = torch.randn(400, 200)
    y = (x[:, 0] * 2 + x[:, 1] - x[:, 2]).sign()[:, None]
    losses = {}
    for moves in (False, True):
        torch.manual_seed(2)
        model = nn.Sequential(SparseLinear(200, 20, sparsity=0.97), nn.Tanh(), nn.Linear(20, 1))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        moving = rewire(model, optimizer, schedule=RewiringSchedule(5, 250, 0.5), method=method, **options)
        for _ in range(300):
            optimizer.zero_grad()
            loss = nn.functional.soft_margin_loss(model(x), y)
            loss.backward()
            optimizer.step()
            if moves:
                moving.step()
        losses[moves] = float(loss.detach())
    assert losses[True] < 0.75 * losses[False]


def test_empty_batches_and_other_leading_dimensions_count_too() -> None:
    module = SparseLinear(30, 24, sparsity=0.8, dtype=torch.float64)
    moving = rewire(module, torch.optim.SGD(module.parameters(), 0.1), schedule=RewiringSchedule(1, 9, 0.3))
    for shape in ((0, 30), (30,), (2, 3, 30)):
        module(torch.randn(shape, dtype=torch.float64)).sum().backward()
        (moved,) = moving.step()
        assert moved.name == "" and moved.came == moved.went > 0


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("wrapped", [False, True], ids=["run before", "disabled"])
def test_a_compiled_model_moves_as_any_other(wrapped: bool) -> None:
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = mlp()
        for k in (0, 2):
            model[k] = torch.compiler.disable(model[k]) if wrapped else model[k]
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        moving = rewire(model, optimizer, schedule=SCHEDULE)
        model(next(batches((30,)))[0]).sum().backward()
        used = torch.compile(model, backend="eager") if compiled else model
        found.append(trained(used, optimizer, moving, range(22)))
    assert found[0] == found[1] and len({tuple(each) for each in found[0]}) > 5


# -- several ranks ---------------------------------------------------------------------------------------------------


def on_a_rank(rank: int, folder: str, wrapped: bool) -> None:
    """One of two processes: half of each batch, and what it has come to at the end is written down."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        model = mlp()
        used = nn.parallel.DistributedDataParallel(model) if wrapped else model
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        moving = rewire(used, optimizer, schedule=SCHEDULE, seed=3)
        for k, (x, y) in enumerate(batches((30,))):
            if k == 23:
                break
            optimizer.zero_grad()
            mine = slice(9 * rank, 9 * rank + 9)
            nn.functional.cross_entropy(used(x[mine]), y[mine]).backward()
            optimizer.step()
            moving.step()
        torch.save([model.state_dict(), model[0].pattern.indices], f"{folder}/{rank}.pt")
        half = dense(2, 3).select([True] * 3 + [False] * 3)
        uneven = SparseLinear(3, 6, pattern=Granularity(rows=4).units((6, 3)).connections(half))
        of_uneven = torch.optim.SGD(uneven.parameters(), 0.1)
        for refused, message in (
            (lambda: rewire(model, optimizer, schedule=SCHEDULE, seed=rank), "seed must be the same on all ranks"),
            (lambda: rewire(model, optimizer, schedule=SCHEDULE, method=REGROW, targets=0.9), "targets: would change"),
            (lambda: rewire(uneven, of_uneven, schedule=SCHEDULE, granularity="rows:4"), "rows:4: would change"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=message):
                refused()
        torch.manual_seed(rank)
        other = SparseLinear(30, 24, sparsity=0.8)
        with pytest.raises(ValueError, match="has other connections on other ranks"):
            rewire(other, torch.optim.SGD(other.parameters(), 0.1), schedule=SCHEDULE)
    finally:
        used = moving = None  # before the group: the last to let go of it may wait for its threads with the GIL in hand
        gc.collect()
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs gloo"
)
def test_all_ranks_move_the_connections_that_one_process_with_the_whole_batch_moves(tmp_path: Any) -> None:
    torch.multiprocessing.spawn(on_a_rank, (str(tmp_path), True), nprocs=2)
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    trained(model, optimizer, rewire(model, optimizer, schedule=SCHEDULE, seed=3), range(23))
    (one, indices), (other, others) = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert np.array_equal(indices, others) and np.array_equal(indices, model[0].pattern.indices)
    for name, wanted in model.state_dict().items():
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name], wanted)


# -- what cannot be --------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_by_one_line_and_nothing_changes() -> None:
    model = mlp()
    optimizer, held = torch.optim.SGD(model.parameters(), 0.1), copy.deepcopy(model.state_dict())
    weights = SparseLinear(30, 24, pattern=dense(24, 30)), SparseLinear(30, 24, sparsity=0.1)
    empty = SparseLinear(3, 3, pattern=SparsityPattern((3, 3), [0, 0, 0, 0], []))
    tied = nn.Sequential(SparseLinear(9, 9), SparseLinear(9, 9))
    tied[1].weight = tied[0].weight
    frozen = SparseLinear(9, 9)
    frozen.weight.requires_grad_(False)
    parts = images("weight")

    def of(module: Any) -> tuple[Any, Any]:
        return module, torch.optim.SGD(module.parameters(), 0.1)

    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (*of(nn.Linear(3, 3)), {}, "has no sparse modules"),
        (model, optimizer, {"skip": ["0", "2"]}, "has no sparse modules"),
        (model, optimizer, {"skip": ["head"]}, "skip must name modules of the model, got head"),
        (model, optimizer, {"seed": -1}, "seed must be a whole number, .*, got -1"),
        (model, optimizer, {"seed": 0.5}, "seed must be a whole number, .*, got 0.5"),
        (model, optimizer, {"method": "rigl"}, "expected a Method and a RewiringSchedule, got str"),
        (model, optimizer, {"schedule": 100}, "expected a Method and a RewiringSchedule, got Method and int"),
        (model, optimizer, {"method": REGROW}, "targets: go with a method that changes the sparsity"),
        (model, optimizer, {"targets": 0.9}, "targets: go with a method that changes the sparsity"),
        (model, optimizer, {"method": REGROW, "targets": 1.0}, "below 1, got 1.0 for module 0"),
        (model, optimizer, {"method": REGROW, "targets": float("nan")}, "below 1, got nan for module 0"),
        (model, optimizer, {"method": REGROW, "targets": "most"}, "below 1, got 'most' for module 0"),
        (model, optimizer, {"method": REGROW, "targets": {"0": 0.9}}, "targets must name 0, 2, got 0"),
        (model, torch.optim.SGD(model[0].parameters(), 0.1), {}, "module 2, .*not among the optimizer's parameters"),
        (model, torch.optim.LBFGS(model.parameters()), {}, "LBFGS keeps one state"),
        (model, "SGD", {}, "optimizer must be a torch.optim.Optimizer, got str"),
        (list(model), optimizer, {}, "model must be an nn.Module, got list"),
        (*of(weights[0]), {}, "module itself, .*has all connections already"),
        (*of(weights[1]), {}, "and only 72 places are free"),
        (*of(empty), {}, "has no connections that could move"), (*of(tied), {}, "shares its weight with module 0"),
        (*of(frozen), {}, "its weight is frozen"),
        (*of(parts), {"filters": True}, "module 3, .*stores parts of filters"),
        (model, optimizer, {"granularity": "rows:2"}, "module 0, .*stores parts of groups of rows:2"),
        (model, optimizer, {"granularity": "pairs"}, "expected a granularity, .*, got 'pairs'"),
        (model, optimizer, {"granularity": 4}, "expected a granularity, .*, got 4"),
        (model, optimizer, {"granularity": "rows:2", "filters": True}, "filters: not with granularity, got 'rows:2'"),
    ]  # fmt: skip
    for each, with_, options, message in cases:
        with pytest.raises((TypeError, ValueError), match=message) as raised:
            rewire(each, with_, **({"schedule": SCHEDULE} | options))
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 300
        modules = each.modules() if isinstance(each, nn.Module) else []
        assert all(m.caught is None for m in modules if isinstance(m, SparseLinear | SparseConv2d))
    assert all(torch.equal(held[name], now) for name, now in model.state_dict().items())


def test_a_state_that_does_not_fit_is_refused() -> None:
    _, _, moving = start()
    good = moving.state_dict()
    for bad in ({}, good | {"steps": -1}, good | {"steps": 1.5}, good | {"seed": None}, good | {"initial": [0.5]},
                good | {"initial": None}):  # fmt: skip
        with pytest.raises(ValueError, match="rewire: expected the state of one that moves 2 modules"):
            moving.load_state_dict(bad)
        assert moving.state_dict() == good
