"""What is exported computes the same elsewhere: in onnxruntime, and in SciPy."""

from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse

from sparsecore.data.normalisation import Normalisation
from sparsecore.interop.export import to_npz, to_onnx, to_scipy
from sparsecore.layers import AvgPool2d, Dropout, Flatten, Layer, MaxPool2d, ReLU, SparseConv2d, SparseLinear
from sparsecore.network import Network
from sparsecore.topology import dense, uniform_random

from .small import network, numbers
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
