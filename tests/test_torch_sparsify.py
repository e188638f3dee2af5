"""`sparsify` says what it did, loses nothing that hangs on a module, and knows more layers than `nn.Linear`."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[torch]'")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from sparsecore import get_threads, set_threads  # noqa: E402
from sparsecore.interop.torch import (  # noqa: E402
    SparseConv1d,
    SparseConvTranspose2d,
    SparseLinear,
    rewire,
    sparsify,
)
from sparsecore.interop.torch.caught import Caught  # noqa: E402
from sparsecore.layers.replay import chunks  # noqa: E402
from sparsecore.prune import RIGL, RewiringSchedule  # noqa: E402
from sparsecore.storage.pattern import SparsityPattern  # noqa: E402


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """One seed, and one thread: models this small spend their time in waking PyTorch's threads."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Own(nn.Linear):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


class Named(nn.Linear):
    """A subclass that computes as its base."""


def tied() -> nn.Module:
    model = nn.ModuleDict({"embed": nn.Embedding(9, 8), "head": nn.Linear(8, 9, bias=False)})
    model["head"].weight = model["embed"].weight
    return model


def twins() -> nn.Module:
    model = nn.ModuleDict({"first": nn.Linear(8, 8), "head": nn.Linear(8, 8)})
    model["head"].weight = model["first"].weight
    return model


def one(layer: nn.Module) -> nn.Module:
    return nn.ModuleDict({"head": layer})


def normed(layer: nn.Module) -> Any:
    """Under PyTorch's older weight norm, which warns of being so."""
    with warnings.catch_warnings(), torch.no_grad():  # so that a copy can be made before the first call
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(layer)


def odd_out_proj() -> nn.Module:
    attention = nn.MultiheadAttention(8, 2)
    attention.out_proj = Own(8, 8)  # type: ignore[assignment]
    return attention


HINDERED: dict[str, tuple[Any, str]] = {
    "own forward": (lambda: one(Own(8, 8)), "a subclass of Linear, with a forward of its own"),
    "subclass": (lambda: one(Named(8, 8)), "a subclass of Linear, which may do anything"),
    "lazy": (lambda: one(nn.LazyLinear(4)), "no weights before its first call: run the model once"),
    "parametrised": (lambda: one(parametrizations.weight_norm(nn.Linear(8, 8))), "parametrised weight (WeightNorm): "),
    "spectral norm": (lambda: one(torch.nn.utils.spectral_norm(nn.Linear(8, 8))), "its weight is computed anew in"),
    "embedding's": (tied, "it and embed share a parameter"),
    "another layer's": (twins, "it and first share a parameter"),
    "circular": (lambda: one(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")), "pads with zeros only, got padd"),
    "reflect": (lambda: one(nn.Conv1d(2, 4, 3, padding=1, padding_mode="reflect")), "pads with zeros only, got paddin"),
    "same": (lambda: one(nn.Conv1d(2, 4, 4, padding="same")), "cannot pad one side more than the other"),
    "meta": (lambda: one(nn.Linear(8, 8, device="meta")), "its weight has no values: it is on the meta device"),
    "complex": (lambda: one(nn.Linear(8, 8, dtype=torch.complex64)), "its weight is of torch.complex64"),
    "bias_k": (lambda: one(nn.MultiheadAttention(8, 2, add_bias_kv=True)), "keys of its own: bias_k, or zeros"),
    "out_proj": (lambda: one(odd_out_proj()), "an out_proj of another class, Own"),
}
REFUSED = ("another layer's", "circular", "reflect", "same")


@pytest.mark.parametrize("case", HINDERED)
def test_what_stands_in_the_way_is_said_or_refused(case: str) -> None:
    made, why = HINDERED[case]
    model = made()
    before = dict(model.named_modules())
    for strict in (True, None) if case in REFUSED else (True,):
        with pytest.raises(ValueError, match=r"^sparsify: \w+, \w+, would stay dense: .*: name it in skip$") as caught:
            sparsify(model, 0.5, strict=strict)
        assert why in str(caught.value).replace("it and head", "it and first") and "\n" not in str(caught.value)
        assert dict(model.named_modules()) == before and not hasattr(model, "sparsified")
    summary = sparsify(model, 0.5, strict=False if case in REFUSED else None).sparsified
    assert dict(model.named_modules()) == before
    left = {each.path: each for each in summary.left}
    assert left["head"].why.startswith(why) and left["head"].kind == type(model["head"]).__name__
    assert not summary.replaced and summary.sparsity == 0
    skipped = sparsify(model, 0.5, strict=True, skip=list(left)).sparsified
    assert {each.why for each in skipped.left} == {"named in skip"}


def test_a_summary_is_data_and_a_table() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), normed(nn.Linear(72, 20)), nn.LSTM(20, 4), nn.Linear(2, 1),
        nn.Linear(20, 10, dtype=torch.bfloat16), nn.Linear(30, 30), nn.LayerNorm(30), nn.Embedding(3, 3),
    )  # fmt: skip
    summary = sparsify(model, 0.9, skip=["6"], strict=True).sparsified
    assert [each[:5] for each in summary.replaced] == [
        ("0", "Conv2d", (8, 2, 3, 3), 14, 144), ("2", "Linear", (20, 72), 144, 1440), ("5", "Linear", (10, 20), 20, 200)
    ]  # fmt: skip
    assert [each.note for each in summary.replaced] == [
        "", "weight norm folded into its weights", "computes in float32 or float64, not torch.bfloat16"
    ]  # fmt: skip
    assert [tuple(each) for each in summary.left] == [
        ("3", "LSTM", (), "a layer without a sparse counterpart"),
        ("4", "Linear", (1, 2), "too small: at sparsity 0.9 nothing would be left of it"),
        ("6", "Linear", (30, 30), "named in skip"),
    ]
    assert (summary.connections, summary.weights) == (178, 1784)
    assert summary.sparsity == pytest.approx(1 - 178 / 1784) and summary.replaced[0].sparsity == 1 - 14 / 144
    assert repr(summary) == "3 layers are sparse, with 178 of 1,784 weights (sparsity 0.9002); 3 stay dense"
    lines = str(summary).splitlines()
    assert lines[0] == repr(summary) and max(map(len, lines)) <= 120
    assert lines[2].split() == ["sparse", "was", "weight", "connections", "sparsity"]
    assert lines[4].split(maxsplit=5) == ["2", "Linear", "20×72", "144", "0.9", "weight norm folded into its weights"]
    assert lines[-1].split(maxsplit=3) == ["6", "Linear", "30×30", "named in skip"]
    assert copy.deepcopy(model).sparsified == summary == pickle.loads(pickle.dumps(summary))


def test_the_models_own_layer_and_a_second_time() -> None:
    layer = sparsify(nn.Linear(10, 10), 0.5)
    assert isinstance(layer, SparseLinear) and str(layer.sparsified).splitlines()[-1].startswith("(the model)  Linear")
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    prune.l1_unstructured(model[0], "weight", 0.5)
    assert [each.why for each in sparsify(model, strict=True).sparsified.left] == ["neither a mask nor a zero"]
    first = model[0]
    assert [each.path for each in sparsify(model, 0.8).sparsified.replaced] == ["1"] and model[0] is first


def test_what_is_skipped_is_skipped_with_all_that_is_in_it() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9)), "b": nn.Linear(9, 9)})
    sparsify(model, 0.5, skip=["a"], strict=True)
    assert [type(each) for each in (*model["a"], model["b"])] == [nn.Linear, nn.Linear, SparseLinear]


# ------------------------------------------------------------------------------------------ what hangs on a module


def hooked(module: nn.Module, said: list[str]) -> list[Any]:
    """A hook of every kind; what each says when it is called."""

    def says(word: str, result: Any = None) -> Any:
        return lambda *_, **__: (said.append(word), result)[1]

    return [
        module.register_forward_pre_hook(says("forward pre")),
        module.register_forward_pre_hook(says("forward pre with kwargs"), with_kwargs=True),
        module.register_forward_hook(says("forward")),
        module.register_forward_hook(says("forward with kwargs"), with_kwargs=True, always_call=True),
        module.register_full_backward_pre_hook(says("backward pre")),
        module.register_full_backward_hook(says("backward")),
        module.register_state_dict_pre_hook(says("state pre")),
        module.register_state_dict_post_hook(says("state post")),
        module.register_load_state_dict_pre_hook(lambda owner, *_: said.append(f"load pre of {type(owner).__name__}")),
        module.register_load_state_dict_post_hook(says("load post")),
    ]


def test_hooks_go_along_and_can_be_removed() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Conv2d(2, 2, 3), nn.MultiheadAttention(6, 2))
    dense, said = list(model), list[list[str]]([[], [], []])
    prune.l1_unstructured(model[0], "weight", 0.5)
    model[1] = dense[1] = normed(model[1])
    handles = [hooked(module, each) for module, each in zip(model, said, strict=True)]
    sparsify(model, 0.5, strict=True)
    x = torch.randn(3, 6, requires_grad=True)
    inputs = [(x,), (torch.randn(1, 2, 5, 5, requires_grad=True),), (x, x, x)]
    for module, given, words, each in zip(model, inputs, said, handles, strict=True):
        y = module(*given)
        (y if isinstance(y, torch.Tensor) else y[0]).sum().backward()
        module.load_state_dict(module.state_dict())
        assert words[:4] == ["forward pre", "forward pre with kwargs", "forward", "forward with kwargs"]
        assert words[4:6] == ["backward pre", "backward"] and len(words) == 10
        assert words[6:] == ["state pre", "state post", f"load pre of {type(module).__name__}", "load post"]
        copy.deepcopy(module)(*given)
        assert words[10:] == words[:4]
        words.clear()
        for handle in each:
            handle.remove()
        module(*given)
        module.load_state_dict(module.state_dict())
        assert not words
    dense[0](x)  # what was replaced computes its pruned weight as before, and says so
    assert said[0][0] == "forward pre" and int((dense[0].weight == 0).sum()) == 18


def test_modes_and_what_is_said_of_parameters_stay() -> None:
    model = nn.ModuleDict({
        "frozen": nn.Linear(6, 6), "conv": nn.Conv1d(2, 4, 3), "attention": nn.MultiheadAttention(6, 2),
        "normed": normed(nn.Linear(6, 6)),
    }).double().eval()  # fmt: skip
    model["conv"].train()
    for frozen in (model["frozen"].weight, model["conv"].bias, model["attention"].in_proj_weight,
                   model["attention"].out_proj.bias, model["normed"].bias):  # fmt: skip
        frozen.requires_grad_(False)
    model["frozen"].weight._no_weight_decay = True
    model["attention"].in_proj_bias._rate = 3
    sparsify(model, 0.5, strict=True)
    assert [module.training for module in model.values()] == [False, True, False, False]
    assert all(each.dtype == torch.float64 for each in model.parameters())
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert frozen == {
        "frozen.weight", "conv.bias", *(f"attention.{each}_proj.weight" for each in "qkv"), "attention.out_proj.bias",
        "normed.bias",
    }  # fmt: skip
    assert model["frozen"].weight._no_weight_decay and model["attention"].v_proj.bias._rate == 3
    assert {name.rpartition(".")[2] for name, _ in model.named_parameters()} == {"weight", "bias"}


def test_a_weight_norm_is_folded_as_of_its_last_step() -> None:
    layer, x = normed(nn.Linear(9, 5)), torch.randn(4, 9)
    with torch.no_grad():
        layer(x)
        layer.weight_g.mul_(3)  # the layer's weight is out of date
    sparse = sparsify(copy.deepcopy(layer), 0.0)
    assert isinstance(sparse, SparseLinear) and not sparse._forward_pre_hooks
    torch.testing.assert_close(sparse(x), layer(x))


# ------------------------------------------------------------------------------------------ new layers


def pruned(layer: Any, *names: str, amount: float = 0.6) -> Any:
    with torch.no_grad():  # so that a copy can be made before the first call
        for name in names or ("weight",):
            owner, _, last = name.rpartition(".")
            prune.random_unstructured(layer.double().get_submodule(owner), last, amount)
    return layer


def conv1d(*sizes: Any, **options: Any) -> Any:
    return lambda: (pruned(nn.Conv1d(*sizes, **options)), torch.randn(3, sizes[0], 11, dtype=torch.float64))


def transposed(*sizes: Any, **options: Any) -> Any:
    return lambda: (pruned(nn.ConvTranspose2d(*sizes, **options)), torch.randn(2, sizes[0], 4, 5, dtype=torch.float64))


class Conv1D(nn.Module):
    """As transformers has it."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.weight, self.bias = nf, nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Any) -> Any:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


def transformers_conv1d() -> Any:
    utils = pytest.importorskip("transformers.pytorch_utils")
    return pruned(utils.Conv1D(7, 9)), torch.randn(2, 5, 9, dtype=torch.float64)


LAYERS: dict[str, Any] = {
    "Conv1d": conv1d(4, 6, 3),
    "Conv1d, strided": conv1d(4, 6, 3, stride=2, padding=2, dilation=2, bias=False),
    "Conv1d, groups": conv1d(4, 6, 5, groups=2, padding="same"),
    "Conv1d, depthwise": conv1d(4, 4, 3, groups=4, padding="valid"),
    "Conv2d, depthwise": lambda: (
        pruned(nn.Conv2d(6, 12, 3, groups=6, padding=1)), torch.randn(2, 6, 5, 4, dtype=torch.float64)
    ),
    "ConvTranspose2d": transposed(4, 6, 3),
    "ConvTranspose2d, strided": transposed(4, 6, (3, 2), stride=2, padding=1, output_padding=1, bias=False),
    "ConvTranspose2d, dilated": transposed(3, 5, 2, stride=(1, 3), padding=(2, 0), output_padding=(2, 1), dilation=3),
    "ConvTranspose2d, groups": transposed(4, 6, 4, stride=2, padding=1, groups=2),
    "ConvTranspose2d, of a pixel": transposed(4, 6, 1, stride=2),
    "Conv1D, by its name": lambda: (pruned(Conv1D(7, 9)), torch.randn(2, 5, 9, dtype=torch.float64)),
    "Conv1D": transformers_conv1d,
}  # fmt: skip
"""A pruned dense layer and an input."""


def in_our_order(dense: Any) -> tuple[Any, Any]:
    """A pruned layer's gradients at its connections, in the order of ours, and those of its bias."""
    grad, mask = dense.weight_orig.grad, dense.weight_mask.bool()
    if type(dense).__name__ == "Conv1D":
        grad, mask = grad.T, mask.T
    if isinstance(dense, nn.ConvTranspose2d):  # group by group, then output by output
        grad, mask = (each.unflatten(0, (dense.groups, -1)).transpose(1, 2) for each in (grad, mask))
    return grad[mask], None if dense.bias is None else dense.bias.grad


@pytest.mark.parametrize("made", LAYERS.values(), ids=LAYERS)
def test_a_layer_is_the_dense_one_with_zeros(made: Any) -> None:
    dense, x = made()
    sparse = sparsify(copy.deepcopy(dense))
    x_, x = x.clone().requires_grad_(), x.requires_grad_()
    expected, found = dense(x), sparse(x_)
    dy = torch.randn_like(expected)
    expected.backward(dy)
    found.backward(dy)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(x_.grad, x.grad)
    dw, db = in_our_order(dense)
    torch.testing.assert_close(sparse.weight.grad, dw)
    assert (db is None and sparse.bias is None) or torch.allclose(sparse.bias.grad, db)
    torch.testing.assert_close(sparse(x[0]), dense(x[0]))  # without batch, or one sequence
    (said,) = sparse.sparsified.replaced
    assert said.connections == int(dense.weight_mask.sum()) and said.shape == tuple(dense.weight.shape)


def checked(module: Any, *inputs: Any, **options: Any) -> None:
    """Compare derivatives by inputs and parameters with differences in float64."""
    names = [name for name, _ in module.named_parameters()]

    def function(*values: Any) -> Any:
        given, held = values[: len(inputs)], dict(zip(names, values[len(inputs) :], strict=True))
        y = torch.func.functional_call(module, held, given, options)
        return y if isinstance(y, torch.Tensor) else tuple(each for each in y if each is not None)

    given = [each.detach().clone().requires_grad_() for each in inputs]
    assert torch.autograd.gradcheck(function, (*given, *module.parameters()))


def kept_by_copies(module: Any, other: Any, *inputs: Any) -> None:
    """A copy, a pickle, a file and a state each give a module that computes the same and shares nothing."""
    def run(each: Any) -> Any:
        y = each(*inputs)
        return y if isinstance(y, torch.Tensor) else y[0]

    expected, stored = run(module).detach(), io.BytesIO()
    torch.save(module, stored)
    stored.seek(0)
    assert str(other.load_state_dict(module.state_dict())) == "<All keys matched successfully>"
    copies = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(stored, weights_only=False), other
    for each in copies:
        torch.testing.assert_close(run(each), expected, rtol=0, atol=0)
        with torch.no_grad():
            for parameter in each.parameters():
                parameter.zero_()
        torch.testing.assert_close(run(module), expected, rtol=0, atol=0)


@pytest.mark.parametrize("made", LAYERS.values(), ids=LAYERS)
def test_derivatives_states_and_copies_of_a_layer(made: Any) -> None:
    dense, x = made()
    module = sparsify(dense)
    checked(module, x)
    kept_by_copies(module, sparsify(pruned(type(dense)(*_sizes(dense), **_options(dense)), amount=0.3)), x)


def _sizes(dense: Any) -> tuple[Any, ...]:
    if type(dense).__name__ == "Conv1D":
        return 7, 9
    return dense.in_channels, dense.out_channels, dense.kernel_size


def _options(dense: Any) -> dict[str, Any]:
    if type(dense).__name__ == "Conv1D":
        return {}
    names = ("stride", "padding", "dilation", "groups", *(["output_padding"] if dense.transposed else []))
    return {name: getattr(dense, name) for name in names} | {"bias": dense.bias is not None}


def test_conv1d_refuses_in_a_line_and_goes_back() -> None:
    layer = sparsify(nn.Conv1d(3, 5, 4, stride=2, padding=1, groups=1), 0.5)
    assert isinstance(layer, SparseConv1d) and isinstance(layer.to_conv(), nn.Conv1d)
    x = torch.randn(2, 3, 12)
    torch.testing.assert_close(layer.to_conv()(x), layer(x))
    with pytest.raises(ValueError, match=r"^SparseConv1d: x must have shape \(batch, 3, length\), or without batch"):
        layer(torch.zeros(2, 4, 12))
    with pytest.raises(TypeError, match=r"^SparseConv1d: x must be a tensor, got list"):
        layer([1.0])


def test_a_transposed_convolution_goes_back_and_takes_an_output_size() -> None:
    dense = pruned(nn.ConvTranspose2d(4, 6, 3, stride=(2, 3), padding=1, groups=2))
    layer, x = sparsify(copy.deepcopy(dense)), torch.randn(2, 4, 5, 4, dtype=torch.float64)
    assert isinstance(layer, SparseConvTranspose2d)
    torch.testing.assert_close(layer.to_conv()(x), layer(x))
    for size in ((9, 10), (10, 12)):
        torch.testing.assert_close(layer(x, output_size=size), dense(x, output_size=size))
    torch.testing.assert_close(layer(x, [2, 6, 10, 11]), dense(x, [2, 6, 10, 11]))
    for size in ((8, 10), (11, 10), (9, 13), (9,)):
        with pytest.raises(ValueError, match=r"output_size must be from \(9, 10\) to \(10, 12\), got") as caught:
            layer(x, output_size=size)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^SparseConvTranspose2d: x must have shape \(batch, 4, height, width\)"):
        layer(torch.zeros(2, 3, 5, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"padding \(1, 1\) leaves nothing of images of 1×1"):
        sparsify(nn.ConvTranspose2d(1, 1, 1, padding=1), 0.0)(torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_a_transposed_convolution_in_chunks_and_by_threads(batch: int) -> None:
    """Its sums go on from chunk to chunk, and its bits do not depend on the number of threads."""
    sparse = sparsify(nn.ConvTranspose2d(16, 12, 4, 2, 1).double(), 0.8)
    x = torch.randn(batch, 16, 16, 16, dtype=torch.float64, requires_grad=True)
    dense, dy = sparse.to_conv(), torch.randn(batch, 12, 32, 32, dtype=torch.float64)
    assert sparse(x[:1]).shape == dy[:1].shape
    (layer,) = sparse._layers.values()
    assert (len(list(chunks(batch, layer.plan.chunk(8)))) > 1) == (batch == 50)
    found, before = [], get_threads()
    try:
        for threads in (1, 2):
            set_threads(threads)
            y = sparse(x)
            found.append([y, *torch.autograd.grad(y, (x, sparse.weight, sparse.bias), dy)])
    finally:
        set_threads(before)
    assert all(map(torch.equal, *found))
    y = dense(x)
    dx, dw, db = torch.autograd.grad(y, (x, dense.weight, dense.bias), dy)
    kept = torch.tensor(sparse.pattern.to_scipy().toarray() != 0)
    for each, expected in zip(found[0], (y, dx, dw.transpose(0, 1).reshape(kept.shape)[kept], db), strict=True):
        torch.testing.assert_close(each, expected)


@pytest.mark.parametrize("kind", [nn.ConvTranspose2d, nn.Conv1d])
def test_connections_of_new_layers_move_by_their_gradients(kind: Any) -> None:
    dense = pruned(kind(3, 4, 3, stride=2, bias=False), amount=0.5)
    module = sparsify(copy.deepcopy(dense))
    x = torch.randn(5, 3, *([7] if kind is nn.Conv1d else [4, 3]), dtype=torch.float64)
    caught = Caught(module)
    module.caught = weakref.ref(caught)
    module(x).square().sum().backward()
    weight = dense.weight.detach().clone().requires_grad_()
    whole = kind(3, 4, 3, stride=2, bias=False).double()
    torch.func.functional_call(whole, {"weight": weight}, (x,)).square().sum().backward()
    grad = weight.grad if kind is nn.Conv1d else weight.grad.transpose(0, 1)
    torch.testing.assert_close(caught.gradient(SparsityPattern.full(module.pattern.shape)), grad.flatten())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    moving = rewire(module, optimizer, schedule=RewiringSchedule(every=1, end=3, fraction=0.3), method=RIGL)
    for _ in range(2):
        module(x).square().sum().backward()
        optimizer.step()
        (moved,) = moving.step()
        assert moved.came > 0
        torch.testing.assert_close(module(x), module.to_conv()(x))
