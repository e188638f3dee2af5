"""Sparse modules as PyTorch's operators: derivatives of every order, compilers, exports, transforms, checkpoints."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import fx, nn  # noqa: E402
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, vmap  # noqa: E402
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from sparsecore.interop.torch import (  # noqa: E402
    SparseConv1d,
    SparseConv2d,
    SparseConvTranspose2d,
    SparseLinear,
    operators,
    rewire,
    sparsify,
)  # fmt: skip
from sparsecore.prune import RewiringSchedule  # noqa: E402
from sparsecore.topology import uniform_random  # noqa: E402


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def linear(bias: bool = True, dtype: Any = torch.float64) -> Any:
    return SparseLinear(7, 5, bias, sparsity=0.5, dtype=dtype)


def convolution(kind: Any, columns: int, *steps: Any, bias: bool = True) -> Any:
    return kind(uniform_random(4, columns, 0.5, np.random.default_rng(1)), *steps, bias=bias, dtype=torch.float64)


MADE: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "linear": (linear, (3, 7)),
    "linear without bias": (lambda: linear(bias=False), (3, 7)),
    "leading dimensions": (linear, (2, 3, 7)),
    "conv": (lambda: convolution(SparseConv2d, 18, 3, (1, 2), (1, 0), 1), (2, 2, 5, 6)),
    "conv without bias": (lambda: convolution(SparseConv2d, 18, 3, 2, 1, (1, 2), bias=False), (2, 2, 6, 7)),
    "conv1d": (lambda: convolution(SparseConv1d, 6, 3, 1, 1), (2, 2, 6)),
    "transposed": (lambda: convolution(SparseConvTranspose2d, 12, (2, 3), (2, 1), (1, 0), (1, 0)), (2, 2, 4, 3)),
}
each = pytest.mark.parametrize("name", MADE)


def made(name: str) -> tuple[Any, Any]:
    make, shape = MADE[name]
    return make(), torch.randn(shape, dtype=torch.float64)


def of_values(module: Any) -> tuple[Callable[..., Any], list[Any]]:
    """A module as a function of x and its parameters."""
    names = [name for name, _ in module.named_parameters()]
    return (
        lambda x, *values: functional_call(module, dict(zip(names, values, strict=True)), (x,)),
        [each.detach().clone().requires_grad_() for each in module.parameters()],
    )


def net() -> Any:
    return sparsify(
        nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(6, 3, 3, 2, output_padding=1, bias=False),
            nn.ReLU(), nn.Flatten(), nn.Linear(3 * 14 * 14, 10), nn.Tanh(), nn.Linear(10, 4),
        ), 0.6, skip=["7"],
    )  # fmt: skip


def gradients(model: Any, x: Any, run: Callable[[Any], Any] | None = None) -> list[Any]:
    model.zero_grad()
    x = x.detach().clone().requires_grad_()
    y = (model if run is None else run)(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(parameter.grad for parameter in model.parameters())]


# ------------------------------------------------------------------------------------------------ derivatives


@each
def test_derivatives_of_every_order_and_direction(name: str) -> None:
    module, x = made(name)
    function, values = of_values(module)
    inputs = (x.requires_grad_(), *values)
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs, check_fwd_over_rev=True)
    for k in range(len(inputs)):  # where only one of them learns, the others' derivatives are left out

        def alone(one: Any, k: int = k) -> Any:
            return function(*(one if j == k else given.detach() for j, given in enumerate(inputs))).tanh()

        assert torch.autograd.gradgradcheck(alone, (inputs[k],))


@pytest.mark.parametrize("transform", [
    lambda f, k: grad(f, k), lambda f, k: hessian(f, k), lambda f, k: jacrev(jacrev(f, k), k),
    lambda f, k: jacfwd(jacfwd(f, k), k), lambda f, k: grad(lambda *a: grad(f, k)(*a).square().sum(), k),
], ids=["grad", "hessian", "jacrev of jacrev", "jacfwd of jacfwd", "grad of grad"])  # fmt: skip
@pytest.mark.parametrize("name", ["linear", "conv"])
def test_func_transforms_are_the_dense_layers(name: str, transform: Any) -> None:
    module, x = made(name)
    dense = module.to_linear() if name == "linear" else module.to_conv()
    rows, columns = (torch.tensor(getattr(module.pattern, what)).long() for what in ("rows", "indices"))
    bias = module.bias.detach()

    def loss(y: Any) -> Any:
        return y.tanh().square().sum()

    def mine(x: Any, weight: Any) -> Any:
        return loss(functional_call(module, {"weight": weight, "bias": bias}, (x,)))

    def theirs(x: Any, weight: Any) -> Any:
        full = torch.zeros(module.pattern.shape, dtype=weight.dtype).index_put((rows, columns), weight)
        return loss(functional_call(dense, {"weight": full.view(dense.weight.shape), "bias": bias}, (x,)))

    for k in (0, 1):
        given = x, module.weight.detach()
        torch.testing.assert_close(transform(mine, k)(*given), transform(theirs, k)(*given))


def test_vmap_over_inputs_weights_and_samples() -> None:
    module, _ = made("conv")
    xs, weights = torch.randn(3, 2, 2, 5, 6).double(), torch.randn(3, module.weight.numel()).double()
    assert torch.equal(vmap(module)(xs), torch.stack([module(x) for x in xs]))

    def at(weight: Any, x: Any) -> Any:
        return functional_call(module, {"weight": weight}, (x,))

    torch.testing.assert_close(
        vmap(at)(weights, xs), torch.stack([at(w, x) for w, x in zip(weights, xs, strict=True)])
    )
    samples = vmap(grad(lambda w, x: at(w, x[None]).square().sum()), (None, 0))(weights[0], xs[0])
    w = weights[0].clone().requires_grad_()
    for sample, x in zip(samples, xs[0], strict=True):
        torch.testing.assert_close(sample, torch.autograd.grad(at(w, x[None]).square().sum(), w)[0])
    params, buffers = torch.func.stack_module_state([module, module])
    with pytest.raises(ValueError, match="cannot map over connections") as caught:
        vmap(lambda p, b, x: functional_call(module, (p, b), (x,)), (0, 0, None))(params, buffers, xs[0])
    assert "\n" not in str(caught.value)


def test_other_buffers_by_functional_call() -> None:
    module, other, x = linear(), SparseLinear(7, 5, sparsity=0.3, dtype=torch.float64), torch.randn(3, 7).double()
    before, expected = module.pattern, module(x)
    assert torch.equal(functional_call(module, dict(other.state_dict()), (x,)), other(x))
    assert torch.equal(module(x), expected) and module.pattern == before


def test_what_cannot_be_followed_is_refused_in_a_line() -> None:
    module, x = linear(), torch.randn(3, 7, dtype=torch.float64)
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: fx.symbolic_trace(module), "torch.fx cannot follow its forward"),
        (
            lambda: torch.autograd.grad(module(x), module.weight, torch.ones(2, 3, 5).double(), is_grads_batched=True),
            "leave out is_grads_batched and vectorize",
        ),
    ]
    for run, words in refused:
        with pytest.raises(TypeError, match=words) as caught:
            run()
        assert "\n" not in str(caught.value)


@each
def test_a_second_backward_raises(name: str) -> None:
    module, x = made(name)
    for given in (x, x.clone().requires_grad_()):
        y = module(given).sum()
        y.backward()
        before = module.weight.grad.clone()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            y.backward()
        assert torch.equal(module.weight.grad, before)
        y = module(given).sum()
        y.backward(retain_graph=True)
        y.backward()
        torch.testing.assert_close(module.weight.grad, 3 * before)
        module.zero_grad()


# ------------------------------------------------------------------------------------------------ what is kept


class Kept:
    """Counts the memory of all that autograd saves, and whether it is freed."""

    def __init__(self) -> None:
        self.bytes, self._seen = 0, list[Any]()

    def pack(self, tensor: Any) -> Any:
        self.bytes += tensor.nbytes
        self._seen.append(StorageWeakRef(tensor.untyped_storage()))
        return tensor.detach()  # the tensor itself would hold the node that keeps it

    def live(self) -> set[int]:
        return {each.cdata for each in self._seen if not each.expired()}


def test_saved_tensors_are_seen_and_checkpoints_keep_only_their_input() -> None:
    layers = [SparseLinear(30, 30, sparsity=0.9), nn.Tanh()] * 4
    model, x = nn.Sequential(*layers), torch.randn(40, 30, requires_grad=True)
    plain_run = gradients(model, x)
    kept = {}
    for how in (None, True, False):
        counted = Kept()
        with torch.autograd.graph.saved_tensors_hooks(counted.pack, lambda tensor: tensor):
            y = model(x) if how is None else checkpoint(model, x, use_reentrant=how)
        kept[how] = counted.bytes
        del y
        assert counted.live() <= {each.untyped_storage()._cdata for each in (x, *model.parameters())}
        if how is not None:
            found = gradients(model, x, lambda x, how=how: checkpoint(model, x, use_reentrant=how))
            assert all(map(torch.equal, found, plain_run))
    assert kept[None] > 8 * x.nbytes and kept[True] <= 2 * x.nbytes and kept[False] <= 2 * x.nbytes
    with torch.autograd.graph.save_on_cpu():
        assert all(map(torch.equal, gradients(model, x), plain_run))


def test_selective_checkpoints_name_the_operator() -> None:
    from functools import partial

    from torch.utils.checkpoint import create_selective_checkpoint_contexts as contexts

    model, x = net(), torch.randn(5, 2, 6, 6)
    chosen = partial(contexts, [operators.product])
    found = gradients(model, x, lambda x: checkpoint(model, x, use_reentrant=False, context_fn=chosen))
    assert all(map(torch.equal, found, gradients(model, x)))


# ------------------------------------------------------------------------------------------------ operators


@pytest.mark.parametrize("name", ["linear", "conv without bias", "transposed"])
def test_opcheck(name: str) -> None:
    module, x = made(name)
    size = (*x.shape[2:], *getattr(module, "output_padding", ())) if name != "linear" else ()
    pattern = module.indptr, module.indices, *module._geometry(size)
    x.requires_grad_()
    dy = torch.randn_like(module(x)).requires_grad_()
    torch.library.opcheck(operators.product, (x, module.weight, module.bias, *pattern))
    torch.library.opcheck(operators.gradients, (dy, x, module.weight, *pattern, module.bias is not None))
    torch.library.opcheck(operators.gradients, (dy, x, None, *pattern, False))

    def operator(x: Any, *values: Any) -> Any:
        return operators.product(x, values[0], values[1] if values[1:] else None, *pattern)

    assert torch.autograd.gradgradcheck(operator, (x, *of_values(module)[1]))


def test_operators_refuse_what_kernels_would_misread() -> None:
    module, x = linear(), torch.randn(3, 7, dtype=torch.float64)
    buffers = module.indptr, module.indices
    broken = [
        ((x[:, :6], module.weight, None, *buffers), r"x must have shape \(3, 7\), got \(3, 6\)"),
        ((x.float(), module.weight, None, *buffers), "x must be torch.float64"),
        ((x, module.weight[:-1], None, *buffers), "weight must have shape"),
        ((x, module.weight, None, module.indptr, module.indices + 7), "hold no 5×7 pattern"),
    ]
    for given, words in broken:
        with pytest.raises((TypeError, ValueError), match=words) as caught, torch.no_grad():
            operators.product(*given, "linear", [7])
        assert "\n" not in str(caught.value)


def test_what_is_written_to_buffers_is_noticed_by_the_operator() -> None:
    module, x = linear(), torch.randn(3, 7, dtype=torch.float64)
    other = SparseLinear(7, 5, sparsity=0.5, dtype=torch.float64)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), module(x))
    known = len(operators._known)
    with torch.no_grad():
        for name, value in other.state_dict().items():
            getattr(module, name).copy_(value)
    assert torch.equal(compiled(x), other(x)) and torch.equal(module(x), other(x))
    with torch.no_grad():
        module.indices.fill_(8)
    with pytest.raises(ValueError, match="hold no 5×7 pattern"):
        compiled(x)
    assert len(operators._known) == known
    del module, compiled
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------ compilers and exports


def agrees_compiled(backend: str) -> None:
    model = net()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for batch in (5, 5, 7, 9, 3, 1):  # the last is smaller
        x = torch.randn(batch, 2, 6, 6)
        for mine, theirs in zip(gradients(model, x, compiled), gradients(model, x), strict=True):
            torch.testing.assert_close(mine, theirs)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


def test_compiled_models_take_any_batch() -> None:
    agrees_compiled("aot_eager")


@pytest.mark.slow
def test_compiled_by_the_default_backend() -> None:
    agrees_compiled("inductor")


def test_one_graph_serves_all_batch_sizes() -> None:
    counter = torch._dynamo.testing.CompileCounter()
    model = torch.compile(net(), backend=counter, fullgraph=True)
    for batch in (5, 6, 7, 8, 9, 10):
        model(torch.randn(batch, 2, 6, 6)).sum().backward()
    assert counter.frame_count <= 2  # the first size, and then any


def test_a_compiled_model_moves_without_having_been_run_before() -> None:
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(SparseLinear(30, 24, sparsity=0.8), nn.Tanh(), SparseLinear(24, 2, sparsity=0.5))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        moving = rewire(model, optimizer, schedule=RewiringSchedule(every=2, end=8, fraction=0.3))
        used = torch.compile(model, backend="aot_eager") if compiled else model
        for _ in range(7):
            optimizer.zero_grad()
            used(torch.randn(9, 30)).square().sum().backward()
            optimizer.step()
            moving.step()
        found.append([each.indices.tolist() for each in model if isinstance(each, SparseLinear)])
    assert found[0] == found[1]


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_holds_its_connections(strict: bool) -> None:
    model, stored = net().eval(), io.BytesIO()
    sizes = {"input": {0: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(model, (torch.randn(5, 2, 6, 6),), dynamic_shapes=sizes, strict=strict)
    torch.export.save(program, stored)
    stored.seek(0)
    loaded = torch.export.load(stored)
    assert sum(node.target is operators.product for node in loaded.graph.nodes) == 3
    x = torch.randn(8, 2, 6, 6)
    expected = model(x)
    del model, program
    torch.testing.assert_close(loaded.module()(x), expected)
    torch.testing.assert_close(loaded.run_decompositions().module()(x), expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_is_no_constant() -> None:
    model = net().eval()
    traced = torch.jit.trace(model, torch.randn(5, 2, 6, 6))
    x = torch.randn(7, 2, 6, 6)
    torch.testing.assert_close(traced(x), model(x))
