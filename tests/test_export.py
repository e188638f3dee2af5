"""What is exported computes the same elsewhere: in onnxruntime, and in SciPy."""

from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse

from sparsecore.data.normalisation import Normalisation
from sparsecore.interop.export import to_npz, to_onnx, to_scipy
from sparsecore.layers import (
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
    Sequential,
    SparseConv2d,
    SparseLinear,
)
from sparsecore.network import Network
from sparsecore.topology import dense, uniform_random

from .small import network, numbers, pattern_of
from .test_fold import conv, normed, resnet
from .test_tree import residual_network

ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install -e '.[dev]'")


def convolutional(flatten=True):
    rng = np.random.default_rng(0)
    conv = SparseConv2d(uniform_random(6, 2 * 9, 0.5, rng), (2, 11, 9), 3, (2, 1), (1, 2), (1, 2), relu=True, rng=rng)
    pool = MaxPool2d(conv.out_shape, 2)
    mean = AvgPool2d(pool.out_shape, (2, 1), 1)
    size = int(np.prod(mean.out_shape))
    layers = [conv, pool, mean, *([Flatten(mean.out_shape)] if flatten else []), Dropout((size,), 0.5)]
    wired = SparseLinear(uniform_random(20, size, 0.8, rng), rng=rng)
    return Network([*layers, wired, ReLU((20,)), SparseLinear(dense(4, 20), rng=rng)])


def residual():
    return residual_network(np.float32, dropout=0.2)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("made", [network, convolutional, lambda: convolutional(flatten=False), residual])
def test_onnxruntime_computes_the_same(tmp_path, made, sparse):
    net, path = made(), tmp_path / "net.onnx"
    to_onnx(net, path, sparse=sparse)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 7, 33):
        x = numbers((batch, *net.layers[0].in_shape), batch, np.float32)
        (y,) = session.run(None, {"x": x})
        np.testing.assert_allclose(y, net.logits(x), rtol=1e-4, atol=1e-5)


def features(dtype=np.float32):
    """Batch norms of features, layers without biases, and one without connections."""
    rng, shape = np.random.default_rng(0), (8,)
    first, empty = (
        SparseLinear(pattern, rng=rng, bias=False, dtype=dtype)
        for pattern in (uniform_random(8, 12, 0.5, rng), pattern_of(np.zeros((8, 8))))
    )
    way = Sequential({"norm": normed(shape, seed=2, relu=True, dtype=dtype), "drop": Dropout(shape, 0.5)})
    tail = SparseLinear(dense(4, 8), rng=rng, bias=False, dtype=dtype)
    return Network([normed((12,), seed=1, dtype=dtype), first, Residual(way, empty), tail])


def images(dtype=np.float32):
    """Poolings and ways around that keep the pixels, or leave out some of each side its own."""
    first = conv((3, 9, 8), 4, seed=0, dtype=dtype)
    shape = first.out_shape
    narrow = Residual(conv(shape, 5, seed=1, dtype=dtype, bias=None), PadChannels(shape, 5, 1), relu=True)
    low = PadChannels(narrow.out_shape, 5, (2, 1))
    mean = AvgPool2d(low.out_shape, 2)
    norm = normed(mean.out_shape, seed=4, relu=True, dtype=dtype)
    return Network([first, normed(shape, seed=3, dtype=dtype), narrow, low, mean, norm, GlobalAvgPool(norm.out_shape)])


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("made", [resnet, lambda dtype: resnet(dtype, padded=False), features, images])
def test_onnxruntime_computes_the_same_with_batch_norms(tmp_path, made, dtype, sparse, fold):
    net, path = made(dtype), tmp_path / "net.onnx"
    to_onnx(net, path, sparse=sparse, fold=fold)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 17):
        x = numbers((batch, *net.layers[0].in_shape), batch, dtype)
        (y,) = session.run(None, {"x": x})
        wanted = net.logits(x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("made", [resnet, features])
def test_folded_models_have_no_batch_norm_that_follows_weights(tmp_path, made):
    onnx = pytest.importorskip("onnx")
    counts = []
    for fold in (False, True):
        to_onnx(made(np.float32), tmp_path / "net.onnx", fold=fold)
        nodes = onnx.load(tmp_path / "net.onnx").graph.node
        counts.append(sum(node.op_type == "BatchNormalization" for node in nodes))
    assert counts == ([9, 0] if made is resnet else [2, 2])


def test_layers_named_like_what_others_hold(tmp_path):
    """`ya.weight` was both a layer's output and another's weight."""
    rng = np.random.default_rng(0)
    first, second, third = (SparseLinear(dense(5, 5), rng=rng) for _ in range(3))
    net = Network({"a": Sequential({"weight": first}), "ya": second, "x": third})
    to_onnx(net, tmp_path / "net.onnx")
    x = numbers((7, 5), 1, np.float32)
    (y,) = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(y, net.logits(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [None, ("in", "out")])
def test_a_network_that_computes_nothing(tmp_path, names):
    to_onnx(Network([Dropout((5,), 0.5)]), tmp_path / "net.onnx", names=names)
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    x = numbers((7, 5), 1, np.float32)
    np.testing.assert_array_equal(session.run(None, {session.get_inputs()[0].name: x})[0], x)


def test_batch_norms_and_layers_without_biases_as_arrays(tmp_path):
    """The network again, from the names that are documented: every number of it is in the file."""
    net, x = features(np.float64), numbers((5, 12))
    to_npz(net, tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz") as file:
        arrays = dict(file)

    def matrix(k, h):
        parts = tuple(arrays[f"{k}.{name}"] for name in ("data", "indices", "indptr"))
        return scipy.sparse.csr_array(parts, shape=arrays[f"{k}.shape"]) @ h

    def norm(k, h):
        scale, shift, mean, var = (arrays[f"{k}.{name}"][:, None] for name in ("scale", "shift", "mean", "var"))
        return (h - mean) / np.sqrt(var + arrays[f"{k}.eps"]) * scale + shift

    h = matrix("1", norm("0", x.T))
    h = np.maximum(norm("2.main.norm", h), 0) + matrix("2.shortcut", h)
    np.testing.assert_allclose(matrix("3", h).T, net.logits(x), rtol=1e-12)
    assert not [name for name in arrays if name.endswith(".bias")]

    found = to_scipy(net)
    assert list(found) == ["0", "1", "2.main.norm", "2.shortcut", "3"]
    assert [bias is None for _, bias in found.values()] == [False, True, False, True, True]
    h = found["0"][0] @ x.T + found["0"][1][:, None]
    np.testing.assert_allclose(h, norm("0", x.T), rtol=1e-12)
    assert isinstance(net["0"], BatchNorm) and found["0"][0].nnz == 12


def test_sparse_files_are_small_and_metadata_say_how_to_normalise(tmp_path):
    net = Network([SparseLinear(uniform_random(300, 784, 0.98, np.random.default_rng(0)))])
    net.normalisation = Normalisation((784,), (0.13,), (0.31,))
    for name, sparse in (("dense", False), ("sparse", True)):
        to_onnx(net, tmp_path / name, sparse=sparse)
    assert (tmp_path / "sparse").stat().st_size < 0.1 * (tmp_path / "dense").stat().st_size
    properties = ort.InferenceSession(tmp_path / "sparse").get_modelmeta().custom_metadata_map
    assert properties == {"mean": "[0.13]", "std": "[0.31]"}


def test_arrays_make_the_network_again(tmp_path):
    net, x = network(), numbers((5, 20), dtype=np.float32)
    to_npz(net, tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz") as file:
        h = x.T
        for k in range(3):
            parts = [file[f"{k}.{name}"] for name in ("data", "indices", "indptr")]
            h = scipy.sparse.csr_array(tuple(parts), shape=file[f"{k}.shape"]) @ h + file[f"{k}.bias"][:, None]
            h = np.maximum(h, 0) if k < 2 else h
    np.testing.assert_allclose(h.T, net.logits(x), rtol=1e-4, atol=1e-5)
    assert np.shares_memory(to_scipy(net)[0][0].data, net.params)


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(tmp_path):
    class Own(Layer):
        params: ClassVar[dict] = {}
        in_shape = out_shape = (4,)
        forward_tiles, backward_tiles = ReLU.forward_tiles, ReLU.backward_tiles
        config, from_config = ReLU.config, ReLU.from_config

    net = Network([SparseLinear(dense(4, 4)), Own()])
    with pytest.raises(ValueError, match="layer 1"):
        to_onnx(net, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
