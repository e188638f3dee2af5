"""Whole networks to PyTorch and back: the same outputs, in training too, from the models that people have."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[torch]'")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from sparsecore.interop.torch import SparseConv2d as ConvModule  # noqa: E402
from sparsecore.interop.torch import SparseLinear as LinearModule  # noqa: E402
from sparsecore.interop.torch import from_torch, sparsify, to_torch  # noqa: E402
from sparsecore.layers import (  # noqa: E402
    AvgPool2d,
    BatchNorm,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool2d,
    PadChannels,
    ReLU,
    Residual,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.network import Network  # noqa: E402
from sparsecore.runtime.devices import cpu  # noqa: E402
from sparsecore.runtime.workspace import Workspace  # noqa: E402
from sparsecore.topology import dense  # noqa: E402

from .small import linear, network, numbers, tiled, untiled  # noqa: E402
from .test_fold import conv, kinds, normed, resnet  # noqa: E402
from .test_tree import residual_network  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small spend their time in waking PyTorch's threads, seconds of it where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def close(found: Any, wanted: Any, dtype: Any) -> None:
    tolerance = 1e-11 if np.dtype(dtype) == np.float64 else 1e-5
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=tolerance * max(1, np.abs(wanted).max()))


def outputs(model: Any, x: Any) -> Any:
    """What a model gives outside training."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()(torch.from_numpy(x)).numpy()


# ---------------------------------------------------------------------------------------------- to PyTorch


def geometry(dtype: Any = np.float64) -> Network:
    """Strides, paddings and dilations of their own each way, poolings, and shapes that meet without a layer."""
    rng = np.random.default_rng(0)
    first = SparseConv2d(dense(4, 2 * 6), (2, 11, 9), (3, 2), (2, 1), (1, 2), (1, 2), relu=True, rng=rng, dtype=dtype)
    pool = MaxPool2d(first.out_shape, (2, 3), (2, 1))
    mean = AvgPool2d(pool.out_shape, (1, 2), 2)
    features = int(np.prod(mean.out_shape))
    images = linear(dense(2 * 6, features), dtype=dtype, relu=True)
    last = conv((2, 3, 2), 3, seed=4, dtype=dtype, bias=None)
    ways = Residual(conv((3, 3, 2), 3, seed=5, dtype=dtype, relu=True), ReLU((3, 3, 2)))
    return Network([
        first, pool, mean, images, last, Dropout(last.out_shape, 0.5), ways, GlobalAvgPool((3, 3, 2)),
        linear(dense(4, 3), seed=6, dtype=dtype),
    ])  # fmt: skip


NETWORKS: dict[str, Callable[[Any], Network]] = {
    "option A": resnet,
    "projections": lambda dtype: resnet(dtype, padded=False),
    "biases, no norms": residual_network,
    "a chain": lambda dtype: network(dtype=dtype),
    "geometry": geometry,
    "norms of features": lambda dtype: Network([
        normed((6,), seed=1, dtype=dtype), linear(dense(8, 6), dtype=dtype), normed((8,), seed=2, dtype=dtype),
        ReLU((8,)), Residual(linear(dense(8, 8), seed=3, dtype=dtype), relu=True), Flatten((8,)),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("made", NETWORKS.values(), ids=NETWORKS)
def test_there_and_back(made: Any, dtype: Any) -> None:
    net = made(dtype)
    model = to_torch(net)
    assert not model.training
    x = numbers((5, *net.layers[0].in_shape), 3, dtype)
    close(model(torch.from_numpy(x)).detach(), net.logits(x), dtype)
    again = from_torch(model, net.layers[0].in_shape)
    close(again.logits(x), net.logits(x), dtype)
    assert again.dtype == net.dtype and again.connections == net.connections
    assert again.table.values.size == net.table.values.size


def test_a_state_has_our_paths_and_numbers() -> None:
    net = resnet(padded=False)
    state = to_torch(net).state_dict()
    names = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "var"}
    for path, layer in net.walk():
        if isinstance(layer, SparseConv2d | SparseLinear):
            weight = state.pop(f"{path}.weight")
            np.testing.assert_array_equal(weight.reshape(layer.pattern.shape), layer.to_scipy().toarray())
            if layer.bias is not None:
                np.testing.assert_array_equal(state.pop(f"{path}.bias"), layer.bias)
        elif isinstance(layer, BatchNorm):
            for theirs, ours in names.items():
                row = {**layer.params, **layer.kept}[ours]
                np.testing.assert_array_equal(state.pop(f"{path}.{theirs}"), row)
            state.pop(f"{path}.num_batches_tracked")
    assert not state


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("padded", [True, False])
def test_training_is_the_same(padded: bool, dtype: Any) -> None:
    """Outputs, gradients of every parameter and running statistics of a step with the batch's own statistics."""
    net = resnet(dtype, padded=padded)
    model = to_torch(net).train()
    x, dy = numbers((21, 2, 8, 8), 1, dtype), numbers((21, 3), 2, dtype)
    y = model(torch.from_numpy(x))
    y.backward(torch.from_numpy(dy))
    workspace = Workspace(cpu(), training=True)
    out, caches = net.forward(tiled(x), workspace)
    tolerance = 1e-9 if dtype == np.float64 else 2e-4
    np.testing.assert_allclose(untiled(out), y.detach(), rtol=0, atol=tolerance)
    _, grads = net.root.backward_tiles(tiled(dy), caches, workspace, need_dx=False)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    theirs = {"scale": "weight", "shift": "bias"}
    for path, layer in net.walk():
        if isinstance(layer, SparseConv2d | SparseLinear):
            found = parameters[f"{path}.weight"].grad.reshape(layer.pattern.shape).numpy()
            stored = found[layer.pattern.rows, layer.pattern.indices]
            np.testing.assert_allclose(grads[f"{path}.weight"], stored, rtol=0, atol=tolerance * np.abs(found).max())
        if isinstance(layer, BatchNorm):
            for ours, name in theirs.items():
                wanted = parameters[f"{path}.{name}"].grad
                scale = max(1, float(wanted.abs().max()))
                np.testing.assert_allclose(grads[f"{path}.{ours}"], wanted, rtol=0, atol=tolerance * scale)
            for row in ("mean", "var"):
                np.testing.assert_allclose(layer.kept[row], buffers[f"{path}.running_{row}"], rtol=0, atol=tolerance)


def test_what_has_no_counterpart_is_named() -> None:
    class Own(Layer):
        params: ClassVar[dict[str, Any]] = {}
        in_shape = out_shape = (4,)
        forward_tiles, backward_tiles = ReLU.forward_tiles, ReLU.backward_tiles
        config, from_config = ReLU.config, ReLU.from_config  # type: ignore[assignment]

    with pytest.raises(ValueError, match=r"^to_torch: layer 1, .*no counterpart in PyTorch here$"):
        to_torch(Network([linear(dense(4, 4)), Own()]))
    with pytest.raises(ValueError, match=r"^to_torch: layer train: PyTorch has no modules of that name"):
        to_torch(Network({"train": linear(dense(4, 4))}))


# ---------------------------------------------------------------------------------------------- from PyTorch


def functional(forward: Any, **modules: Any) -> Any:
    """A model of one forward."""
    model = Lambda(lambda x: forward(model, x))
    for name, module in modules.items():
        model.add_module(name, module)
    return model


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Block(nn.Module):
    """He et al.'s, as it is written all over the world."""

    def __init__(self, channels: int, out: int, stride: int, shortcut: str, inplace: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.act = nn.ReLU(inplace=inplace)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or channels != out:
            front = (out - channels) // 2 if shortcut == "around" else 0
            pads = (0, 0, 0, 0, front, out - channels - front)
            if shortcut == "projection":
                self.shortcut = nn.Sequential(
                    nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
                )
            else:
                self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], pads, "constant", 0))

    def forward(self, x: Any) -> Any:
        out = self.act(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    """The CIFAR form, narrow: three stages of two blocks."""

    def __init__(self, shortcut: str, inplace: bool = False, width: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, channels = [], width
        for k, out in enumerate((width, 2 * width, 4 * width)):
            first = Block(channels, out, 2 if k else 1, shortcut, inplace)
            stages.append(nn.Sequential(first, Block(out, out, 1, shortcut, inplace)))
            channels = out
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(4 * width, 10)

    def forward(self, x: Any) -> Any:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


def trained(model: Any, seed: int = 0) -> Any:
    """A model as training leaves it: running statistics, scales and shifts are no round numbers."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pruning", ["none", "zeros", "masks"])
@pytest.mark.parametrize("shortcut", ["projection", "behind", "around"])
def test_a_cifar_resnet(shortcut: str, pruning: str, dtype: Any) -> None:
    """Dense or pruned, with either shortcut, and with zeros on both sides of the channels."""
    torch.manual_seed(1)
    model = trained(ResNet(shortcut, inplace=pruning == "none")).to(torch.from_numpy(np.zeros(1, dtype)).dtype)
    if pruning != "none":
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                prune.l1_unstructured(module, "weight", 0.8)
                if pruning == "zeros":
                    prune.remove(module, "weight")
    model.train()
    net = from_torch(model, (3, 16, 16))
    assert model.training and all(module.training for module in model.modules())
    x = numbers((6, 3, 16, 16), 2, dtype)
    close(net.logits(x), outputs(model, x), dtype)
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert net.connections == sum(int((weight != 0).sum()) for weight in weights)
    assert net.dtype == dtype and isinstance(net["layer2.0"], Residual) and net["layer2.0"].relu
    assert isinstance(net["layer2.0.main.conv1"], SparseConv2d) and isinstance(net["layer3.1.main.bn2"], BatchNorm)
    assert net["layer1.0.main.bn1"].relu and not net["layer1.0.main.bn2"].relu  # type: ignore[attr-defined]
    around = net["layer2.0.shortcut"]
    assert isinstance(around, PadChannels) == (shortcut != "projection")
    if shortcut == "projection":
        assert [kind.split()[0] for kind in kinds(net) if "layer2.0.shortcut" in kind] == [
            "layer2.0.shortcut.0", "layer2.0.shortcut.1",
        ]  # fmt: skip
    back = to_torch(net)
    close(back(torch.from_numpy(x)).detach(), outputs(model, x), dtype)


def test_training_goes_on_as_in_the_model() -> None:
    model = trained(ResNet("around")).double().train()
    net = from_torch(model, (3, 16, 16))
    x = numbers((8, 3, 16, 16), 4)
    y, _ = net.forward(tiled(x), Workspace(cpu(), training=True))
    np.testing.assert_allclose(untiled(y), model(torch.from_numpy(x)).detach(), rtol=0, atol=1e-10)


def chain() -> Any:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, groups=2, padding="same"), nn.BatchNorm2d(6), nn.ReLU(True), nn.MaxPool2d(2),
        nn.Conv2d(6, 4, (1, 3), (2, 1), dilation=(1, 2), padding=(0, 2)), nn.ReLU(), nn.AvgPool2d(2, 1), nn.Flatten(),
        nn.Dropout(0.4), nn.Linear(4 * 2 * 4, 8), nn.BatchNorm1d(8, eps=1e-3, momentum=0.3, affine=False),
        nn.Identity(), nn.ReLU(), nn.Linear(8, 3, bias=False),
    )  # fmt: skip


class Functional(nn.Module):
    """Functions and methods in place of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 5, 1)])
        self.out = nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        x = torch.relu(F.max_pool2d(self.convs[0](x), 2))
        x = torch.add(self.convs[1](x).relu(), x)
        x = F.avg_pool2d(x, kernel_size=(1, 2), stride=1)
        x = F.relu(self.convs[2](x))
        y = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.out(torch.flatten(y, start_dim=1).reshape(x.shape[0], -1))


class Means(Functional):
    def forward(self, x: Any) -> Any:
        x = self.convs[2](self.convs[1](F.relu(self.convs[0](x)))).mean((2, 3))
        return self.out(x.view(-1, 5))


def cut_at_one() -> Any:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(4, 5, 1), nn.Flatten())
    return nn.Sequential(model, nn.ReLU(), nn.Unflatten(1, (5, 1, 1)), nn.Conv2d(5, 2, 1), nn.Flatten())


class Before(nn.Module):
    """Norm and ReLU before the ways part: what He et al. wrote a year later."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.conv1, self.conv2 = nn.BatchNorm2d(2), nn.Conv2d(2, 5, 3, 2, 1), nn.Conv2d(5, 5, 3, padding=1)
        self.way = nn.Conv2d(2, 5, 1, 2)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn(x))
        return self.way(x) + self.conv2(F.relu(self.conv1(x)))


def sparse_modules() -> Any:
    """Our own sparse modules within PyTorch."""
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 4))
    model = sparsify(model, 0.9)
    assert isinstance(model[0], ConvModule) and isinstance(model[3], LinearModule)
    return model


def sparse_groups() -> Any:
    """Convolutions in groups, of which each output has channels of its own, and one of them depthwise."""
    model = nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.Conv2d(6, 12, 3, groups=6), nn.Flatten(), nn.Linear(432, 4))
    return sparsify(model, 0.5)


def with_conv1d_of_transformers() -> Any:
    kind = pytest.importorskip("transformers.pytorch_utils", reason="needs transformers").Conv1D
    model = nn.Sequential(nn.Conv2d(2, 4, 10), nn.Flatten(), kind(4, 4), nn.ReLU(), kind(3, 4))
    sparsify(model[4], 0.5)
    with torch.no_grad():
        model[2].weight[:, 1] = 0
    return model


def beside(main: Any, around: Any) -> Any:
    return functional(lambda m, x: F.relu(m.main(x) + m.around(x)), main=main, around=around)


def pooled() -> Any:
    return nn.AdaptiveAvgPool2d(1)


ONE_PIXEL: dict[str, Callable[[], Any]] = {  # which PyTorch tells from features where our layers do not
    "features and a mean": lambda: beside(
        nn.Sequential(nn.Conv2d(2, 4, 10), nn.Flatten()), nn.Sequential(pooled(), nn.Flatten(), nn.Linear(2, 4))
    ),
    "a filter and a mean": lambda: beside(nn.Sequential(pooled(), nn.Conv2d(2, 2, 1)), pooled()),
    "the largest and a mean": lambda: nn.Sequential(nn.Conv2d(2, 3, 1), beside(nn.MaxPool2d(10), pooled())),
    "features and images of one pixel": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 10), beside(nn.Sequential(nn.Flatten(), nn.Linear(3, 3)), nn.Flatten())
    ),
    "writes over its input": lambda: functional(lambda m, x: m.conv(F.relu_(x)), conv=nn.Conv2d(2, 3, 3)),
}


MODELS: dict[str, Callable[[], Any]] = ONE_PIXEL | {
    "sparse modules in groups": sparse_groups, "Conv1D of transformers": with_conv1d_of_transformers,
    "a chain": chain, "functions": Functional, "means": Means, "images of one pixel": cut_at_one,
    "ways that part late": Before, "sparse modules": sparse_modules, "one layer": lambda: nn.Conv2d(2, 3, 3),
    "around a ReLU": lambda: functional(lambda m, x: (lambda y: F.relu(y) + y)(m.conv(x)), conv=nn.Conv2d(2, 3, 3)),
    "nested": lambda: nn.Sequential(Before(), nn.Sequential(nn.BatchNorm2d(5), nn.Sequential(nn.ReLU()))),
}  # fmt: skip


@pytest.mark.parametrize("made", MODELS.values(), ids=MODELS)
def test_models_of_other_kinds(made: Any) -> None:
    torch.manual_seed(0)
    model = trained(made())
    for dtype in (np.float32, np.float64):
        model = model.to(torch.from_numpy(np.zeros(1, dtype)).dtype)
        net = from_torch(model, (2, 10, 10))
        x = numbers((5, 2, 10, 10), 1, dtype)
        wanted = outputs(model, x.copy())
        close(net.logits(x).reshape(wanted.shape), wanted, dtype)


def test_numbers_that_go_along() -> None:
    net = from_torch(trained(chain()), (2, 10, 10))
    norm = net["10"]
    assert isinstance(norm, BatchNorm) and (norm.eps, norm.momentum, norm.relu) == (1e-3, 0.3, False)
    assert isinstance(net["8"], Dropout) and net["8"].rate == 0.4
    back = to_torch(net).get_submodule("10")
    assert (back.eps, back.momentum) == (1e-3, 0.3)
    assert net["13"].bias is None and net["1"].relu and net["4"].relu  # type: ignore[attr-defined]


def in_place(model: Any, x: Any) -> Any:
    """Gives what was added in place, by its first name."""
    y = z = model.conv(x)
    z += x
    return F.relu(y)


def tied() -> Any:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
    model[1].weight = model[0].weight
    return model


def attending(attention: Any) -> Any:
    return functional(lambda m, x: m.att(x, x, x)[0], att=attention)


CONV = {"conv": nn.Conv2d(2, 2, 3, padding=1)}
SEEN = "Sequential.forward does more than torch.fx can see"
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a module": (lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.GELU()), "1: is a GELU, of which"),
    "a function": (lambda: functional(lambda m, x: torch.sigmoid(m.conv(x)), **CONV), "sigmoid: is of a kind that has"),
    "a method": (lambda: functional(lambda m, x: m.conv(x).abs(), **CONV), "abs_1: is of a kind that has no"),
    "a product": (lambda: functional(lambda m, x: m.conv(x) * 2, **CONV), "mul: is of a kind that has no counterpart"),
    "a number added": (lambda: functional(lambda m, x: m.conv(x) + 1, **CONV), "add: expected a tensor that comes"),
    "shared weights": (lambda: functional(lambda m, x: m.conv(m.conv(x)), **CONV), "conv: is used twice, first as"),
    "a sum with itself": (lambda: functional(lambda m, x: m.conv(x + x), **CONV), "add: sums a tensor and itself"),
    "padding that reflects": (
        lambda: nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), "0: .*pads with zeros only",
    ),
    "a transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 3)), "0: is a ConvTranspose2d, of which networks have no layer",
    ),
    "a sparse transposed convolution": (
        lambda: sparsify(nn.Sequential(nn.ConvTranspose2d(2, 2, 3)), 0.5), "0: is a SparseConvTranspose2d, of.*leave",
    ),
    "a convolution of sequences": (lambda: nn.Sequential(nn.Conv1d(2, 2, 3)), "0: is a Conv1d, of which.*images one"),
    "a sparse convolution of sequences": (
        lambda: sparsify(nn.Sequential(nn.Conv1d(2, 2, 3)), 0.5), "0: is a SparseConv1d, of which.*as a Conv2d",
    ),
    "attention": (lambda: attending(nn.MultiheadAttention(2, 1)), "att: is a MultiheadAttention, of which.*in PyTorch"),
    "sparse attention": (
        lambda: sparsify(attending(nn.MultiheadAttention(2, 1)), 0.5), "att: is a SparseMultiheadAttention, of.*in Py",
    ),
    "padded pooling": (lambda: nn.Sequential(nn.MaxPool2d(3, padding=1)), "0: pools without padding"),
    "pooling to 2×2": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2)), "0: averages over all pixels only"),
    "no statistics": (
        lambda: nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), "0: must keep running statistics",
    ),
    "averaged statistics": (lambda: nn.Sequential(nn.BatchNorm2d(2, momentum=None)), "0: must keep running statistics"),
    "in place, read again": (
        lambda: functional(lambda m, x: (lambda y: m.relu(y) + y)(m.conv(x)), relu=nn.ReLU(True), **CONV),
        "relu: works in place on conv, which is read again",
    ),
    "in place by another name": (
        lambda: functional(lambda m, x: (lambda y: F.relu_(y.flatten(1)) + y.view(-1, 200))(m.conv(x)), **CONV),
        "relu_: works in place on conv, which is read again",
    ),
    "added in place, read again": (
        lambda: functional(lambda m, x: (lambda y: y.add_(x) + y)(m.conv(x)), **CONV), "add_: works in place on conv",
    ),
    "added in place, unseen": (lambda: functional(in_place, **CONV), "Lambda.forward does more than torch.fx can see"),
    "tied weights": (tied, "1: is used twice, first as _0"),
    "a branch of its own": (
        lambda: functional(lambda m, x: m.conv(x) if x.sum() > 0 else x, **CONV), "cannot follow Lambda.forward",
    ),
    "hooks": (lambda: hooked(), "Lambda.forward does more than torch.fx can see"),
    "hooks of a layer": (lambda: one_changed(lambda m: m.register_forward_hook(lambda m, x, y: 2 * y)), SEEN),
    "hooks that cut": (lambda: one_changed(lambda m: m.register_forward_hook(lambda m, x, y: y[:, :1])), SEEN),
    "hooks before a layer": (lambda: one_changed(lambda m: m.register_forward_pre_hook(lambda m, x: 2 * x[0])), SEEN),
    "another forward": (lambda: one_changed(replaced), SEEN),
    "a weight of each call": (
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(2, 2, 3))), "0: Conv2d: its weight is computed anew",
    ),
    "no values": (lambda: nn.Conv2d(2, 2, 3, device="meta"), "weight: has no values: it is on the meta device"),
    "two dtypes": (lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3).double()), "all layers must have one"),
    "nothing": (lambda: nn.Identity(), "expected a model that does something to its input"),
    "ways that cross": (
        lambda: functional(lambda m, x: (lambda y: (x + y) + m.other(y))(m.conv(x)), other=nn.Conv2d(2, 2, 1), **CONV),
        "add_1: its two ways have a layer in common",
    ),
    "a view of images": (
        lambda: functional(lambda m, x: m.conv(x).view(x.size(0), 10, 10, 2), **CONV), "got (batch, 10, 10, 2)",
    ),
    "two outputs": (lambda: functional(lambda m, x: (m.conv(x), x), **CONV), "expected a model that gives one tensor"),
    "pixels padded": (lambda: functional(lambda m, x: F.pad(m.conv(x), (1, 1, 1, 1)), **CONV), "pad: pads channels"),
    "some pixels": (
        lambda: functional(lambda m, x: m.conv(x)[:, :, 1:, ::2], **CONV), "getitem: takes every k-th pixel",
    ),
    "other channels": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3)), "0: takes images of 3 channels, got (2, 10, 10)"),
    "a linear layer on images": (lambda: nn.Sequential(nn.Linear(10, 2)), "0: takes 10 features, got (2, 10, 10)"),
    "a norm of other channels": (lambda: nn.Sequential(nn.BatchNorm2d(3)), "0: takes images of 3 channels, got (2,"),
    "orders that cannot meet": (
        lambda: functional(lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 0)) + F.pad(x, (0, 0, 0, 0, 0, 1)), **CONV),
        "add: the channels of its two ways come in other orders",
    ),
    "an order that is the output": (
        lambda: functional(lambda m, x: F.pad(m.conv(x), (0, 0, 0, 0, 1, 0)), **CONV), "come in another order and are",
    ),
}  # fmt: skip


def one_changed(change: Any) -> Any:
    model = nn.Sequential(nn.Conv2d(2, 2, 3))
    change(model[0])
    return model


def replaced(module: Any) -> None:
    own = module.forward
    module.forward = lambda x: own(2 * x)


def hooked() -> Any:
    model = functional(lambda m, x: m.conv(x), **CONV)
    model.register_forward_hook(lambda module, given, y: y + 1)
    return model


@pytest.mark.parametrize("made, problem", REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_by_one_line_that_names_it(made: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=r"^from_torch: ") as caught:
        from_torch(made(), (2, 10, 10))
    said = str(caught.value)
    first, _, rest = problem.partition(".*")
    assert first in said and rest in said and "\n" not in said


def after_a_step(model: Any, x: Any) -> Any:
    """PyTorch computes masked parameters in its forward: after a step those that modules show are out of date."""
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    model.train()(x).square().sum().backward()
    optimizer.step()
    return model


@pytest.mark.parametrize("layer", ["norm", "bias of norm", "sparse", "dense"])
def test_masks_are_laid_on_what_a_step_has_left(layer: str) -> None:
    torch.manual_seed(0)
    module = LinearModule(6, 5, sparsity=0.3) if layer == "sparse" else nn.Linear(6, 5)
    model = nn.Sequential(module, nn.BatchNorm1d(5))
    nn.init.normal_(model[1].weight)
    of_norm = "norm" in layer
    name = "bias" if layer.startswith("bias") else "weight"
    prune.l1_unstructured(model[1] if of_norm else module, name, amount=2)
    after_a_step(model, torch.randn(8, 6))
    x = numbers((4, 6), 1, np.float32)
    found = from_torch(model, (6,)).logits(x)
    assert model.training, "as it was"
    close(found, outputs(model.eval(), x), np.float32)


def test_a_branch_on_training_is_followed_as_outside_it() -> None:
    model = functional(lambda m, x: m.other(x) if m.training else m.conv(x), other=nn.Conv2d(2, 2, 1), **CONV)
    x = numbers((3, 2, 10, 10), 1, np.float32)
    close(from_torch(model.train(), (2, 10, 10)).logits(x), outputs(model.eval(), x), np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_models_of_half_the_digits_are_read(dtype: str) -> None:
    model = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 5))
    net, x = from_torch(model.to(getattr(torch, dtype)), (6,)), numbers((4, 6), 1, np.float32)
    close(net.logits(x), outputs(model.float().eval(), x), np.float32)


def test_what_is_no_model() -> None:
    for shape in (4, ()):
        with pytest.raises(TypeError, match=r"^from_torch: in_shape must be \(channels, height, width\) or \(features"):
            from_torch(nn.Linear(4, 4), shape)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^from_torch: model must be an nn.Module, got dict"):
        from_torch({}, (2, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="in_shape"):
        from_torch(nn.Linear(2, 2), (2.5,))  # type: ignore[arg-type]
