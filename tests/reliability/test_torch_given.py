"""Tensors as they arrive at a PyTorch module: whatever view, dtype, device or layout, the right numbers or one line."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from sparsecore.interop.operator import SparseOperator  # noqa: E402
from sparsecore.interop.torch import SparseConv2d, SparseLinear  # noqa: E402
from sparsecore.layers.conv import SparseConv2d as ConvLayer  # noqa: E402
from sparsecore.runtime.arrays import host_array  # noqa: E402
from sparsecore.topology import uniform_random  # noqa: E402

REFUSED = (TypeError, ValueError, RuntimeError)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def linear(dtype: Any = torch.float32) -> SparseLinear:
    return SparseLinear(24, 15, pattern=uniform_random(15, 24, 0.6, np.random.default_rng(0)), dtype=dtype)


def conv(dtype: Any = torch.float32) -> SparseConv2d:
    return SparseConv2d(uniform_random(6, 3 * 4, 0.5, np.random.default_rng(1)), 2, 1, 1, dtype=dtype)


MODULES: dict[str, Callable[..., Any]] = {"linear": linear, "conv": conv}
IN = {"linear": (18, 24), "conv": (5, 3, 6, 7)}
OUT = {"linear": (18, 15), "conv": (5, 6, 7, 8)}
each_module = pytest.mark.parametrize("kind", MODULES)


def computed(module: Any, given: dict[str, Any], dy: Any, need_dx: bool = True) -> list[Any]:
    """y and all gradients of a call with these tensors in place of a module's own; dy takes its place at the end."""
    x = given["x"].detach().requires_grad_(need_dx)
    leaves = [given[name].detach().requires_grad_() for name in ("weight", "bias")]
    y = torch.func.functional_call(module, dict(zip(("weight", "bias"), leaves, strict=True)), (x,))
    wanted = [*leaves, x] if need_dx else leaves
    return [y.detach(), *torch.autograd.grad(y, wanted, dy)]


def arriving(kind: str) -> dict[str, Any]:
    module = MODULES[kind]()
    own = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return own | {"x": torch.randn(IN[kind]), "dy": torch.randn(OUT[kind])}


def strided(x: Any) -> Any:
    room = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 7.0, dtype=x.dtype)
    room[..., ::2] = x
    return room[..., ::2]


def imaginary(x: Any) -> Any:
    """A view of x, of whose numbers only a flag says that they are negated; strided too."""
    return torch.complex(torch.full_like(x, 7.0), -x).conj().imag


VIEWS: dict[str, Callable[[Any], Any]] = {
    "strided": strided,
    "expanded": lambda x: x[:1].expand(x.shape) if x.ndim == 1 else x[..., :1].expand(x.shape),
    "a row for all": lambda x: x[:1].expand(x.shape),
    "negated": lambda x: torch._neg_view(-x),
    "imaginary": imaginary,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "behind": lambda x: torch.cat([torch.full_like(x[:1], 7.0), x])[1:],
    "askew": lambda x: torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.clone(),
    "a subclass": lambda x: x.as_subclass(type("Own", (torch.Tensor,), {})),
    "with a gradient": lambda x: x.clone().requires_grad_() * 1,
    "on the first cpu": lambda x: x.to("cpu:0"),
}


# ------------------------------------------------------------------------- 1, 2: any view of the right numbers is right


@each_module
@pytest.mark.parametrize("name", ["x", "weight", "bias", "dy"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("need_dx", [True, False])
def test_1_2_views(kind: str, name: str, view: str, need_dx: bool) -> None:
    module, given = MODULES[kind](), arriving(kind)
    seen = VIEWS[view](given[name])
    clean = given | {
        name: seen.detach().resolve_neg().as_subclass(torch.Tensor).clone(memory_format=torch.contiguous_format)
    }
    expected = computed(module, clean, clean["dy"], need_dx)
    given[name] = seen
    for found, one in zip(computed(module, given, given["dy"].detach(), need_dx), expected, strict=True):
        assert torch.equal(found, one)


def test_1_a_parameter_of_every_second_number() -> None:
    module = SparseLinear(784, 300, sparsity=0.9)
    dense, x = module.to_linear(), torch.randn(128, 784)
    for _ in range(5):  # what is freed too early is written over now or then
        module.bias, module.weight = (
            nn.Parameter(torch.stack([p.detach(), torch.randn_like(p)], -1)[..., 0])
            for p in (module.bias, module.weight)
        )
        assert not module.bias.is_contiguous()
        torch.testing.assert_close(module(x), dense(x), rtol=1e-4, atol=1e-4)
        module(x).sum().backward()
        torch.testing.assert_close(module.bias.grad, torch.full((300,), 128.0))


def test_1_2_a_negated_view_at_every_other_door() -> None:
    x = torch.randn(24, 16)
    operator = SparseOperator(linear().to_scipy())
    for view in (torch._neg_view(-x), imaginary(x), torch._neg_view(-x.bfloat16())):
        assert np.array_equal(host_array(view), view.resolve_neg().float().numpy())
        assert np.array_equal(operator @ view, operator @ view.resolve_neg().float().numpy())
    dense = nn.Linear(24, 15)
    expected = SparseLinear.from_linear(dense).weight
    dense.weight = nn.Parameter(torch._neg_view(-dense.weight.detach()))
    assert torch.equal(SparseLinear.from_linear(dense).weight, expected)


def test_2_arrays_without_memory_at_other_doors() -> None:
    with pytest.raises(TypeError, match="expected an array with memory, got a Tensor on meta"):
        SparseOperator(linear().to_scipy()) @ torch.ones(24, 16, device="meta")


# ---------------------------------------------------------------------------- 2: what is not right is refused by a line


def refused(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(REFUSED) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def freed(x: Any) -> Any:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def fake(x: Any) -> Any:
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


UNLIKE: dict[str, Callable[[Any], Any]] = {
    "float64": lambda x: x.double(),
    "int64": lambda x: x.long(),
    "int32": lambda x: x.int(),
    "uint8": lambda x: x.to(torch.uint8),
    "bool": lambda x: x > 0,
    "complex64": lambda x: x.to(torch.complex64),
    "conjugate": lambda x: torch.complex(x, x).conj(),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "freed": freed,
    "fake": fake,
    "longer": lambda x: torch.cat([x, x]),
    "shorter": lambda x: x[:2],
    "empty": lambda x: x[:0],
    "a matrix": lambda x: x[None],
    "a product": lambda x: x.reshape(3, -1),
    "a scalar": lambda x: x[0],
}
NARROW: dict[str, Callable[[Any], Any]] = {"float16": lambda x: x.half(), "bfloat16": lambda x: x.bfloat16()}


@each_module
@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("how", [*UNLIKE, *NARROW])
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_2_parameters_unlike_the_layers(kind: str, name: str, how: str) -> None:
    module, given = MODULES[kind](), arriving(kind)
    wrong = (UNLIKE | NARROW)[how](given[name])
    refused(lambda: torch.func.functional_call(module, {name: wrong}, (given["x"],)))
    if wrong.is_floating_point():
        setattr(module, name, nn.Parameter(wrong))
        refused(lambda: module(given["x"]))


@each_module
@pytest.mark.parametrize(
    "how", ["float64", "int64", "uint8", "bool", "complex64", "conjugate", "meta", "sparse", "freed", "fake"]
)
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_2_inputs_unlike_the_layers(kind: str, how: str) -> None:
    module = MODULES[kind]()
    refused(lambda: module(UNLIKE[how](torch.randn(IN[kind]))))


@each_module
@pytest.mark.parametrize("x", [None, [[1.0]], np.zeros((18, 24), np.float32), "x", nn.Linear(2, 2)])
def test_2_inputs_that_are_no_tensors(kind: str, x: Any) -> None:
    refused(lambda: MODULES[kind]()(x), "x must be a tensor, got", type(x).__name__)


@each_module
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_2_nested_tensors(kind: str, layout: Any) -> None:
    x = torch.nested.nested_tensor([torch.randn(2, *IN[kind][1:]), torch.randn(1, *IN[kind][1:])], layout=layout)
    refused(lambda: MODULES[kind]()(x), "x must be a tensor of one size, got a nested one")


@each_module
@pytest.mark.parametrize("how", ["sparse", "meta", "complex64", "shorter", "longer", "fake"])
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_2_gradients_unlike_the_output(kind: str, how: str) -> None:
    y = MODULES[kind]()(torch.randn(IN[kind], requires_grad=True))
    with pytest.raises(REFUSED):  # PyTorch's own messages may be longer
        y.backward(UNLIKE[how](torch.randn(OUT[kind])))


@each_module
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_2_gradients_of_another_dtype_are_converted(kind: str, dtype: Any) -> None:
    module, given = MODULES[kind](), arriving(kind)
    dy = (4 * given["dy"]).to(dtype)
    for found, one in zip(computed(module, given, dy), computed(module, given, dy.float()), strict=True):
        assert torch.equal(found, one)


@each_module
def test_2_a_batch_of_none(kind: str) -> None:
    module, x = MODULES[kind](), torch.zeros(0, *IN[kind][1:], requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.shape == (0, *OUT[kind][1:]) and x.grad is not None and not module.weight.grad.any()


@each_module
@pytest.mark.parametrize("hook", [torch._neg_view, strided, lambda g: g[:1].expand(g.shape)])
def test_2_gradients_through_hooks(kind: str, hook: Any) -> None:
    module, x = MODULES[kind](), torch.randn(IN[kind])
    found = []
    for use in (hook, lambda g: hook(g).resolve_neg().contiguous()):
        y = module(x)
        y.register_hook(use)
        found.append(torch.autograd.grad(y, list(module.parameters()), torch.ones(OUT[kind])))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@each_module
def test_2_weights_freed_before_backward(kind: str) -> None:
    module = MODULES[kind]()
    y = module(torch.randn(IN[kind], requires_grad=True))
    module.weight.untyped_storage().resize_(0)
    refused(lambda: y.sum().backward())


@each_module
def test_2_another_default_device(kind: str) -> None:
    module, given = MODULES[kind](), arriving(kind)
    expected = computed(module, given, given["dy"])
    with torch.device("meta"):
        found = computed(module, given, given["dy"])
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@each_module
def test_2_modules_without_memory_or_of_16_bits(kind: str) -> None:
    x = torch.randn(IN[kind])
    refused(lambda: MODULES[kind]().to("meta")(x), "weight must be on one CPU or GPU, got meta")
    refused(lambda: MODULES[kind]().half()(x), "float32 or float64", "call .float()")


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_2_values_that_are_no_real_numbers() -> None:
    pattern = conv().pattern
    for weight in (torch.ones(pattern.nnz, dtype=torch.complex64), np.ones(pattern.nnz, complex), [1j] * pattern.nnz):
        refused(lambda weight=weight: SparseConv2d(pattern, 2, weight=weight), "weight must hold real numbers")
    hidden = np.ma.masked_array(np.ones(6), [True] * 6)
    refused(lambda: SparseConv2d(pattern, 2, bias=hidden), "bias has hidden entries")
    refused(lambda: SparseLinear.from_linear(nn.Linear(4, 3).to(torch.complex64)), "weight must hold real numbers")
    module = conv()
    state = module.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    for name, value in (
        ("weight", state["weight"].to(torch.complex64)), ("bias", state["bias"].to(torch.complex64)),
        ("weight", state["weight"].numpy()), ("weight", [1.0]), ("indptr", [0]),
        ("indices", state["indices"].to("meta")), ("indptr", state["indptr"].numpy()), ("indices", None),
        ("weight", state["weight"].to_sparse()),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="Error\\(s\\) in loading state_dict"):
            module.load_state_dict(before | {name: value})
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# -------------------------------------------------------------------- 4: other connections between forward and backward


def state_of_others(module: Any, nnz: int) -> dict[str, Any]:
    """A state with other connections, so many of them."""
    rows, columns = module.pattern.shape
    other = uniform_random(rows, columns, 1 - nnz / (rows * columns), np.random.default_rng(9))
    assert other.nnz == nnz and other != module.pattern
    state = module.state_dict() | {"weight": torch.randn(nnz)}
    return state | {name: torch.tensor(getattr(other, name)) for name in ("indptr", "indices")}


@each_module
@pytest.mark.parametrize("more", [0, -3, 5])
@pytest.mark.parametrize("need_dx", [True, False])
def test_4_a_state_of_other_connections_between_the_passes(kind: str, more: int, need_dx: bool) -> None:
    module = MODULES[kind]()
    x = torch.randn(IN[kind], requires_grad=need_dx)
    module(x).sum().backward()
    y = module(x)
    state = state_of_others(module, module.pattern.nnz + more)
    module.load_state_dict(state)
    assert module.weight.grad is None  # that was of the connections before
    refused(lambda: y.sum().backward())
    assert module.weight.grad is None
    module(x).sum().backward()
    fresh = type(module)(*((24, 15) if kind == "linear" else ()), pattern=module.pattern, **_rest(kind))
    fresh.load_state_dict(state)
    fresh(x).sum().backward()
    assert torch.equal(module.weight.grad, fresh.weight.grad)


def _rest(kind: str) -> dict[str, Any]:
    return {} if kind == "linear" else {"kernel_size": 2, "padding": 1}


@each_module
def test_4_a_state_of_the_same_connections_between_the_passes(kind: str) -> None:
    module, x = MODULES[kind](), torch.randn(IN[kind])
    y = module(x)
    module.load_state_dict(module.state_dict())
    y.sum().backward()
    assert module.weight.grad is not None


# ---------------------------------------------------------------------------------------------- 6: axes, not products


@pytest.mark.parametrize(
    "shape",
    [
        (5, 6, 7, 3), (5, 126), (126,), (5, 6, 3, 7), (5, 9, 14), (5, 1, 126, 1), (5, 21, 6), (5, 1, 3, 6, 7),
        (5, 3, 42), (),
    ],
)  # fmt: skip
def test_6_images_whose_axes_are_not_the_modules(shape: tuple[int, ...]) -> None:
    refused(lambda: conv()(torch.zeros(shape)), "x must have shape (batch, 3, height, width)", str(shape))


@pytest.mark.parametrize("shape", [(5, 6, 4), (24, 5), (5, 24, 1), (5, 12, 2), (5, 1, 4, 6), (12, 2), ()])
def test_6_rows_whose_axes_are_not_the_modules(shape: tuple[int, ...]) -> None:
    refused(lambda: linear()(torch.zeros(shape)), "x must have shape (…, 24)", str(shape))


# ------------------------------------------------------------------------------------------- 21: growth without bound


def plans() -> int:
    gc.collect()
    return sum(isinstance(each, ConvLayer) for each in gc.get_objects())


def test_21_a_convolution_keeps_few_image_sizes_and_the_same_bits() -> None:
    module, before = conv(), plans()
    sizes = [(4 + k % 7, 4 + k) for k in range(40)]
    images = [torch.randn(2, 3, *size, requires_grad=True) for size in sizes]
    outputs = [module(x) for x in images]  # all under way at once
    sums = [torch.autograd.grad(y.sum(), [module.weight, x]) for y, x in zip(outputs, images, strict=True)]
    for x, y, found in zip(images, outputs, sums, strict=True):
        again = conv()
        again.load_state_dict(module.state_dict())
        z = again(x)
        assert torch.equal(y, z)
        for one, other in zip(found, torch.autograd.grad(z.sum(), [again.weight, x]), strict=True):
            assert torch.equal(one, other)
    del outputs, y, z, again
    assert plans() - before <= 20


def test_21_what_a_module_has_computed_does_not_keep_it() -> None:
    before = plans()
    for _ in range(5):
        module: Any = conv()
        module.last = module(torch.randn(IN["conv"]))
        del module
    assert plans() == before
