"""Derivatives of any order and by any way: those of the dense module, or one line that says no."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import func, nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from sparsecore.interop.torch import SparseConv2d  # noqa: E402
from sparsecore.topology import uniform_random  # noqa: E402

from .subjects import (  # noqa: E402
    Subject,
    Values,
    call,
    each_of_ours,
    each_subject,
    one_line,
    parameters_of,
    twin,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def twice() -> Iterator[None]:
    """Attention by steps that have a second derivative, as PyTorch asks its own modules' users to choose them."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


again = pytest.mark.usefixtures("twice")


def as_function(module: Any) -> tuple[Callable[..., Any], list[Any]]:
    """A module as a function of x and its parameters' values, and these."""
    values = parameters_of(module)

    def function(x: Any, *given: Any) -> Any:
        return call(module, dict(zip(values, given, strict=True)), x)

    return function, list(values.values())


def agree(found: Any, expected: Any) -> None:
    """Trees of tensors that are equal to rounding; not all zero, which would be true of nothing."""
    leaves, wanted = torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(expected)
    assert any(bool(each.any()) for each in wanted)
    for one, other in zip(leaves, wanted, strict=True):
        torch.testing.assert_close(one, other)


def in_float64(subject: Subject, batch: int = 2) -> tuple[Any, Any]:
    return subject.make(1).double(), subject.x(batch, torch.float64)


@each_subject
def test_gradcheck(subject: Subject) -> None:
    module, x = in_float64(subject)
    function, values = as_function(module)
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *values))


@again
@each_subject
def test_gradgradcheck(subject: Subject) -> None:
    module, x = in_float64(subject, 1)
    function, values = as_function(module)
    assert torch.autograd.gradgradcheck(function, (x.requires_grad_(), *values))


@again
@each_subject
def test_a_penalty_on_gradients_has_the_dense_ones_gradient(subject: Subject) -> None:
    """As of WGAN-GP: the norm of dx, by the parameters; and in float32, where nothing is checked by differences."""
    module, x = subject.make(1), subject.x().requires_grad_()
    values = parameters_of(module)
    found = []
    for function in (lambda v, x: call(module, v, x), twin(module)):
        y = function(values, x)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), [x, *values.values()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@again
@each_subject
def test_hessian_vector_products(subject: Subject) -> None:
    module, x = in_float64(subject)
    function, values = as_function(module)
    dense, names = twin(module), [name for name, _ in module.named_parameters()]
    vectors = tuple(torch.randn_like(each) for each in values)

    def loss(*given: Any) -> Any:
        return function(x, *given).pow(3).sum()

    def wanted(*given: Any) -> Any:
        return dense(dict(zip(names, given, strict=True)), x).pow(3).sum()

    for product in (torch.autograd.functional.hvp, torch.autograd.functional.vhp):
        agree(product(loss, tuple(values), vectors)[1], product(wanted, tuple(values), vectors)[1])


Loss = Callable[[Values], Any]
TRANSFORMS: dict[str, Callable[[Loss], Callable[[Values], Any]]] = {
    "grad": lambda f: func.grad(lambda v: f(v).sum()),
    "grad and value": lambda f: func.grad_and_value(lambda v: f(v).sum()),
    "vjp": lambda f: lambda v: func.vjp(f, v)[1](torch.ones(f(v).shape, dtype=torch.float64)),
    "jacrev": func.jacrev,
    "jacrev, row by row": lambda f: func.jacrev(f, chunk_size=1),
    "jacrev of grad": lambda f: func.jacrev(func.grad(lambda v: f(v).sum())),
    "hessian": lambda f: func.hessian(lambda v: f(v).sum()),
    "grad of grad": lambda f: func.grad(
        lambda v: sum(each.square().sum() for each in func.grad(lambda v: f(v).sum())(v).values())
    ),
}  # fmt: skip


@each_subject
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_of_torch_func(subject: Subject, transform: Any) -> None:
    module, x = in_float64(subject, 1)
    values = {name: each.detach() for name, each in parameters_of(module).items()}
    dense = twin(module)
    found = transform(lambda v: call(module, v, x).pow(2).tanh().flatten()[:7])(values)
    agree(found, transform(lambda v: dense(v, x).pow(2).tanh().flatten()[:7])(values))


@each_subject
def test_gradients_of_each_sample(subject: Subject) -> None:
    """`vmap` of `grad`, over samples, with the weights the same for all."""
    module, x = in_float64(subject, 4)
    values, dense = {name: each.detach() for name, each in parameters_of(module).items()}, twin(module)

    def of_each(function: Any) -> Any:
        return func.vmap(func.grad(lambda v, x: function(v, x[None]).square().sum()), (None, 0))(values, x)

    agree(of_each(lambda v, x: call(module, v, x)), of_each(dense))


@each_of_ours
def test_vmap_over_weights_is_right_or_refused(subject: Subject) -> None:
    module, x = in_float64(subject)
    many = {name: torch.stack([each.detach(), 2 * each.detach()]) for name, each in parameters_of(module).items()}
    try:
        found = func.vmap(lambda v: call(module, v, x))(many)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        assert "vmap" in one_line(error)
        return
    agree(found, torch.stack([call(module, {name: each[k] for name, each in many.items()}, x) for k in range(2)]))


@each_of_ours
def test_forward_mode_is_right_or_refused(subject: Subject) -> None:
    module, x = in_float64(subject)
    values, tangent = {name: each.detach() for name, each in parameters_of(module).items()}, torch.randn_like(x)
    dense = twin(module)

    def derivative(function: Any) -> Any:
        with forward_ad.dual_level():
            y = function(values, forward_ad.make_dual(x, tangent))
            return forward_ad.unpack_dual(y).tangent

    try:
        found = derivative(lambda v, x: call(module, v, x))
    except (NotImplementedError, RuntimeError, TypeError) as error:
        assert "forward" in one_line(error).lower()
        return
    agree(found, derivative(dense))


@each_subject
def test_a_second_backward_pass_needs_the_graph_to_be_kept(subject: Subject) -> None:
    module, x = subject.make(1), subject.x().requires_grad_()
    y = module(x)
    y.sum().backward(retain_graph=True)
    once = [each.grad.clone() for each in (x, *module.parameters())]
    y.sum().backward()
    agree([each.grad for each in (x, *module.parameters())], [2 * each for each in once])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()
    agree([each.grad for each in (x, *module.parameters())], [2 * each for each in once])


@each_subject
def test_gradients_add_up_over_batches(subject: Subject) -> None:
    module, x = subject.make(1), subject.x(6)
    module(x).square().sum().backward()
    whole = [each.grad for each in module.parameters()]
    module.zero_grad()
    for part in x.split([2, 3, 1]):
        module(part).square().sum().backward()
    for one, other in zip(module.parameters(), whole, strict=True):
        torch.testing.assert_close(one.grad, other, rtol=1e-4, atol=1e-5)


@each_subject
def test_only_the_gradients_that_are_asked_for(subject: Subject) -> None:
    module, x = subject.make(1), subject.x().requires_grad_()
    y = module(x).square().sum()
    wanted = torch.autograd.grad(y, [x, *module.parameters()], retain_graph=True)
    for each, expected in zip((x, *module.parameters()), wanted, strict=True):
        (found,) = torch.autograd.grad(y, each, retain_graph=True)
        assert torch.equal(found, expected)
    module.requires_grad_(False)
    assert module(x).requires_grad and not module(x.detach()).requires_grad
    with torch.no_grad():
        assert not module(x).requires_grad
    with torch.inference_mode():
        assert module(x).is_inference()


@each_subject
def test_what_is_changed_in_place_before_the_backward_pass_is_noticed(subject: Subject) -> None:
    module, x = subject.make(1), subject.x().requires_grad_()
    for weights in (True, False):
        inner = 1 * x
        y = module(inner)
        with torch.no_grad():
            (next(iter(module.parameters())) if weights else inner).mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.square().sum().backward()


# --------------------------------------------------------------------------------------------------- what is kept


@each_subject
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_checkpointing_gives_the_same_gradients_and_keeps_nothing(subject: Subject, reentrant: bool) -> None:
    module, x = subject.make(1), subject.x().requires_grad_()
    kept: list[Any] = []

    def block(x: Any) -> Any:
        inner = x.exp()
        kept.append(StorageWeakRef(inner.untyped_storage()))
        return module(inner).tanh()

    block(x).square().sum().backward()
    wanted = [each.grad.clone() for each in (x, *module.parameters())]
    module.zero_grad()
    x.grad = None
    kept.clear()
    y = checkpoint(block, x, use_reentrant=reentrant)
    assert kept[0].expired(), "what a checkpoint should have freed is still there"
    y.square().sum().backward()
    assert len(kept) == 2
    for each, expected in zip((x, *module.parameters()), wanted, strict=True):
        assert torch.equal(each.grad, expected)


@each_subject
def test_nothing_is_left_after_the_backward_pass(subject: Subject) -> None:
    module = subject.make(1)
    inner = subject.x().requires_grad_() * 1
    held = StorageWeakRef(inner.untyped_storage())
    y = module(inner).sum()
    del inner
    y.backward()
    assert held.expired()


@each_subject
def test_hooks_of_saved_tensors_see_all_that_is_kept(subject: Subject) -> None:
    module, x, packed = subject.make(1), subject.x().requires_grad_(), []
    module(x).square().sum().backward()
    wanted = [each.grad.clone() for each in (x, *module.parameters())]
    module.zero_grad()
    x.grad = None

    def pack(kept: Any) -> Any:
        packed.append(kept.numel())
        return kept.detach().clone()

    inner = 1 * x
    held = StorageWeakRef(inner.untyped_storage())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        y = module(inner)
    assert x.numel() in packed
    del inner
    assert held.expired(), "something is kept beside what the hooks have seen"
    y.square().sum().backward()
    for each, expected in zip((x, *module.parameters()), wanted, strict=True):
        assert torch.equal(each.grad, expected)
    with torch.autograd.graph.save_on_cpu():
        y = module(x)
    y.square().sum().backward()


# ------------------------------------------------------------------------------------------- operators of PyTorch


class Calls(TorchDispatchMode):
    """Our own operators that are called, with their arguments: the first call of each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[Any, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.namespace == "sparsecore":
            self.seen.setdefault(op, (args, kwargs or {}))
        return op(*args, **(kwargs or {}))


def leaf(given: Any) -> Any:
    return given.detach().clone().requires_grad_(given.requires_grad) if isinstance(given, torch.Tensor) else given


@again
@each_of_ours
def test_operators_keep_the_rules_of_torch_library(subject: Subject) -> None:
    module, x = subject.make(1), subject.x().requires_grad_()
    with Calls() as calls:
        y = module(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        dx.square().sum().backward()
    assert len(calls.seen) >= 2, "a forward and a backward operator"
    for op, (args, kwargs) in calls.seen.items():
        given = torch.utils._pytree.tree_map(leaf, (args, kwargs))
        assert set(torch.library.opcheck(op, *given).values()) == {"SUCCESS"}


@each_subject
def test_autocast_computes_as_accurately_and_gives_gradients_of_the_parameters_dtype(subject: Subject) -> None:
    module, x = subject.make(1), subject.x().requires_grad_()
    model = nn.Sequential(module, nn.Flatten(), nn.LazyLinear(4))
    expected = model(x)
    expected.square().sum().backward()
    wanted = [each.grad.clone() for each in (x, *model.parameters())]
    model.zero_grad()
    x.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        inner = module(x)
        y = model(x)
    wide = type(module).__name__ == "SparseConvTranspose2d"  # computes in the weights' dtype
    assert inner.dtype == (torch.float32 if wide else torch.bfloat16) and y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    most = max(float(other.norm()) for other in wanted)  # the bias of keys has none: a softmax does not see it
    for each, other in zip((x, *model.parameters()), wanted, strict=True):
        assert each.grad.dtype == torch.float32
        assert float((each.grad - other).norm()) <= 0.02 * (most + float(other.norm()))
    with torch.autocast("cpu", torch.bfloat16):  # what comes before has given it bfloat16
        module(x.bfloat16()).float().sum().backward()


@pytest.mark.parametrize("channels_last", [False, True])
def test_under_autocast_images_stay_in_bfloat16_and_in_their_order(channels_last: bool) -> None:
    torch.manual_seed(0)
    pattern = uniform_random(24, 10 * 9, 0.6, np.random.default_rng(0))
    module, x = SparseConv2d(pattern, 3, padding=1), torch.randn(40, 10, 9, 9)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=layout).requires_grad_()
    expected = torch.autograd.grad(module(x).square().sum(), (x, module.weight, module.bias))
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
    assert y.dtype == compiled.dtype == torch.bfloat16 and y.is_contiguous(memory_format=layout)
    assert torch.equal(y, compiled)
    for given in (y, compiled):
        found = torch.autograd.grad(given.float().square().sum(), (x, module.weight, module.bias))
        for mine, exact in zip(found, expected, strict=True):
            assert mine.dtype == torch.float32
            torch.testing.assert_close(mine, exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))
