"""Networks for other programs: ONNX, and arrays in NumPy's `.npz`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from ..files import replace
from ..layers import AvgPool2d, Dropout, Flatten, MaxPool2d, ReLU, SparseConv2d, SparseLinear
from ..layers.layer import Layer
from ..layers.sparse import SparseLayer
from ..network import Network

_OPSET = 17
_NOTHING = (Dropout, Flatten)  # what does nothing outside training, or only to the shape


def to_onnx(network: Network, path: str | Path, *, sparse: bool = False) -> None:
    """Write a network as an ONNX model that takes `x` of shape (batch, *in_shape) and gives `y`.

    It computes what `network.logits` does of floats: x must be normalised as in training. `network.normalisation`, if
    there is one, is in the model's metadata.

    Parameters
    ----------
    network : Network
    path : str or Path
        The file, which is replaced whole or not at all.
    sparse : bool
        Store weights as sparse initializers: files as small as the network. onnxruntime reads them, and makes them
        dense as it does; other runtimes may not.

    Raises
    ------
    ImportError
        If onnx is missing: pip install 'sparsecore[onnx]'.
    ValueError
        If the network has a layer of another kind than the engine's own.
    OSError
        If the file cannot be written.
    """
    import onnx
    from onnx import helper

    graph = _Graph(network, sparse)
    float_type = helper.np_dtype_to_tensor_dtype(network.dtype)
    ends = [
        helper.make_tensor_value_info(name, float_type, ["batch", *shape])
        for name, shape in (("x", network.layers[0].in_shape), (graph.value, network.layers[-1].out_shape))
    ]
    made = helper.make_graph(
        graph.nodes, "sparsecore", ends[:1], ends[1:], graph.dense, sparse_initializer=graph.sparse
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="sparsecore")
    model.ir_version = 8  # of the time of this opset, so that older runtimes read it too
    norm = network.normalisation
    if norm is not None:
        helper.set_model_props(model, {"mean": str(list(norm.mean)), "std": str(list(norm.std))})
    onnx.checker.check_model(model)
    replace(Path(path), model.SerializeToString())


def to_npz(network: Network, path: str | Path) -> None:
    """Write the layers' weights and biases as arrays: for layer k, `k.data`, `k.indices`, `k.indptr`, `k.shape`,
    `k.bias`.

    `scipy.sparse.csr_array((data, indices, indptr), shape)` is the weight matrix; see `to_scipy`.

    Raises
    ------
    OSError
        If the file cannot be written; what was there before is kept.
    """
    arrays: dict[str, Any] = {}
    for k, (matrix, bias) in to_scipy(network).items():
        arrays |= {f"{k}.{name}": getattr(matrix, name) for name in ("data", "indices", "indptr")}
        arrays |= {f"{k}.shape": np.array(matrix.shape), f"{k}.bias": bias}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    replace(Path(path), file.getvalue())


def to_scipy(network: Network) -> dict[int, tuple[scipy.sparse.csr_array, Any]]:
    """Weights, as CSR arrays that share the network's values, and biases, by the layers' places in the network.

    A convolution's matrix has a row for each output channel and a column for each place of its filters.
    """
    return {k: (each.to_scipy(), each.bias) for k, each in enumerate(network.layers) if isinstance(each, SparseLayer)}


class _Graph:
    """Nodes and initializers, layer by layer; `value` is the name of what comes out of the last."""

    def __init__(self, network: Network, sparse: bool) -> None:
        self.nodes: list[Any] = []
        self.dense: list[Any] = []
        self.sparse: list[Any] = []
        self.value, self._sparse = "x", sparse
        self._shape = network.layers[0].in_shape
        for k, layer in enumerate(network.layers):
            self._add(k, layer)

    def _add(self, k: int, layer: Layer) -> None:
        if tuple(self._shape) != tuple(layer.in_shape):
            self._reshape(f"{k}.in", layer.in_shape)
        self._shape = layer.in_shape
        if isinstance(layer, SparseLinear):
            self._node(f"{k}", "Gemm", self._parameters(k, layer, layer.pattern.shape), transB=1)
        elif isinstance(layer, SparseConv2d):
            shape = (layer.out_shape[0], layer.in_shape[0], *layer.kernel_size)
            pads = [*layer.padding, *layer.padding]
            sizes: dict[str, Any] = {"strides": layer.stride, "dilations": layer.dilation, "pads": pads}
            self._node(f"{k}", "Conv", self._parameters(k, layer, shape), kernel_shape=layer.kernel_size, **sizes)
        elif isinstance(layer, MaxPool2d | AvgPool2d):
            kind = "MaxPool" if isinstance(layer, MaxPool2d) else "AveragePool"
            self._node(f"{k}", kind, [], kernel_shape=layer.kernel_size, strides=layer.stride)
        elif isinstance(layer, ReLU):
            self._node(f"{k}", "Relu", [])
        elif not isinstance(layer, _NOTHING):
            raise ValueError(f"to_onnx: layer {k}, {layer!r}, is of a kind that has no counterpart in ONNX here")
        if isinstance(layer, SparseLayer) and layer.relu:
            self._node(f"{k}.relu", "Relu", [])
        if isinstance(layer, Flatten):
            self._reshape(f"{k}", layer.out_shape)
        self._shape = layer.out_shape

    def _node(self, name: str, kind: str, more: list[str], **attributes: Any) -> None:
        from onnx import helper

        out = f"y{name}"
        self.nodes.append(helper.make_node(kind, [self.value, *more], [out], name=f"{kind} {name}", **attributes))
        self.value = out

    def _reshape(self, name: str, shape: tuple[int, ...]) -> None:
        from onnx import numpy_helper

        self.dense.append(numpy_helper.from_array(np.array([-1, *shape], np.int64), f"{name}.shape"))
        self._node(f"{name}.reshaped", "Reshape", [f"{name}.shape"])

    def _parameters(self, k: int, layer: SparseLayer, shape: tuple[int, ...]) -> list[str]:
        from onnx import helper, numpy_helper

        if self._sparse:
            places = layer.pattern.rows.astype(np.int64) * layer.pattern.shape[1] + layer.pattern.indices
            values = numpy_helper.from_array(np.asarray(layer.weight), f"{k}.weight")
            self.sparse.append(helper.make_sparse_tensor(values, numpy_helper.from_array(places), shape))
        else:
            dense = np.asarray(layer.to_scipy().toarray()).reshape(shape)
            self.dense.append(numpy_helper.from_array(dense, f"{k}.weight"))
        self.dense.append(numpy_helper.from_array(np.asarray(layer.bias), f"{k}.bias"))
        return [f"{k}.weight", f"{k}.bias"]
