"""Sparse layers as PyTorch modules: values, gradients, and all that a dense layer of PyTorch can be used for."""

import copy
import io
import pickle
import threading

import numpy as np
import pytest
import scipy.sparse

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparsecore[torch]'")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from sparsecore.interop.torch import SparseConv2d, SparseLinear, sparsify  # noqa: E402
from sparsecore.storage.pattern import SparsityPattern  # noqa: E402
from sparsecore.topology import uniform_random  # noqa: E402

CONV_STEPS = [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 0), (1, 2))]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(dtype=torch.float64, **options):
    return SparseLinear(20, 13, sparsity=0.6, dtype=dtype, **options)


def conv(dtype=torch.float64, steps=(1, 1, 1), bias=True):
    pattern = uniform_random(5, 3 * 9, 0.5, np.random.default_rng(1))
    return SparseConv2d(pattern, 3, *steps, bias=bias, dtype=dtype)


def gradients(module, x, dy):
    x = x.clone().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(dy)
    return [y.detach(), x.grad, *(p.grad.clone() for p in module.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 20), (20,), (0, 20), (2, 17, 20), (2, 1, 3, 20), (3, 0, 20)])
def test_linear_is_the_dense_layer_with_zeros(shape, bias):
    module = small(bias=bias)
    x, dense = torch.randn(shape, dtype=torch.float64), module.to_linear()
    dy = torch.randn(*shape[:-1], 13, dtype=torch.float64)
    y, dx, dw, *db = gradients(module, x, dy)
    y_, dx_, dw_, *db_ = gradients(dense, x, dy)
    picked = dw_[torch.tensor(module.pattern.rows), torch.tensor(module.pattern.indices)]
    for got, expected in zip([y, dx, dw, *db], [y_, dx_, picked, *db_], strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("steps", CONV_STEPS)
def test_convolution_is_the_dense_one_with_zeros(steps):
    module = conv(steps=steps)
    dense = module.to_conv()
    for size in ((9, 8), (7, 11)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        dy = torch.randn_like(module(x).detach())
        y, dx, dw, db = gradients(module, x, dy)
        y_, dx_, dw_, db_ = gradients(dense, x, dy)
        picked = dw_.reshape(5, 27)[torch.tensor(module.pattern.rows), torch.tensor(module.pattern.indices)]
        for got, expected in ((y, y_), (dx, dx_), (dw, picked), (db, db_)):
            torch.testing.assert_close(got, expected)
    torch.testing.assert_close(module(x[0]), dense(x[0]))


@pytest.mark.parametrize("steps", CONV_STEPS)
def test_images_whose_channels_come_last_stay_so_and_compute_the_same(steps):
    module, formats = conv(torch.float32, steps), (torch.contiguous_format, torch.channels_last)
    x = torch.randn(19, 3, 9, 9)
    dy = torch.randn_like(module(x))
    known = gradients(module, x, dy)
    for of_dy in formats:  # whatever comes back from behind
        found = gradients(module, x.to(memory_format=torch.channels_last), dy.to(memory_format=of_dy))
        for got in found[:2]:
            assert got.is_contiguous(memory_format=torch.channels_last) and not got.is_contiguous()
        assert all(torch.equal(got, expected) for got, expected in zip(found, known, strict=True))
    assert module(x.mT).is_contiguous()  # neither: as nn.Conv2d


def test_a_model_may_be_compiled_with_channels_last():
    x = torch.randn(6, 3, 8, 8).to(memory_format=torch.channels_last)
    model = nn.Sequential(conv(torch.float32), nn.BatchNorm2d(5), nn.ReLU())
    y = torch.compile(model, backend="aot_eager")(x)
    assert y.stride() == model(x).stride() and y.is_contiguous(memory_format=torch.channels_last)
    y.square().sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("module", [small(), small(bias=False), conv(), conv(steps=CONV_STEPS[2], bias=False)])
def test_gradcheck(module):
    x = torch.randn(2, 20) if isinstance(module, SparseLinear) else torch.randn(2, 3, 6, 7)
    names = [name for name, _ in module.named_parameters()]

    def function(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x.double().requires_grad_(), *module.parameters()))


def test_a_module_used_twice_sums_its_gradients():
    module = SparseLinear(9, 9, sparsity=0.5, dtype=torch.float64)
    dense = module.to_linear()
    x, dy = torch.randn(4, 9, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
    for twice in (module, dense):
        twice(twice(x).tanh()).backward(dy)
    picked = dense.weight.grad[torch.tensor(module.pattern.rows), torch.tensor(module.pattern.indices)]
    torch.testing.assert_close(module.weight.grad, picked)
    first, second = module(x), module(2 * x)  # two batches of one size under way at once
    (grad,) = torch.autograd.grad(first, module.weight, dy)
    (again,) = torch.autograd.grad(second, module.weight, dy)
    torch.testing.assert_close(again, 2 * grad)


def test_weights_changed_before_backward_are_noticed():
    module = small()
    y = module(torch.randn(3, 20, dtype=torch.float64, requires_grad=True))
    with torch.no_grad():
        module.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_frozen_parts_and_no_grad():
    module, x = small(), torch.randn(3, 20, dtype=torch.float64)
    with torch.no_grad():
        assert module(x).grad_fn is None
    module.weight.requires_grad_(False)
    module(x).sum().backward()
    assert module.weight.grad is None
    torch.testing.assert_close(module.bias.grad, torch.full((13,), 3.0, dtype=torch.float64))


def test_narrow_inputs_are_widened_and_gradients_narrowed():
    module = small(torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.randn(3, 20).to(dtype).requires_grad_()
        y = module(x)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y, module(x.float()), rtol=0, atol=0)
        y.sum().backward()
        assert x.grad.dtype == dtype


@pytest.mark.parametrize(
    ("module", "x", "words"),
    [
        (small(torch.float32), torch.zeros(2, 20, dtype=torch.float64), "x must be torch.float32, as the weights"),
        (small(torch.float32).half(), torch.zeros(2, 20).half(), "float32 or float64, got torch.float16: call .float"),
        (small(torch.float32), torch.zeros(2, 20, device="meta"), "on one CPU or GPU, got meta and cpu"),
        (small(torch.float32), torch.zeros(2, 19), r"shape \(…, 20\), got \(2, 19\)"),
        (conv(torch.float32), torch.zeros(2, 4, 9, 9), r"\(batch, 3, height, width\), or without batch"),
        (conv(torch.float32), torch.zeros(2, 3, 0, 9), "in_shape"),
    ],
)
def test_wrong_inputs_are_refused_in_a_line(module, x, words):
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        module(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.LBFGS])
def test_training_is_the_masked_dense_networks(optimizer):
    """The optimizer sees fewer numbers, and the network learns the same."""
    module = nn.Sequential(SparseLinear(20, 30, sparsity=0.7), nn.ReLU(), SparseLinear(30, 4, sparsity=0.5)).double()
    dense = nn.Sequential(module[0].to_linear(), nn.ReLU(), module[2].to_linear())
    for k in (0, 2):
        prune.custom_from_mask(dense[k], "weight", torch.tensor(module[k].pattern.to_scipy().toarray()))
    x, labels = torch.randn(40, 20, dtype=torch.float64), torch.arange(40) % 4
    losses = []
    for network in (module, dense):
        steps = optimizer(network.parameters(), lr=0.05)

        def closure(network=network, steps=steps):
            steps.zero_grad()
            loss = nn.functional.cross_entropy(network(x), labels)
            loss.backward()
            return loss

        losses.append([float(steps.step(closure).detach()) for _ in range(8)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    assert losses[0][-1] < losses[0][0]


def test_states_and_copies():
    module, other = small(), SparseLinear(20, 13, sparsity=0.9, dtype=torch.float64)
    x = torch.randn(4, 20, dtype=torch.float64)
    expected = module(x)
    assert set(module.state_dict()) == {"weight", "bias", "indptr", "indices"}
    weight = other.weight
    assert str(other.load_state_dict(module.state_dict())) == "<All keys matched successfully>"
    assert other.weight is weight and other.pattern == module.pattern
    stored = io.BytesIO()
    torch.save(module, stored)
    stored.seek(0)
    for copied in (
        other, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(stored, weights_only=False)
    ):
        torch.testing.assert_close(copied(x), expected, rtol=0, atol=0)
        with torch.no_grad():
            copied.weight.zero_()
        torch.testing.assert_close(module(x), expected, rtol=0, atol=0)  # a copy shares nothing
    assert torch.equal(module.float()(x.float()), module(x.float()))
    assert module.weight.dtype == torch.float32


def test_a_broken_state_is_refused_and_changes_nothing():
    module = small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for name, value in (
        ("indices", before["indices"] + 20), ("indptr", before["indptr"][:-1]), ("weight", before["weight"][:-1])
    ):
        with pytest.raises(RuntimeError, match="pattern: "):
            module.load_state_dict(before | {name: value})
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_threads_share_a_module():
    module, xs = small(torch.float32), [torch.randn(33, 20) for _ in range(6)]
    alone = [torch.autograd.grad(module(x).square().sum(), module.weight)[0] for x in xs]
    found = [None] * len(xs)

    def work(k):
        found[k] = [torch.autograd.grad(module(xs[k]).square().sum(), module.weight)[0] for _ in range(40)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(each, one) for many, one in zip(found, alone, strict=True) for each in many)


def test_many_batch_sizes_keep_few_replays():
    from sparsecore.layers import replay

    module = small(torch.float32)
    for batch in range(1, 30):
        module(torch.zeros(batch, 20))
    assert len(replay._local.replays[module._layers[()].plan]) == replay._MOST


def test_random_modules_follow_torchs_seed():
    first, second = (torch.manual_seed(5), SparseLinear(30, 20))[1], (torch.manual_seed(5), SparseLinear(30, 20))[1]
    assert first.pattern == second.pattern and torch.equal(first.weight, second.weight)
    bound = 1 / np.sqrt(np.maximum(first.pattern.fan_in, 1))
    assert (abs(first.weight.detach().numpy()) <= bound[first.pattern.rows]).all()


def test_from_scipy():
    matrix = scipy.sparse.random_array((6, 9), density=0.4, dtype=np.float32, rng=0)
    bias = np.arange(6, dtype=np.float32)
    module, x = SparseLinear.from_scipy(matrix, bias), torch.randn(3, 9)
    torch.testing.assert_close(module(x), x @ torch.tensor(matrix.toarray()).T + torch.tensor(bias))
    assert np.shares_memory(module.to_scipy().data, module.weight.detach().numpy())
    assert SparseLinear.from_scipy(matrix.astype(np.float64)).weight.dtype == torch.float64
    with pytest.raises(ValueError, match=r"bias must have shape \(6,\), got \(5,\)"):
        SparseLinear.from_scipy(matrix, bias[:5])
    with pytest.raises(ValueError, match="pattern must have shape"):
        SparseLinear(9, 7, pattern=SparsityPattern.full((6, 9)))


# ------------------------------------------------------------------------------------------ sparsify


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding="same"), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2, bias=False), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 25, 30), nn.Tanh(), nn.Linear(30, 10),
    )  # fmt: skip


def test_a_pruned_model_computes_the_same():
    model, x = lenet(), torch.randn(3, 1, 12, 12)
    for k, amount in ((0, 0.5), (2, 0.3), (5, 0.9)):
        prune.l1_unstructured(model[k], "weight", amount)
    expected, kept = model(x), [int(model[k].weight_mask.sum()) for k in (0, 2, 5)]
    assert sparsify(model) is model
    torch.testing.assert_close(model(x), expected)
    assert [model[k].pattern.nnz for k in (0, 2, 5)] == kept
    assert type(model[7]) is nn.Linear  # neither masked nor with a zero
    assert not any("orig" in name for name in model.state_dict())


def test_a_trained_model_keeps_the_largest():
    model = lenet()
    largest = model[5].weight.detach().abs().flatten().topk(round(0.2 * 6000)).values.min()
    sparsify(model, 0.8, skip=["0", "7"])
    assert [type(model[k]) for k in (0, 2, 5, 7)] == [nn.Conv2d, SparseConv2d, SparseLinear, nn.Linear]
    assert model[5].pattern.nnz == 1200 and float(model[5].weight.detach().abs().min()) == float(largest)
    model(torch.randn(2, 1, 12, 12)).sum().backward()


@pytest.mark.parametrize("made", [lambda: nn.Linear(20, 6), lambda: nn.Conv2d(2, 4, 3)], ids=["linear", "conv"])
def test_a_pruned_layer_counts_as_of_its_last_step_and_not_its_last_pass(made):
    layer, x = made(), torch.randn(3, 20) if isinstance(made(), nn.Linear) else torch.randn(3, 2, 8, 8)
    for name in ("weight", "bias"):
        prune.l1_unstructured(layer, name, 0.5)
    layer(x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1)
    sparse = SparseLinear.from_linear(layer) if isinstance(layer, nn.Linear) else SparseConv2d.from_conv(layer)
    assert torch.allclose(sparse(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("sparsity", [-0.1, 1, float("nan")])
def test_a_sparsity_out_of_range_is_refused(sparsity):
    for refuse in (
        lambda: SparseLinear.from_linear(nn.Linear(5, 4), sparsity),
        lambda: SparseConv2d.from_conv(nn.Conv2d(2, 4, 3), sparsity), lambda: sparsify(nn.Linear(5, 4), sparsity),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="sparsity must be at least 0 and below 1, got"):
            refuse()


def test_masks_that_were_made_permanent_and_masked_zeros():
    layer = nn.Linear(6, 4)
    prune.random_unstructured(layer, "weight", 0.5)
    prune.remove(layer, "weight")
    assert sparsify(layer).pattern.nnz == 12
    kept_zero = nn.Linear(2, 1)
    nn.init.zeros_(kept_zero.weight)
    prune.custom_from_mask(kept_zero, "weight", torch.tensor([[1.0, 0.0]]))
    assert sparsify(kept_zero).pattern.nnz == 1  # zero, but free to change


def test_shared_modules_stay_shared_and_frozen_ones_frozen():
    shared = nn.Linear(8, 8)
    shared.weight.requires_grad_(False)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.Dropout())}).eval()
    sparsify(model, 0.5)
    assert model["a"] is model["b"][0] and isinstance(model["a"], SparseLinear)
    assert not model["a"].weight.requires_grad and model["a"].bias.requires_grad and not model["a"].training


def test_sparsify_refuses_and_changes_nothing():
    model = lenet()
    tied = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    tied[1].weight = tied[0].weight
    circular = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    for each, options, words in (
        (model, {"sparsity": 1.0}, "below 1, got 1.0"), (model, {"sparsity": 0.5, "skip": ["head"]}, "got head"),
        (tied, {"sparsity": 0.5}, "share a parameter"), (circular, {"sparsity": 0.5}, "pads with zeros only"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            sparsify(each, **options)
        assert not any(isinstance(module, SparseLinear | SparseConv2d) for module in each.modules())


def test_a_data_set_of_pytorch_is_taken_item_by_item() -> None:
    from sparsecore.data import Dataset

    rng = np.random.default_rng(0)
    x, y, wanted = rng.standard_normal((60, 5)).astype(np.float32), np.arange(60) % 3, rng.standard_normal((60, 2))
    items = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    one, other = Dataset.from_items(items), Dataset.from_arrays(x, y)
    assert np.array_equal(one.train.x, other.train.x) and np.array_equal(one.test.y, other.test.y)
    numbers = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(wanted))
    found = Dataset.from_items(numbers, loss="mse").train.targets
    assert np.array_equal(found, Dataset.from_arrays(x, wanted, loss="mse").train.targets)  # type: ignore[arg-type]
