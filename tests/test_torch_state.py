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

from sparsecore.interop.torch import SparseConv2d, SparseLinear, densify, rewire, sparsify  # noqa: E402
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


# ------------------------------------------------------------------------------------------------------ dense and back


def lenet() -> Any:
    return nn.Sequential(
        nn.Conv2d(2, 6, 5, padding="same"), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2, bias=False), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 25, 30), nn.Tanh(), nn.Linear(30, 10),
    )  # fmt: skip


def test_densify_gives_back_ordinary_modules() -> None:
    model, x = sparsify(lenet(), 0.8, skip=["7"]), torch.randn(3, 2, 12, 12)
    model[5].eval().weight.requires_grad_(False)
    seen: list[str] = []
    handle = model[5].register_forward_hook(lambda *_: seen.append("hook"))
    model[2].register_forward_pre_hook(lambda *_: seen.append("before"))
    expected, names, bias = model(x), [name for name, _ in model.named_modules()], model[5].bias
    dense_names = [name for name, _ in lenet().named_parameters()]
    assert densify(model) is model
    assert [type(model[k]) for k in (0, 2, 5, 7)] == [nn.Conv2d, nn.Conv2d, nn.Linear, nn.Linear]
    torch.testing.assert_close(model(x), expected)
    assert seen == ["before", "hook"] * 2 and [name for name, _ in model.named_modules()] == names
    assert [name for name, _ in model.named_parameters()] == dense_names and model[5].bias is bias
    assert not model[5].training and model[2].training and not model[5].weight.requires_grad
    assert not list(model.buffers())
    handle.remove()
    model(x)
    assert seen == ["before", "hook"] * 2 + ["before"]
    assert model[5].weight.count_nonzero() == 1200
    assert densify(model) is model  # and what is dense stays
    assert type(densify(linear(1))) is nn.Linear
    with pytest.raises(TypeError, match=r"densify: model must be an nn\.Module, got list"):
        densify([model])


def test_densify_keeps_what_is_shared() -> None:
    shared = linear(1)
    tied = linear(1)
    tied.weight = shared.weight
    model = densify(nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": tied}))
    assert model["a"] is model["b"][0] and model["c"] is not model["a"] and model["c"].weight is model["a"].weight
    half = linear(1).bfloat16()
    assert torch.equal(densify(copy.deepcopy(half)).weight, linear_like(half))


def linear_like(module: Any) -> Any:
    full = torch.zeros(module.pattern.shape, dtype=module.weight.dtype)
    full[torch.tensor(module.pattern.rows).long(), torch.tensor(module.pattern.indices).long()] = module.weight.detach()
    return full


def test_a_dense_state_loads_by_the_pattern() -> None:
    model, x = sparsify(lenet(), 0.8), torch.randn(3, 2, 12, 12)
    source = densify(copy.deepcopy(model))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1.5)
    part = source[2].weight.detach()
    assert part.shape == (8, 3, 3, 3)
    whole = torch.zeros(8, 6, 3, 3)  # as a convolution without groups has it
    whole[:4, :3], whole[4:, 3:] = part[:4], part[4:]
    expected = source(x)
    for state in (source.state_dict(), source.state_dict() | {"2.weight": whole}):
        into = sparsify(lenet(), 0.8)
        into.load_state_dict(model.state_dict())
        before = [into[k].pattern for k in (0, 2, 5, 7)]
        assert str(into.load_state_dict(state)) == "<All keys matched successfully>"
        torch.testing.assert_close(into(x), expected)
        assert all(into[k].pattern is pattern for k, pattern in zip((0, 2, 5, 7), before, strict=True))
    with torch.device("meta"):
        other = linear(1)
    dense = linear(1).to_linear()
    other.load_state_dict(dense.state_dict(), assign=True)
    torch.testing.assert_close(other(torch.ones(2, 40)), dense(torch.ones(2, 40)))


def test_a_dense_state_that_does_not_fit_is_refused_or_said() -> None:
    module, dense = linear(1), nn.Linear(40, 24)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    lost = 40 * 24 - module.pattern.nnz
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (module, dense.state_dict(), f"{lost} of a dense weight's 960 values are not zero where there is no connect"),
        (module, nn.Linear(24, 40).state_dict(), r"must have shape \(24, 40\), got \(40, 24\)"),
        (conv(1), nn.Conv2d(3, 6, (9, 1)).state_dict(), r"must have shape \(6, 3, 3, 3\), got \(6, 3, 9, 1\)"),
        (conv(1), nn.Conv2d(3, 6, 3, groups=3).state_dict(), "3 groups has no value for connections between"),
    ]
    for each, state, words in cases:
        with pytest.raises(RuntimeError, match=words):
            each.load_state_dict(state, strict=False)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


CONVOLUTIONS = {
    "Conv1d": nn.Conv1d(5, 5, 3, padding=1), "Conv1d, groups": nn.Conv1d(6, 4, 3, groups=2),
    "Conv2d, groups": nn.Conv2d(6, 9, (2, 3), stride=2, groups=3), "Conv2d, depthwise": nn.Conv2d(4, 8, 3, groups=4),
    "ConvTranspose2d": nn.ConvTranspose2d(5, 5, 3, stride=2),
    "ConvTranspose2d, wide": nn.ConvTranspose2d(4, 6, (2, 3), bias=False),
    "ConvTranspose2d, groups": nn.ConvTranspose2d(6, 9, (2, 3), padding=1, groups=3),
    "ConvTranspose2d, square": nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=1, groups=2, dilation=2),
}  # fmt: skip


@pytest.mark.parametrize("dense", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_come_back_and_load_by_their_pattern(dense: nn.Module) -> None:
    sparse = sparsify(copy.deepcopy(dense), 0.6)
    x = torch.randn(2, dense.in_channels, *([9] if isinstance(dense, nn.Conv1d) else [6, 7]))
    again = densify(sparsify(copy.deepcopy(dense), 0.6))
    assert type(again) is type(dense) and again.extra_repr() == dense.extra_repr()
    torch.testing.assert_close(again(x), sparse(x))
    zeros = again.weight == 0
    assert torch.equal(again.weight[~zeros], dense.weight[~zeros])
    assert zeros.float().mean() == pytest.approx(0.6, abs=0.02)
    state = {name: value.clone() for name, value in again.state_dict().items()}
    sparse.weight.data.zero_()
    sparse.load_state_dict(state)
    torch.testing.assert_close(sparse(x), again(x))
    with pytest.raises(RuntimeError, match="are not zero where there is no connection"):
        sparse.load_state_dict(dense.state_dict())
    with pytest.raises(RuntimeError, match=r"a dense weight must have shape \(.*\), got \(.*\)"):
        sparse.load_state_dict(dense.state_dict() | {"weight": torch.zeros(7, 5, *dense.weight.shape[2:])})


def test_a_convolution_whose_connections_moved_between_groups_comes_back_without() -> None:
    sparse = sparsify(nn.Conv2d(4, 6, 3, groups=2), 0.5)
    moved = uniform_random(6, 36, 0.75, np.random.default_rng(0))
    assert sparse.pattern.nnz == moved.nnz
    sparse.moved_to(moved)()
    dense, x = densify(copy.deepcopy(sparse)), torch.randn(2, 4, 5, 5)
    assert dense.groups == 1
    torch.testing.assert_close(dense(x), sparse(x))


# ----------------------------------------------------------------------------------------- dense attention and back


ATTENTIONS: dict[str, dict[str, Any]] = {
    "one matrix": {}, "without a bias": {"bias": False}, "batch first": {"batch_first": True},
    "other sizes": {"kdim": 6, "vdim": 10}, "an odd size": {"kdim": 6}, "float64": {"dtype": torch.float64},
}  # fmt: skip


@pytest.mark.parametrize("options", ATTENTIONS.values(), ids=ATTENTIONS)
def test_attention_comes_back_and_loads_by_its_pattern(options: dict[str, Any]) -> None:
    dense = nn.MultiheadAttention(8, 2, dropout=0.3, **options).eval()
    given = [
        torch.randn(5, 5, size, dtype=options.get("dtype", torch.float32))
        for size in (8, options.get("kdim", 8), options.get("vdim", 8))
    ]
    sparse = sparsify(nn.Sequential(copy.deepcopy(dense)), 0.6)
    again = densify(copy.deepcopy(sparse))
    assert type(again[0]) is nn.MultiheadAttention and repr(again[0]) == repr(dense)
    assert list(again[0].state_dict()) == list(dense.state_dict()) and again[0].dropout == 0.3
    for name, value in dense.named_parameters():
        found = again[0].get_parameter(name)
        kept = found != 0
        assert torch.equal(found[kept], value[kept]) and (name.endswith("bias") or kept.float().mean() < 0.42)
    for one, other in zip(again[0](*given), sparse[0](*given), strict=True):
        torch.testing.assert_close(one, other)
    state = {name: 2 * value for name, value in again.state_dict().items()}
    for assign in (False, True):
        into, loaded = copy.deepcopy(sparse), copy.deepcopy(again)
        assert str(into.load_state_dict(state, assign=assign)) == "<All keys matched successfully>"
        loaded.load_state_dict(state)
        torch.testing.assert_close(into[0](*given)[0], loaded[0](*given)[0])
        assert into[0].q_proj.pattern == sparse[0].q_proj.pattern
    assert list(state) == list(again.state_dict())  # the caller's own is as it was
    with pytest.raises(RuntimeError, match="are not zero where there is no connection"):
        into.load_state_dict({f"0.{name}": value for name, value in dense.state_dict().items()})
    short = {name: value[:-1] for name, value in state.items()}
    with pytest.raises(RuntimeError, match="must have shape"):
        into.load_state_dict(short)


def test_an_attention_partly_sparse_takes_a_dense_state() -> None:
    dense = nn.MultiheadAttention(8, 2)
    with torch.no_grad():
        dense.in_proj_weight[:8, :4] = 0  # the queries'
    sparse, x = sparsify(copy.deepcopy(dense)), torch.randn(3, 4, 8)
    assert [type(each) for each in sparse.children()] == [SparseLinear] + 3 * [nn.Linear]
    sparse.load_state_dict({name: 3 * value for name, value in dense.state_dict().items()})
    again = densify(copy.deepcopy(sparse))
    assert torch.equal(again.in_proj_weight, 3 * dense.in_proj_weight)
    torch.testing.assert_close(again(x, x, x), sparse(x, x, x))


def test_traits_and_hooks_of_an_attention_come_back() -> None:
    sparse, x, seen = sparsify(nn.MultiheadAttention(8, 2), 0.5).eval(), torch.randn(3, 4, 8), []
    handle = sparse.register_forward_hook(lambda *_: seen.append(1))
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(sparse, name).weight.requires_grad_(False)
        getattr(sparse, name).weight._no_weight_decay = True
    bias = sparse.out_proj.bias
    dense = densify(sparse)
    assert not dense.in_proj_weight.requires_grad and dense.in_proj_weight._no_weight_decay
    assert dense.in_proj_bias.requires_grad and dense.out_proj.weight.requires_grad and dense.out_proj.bias is bias
    assert not dense.training
    dense(x, x, x)
    handle.remove()
    dense(x, x, x)
    assert seen == [1]


def frozen(attention: Any) -> None:
    attention.k_proj.weight.requires_grad_(False)


def hooked(attention: Any) -> None:
    attention.v_proj.register_forward_hook(lambda module, given, y: 2 * y)


def wrapped(attention: Any) -> None:
    attention.q_proj = nn.Sequential(attention.q_proj, nn.Tanh())


def tied(attention: Any) -> None:
    attention.v_proj = attention.k_proj


def without_a_bias(attention: Any) -> None:
    attention.out_proj.bias = None


@pytest.mark.parametrize("change", [frozen, hooked, wrapped, tied, without_a_bias])
def test_an_attention_that_cannot_be_one_module_stays_one_of_dense_projections(change: Any) -> None:
    sparse, x = sparsify(nn.MultiheadAttention(8, 2), 0.5), torch.randn(3, 4, 8)
    change(sparse)
    expected, names = sparse(x, x, x), [name for name, _ in sparse.named_modules()]
    dense = densify(sparse)
    assert dense is sparse and [name for name, _ in dense.named_modules()] == names
    assert not any(isinstance(each, SparseLinear) for each in dense.modules())
    torch.testing.assert_close(dense(x, x, x), expected)


def test_an_attention_whose_projection_stands_elsewhere_too_keeps_it() -> None:
    sparse = sparsify(nn.MultiheadAttention(8, 2), 0.5)
    model = densify(nn.ModuleList([sparse, sparse.q_proj, sparse]))
    assert model[0] is sparse and model[2] is sparse and sparse.q_proj is model[1] and type(model[1]) is nn.Linear
    other = sparsify(nn.MultiheadAttention(8, 2), 0.5)
    both = densify(nn.ModuleList([other, other]))
    assert type(both[0]) is nn.MultiheadAttention and both[0] is both[1]


def test_a_transformer_comes_back_with_its_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    before, x = [model.use_nested_tensor, layer.activation_relu_or_gelu], torch.randn(3, 5, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    sparse = sparsify(model, 0.5)
    expected = sparse(x)
    assert not sparse.use_nested_tensor and sparse.layers[0].activation_relu_or_gelu == 0
    dense = densify(sparse)
    assert [dense.use_nested_tensor, dense.layers[1].activation_relu_or_gelu] == before == [True, 1]
    assert {name: value.shape for name, value in dense.state_dict().items()} == {n: v.shape for n, v in state.items()}
    torch.testing.assert_close(dense(x), expected)  # while gradients are asked for, without the fast path
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])
    with torch.no_grad():
        torch.testing.assert_close(dense(x), expected)
        fast = dense(x, src_key_padding_mask=padding)  # through nested tensors, which leave zeros behind
    assert not fast[1, 3:].any()
    fresh = sparsify(nn.TransformerEncoder(layer, 2).eval(), 0.5)
    fresh.load_state_dict(dense.state_dict())
    torch.testing.assert_close(fresh(x), expected)


# ------------------------------------------------------------------------------------------- the Conv1D of transformers


def test_conv1d_of_transformers_comes_back_and_loads_by_its_pattern() -> None:
    kind = pytest.importorskip("transformers.pytorch_utils").Conv1D
    for outputs in (6, 8):  # one of them square: its weight must not be taken for the other way round
        dense = kind(outputs, 8)
        sparse, x = sparsify(nn.Sequential(dense), 0.6), torch.randn(3, 8)
        again = densify(copy.deepcopy(sparse))
        assert type(again[0]) is kind and again[0].weight.shape == (8, outputs)
        torch.testing.assert_close(again(x), sparse(x))
        state = {name: 2 * value for name, value in again.state_dict().items()}
        sparse.load_state_dict(state)
        again.load_state_dict(state)
        torch.testing.assert_close(sparse(x), again(x))
        with pytest.raises(RuntimeError, match=rf"must have shape \(8, {outputs}\), got \(5, 8\)"):
            sparse.load_state_dict(state | {"0.weight": torch.zeros(5, 8)})


def test_what_is_written_to_a_transposed_convolution_is_noticed() -> None:
    one, other = (sparsify(nn.ConvTranspose2d(3, 4, 3), 0.7) for _ in range(2))
    x = torch.randn(2, 3, 5, 5)
    one(x), other(x)
    with torch.no_grad():
        for name, mine in [*one.named_parameters(), *one.named_buffers()]:
            mine.copy_(getattr(other, name))
    torch.testing.assert_close(one(x), other(x))
