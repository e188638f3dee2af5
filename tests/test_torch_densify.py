"""Dense modules come back from sparse ones, and a dense state loads by the pattern."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import nn  # noqa: E402

from sparsecore.interop.torch import SparseLinear, densify, sparsify  # noqa: E402
from sparsecore.topology import uniform_random  # noqa: E402

from .test_torch_state import conv, linear, seed  # noqa: E402, F401

# ------------------------------------------------------------------------------------------------------ dense and back


def lenet() -> Any:
    return nn.Sequential(
        nn.Conv2d(2, 6, 5, padding="same"), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2, bias=False), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 25, 30), nn.Tanh(), nn.Linear(30, 10),
    )  # fmt: skip


@pytest.mark.parametrize("change", [densify, lambda model: sparsify(model, 0.5)], ids=["densify", "sparsify"])
def test_parameters_that_ranks_share_are_not_replaced(change: Any) -> None:
    """A wrapper goes on with those that it found: each rank would train apart."""
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = nn.Sequential(nn.Linear(4, 4), SparseLinear(4, 4, sparsity=0.5))
    for model in (wrapped, nn.ModuleDict({"all": wrapped})):
        with pytest.raises(ValueError, match=r"the model is in a DistributedDataParallel, .*: do it before"):
            change(model)
    assert [type(each) for each in wrapped.module] == [nn.Linear, SparseLinear]


def test_a_masked_sparse_module_is_left_to_whoever_laid_the_mask() -> None:
    model = nn.Sequential(SparseLinear(6, 5, sparsity=0.3))
    nn.utils.prune.l1_unstructured(model[0], "weight", amount=4)
    with pytest.raises(TypeError, match=r"^densify: a SparseLinear whose weight is computed anew .*: see prune.remove"):
        densify(model)
    nn.utils.prune.remove(model[0], "weight")
    wanted = model(torch.ones(2, 6))
    torch.testing.assert_close(densify(model)(torch.ones(2, 6)), wanted)


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
