"""A sparse module's state is what it computes with, whoever writes it: copies, averages, ranks, loaders, devices."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import nn  # noqa: E402
from torch.optim import swa_utils  # noqa: E402

from sparsecore.interop.torch import SparseConv2d, SparseLinear, rewire, sparsify  # noqa: E402
from sparsecore.prune import RewiringSchedule  # noqa: E402
from sparsecore.topology import uniform_random  # noqa: E402

BUFFERS = ("indptr", "indices")
PARAMETERS = ("weight", "bias")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def linear(number: int, sparsity: float = 0.8, **options: Any) -> SparseLinear:
    pattern = uniform_random(24, 40, sparsity, np.random.default_rng(number))
    return SparseLinear(40, 24, pattern=pattern, **options)


def conv(number: int, sparsity: float = 0.6) -> SparseConv2d:
    return SparseConv2d(uniform_random(6, 3 * 9, sparsity, np.random.default_rng(number)), 3, 1, 1)


MADE: dict[str, Callable[[int], Any]] = {"linear": linear, "conv": conv}
X = {"linear": (7, 40), "conv": (2, 3, 8, 9)}
each_kind = pytest.mark.parametrize("kind", MADE)


def tensors(module: Any) -> list[Any]:
    return [*module.parameters(), *module.buffers()]


def agrees(module: Any, x: Any) -> None:
    """Its output, pattern and gradient are those of the dense layer that its state, and nothing else, describes."""
    state = {name: value.detach().double() for name, value in module.state_dict().items()}
    starts, columns = (state[name].long() for name in BUFFERS)
    rows = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
    full = torch.zeros(module.pattern.shape, dtype=torch.float64)
    full[rows, columns] = state["weight"]
    if isinstance(module, SparseConv2d):
        shape = (module.out_channels, module.in_channels, *module.kernel_size)
        wanted = nn.functional.conv2d(x.double(), full.reshape(shape), state["bias"], padding=1)
    else:
        wanted = x.double() @ full.T + state["bias"]
    found = module(x)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    assert module.pattern.indices.tolist() == columns.tolist() and module.pattern.indptr.tolist() == starts.tolist()


# ------------------------------------------------------------------------------------------ whoever writes the buffers


def by_copying(to: Any, of: Any) -> None:
    with torch.no_grad():
        for ours, theirs in zip(tensors(to), tensors(of), strict=True):
            ours.copy_(theirs)


def by_foreach(to: Any, of: Any) -> None:
    with torch.no_grad():
        torch._foreach_copy_(tensors(to), tensors(of))


def by_data(to: Any, of: Any) -> None:
    for ours, theirs in zip(tensors(to), tensors(of), strict=True):
        ours.data.copy_(theirs.data)


def by_swapping_data(to: Any, of: Any) -> None:
    for ours, theirs in zip(tensors(to), tensors(of), strict=True):
        ours.data = theirs.data.clone()


def by_assigning(to: Any, of: Any) -> None:
    for name in PARAMETERS:
        setattr(to, name, nn.Parameter(getattr(of, name).detach().clone()))
    for name in BUFFERS:
        setattr(to, name, getattr(of, name).clone())


def by_numpy(to: Any, of: Any) -> None:
    for ours, theirs in zip(tensors(to), tensors(of), strict=True):
        ours.detach().numpy()[:] = theirs.detach().numpy()


def in_inference_mode(to: Any, of: Any) -> None:
    with torch.inference_mode():
        for ours, theirs in zip(tensors(to), tensors(of), strict=True):
            ours.copy_(theirs)


def by_state(to: Any, of: Any) -> None:
    for ours, theirs in zip(to.state_dict().values(), of.state_dict().values(), strict=True):
        ours.copy_(theirs)


def by_loading(to: Any, of: Any) -> None:
    to.load_state_dict(of.state_dict())


def by_loading_assigned(to: Any, of: Any) -> None:
    to.load_state_dict(copy.deepcopy(of.state_dict()), assign=True)


def by_integers(to: Any, of: Any) -> None:
    """As somebody would who knows that they are row starts and columns."""
    by_copying(to, of)
    to.indices = torch.tensor(of.pattern.indices)
    to.indptr = torch.tensor(of.pattern.indptr)


def by_checkpoint(to: Any, of: Any, folder: Any) -> None:
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.distributed, that it runs in one process
        checkpoint.save(of.state_dict(), checkpoint_id=folder)
        checkpoint.load(to.state_dict(), checkpoint_id=folder)  # into the memory of the state's tensors


WRITERS = (
    by_copying, by_foreach, by_data, by_swapping_data, by_assigning, by_numpy, in_inference_mode, by_state, by_loading,
    by_loading_assigned, by_integers, by_checkpoint,
)  # fmt: skip


@each_kind
@pytest.mark.parametrize("writes", WRITERS)
def test_whatever_writes_the_state_writes_the_pattern(kind: str, writes: Any, tmp_path: Any) -> None:
    module, other, x = MADE[kind](1), MADE[kind](2), torch.randn(X[kind])
    assert module.pattern.nnz == other.pattern.nnz and module.pattern != other.pattern
    module(x).sum().backward()
    expected = other(x)
    writes(*((module, other, tmp_path) if writes is by_checkpoint else (module, other)))
    assert torch.equal(module(x), expected)
    assert module.pattern == other.pattern and module.weight.grad is None
    agrees(module, x)
    with torch.no_grad():  # what was taken is held: no second look is needed, and none finds something else
        taken = module.pattern
        module.weight.mul_(2)
    agrees(module, x)
    assert module.pattern is taken


@each_kind
def test_the_pattern_is_read_from_the_buffers_without_a_pass(kind: str) -> None:
    module, other = MADE[kind](1), MADE[kind](2)
    by_copying(module, other)
    assert module.pattern == other.pattern and np.array_equal(module.to_scipy().toarray(), other.to_scipy().toarray())


@each_kind
def test_a_functional_call_computes_with_the_state_that_it_is_given(kind: str) -> None:
    module, other, x = MADE[kind](1), MADE[kind](2), torch.randn(X[kind])
    own, theirs, before = module(x), other(x), module.pattern
    state = dict(other.named_parameters()) | dict(other.named_buffers())
    assert torch.equal(torch.func.functional_call(module, state, (x,)), theirs)
    assert torch.equal(module(x), own) and module.pattern == before
    same = {name: value.detach().clone() for name, value in module.state_dict().items()}
    kept = module.pattern
    torch.func.functional_call(module, same, (x,))
    assert module.pattern is kept


def test_a_backward_pass_after_the_pattern_was_written_is_refused() -> None:
    module, other = linear(1), linear(2)
    y = module(torch.randn(3, 40))
    by_copying(module, other)
    with pytest.raises(RuntimeError, match="another pattern since this forward pass"):
        y.sum().backward()


def test_a_single_column_written_unnoticed_is_computed_with_once_a_state_was_taken() -> None:
    module, x = linear(1, 0.2), torch.randn(3, 40)
    module(x)
    row = module.pattern.indices[module.pattern.indptr[7] : module.pattern.indptr[8]]
    gap = next(k for k in range(len(row) - 1) if row[k + 1] - row[k] > 1)
    at = int(module.pattern.indptr[7]) + gap
    module.indices.data[at] += 1
    state = module.state_dict()
    assert int(state["indices"][at]) == row[gap] + 1
    agrees(module, x)


# ------------------------------------------------------------------------------------------------- what is no pattern


def spoil(module: Any, name: str, values: Any) -> None:
    with torch.no_grad():
        getattr(module, name).copy_(values)


BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "out of range": (lambda m: m.indices.add_(40), "indices"),
    "negative": (lambda m: m.indices.sub_(1), "indices"),
    "huge": (lambda m: m.indices.fill_(1e300), "at most 9007199254740992"),
    "no number": (lambda m: m.indices.fill_(float("nan")), "whole numbers, got nan"),
    "infinite": (lambda m: m.indptr.fill_(float("inf")), "whole numbers, got inf"),
    "halves": (lambda m: m.indices.add_(0.5), "whole numbers"),
    "zeros": (lambda m: m.indices.zero_(), "indices"),
    "rows that end early": (lambda m: m.indptr.mul_(0), "indptr"),
    "other size": (lambda m: setattr(m, "indices", m.indices[:-1].clone()), "indptr"),
    "sizes of more connections": (
        lambda m: [setattr(m, name, getattr(linear(3, 0.7), name)) for name in BUFFERS], "288 connections, but weight"
    ),
    "nothing": (lambda m: setattr(m, "indices", None), "must be a tensor, got NoneType"),
    "on the meta device": (lambda m: setattr(m, "indptr", m.indptr.to("meta")), "numbers in memory"),
    "all on the meta device": (lambda m: [setattr(m, n, getattr(m, n).to("meta")) for n in BUFFERS], "in memory"),
    "too narrow a dtype": (lambda m: setattr(m, "indptr", m.indptr.bfloat16() * 2), "at most 256 in torch.bfloat16"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_pattern_is_refused_at_the_next_use_and_a_state_mends_it(what: str) -> None:
    module, other, x = linear(1), linear(2), torch.randn(3, 40)
    module(x)
    breaks, words = BROKEN[what]
    with torch.no_grad():
        breaks(module)
    for use in (lambda: module(x), lambda: module.pattern, lambda: module(x)):
        wanted = rf"SparseLinear: indptr and indices hold no 24×40 pattern.*{words}"
        with pytest.raises(ValueError, match=wanted) as told:
            use()
        assert "\n" not in str(told.value) and len(str(told.value)) < 300
    if what == "nothing":
        module.indices = torch.zeros(other.pattern.nnz)
    mended = "meta" in what  # PyTorch copies nothing to where it keeps nothing
    module.load_state_dict(other.state_dict(), assign=mended)
    assert torch.equal(module(x), other(x))


# ----------------------------------------------------------------------------------------------------------- averages


def timms(average: Any, model: Any, decay: float = 0.9999) -> None:
    """What timm's ModelEmaV2 does at each step."""
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            mean.copy_(decay * mean + (1.0 - decay) * value)


def by_average_of_tensors(average: Any, model: Any) -> None:
    with torch.no_grad():
        for mean, value in zip(tensors(average), tensors(model), strict=True):
            mean.lerp_(value, 0.1)


class Averaged:
    """PyTorch's own, with buffers."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __call__(self, average: Any, model: Any) -> None:
        average.update_parameters(model)


AVERAGES: dict[str, Any] = {
    "timm": timms, "timm, long": lambda a, m: timms(a, m, 0.99999), "lerp": by_average_of_tensors,
    "swa": Averaged(), "ema": Averaged(multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9999)),
    "ema, one by one": Averaged(avg_fn=swa_utils.get_ema_avg_fn(0.9999)),
    "swa, one by one": Averaged(avg_fn=swa_utils.get_swa_avg_fn()),
}  # fmt: skip


def averaged(model: Any, update: Any) -> tuple[Any, Any]:
    """What is updated, and the module within."""
    if not isinstance(update, Averaged):
        return (made := copy.deepcopy(model)), made
    made = swa_utils.AveragedModel(model, use_buffers=True, **update.options)
    return made, made.module


def wide() -> Any:
    """Many columns: in float32 their averages would be cut to those before."""
    return SparseLinear(3000, 50, pattern=uniform_random(50, 3000, 0.97, np.random.default_rng(5)))


@pytest.mark.parametrize("how", AVERAGES)
def test_averages_keep_the_connections_and_average_the_weights(how: str) -> None:
    model, x = wide(), torch.randn(4, 3000)
    average, inner = averaged(model, AVERAGES[how])
    plain_model = nn.ParameterList([model.weight.detach().clone(), model.bias.detach().clone()])
    plain, plain_inner = averaged(plain_model, AVERAGES[how])
    for step in range(150):
        with torch.no_grad():
            for ours, theirs in zip((model.weight, model.bias), plain_model, strict=True):
                ours.add_(torch.randn_like(ours), alpha=0.1)
                theirs.copy_(ours)
        AVERAGES[how](average, model)
        AVERAGES[how](plain, plain_model)
        if step in (1, 70):
            inner(x)
    found = inner(x)
    assert inner.pattern == model.pattern
    assert inner.indices.tolist() == model.pattern.indices.tolist()  # whole again, to the last bit
    for name, expected in zip(PARAMETERS, plain_inner, strict=True):
        assert torch.equal(getattr(inner, name), expected) and not torch.equal(expected, getattr(model, name))
    fresh = SparseLinear.of(model.pattern, plain_inner[0], plain_inner[1])
    assert torch.equal(found, fresh(x))


@pytest.mark.parametrize("how", ["timm", "timm, long", "lerp", "swa"])
def test_an_average_over_connections_that_moved_is_refused(how: str) -> None:
    model = nn.Sequential(wide())
    average, inner = averaged(model, AVERAGES[how])
    AVERAGES[how](average, model)
    inner(torch.randn(2, 3000))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    moving = rewire(model, optimizer, schedule=RewiringSchedule(1, 9, 0.3))
    model(torch.randn(4, 3000)).sum().backward()
    optimizer.step()
    assert moving.step()
    AVERAGES[how](average, model)
    with pytest.raises(ValueError, match=r"whole numbers, got .*average over models of other connections"):
        inner(torch.randn(2, 3000))


# ------------------------------------------------------------------------------------- devices, empty ones, dtypes


@each_kind
@pytest.mark.parametrize("assign", [False, True])
def test_models_are_made_without_memory_and_loaded(kind: str, assign: bool) -> None:
    other, x = MADE[kind](2), torch.randn(X[kind])
    with torch.device("meta"):
        module = MADE[kind](1)
        assert isinstance(SparseLinear(9, 5), SparseLinear)  # with a random pattern
    assert all(each.is_meta for each in tensors(module))
    assert module.pattern == MADE[kind](1).pattern
    with pytest.raises(TypeError, match="on one CPU or GPU, got meta"):
        module(x)
    if not assign:
        module = module.to_empty(device="cpu")
    module.load_state_dict(other.state_dict(), assign=assign)
    assert torch.equal(module(x), other(x))
    agrees(module, x)


@each_kind
def test_to_empty_and_skip_init_keep_the_connections(kind: str) -> None:
    expected = MADE[kind](1).pattern
    options: dict[str, Any] = {"pattern": expected}
    if kind == "linear":
        skipped = nn.utils.skip_init(SparseLinear, 40, 24, **options)
    else:
        skipped = nn.utils.skip_init(SparseConv2d, kernel_size=3, padding=1, **options)
    dirt = [torch.full((expected.nnz,), 7.0, dtype=torch.float64) for _ in range(64)]
    del dirt  # memory that `empty` will find
    gc.collect()
    within = nn.Sequential(MADE[kind](1)).to_empty(device="cpu")
    for module in (skipped, MADE[kind](1).to_empty(device="cpu"), within[0]):
        assert module.pattern == expected
        assert module.indices.tolist() == expected.indices.tolist()
        module.reset_parameters()
        agrees(module, torch.randn(X[kind]))


@each_kind
def test_models_made_as_accelerate_makes_them(kind: str, monkeypatch: Any) -> None:
    """`init_empty_weights` moves each parameter to the meta device when it is registered; then each is set by name."""
    register = nn.Module.register_parameter

    def empty(self: Any, name: str, parameter: Any) -> None:
        register(self, name, parameter)
        if parameter is not None:
            self._parameters[name] = nn.Parameter(parameter.to("meta"))

    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "register_parameter", empty)
        module = MADE[kind](1)
    other, x = MADE[kind](2), torch.randn(X[kind])
    for name, value in other.state_dict().items():
        held = module._parameters if name in module._parameters else module._buffers
        assert held[name].shape == value.shape and held[name].dtype == value.dtype
        held[name] = nn.Parameter(value.clone()) if name in module._parameters else value.clone()
    assert torch.equal(module(x), other(x))


@each_kind
def test_other_dtypes_and_devices_leave_the_pattern(kind: str) -> None:
    module, x = MADE[kind](1), torch.randn(X[kind])
    before = module.pattern
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        moved = module.half().float().to(dtype).float()
        assert moved is module and module.pattern == before and module.indices.dtype == torch.float64
    agrees(module, x)
    other = MADE[kind](2)
    by_copying(module, other)
    module.to("meta")  # where only the pattern is known, that of the last state
    assert module.pattern == other.pattern
    module.to_empty(device="cpu").load_state_dict(other.state_dict())
    assert torch.equal(module(x), other(x))


def test_modules_made_in_inference_mode() -> None:
    with torch.inference_mode():
        module, other, x = linear(1), linear(2), torch.randn(3, 40)
        agrees(module, x)
        by_copying(module, other)
        assert torch.equal(module(x), other(x))
    agrees(module, x.clone())


# ------------------------------------------------------------------------------------------------ copies and old states


@each_kind
def test_copies_of_what_was_written_and_not_yet_used(kind: str) -> None:
    other, x = MADE[kind](2), torch.randn(X[kind])

    def saved(module: Any) -> Any:
        torch.save(module, stored := io.BytesIO())
        stored.seek(0)
        return torch.load(stored, weights_only=False)

    for copied in (copy.deepcopy, copy.copy, lambda module: pickle.loads(pickle.dumps(module)), saved):
        module = MADE[kind](1)
        module(x)
        by_copying(module, other)
        made = copied(module)
        assert torch.equal(made(x), other(x)) and torch.equal(module(x), other(x))
    by_copying(made, MADE[kind](1))
    assert torch.equal(module(x), other(x))


@each_kind
def test_states_and_pickles_of_before(kind: str) -> None:
    """They held int32, and a pickled module its pattern under another name."""
    module, other, x = MADE[kind](1), MADE[kind](2), torch.randn(X[kind])
    state = other.state_dict() | {name: torch.tensor(getattr(other.pattern, name)) for name in BUFFERS}
    for assign in (False, True):
        assert str(module.load_state_dict(state, assign=assign)) == "<All keys matched successfully>"
        assert torch.equal(module(x), other(x)) and module.indices.dtype == torch.float64
        module = MADE[kind](1)
    old = other.__getstate__()
    old = {**old, "pattern": old.pop("_pattern"), "_buffers": {name: state[name] for name in BUFFERS}}
    module = type(other).__new__(type(other))
    module.__setstate__(old)
    assert torch.equal(module(x), other(x)) and module.indices.dtype == torch.float64


@each_kind
@pytest.mark.parametrize("sparsity", [0.6, 0.9])
@pytest.mark.parametrize("without", [("weight",), ("weight", "indices"), ("weight", "indptr"), ("indices",)])
def test_other_connections_without_their_values_are_refused_and_nothing_changes(
    kind: str, sparsity: float, without: tuple[str, ...]
) -> None:  # fmt: skip
    """Of a state that was made smaller, as `strict=False` takes it; the same connections may come without."""
    to, of = MADE[kind](1), MADE[kind](2, sparsity)
    before, given = copy.deepcopy(to.state_dict()), of.state_dict()
    for name in without:
        del given[name]
    with pytest.raises(RuntimeError, match=r"pattern: other connections come without .*, and would take the values"):
        to.load_state_dict(given, strict=False)
    assert all(torch.equal(before[name], now) for name, now in to.state_dict().items())
    same = {name: value for name, value in before.items() if name not in without} | {"bias": given["bias"]}
    to.load_state_dict(same, strict=False)
    assert torch.equal(to.bias, of.bias) and torch.equal(to.weight, before["weight"])
    agrees(to, torch.randn(X[kind]))


@pytest.mark.parametrize("change", [
    lambda module: torch.nn.utils.prune.identity(module, "weight"),
    lambda module: torch.nn.utils.parametrize.register_parametrization(module, "weight", nn.Identity()),
])  # fmt: skip
def test_a_masked_or_parametrized_state_loads_whole(change: Any) -> None:
    to, of, x = linear(1), linear(2), torch.randn(7, 40)
    for module in (to, of):
        change(module)
    to.load_state_dict(of.state_dict())
    assert torch.equal(to(x), of(x))


def test_a_state_through_safetensors() -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    module, other, x = linear(1), linear(2), torch.randn(3, 40)
    module.load_state_dict(safetensors.load(safetensors.save(other.state_dict())), assign=True)
    assert torch.equal(module(x), other(x))


# --------------------------------------------------------------------------------------------------- several processes


def net(number: int) -> Any:
    torch.manual_seed(number)
    return nn.Sequential(linear(number), nn.ReLU(), SparseLinear(24, 16, sparsity=0.5), nn.Tanh(), nn.Linear(16, 3))


def on_a_rank(rank: int, folder: str, shared: Any) -> None:
    """20 steps of a model of this rank's own seed; then one of them writes to a module that all processes share."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        model = net(rank + 1)
        made = model[0].pattern
        used = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(used.parameters(), 0.1, momentum=0.9)
        for step in range(20):
            generator = torch.Generator().manual_seed(2 * step + rank)
            optimizer.zero_grad()
            used(torch.randn(8, 40, generator=generator)).square().mean().backward()
            optimizer.step()
            if step == 10 and rank == 0:  # the rank whose buffers are broadcast takes others: all take them
                with torch.no_grad():
                    for name in BUFFERS:
                        getattr(model[0], name).copy_(getattr(linear(5), name))
        x = torch.randn(16, 40, generator=torch.Generator().manual_seed(9))
        torch.save([model(x).detach(), model.state_dict(), made.indices.tolist()], f"{folder}/{rank}.pt")
        if rank == 0:
            by_copying(shared, linear(4))
    finally:
        used = None  # before the group: the last to let go of it may wait for its threads with the GIL in hand
        gc.collect()
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs gloo"
)
def test_ranks_of_different_seeds_compute_the_same_and_a_shared_module_follows(tmp_path: Any) -> None:
    shared, x = linear(3), torch.randn(5, 40)
    shared(x)
    assert shared.share_memory() is shared and shared.indices.is_shared()
    agrees(shared, x)
    torch.multiprocessing.spawn(on_a_rank, (str(tmp_path), shared), nprocs=2)
    (one, state, made), (other, states, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert made != others and torch.equal(one, other)
    assert all(torch.equal(value, states[name]) for name, value in state.items())
    assert state["0.indices"].tolist() == linear(5).pattern.indices.tolist()
    model = net(1)
    model.load_state_dict(state)
    inputs = torch.randn(16, 40, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(model(inputs), one)
    assert shared.pattern == linear(4).pattern  # written by another process, which no counter here counts
    agrees(shared, x)


def test_what_is_written_to_a_transposed_convolution_is_noticed() -> None:
    one, other = (sparsify(nn.ConvTranspose2d(3, 4, 3), 0.7) for _ in range(2))
    x = torch.randn(2, 3, 5, 5)
    one(x), other(x)
    with torch.no_grad():
        for name, mine in [*one.named_parameters(), *one.named_buffers()]:
            mine.copy_(getattr(other, name))
    torch.testing.assert_close(one(x), other(x))
