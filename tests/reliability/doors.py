"""Where arrays come in: every public function that takes one, as a small function of it, and what it asks for."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse

from sparsecore.data import Dataset, Split
from sparsecore.data.augmentation import Augmentation
from sparsecore.data.batches import Batches
from sparsecore.data.normalisation import Normalisation
from sparsecore.interop.operator import SparseOperator
from sparsecore.layers import (
    AvgPool2d,
    Dropout,
    Flatten,
    Layer,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.network import Network
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import LANES, Labels, Targets, Tiles
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.topology import dense, uniform_random
from sparsecore.training.evaluation import Evaluation
from sparsecore.training.losses import CrossEntropy, SquaredError
from sparsecore.training.optimizers import SGD, Adam, AdamW
from sparsecore.training.step import Step
from tests.reliability.fuzz import Rng

Array = np.ndarray[Any, Any]


AS_IT_IS = object()


@dataclass(frozen=True)
class Want:
    """What a door asks for.

    Attributes
    ----------
    make : callable
        Gives a good array.
    takes : str
        Kinds of dtypes, as NumPy abbreviates them, that may be taken. Any other must be refused, and so must long
        doubles.
    into : dtype, optional
        What the numbers are converted to, so that it does not matter in which dtype they come; AS_IT_IS for float64 as
        it is, and float32 for all else.
    written : bool
        Whether the door writes to the array.
    fixed : bool
        Whether it is only given in this shape and dtype: an optimizer makes a column of any other anew.
    """

    make: Callable[[Rng], Array]
    takes: str = "biuf"
    into: Any = None
    written: bool = False
    fixed: bool = False


def reals(*shape: int, dtype: Any = np.float32, **options: Any) -> Want:
    return Want(lambda rng: rng.standard_normal(shape).astype(dtype), **options)


def whole(*shape: int, below: int, dtype: Any = np.int64, takes: str = "iu", **options: Any) -> Want:
    return Want(lambda rng: rng.integers(0, below, shape).astype(dtype), takes, **options)


def just(array: Array, takes: str = "biuf", **options: Any) -> Want:
    return Want(lambda rng: array.copy(), takes, **options)


@dataclass(frozen=True)
class Door:
    """A function of arrays.

    Attributes
    ----------
    room : str
        The line of the table that it counts in.
    name : str
    wants : dict of str to Want
    call : callable
        Takes these arrays by name and gives all that came of them.
    picky : bool
        Whether it may refuse an array for how it lies in memory, which it uses as it is, or for not being NumPy's.
    theirs : tuple of str
        Packages that refuse in their own words.
    share : float
        How often it is tried, beside others.
    """

    room: str
    name: str
    wants: dict[str, Want]
    call: Callable[..., Any]
    picky: bool = False
    theirs: tuple[str, ...] = ()
    share: float = 1.0


def seeded() -> np.random.Generator:
    return np.random.default_rng(0)


PATTERN = uniform_random(7, 12, 0.4, seeded())
FILTERS = uniform_random(3, 2 * 9, 0.4, seeded())
WEIGHTS = ("f4", "f8")
FIT = "iuf"  # truths are no weights
ANY = "biufcOSUmMV"


def layers(dtype: Any, format: Any) -> list[tuple[str, Layer]]:
    """One of each kind, with all their options between them."""
    rng, kind = seeded(), {"dtype": dtype, "format": format, "rng": seeded()}
    wide, back = SparseLinear(dense(6, 12), **kind), SparseLinear(uniform_random(12, 6, 0.3, rng), **kind)
    return [
        ("linear", SparseLinear(PATTERN, relu=dtype == "f4", **kind)),
        ("dense", SparseLinear(dense(5, 12), **kind)),
        ("conv", SparseConv2d(FILTERS, (2, 5, 6), 3, padding=1, relu=dtype == "f4", **kind)),
        ("strided conv", SparseConv2d(FILTERS, (2, 7, 8), 3, stride=2, dilation=(1, 2), **kind)),
        ("residual", Residual(Sequential({"wide": wide, "back": back}), relu=True)),
    ]


FREE = [
    ("relu", ReLU((12,))), ("max pool", MaxPool2d((2, 4, 6), 2)), ("mean pool", AvgPool2d((2, 4, 6), (2, 3))),
    ("flatten", Flatten((2, 3, 2))), ("dropout", Dropout((12,), 0.5)),
]  # fmt: skip
"""Layers without parameters."""


# -- layers ----------------------------------------------------------------------------------------------------------


def forward(layer: Layer, x: Any) -> Any:
    return layer.forward(x)[0]


def backward(layer: Layer, x: Array, dy: Any) -> Any:
    workspace = Workspace()
    _, cache = layer.forward(x, workspace)
    dx, grads = layer.backward(dy, cache, workspace)
    return dx, grads


def forward_of_tiles(layer: Layer, data: Any) -> Any:
    return layer.forward(Tiles(data, 19))[0].data


def backward_of_tiles(layer: Layer, x: Array, data: Any) -> Any:
    workspace = Workspace()
    _, cache = layer.forward(x, workspace)
    dx, grads = layer.backward(Tiles(data, 19), cache, workspace)
    return dx.data, grads


def with_given(layer: Any, name: str, values: Any) -> Any:
    twin = copy.deepcopy(layer)
    twin.params[name] = values
    return twin.forward(np.ones((3, *twin.in_shape), np.float32))[0]


def layer_doors() -> Iterator[Door]:
    kinds = [(f"{name} {kind} {way}", layer, kind) for kind in WEIGHTS for way in ("csr", "coo") for name, layer
             in layers(kind, way)]  # fmt: skip
    kinds += [(f"{name} {kind}", layer, kind) for name, layer in FREE for kind in WEIGHTS]
    for name, layer, kind in kinds:
        x, out = seeded().standard_normal((19, *layer.in_shape)).astype(kind), layer.out_shape
        into: Any = kind if layer.params or layer.children else AS_IT_IS
        given = reals(19, *layer.in_shape, dtype=kind, into=into)
        yield Door("layers: forward", name, {"x": given}, partial(forward, layer), share=0.7)
        given = reals(19, *out, dtype=kind, into=into)
        yield Door("layers: backward", name, {"dy": given}, partial(backward, layer, x), share=0.5)
        # Both write zeros to the lanes past the batch, as they say.
        tiles = reals(2, *layer.in_shape, LANES, dtype=kind, written=True)
        yield Door(
            "layers and networks: tiles",
            name,
            {"data": tiles},
            partial(forward_of_tiles, layer),
            picky=True,
            share=0.25,
        )
        tiles = reals(2, *out, LANES, dtype=kind, written=True)
        yield Door(
            "layers and networks: tiles",
            name,
            {"data": tiles},
            partial(backward_of_tiles, layer, x),
            picky=True,
            share=0.25,
        )
    for kind in WEIGHTS:
        weight, bias = reals(PATTERN.nnz, takes=FIT, into=kind), reals(7, takes=FIT, into=kind)
        yield Door("layers: made, from_scipy", f"SparseLinear {kind}", {"weight": weight, "bias": bias},
                   partial(linear_of, kind), share=3)  # fmt: skip
        weight, bias = reals(FILTERS.nnz, takes=FIT, into=kind), reals(3, takes=FIT, into=kind)
        yield Door("layers: made, from_scipy", f"SparseConv2d {kind}", {"weight": weight, "bias": bias},
                   partial(conv_of, kind), share=3)  # fmt: skip
        layer = SparseLinear(PATTERN, dtype=kind)
        for name, size in (("weight", PATTERN.nnz), ("bias", 7)):
            yield Door("params, flatten", f"layer's {name} {kind}", {"values": reals(size, dtype=kind, takes="f")},
                       partial(with_given, layer, name), picky=True)  # fmt: skip
    keep = Want(lambda rng: rng.random(PATTERN.nnz) < 0.5, "b")
    yield Door("SparsityPattern, prune", "SparseLinear.prune", {"keep": keep}, pruned, share=2)


def linear_of(kind: str, weight: Any, bias: Any) -> Any:
    layer = SparseLinear(PATTERN, weight, bias, dtype=kind)
    return layer.params, layer.forward(np.ones((2, 12), kind))[0]


def conv_of(kind: str, weight: Any, bias: Any) -> Any:
    layer = SparseConv2d(FILTERS, (2, 5, 6), 3, weight=weight, bias=bias, dtype=kind)
    return layer.params, layer.forward(np.ones((2, 2, 5, 6), kind))[0]


def pruned(keep: Any) -> Any:
    layer = SparseLinear(PATTERN, rng=seeded())
    layer.prune(keep)
    return layer.params, layer.pattern, layer.forward(np.ones((2, 12), np.float32))[0]


# -- networks --------------------------------------------------------------------------------------------------------


def network(kind: Any = np.float32, normalisation: Any = None) -> Network:
    rng = seeded()
    first = SparseLinear(PATTERN, relu=True, rng=rng, dtype=kind)
    return Network([first, SparseLinear(dense(4, 7), rng=rng, dtype=kind)], normalisation=normalisation)


def images() -> Network:
    rng = seeded()
    head = SparseLinear(dense(3, 3 * 2 * 3), rng=rng)
    return Network(
        [
            SparseConv2d(FILTERS, (2, 5, 6), 3, padding=1, relu=True, rng=rng),
            MaxPool2d((3, 5, 6), 2),
            Flatten((3, 2, 3)),
            head,
        ],
        normalisation=Normalisation((2, 5, 6), (0.1, 0.2), (0.5, 0.6)),
    )


NORMALISED = network(normalisation=Normalisation((12,), (0.3,), (0.2,)))
PLAIN, DOUBLE, IMAGES = network(), network(np.float64), images()


def asked(net: Network, x: Any) -> Any:
    return net.logits(x, 8), net.predict(x)


def assigned(net: Network, values: Any) -> Any:
    twin = copy.deepcopy(net)
    twin.params = values
    return twin.params


def gathered(kind: Any, weight: Any) -> Any:
    net = network(kind)
    net.layers[0].params["weight"] = weight
    net.flatten()
    return net.params, net.logits(np.ones((2, 12), kind))


def rewired(indptr: Any, indices: Any, fill: Any) -> Any:
    net = network()
    net.rewire({"0": SparsityPattern((7, 12), indptr, indices)}, {"0": fill})
    return net.params, net.patterns["0"], net.logits(np.ones((2, 12), np.float32))


def there_and_back(x: Any, dy: Any) -> Any:
    workspace = Workspace()
    y, caches = PLAIN.forward(Tiles(x, 19), workspace)
    y = y.data.copy()
    PLAIN.backward(Tiles(dy, 19), caches, workspace)
    return y, [workspace.at(path).find(name) for path in "01" for name in ("weight", "bias")]


def network_doors() -> Iterator[Door]:
    for name, net, shape in (("flat", PLAIN, (12,)), ("float64", DOUBLE, (12,)), ("images", IMAGES, (2, 5, 6)),
                             ("normalised", NORMALISED, (12,))):  # fmt: skip
        into = None if net.normalisation else net.dtype  # raw inputs mean something else in each dtype
        x = reals(19, *shape, dtype=net.dtype, into=into)
        yield Door("networks: logits, predict", name, {"x": x}, partial(asked, net), share=2)
    pixels = whole(19, 12, below=256, dtype=np.uint8, takes="biuf")
    yield Door("networks: logits, predict", "pixels", {"x": pixels}, partial(asked, NORMALISED), share=2)
    for net in (PLAIN, DOUBLE):
        size, kind = net.params.size, net.dtype
        given = reals(size, dtype=kind, takes=FIT, into=kind)
        yield Door("params, flatten", f"network's {kind}", {"values": given}, partial(assigned, net), share=3)
        given = reals(PATTERN.nnz, dtype=kind, takes=FIT)
        yield Door("params, flatten", f"flatten {kind}", {"weight": given}, partial(gathered, kind), picky=True,
                   share=2)  # fmt: skip
    other = uniform_random(7, 12, 0.5, np.random.default_rng(1))
    wants = {"indptr": just(other.indptr, "iu", into=np.int32), "indices": just(other.indices, "iu", into=np.int32),
             "fill": reals(other.nnz, takes=FIT, into=np.float32)}  # fmt: skip
    yield Door("networks: rewire", "fill", wants, rewired, share=6)
    tiles = {"x": reals(2, 12, LANES, written=True), "dy": reals(2, 4, LANES, written=True)}
    yield Door("layers and networks: tiles", "Network.forward, backward", tiles, there_and_back, picky=True, share=3)
    yield Door("normalisation", "float", {"x": reals(19, 2, 5, 6)}, Normalisation((2, 5, 6), (0.1,), (0.5,)), share=2)
    yield Door("normalisation", "mean and std", {"mean": reals(2, dtype="f8"), "std": just(np.array([0.5, 2.0]))},
               normalised, share=2)  # fmt: skip


def normalised(mean: Any, std: Any) -> Any:
    split = Split(np.arange(120, dtype=np.float32).reshape(10, 12), np.zeros(10, np.int32))
    batches = Batches(split, (2, 6), mean, std, cpu())
    return batches.pack(Workspace())[0].data


# -- optimizers and losses -------------------------------------------------------------------------------------------


def stepped(make: Any, columns: list[str], params: Any, grads: Any, **others: Any) -> Any:
    """A step whose columns and rates may be given too."""
    optimizer, workspace = make(), Workspace()
    optimizer.step(np.ones(37, np.float32), np.ones(37, np.float32), workspace)
    for name in columns:
        optimizer.columns[name] = others[name]
    if "rates" in others:
        optimizer.rates = others["rates"]
    optimizer.step(params, grads, workspace, ((0, 20, True), (20, np.size(params), False)))
    return params, optimizer.columns, optimizer.rates


def restored(make: Any, names: list[str], **columns: Any) -> Any:
    optimizer = make()
    optimizer.restore(columns, optimizer.description(), "cpu")
    params = np.ones(37, np.float32)
    optimizer.step(params, params * 2, Workspace())
    return params, optimizer.columns


OPTIMIZERS: list[tuple[str, Any, list[str]]] = [
    ("SGD", partial(SGD, 0.1, 0.9, 1e-3, nesterov=True), ["velocity"]),
    ("Adam", partial(Adam, 0.1, weight_decay=1e-3, clip_norm=1.0), ["m", "v"]),
    ("AdamW", AdamW, ["m", "v"]),
]


def optimizer_doors() -> Iterator[Door]:
    for name, make, columns in OPTIMIZERS:
        for kind in WEIGHTS:
            wants = {
                "params": reals(37, dtype=kind, takes="f", written=True),
                "grads": reals(37, dtype=kind, takes="f"),
            }
            yield Door("optimizers", f"{name} {kind}", wants, partial(stepped, make, []), picky=True, share=2)
        wants = {"params": reals(37, takes="f", written=True)}
        wants |= {each: reals(37, takes="f", written=True, fixed=True) for each in columns}
        wants |= {"grads": reals(37, takes="f"), "rates": just(make().rates, "f", written=True)}
        yield Door("optimizers", f"{name}'s columns", wants, partial(stepped, make, columns), picky=True, share=2)
        wants = {each: reals(37, takes="f") for each in columns}
        yield Door("optimizers", f"{name}.restore", wants, partial(restored, make, columns), picky=True)


def cross_entropy(z: Any, labels: Any) -> Any:
    workspace = Workspace()
    dz = CrossEntropy()(Tiles(z, 19), Labels.pack(labels, 5), workspace)
    return dz.data[0], dz.data[1, :, :3], workspace.find("totals")


def squared_error(z: Any, targets: Any) -> Any:
    workspace = Workspace()
    dz = SquaredError()(Tiles(z, 19), Targets.pack(targets, np.float32), workspace)
    return dz.data[0], dz.data[1, :, :3], workspace.find("totals")


def through_a_step(gradient: Any) -> Any:
    """What a loss that a user wrote gives for a gradient."""
    net = copy.deepcopy(PLAIN)
    step = Step(net, batches(), SGD(0.1), loss=lambda z, wanted: (1.0, gradient))
    step.run(0, 19)
    return step.grads, net.params, step.totals()


class Plain(Layer):
    """A layer that a user wrote, and that gives what it was given."""

    def __init__(self, y: Any, dx: Any, dw: Any) -> None:
        self.given = y, dx, dw
        self.params, self.in_shape, self.out_shape = {"weight": np.ones(7, np.float32)}, (7,), (7,)

    def forward_tiles(self, x: Tiles, workspace: Workspace) -> tuple[Tiles, Any]:
        return Tiles(self.given[0], x.batch), x.data

    def backward_tiles(self, dy: Tiles, cache: Any, workspace: Workspace, *, need_dx: bool = True) -> Any:
        return Tiles(self.given[1], dy.batch), {"weight": self.given[2]}

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Any, pattern: Any, params: Any) -> Any:
        raise ValueError("Plain is made by hand")


def through_a_layer(y: Any, dx: Any, dw: Any) -> Any:
    rng = seeded()
    net = Network([SparseLinear(PATTERN, rng=rng), Plain(y, dx, dw), SparseLinear(dense(4, 7), rng=rng)])
    step = Step(net, batches(), SGD(0.1))
    step.run(0, 19)
    return step.grads, net.params, step.totals()


def batches() -> Batches:
    rng = seeded()
    split = Split(rng.integers(0, 256, (19, 12)).astype(np.uint8), rng.integers(0, 4, 19).astype(np.int32))
    return Batches(split, (12,), [0.4], [0.2], cpu())


def loss_doors() -> Iterator[Door]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which says once that it is plain Python
        through_a_step(np.ones((19, 4)))
        through_a_layer(np.ones((2, 7, LANES)), np.ones((2, 7, LANES)), np.ones(7))
    wants = {"z": reals(2, 5, LANES, takes="f"), "labels": whole(19, below=5)}
    yield Door("losses", "CrossEntropy", wants, cross_entropy, picky=True, share=4)
    wants = {"z": reals(2, 3, LANES, takes="f"), "targets": reals(19, 3, takes=FIT, into=np.float32)}
    yield Door("losses", "SquaredError", wants, squared_error, picky=True, share=4)
    yield Door("a user's layer and loss", "loss", {"gradient": reals(19, 4, into=np.float32)}, through_a_step, share=2)
    wants = {"y": reals(2, 7, LANES, written=True), "dx": reals(2, 7, LANES), "dw": reals(7, into=np.float32)}
    yield Door("a user's layer and loss", "layer", wants, through_a_layer, picky=True, share=4)


# -- patterns and operators ------------------------------------------------------------------------------------------


def from_csr(indptr: Any, indices: Any) -> Any:
    return SparsityPattern((7, 12), indptr, indices)


def from_coo(rows: Any, columns: Any) -> Any:
    return SparsityPattern.from_coo((7, 12), rows, columns)


def matrix_of(kind: str, data: Any, indices: Any, indptr: Any) -> Any:
    """A matrix that holds these very arrays, whatever SciPy thinks of them."""
    matrix = getattr(scipy.sparse, f"{kind}_array")((7, 12) if kind == "csr" else (12, 7))
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    return matrix


def operated(kind: str, **arrays: Any) -> Any:
    operator = SparseOperator(matrix_of(kind, **arrays))
    return operator @ np.ones(operator.shape[1], np.float32), operator.data, operator._plan.pattern


def layer_of(share: bool, data: Any, indices: Any, indptr: Any) -> Any:
    layer = SparseLinear.from_scipy(matrix_of("csr", data, indices, indptr), share=share)
    return layer.params, layer.pattern, layer.forward(np.ones((2, 12), np.float32))[0]


def written_into(operator: SparseOperator, data: Any) -> Any:
    twin = copy.deepcopy(operator)
    twin.data[:] = np.asarray(data)
    return twin @ np.ones(12, np.float32)


def pattern_doors() -> Iterator[Door]:
    index = {"takes": "iu", "into": np.int64}
    wants = {"indptr": just(PATTERN.indptr, **index), "indices": just(PATTERN.indices, **index)}
    yield Door("SparsityPattern, prune", "SparsityPattern", wants, from_csr, share=4)
    wants = {"rows": just(PATTERN.rows, **index), "columns": just(PATTERN.indices, **index)}
    yield Door("SparsityPattern, prune", "from_coo", wants, from_coo, share=4)
    yield Door(
        "SparsityPattern, prune",
        "from_dense",
        {"weights": reals(7, 12, takes="biufc")},
        SparsityPattern.from_dense,
        share=3,
    )
    yield Door("SparsityPattern, prune", "select", {"keep": Want(lambda rng: rng.random(PATTERN.nnz) < 0.5, "b")},
               PATTERN.select, share=2)  # fmt: skip
    yield Door(
        "SparsityPattern, prune", "to_scipy", {"data": reals(PATTERN.nnz, takes=ANY)}, PATTERN.to_scipy, picky=True
    )


def operator_doors() -> Iterator[Door]:
    csr = scipy.sparse.csr_array(SparseLinear(PATTERN, rng=seeded()).to_scipy())
    for kind in WEIGHTS:
        operator = SparseOperator(csr.astype(kind))
        for batch in ((), (5,), (16,)):
            name, columns, rows = f"{kind} {batch}", reals(12, *batch, dtype=kind, into=kind), reals(7, *batch,
                dtype=kind, into=kind)  # fmt: skip
            yield Door("SparseOperator", f"A @ x {name}", {"x": columns}, operator.__matmul__)
            yield Door("SparseOperator", f"A.T @ x {name}", {"x": rows}, operator.T.__matmul__)
            yield Door("SparseOperator", f"gradient {name}", {"dy": rows, "x": columns}, operator.gradient)
        rows = reals(3, 7, dtype=kind, into=kind)
        yield Door("SparseOperator", f"x @ A {kind}", {"x": rows}, operator.__rmatmul__)
    arrays = {"indices": just(PATTERN.indices, "iu"), "indptr": just(PATTERN.indptr, "iu")}
    values = {"data": reals(PATTERN.nnz)}
    # SciPy reads the arrays of a matrix before we do.
    for sort in ("csr", "csc"):
        held = values | arrays if sort == "csr" else values | {
            "indices": just(csr.T.tocsc().indices, "iu"), "indptr": just(csr.T.tocsc().indptr, "iu")}  # fmt: skip
        yield Door("SparseOperator", f"SparseOperator({sort})", held, partial(operated, sort), picky=True,
                   theirs=("scipy",), share=3)  # fmt: skip
    for share in (False, True):
        yield Door("layers: made, from_scipy", f"from_scipy, share={share}", values | arrays, partial(layer_of, share),
                   picky=True, theirs=("scipy",), share=3)  # fmt: skip


# -- data ------------------------------------------------------------------------------------------------------------


def split_of(x: Any, y: Any) -> Any:
    split = Split(x, y)
    used = Batches(split, (12,), [0.4], [0.2], cpu())
    tiles, labels = used.pack(Workspace())
    return tiles.data, labels.data[:19]


def dataset_of(x: Any, y: Any) -> Any:
    split = Split(x, y)
    data = Dataset("mine", "made up", split, split, (12,), 4, (0.4,), (0.2,))
    return Evaluation(PLAIN, data.test, Normalisation((12,), (0.4,), (0.2,)), cpu())()


def aimed(dtype: Any, targets: Any) -> Any:
    split = Split(np.zeros((19, 12), np.uint8), np.zeros(19, np.int32))
    used = Batches(split, (12,), [0.4], [0.2], cpu(), dtype, targets=targets)
    found = used._targets
    return found, used.pack(Workspace())[1].data


def ordered(order: Any) -> Any:
    used = batches()
    used.order = order
    tiles, labels = used.pack(Workspace())
    return used.order, tiles.data, labels.data[:19]


def augmented(x: Any, y: Any) -> Any:
    used = Batches(Split(x, y), (1, 3, 4), [0.4], [0.2], cpu(), augment=Augmentation((1, 3, 4), 1, True))
    used.shuffle(3, 1)
    return used.pack(Workspace())[0].data


def positioned(position: Any) -> Any:
    layer, workspace = Dropout((12,), 0.5), Workspace(training=True, position=position)
    return layer.forward(np.ones((3, 12), np.float32), workspace)[0]


def put(array: Any) -> Any:
    workspace, layer = Workspace(), PLAIN.layers[0]
    x = np.ones((3, 12), np.float32)
    y, cache = layer.forward(x, workspace)
    workspace.child(layer).put("weight", array)
    return layer.backward(y, cache, workspace)


def data_doors() -> Iterator[Door]:
    for kind in (np.uint8, np.float32):
        x = whole(19, 12, below=256, dtype=kind, takes="uf")
        y = whole(19, below=4, dtype=np.int32)
        yield Door(
            "Split, Dataset, Batches",
            f"Split, Batches {kind.__name__}",
            {"x": x, "y": y},
            split_of,
            picky=True,
            share=3,
        )
        yield Door(
            "Split, Dataset, Batches",
            f"Dataset, Evaluation {kind.__name__}",
            {"x": x, "y": y},
            dataset_of,
            picky=True,
            share=2,
        )
        yield Door(
            "Split, Dataset, Batches", f"augmented {kind.__name__}", {"x": x, "y": y}, augmented, picky=True, share=2
        )
    for dtype in WEIGHTS:
        yield Door("Split, Dataset, Batches", f"targets {dtype}", {"targets": reals(19, 3, takes="biuf", into=dtype)},
                   partial(aimed, dtype), share=2)  # fmt: skip
    order = Want(lambda rng: rng.permutation(19), "iu", into=np.int64)
    yield Door("Split, Dataset, Batches", "order", {"order": order}, ordered, picky=True, share=3)
    yield Door("workspaces", "position", {"position": whole(3, below=1000)}, positioned, picky=True, share=2)
    yield Door("workspaces", "put", {"array": reals(PATTERN.nnz, takes=ANY, written=True)}, put, picky=True, share=2)


def own() -> list[Door]:
    """Doors that need nothing but NumPy and SciPy."""
    groups = (layer_doors, network_doors, optimizer_doors, loss_doors, pattern_doors, operator_doors, data_doors)
    return [door for group in groups for door in group()]


# -- other libraries -------------------------------------------------------------------------------------------------

WAITING: dict[str, str] = {}
"""Doors that are not tried until what is known of them is cured."""


def torch() -> list[Door]:
    """Modules of PyTorch, given tensors that share NumPy's memory."""
    import torch

    from sparsecore.interop.torch import SparseConv2d as Conv
    from sparsecore.interop.torch import SparseLinear as Linear

    torch.set_num_threads(1)
    linear = Linear(12, 7, pattern=PATTERN, dtype=torch.float32)
    conv = Conv(FILTERS, 3, padding=1, dtype=torch.float32)

    def tensor(array: Any) -> Any:
        if isinstance(array, np.ma.MaskedArray) and (array.dtype.names or np.ma.is_masked(array)):
            raise ValueError("PyTorch has no masked tensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it knows of no read-only memory
            return torch.from_numpy(array)

    def forwards(module: Any, x: Any) -> Any:
        return module(tensor(x)).detach().numpy()

    def functional(module: Any, x: Any, weight: Any, bias: Any, dy: Any) -> Any:
        given = {name: tensor(each).requires_grad_() for name, each in (("weight", weight), ("bias", bias))}
        at = tensor(x).requires_grad_()
        y = torch.func.functional_call(module, given, at)
        grads = torch.autograd.grad(y, [at, *given.values()], tensor(dy))
        return [each.detach().numpy() for each in (y, *grads)]

    def made(weight: Any, bias: Any) -> Any:
        module = Conv(FILTERS, 3, weight=weight, bias=bias, dtype=torch.float32)
        return module.weight.detach().numpy(), module.bias.detach().numpy()

    def of_matrix(data: Any, indices: Any, indptr: Any) -> Any:
        module = Linear.from_scipy(matrix_of("csr", data, indices, indptr))
        return (
            module.weight.detach().numpy(),
            module.pattern,
            forwards(module, np.ones((2, 12), str(module.weight.dtype)[6:])),
        )

    arrays = {"indices": just(PATTERN.indices, "iu"), "indptr": just(PATTERN.indptr, "iu")}
    theirs = ("torch", "scipy")
    doors = [
        Door("PyTorch", "from_scipy", {"data": reals(PATTERN.nnz)} | arrays, of_matrix, True, theirs, 3),
        Door("PyTorch", "SparseConv2d", {"weight": reals(FILTERS.nnz, takes=FIT), "bias": reals(3, takes=FIT)},
             made, True, theirs, 3),
    ]  # fmt: skip
    for name, module, inner, outer in (("linear", linear, (12,), (7,)), ("conv", conv, (2, 5, 6), (3, 5, 6))):
        x, size = reals(19, *inner, takes="f"), module.weight.numel()
        doors.append(Door("PyTorch", f"{name} forward", {"x": x}, partial(forwards, module), True, theirs, 3))
        wants = {"x": x, "weight": reals(size, takes="f"), "bias": reals(outer[0], takes="f"),
                 "dy": reals(19, *outer)}  # fmt: skip
        doors.append(Door("PyTorch", f"{name} functional", wants, partial(functional, module), True, theirs, 5))
    return doors


def jax() -> list[Door]:
    """Layers as functions of JAX."""
    import jax

    from sparsecore.interop.jax import as_function

    doors = []
    for name, layer, out in (
        ("linear", SparseLinear(PATTERN, rng=seeded()), (7,)),
        ("conv", SparseConv2d(FILTERS, (2, 5, 6), 3, padding=1, rng=seeded()), (3, 5, 6)),
    ):
        function = as_function(layer)

        def with_gradients(function: Any, x: Any, weight: Any, bias: Any, dy: Any) -> Any:
            y, back = jax.vjp(function, x, weight, bias)
            return [np.asarray(each) for each in (y, *back(dy))]

        def plainly(function: Any, x: Any, weight: Any, bias: Any) -> Any:
            return np.asarray(function(x, weight, bias))

        wants = {"x": reals(5, *layer.in_shape, takes="biuf"), "weight": reals(layer.weight.size, takes="f"),
                 "bias": reals(layer.bias.size, takes="f")}  # fmt: skip
        doors.append(Door("JAX", f"{name} forward", wants, partial(plainly, function), True, ("jax", "numpy")))
        wants = wants | {"dy": reals(5, *out)}
        doors.append(Door("JAX", f"{name} gradients", wants, partial(with_gradients, function), True, ("jax", "numpy")))
    return doors


def sklearn() -> list[Door]:
    """scikit-learn's estimators, which take whatever scikit-learn's own do."""
    from sklearn.exceptions import DataConversionWarning

    from sparsecore.interop.sklearn import SparseMLPClassifier, SparseMLPRegressor

    rng = seeded()
    x, y = rng.standard_normal((24, 5)), np.arange(24) % 3
    small: dict[str, Any] = {"hidden_layer_sizes": (6,), "max_iter": 2, "random_state": 0, "sparsity": 0.5}
    classifier, regressor = SparseMLPClassifier(**small).fit(x, y), SparseMLPRegressor(**small).fit(x, x[:, :2])

    def fitted(kind: Any, X: Any, y: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataConversionWarning)  # of y in a column
            warnings.filterwarnings("ignore", "invalid value", RuntimeWarning, "sklearn")  # of classes that are NaN
            made = kind(**small).fit(X, y)
        return made.predict(x), made.network_.params, made.loss_curve_

    def asked(X: Any) -> Any:
        return classifier.predict(X), classifier.predict_proba(X)

    theirs = ("sklearn", "numpy", "scipy")
    X = reals(24, 5, takes=ANY)
    return [
        Door("scikit-learn", "classifier.fit", {"X": X, "y": just(y, ANY)}, partial(fitted, SparseMLPClassifier),
             True, theirs),
        Door("scikit-learn", "regressor.fit", {"X": X, "y": reals(24, takes=ANY)}, partial(fitted,
             SparseMLPRegressor), True, theirs),
        Door("scikit-learn", "classifier.predict", {"X": reals(9, 5, takes=ANY)}, asked, True, theirs, 2),
        Door("scikit-learn", "regressor.predict", {"X": reals(9, 5, takes=ANY)}, regressor.predict, True, theirs, 2),
    ]  # fmt: skip


LIBRARIES: dict[str, Callable[[], list[Door]]] = {"": own, "torch": torch, "jax": jax, "sklearn": sklearn}
"""Doors by the library that must be there."""
