"""Networks for other programs: ONNX, and arrays in NumPy's `.npz`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from ..data.normalisation import Normalisation
from ..files import replace
from ..layers.norm import BatchNorm
from ..layers.sparse import SparseLayer
from ..network import Network
from ..prune.folding import folded
from ..storage.parameters import ByPath, LayerPath

_OPSET = 17
_FLOAT32_ALONE = ("Conv", "AveragePool", "GlobalAveragePool")
"""What ONNX defines for float64 too, but its runtimes do not compute."""


def to_onnx(
    network: Network, path: str | Path, *, sparse: bool = False, fold: bool = False, normalise: bool = False,
    names: tuple[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a network as an ONNX model that takes `x` of shape (batch, *in_shape) and gives logits.

    It computes what `network.logits` does of x that is normalised already. `network.normalisation`, if there is one, is
    in the model's metadata. In a float64 network convolutions and averages are computed in float32, since runtimes have
    no others.

    Parameters
    ----------
    network : Network
    path : str or Path
        The file, which is replaced whole or not at all.
    sparse : bool
        Store weights as sparse initializers: files as small as the network. onnxruntime reads them, and makes
        them dense when it does; other runtimes may not read them.
    fold : bool
        Take batch normalisation into the weights before it, where it directly follows some; see `prune.folded`.
    normalise : bool
        Take samples as they are stored, pixels in uint8 or numbers in float32, and normalise them in the model, as
        `network.logits` does.
    names : tuple of str, optional
        What the model calls its input and its output: "x", and a name that tells the last layer, if not given.

    Raises
    ------
    ImportError
        If onnx is missing: pip install 'sparsecore[onnx]'.
    ValueError
        If the network has a layer of another kind than the engine's own, does not know how samples are normalised that
        it is to normalise, or a name is another's.
    OSError
        If the file cannot be written.
    """
    import onnx
    from onnx import helper

    if names is not None and not (isinstance(names, tuple) and [type(name) for name in names] == [str, str]):
        raise ValueError(f"names: expected two words, of the input and the output, got {names!r}")
    network = folded(network) if fold else network
    norm = network.normalisation
    graph = _Graph(network, sparse, _raw(network) if normalise else None)
    given, found = names or ("x", graph.value)
    graph.rename({"x": given, graph.value: found})
    kinds = (norm.dtype if normalise and norm is not None else network.dtype), network.dtype
    ends = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), ["batch", *shape])
        for name, kind, shape in zip(
            (given, found), kinds, (network.layers[0].in_shape, network.layers[-1].out_shape), strict=True
        )
    ]
    made = helper.make_graph(
        graph.nodes, "sparsecore", ends[:1], ends[1:], graph.dense, sparse_initializer=graph.sparse
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="sparsecore")
    model.ir_version = 8  # as old as this opset, so that older runtimes read it too
    if norm is not None:
        how = {"normalisation": "inside"} if normalise else {"mean": str(list(norm.mean)), "std": str(list(norm.std))}
        helper.set_model_props(model, how | ({} if norm.dtype is None else {"dtype": norm.dtype}))
    onnx.checker.check_model(model)
    replace(Path(path), model.SerializeToString())


def to_npz(network: Network, path: str | Path) -> None:
    """Write the layers' weights and biases, and what batch norms keep, as arrays.

    For the sparse layer at path k these are `k.data`, `k.indices`, `k.indptr`, `k.shape` and, if it has biases,
    `k.bias`. `scipy.sparse.csr_array((data, indices, indptr), shape)` is the weight matrix; see `to_scipy`. For a batch
    norm at path k they are `k.scale`, `k.shift`, `k.mean` and `k.var`, one number a channel, and `k.eps`:
    y = (x − mean) / √(var + eps) · scale + shift.

    Raises
    ------
    OSError
        If the file cannot be written; what was there before is kept.
    """
    arrays: dict[str, Any] = {}
    for k, layer in network.walk():
        if isinstance(layer, SparseLayer):
            matrix = layer.to_scipy()
            arrays |= {f"{k}.{name}": getattr(matrix, name) for name in ("data", "indices", "indptr")}
            arrays[f"{k}.shape"] = np.array(matrix.shape)
            rows = {} if layer.bias is None else {"bias": layer.bias}
        elif isinstance(layer, BatchNorm):
            rows = {**layer.params, **layer.kept}
            arrays[f"{k}.eps"] = np.array(layer.eps)
        else:
            continue
        arrays |= {f"{k}.{name}": network.device.get(values) for name, values in rows.items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    replace(Path(path), file.getvalue())


def to_scipy(network: Network) -> ByPath[tuple[scipy.sparse.csr_array, Any]]:
    """Weights, as CSR arrays that share the network's values, and biases, by the layers' paths.

    A convolution's matrix has a row for each output channel and a column for each weight of a filter. A layer without
    biases has None for them. A batch norm is what it computes outside training, channel by channel: a diagonal matrix
    and biases, both copies.
    """
    found: ByPath[tuple[scipy.sparse.csr_array, Any]] = ByPath()
    for path, layer in network.walk():
        if isinstance(layer, SparseLayer):
            found[LayerPath(path)] = layer.to_scipy(), layer.bias
        elif isinstance(layer, BatchNorm):
            factor, offset = (row.astype(layer.dtype) for row in layer.folded())
            found[LayerPath(path)] = scipy.sparse.csr_array(scipy.sparse.diags_array(factor)), offset
    return found


def _raw(network: Network) -> Normalisation:
    """How a network's samples are normalised, of which it is known what they are."""
    norm = network.normalisation
    if norm is None or norm.dtype is None:
        raise ValueError(f"{network!r}: does not know how its samples are normalised: it was not trained by a run of "
                         "this version, or has no `normalisation`")  # fmt: skip
    return norm


class _Graph:
    """Nodes and initializers, layer by layer; `value` is the name of what came out of the last, `shape` its shape.

    Values have a colon in their names, since no layer's has one, and one may be called x or y.
    """

    def __init__(self, network: Network, sparse: bool, norm: Normalisation | None) -> None:
        self.nodes: list[Any] = []
        self.dense: list[Any] = []
        self.sparse: list[Any] = []
        self.value, self._sparse, self._dtype = "x", sparse, network.dtype
        self.shape = tuple(network.layers[0].in_shape)
        if norm is not None:
            self._normalise(norm)
        network.root.export(self, "")
        if self.value == "x":
            self.node("", "Identity")  # no value is both what goes in and what comes out

    def node(self, path: str, kind: str, more: Sequence[str] = (), **attributes: Any) -> None:
        given = [self.value, *more]
        if self._dtype == np.float64 and kind in _FLOAT32_ALONE:
            given = [self._cast(name, f"{path}.{k}.float32", np.float32) for k, name in enumerate(given)]
            out = self._add(kind, given, f"y:{path}.float32", **attributes)
            self.value = self._cast(out, f"y:{path}", np.float64)
        else:
            self.value = self._add(kind, given, f"y:{path}", **attributes)

    def rename(self, names: dict[str, str]) -> None:
        """Give values other names. Raises ValueError if one is already another's."""
        tensors = [each.name for each in self.dense] + [each.values.name for each in self.sparse]
        others = {name for node in self.nodes for name in (*node.input, *node.output)} | set(tensors)
        new = list(names.values())
        if len(set(new)) < len(new) or (taken := (others - names.keys()) & set(new)) or not all(new):
            what = f"{sorted(taken)[0]!r}, which another value has" if len(set(new)) == len(new) and taken else f"{new}"
            raise ValueError(f"names: expected two that differ and that no other value has, got {what}")
        for node in self.nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]

    def _normalise(self, norm: Normalisation) -> None:
        if norm.dtype != self._dtype:
            self.value = self._cast("x", "x:numbers", self._dtype)
        for what, kind, row in zip(("scale", "shift"), ("Mul", "Add"), norm.affine(np.dtype(norm.dtype), self._dtype),
                                   strict=True):  # fmt: skip
            row = row[:1] if (row == row[0]).all() else row.reshape(self.shape)
            self.value = self._add(kind, [self.value, self.array(f"x:{what}", row)], f"x:{what}.out")

    def _add(self, kind: str, given: Sequence[str], out: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, given, [out], name=f"{kind} {out.removeprefix('y:')}", **attributes))
        return out

    def _cast(self, name: str, out: str, dtype: Any) -> str:
        from onnx import helper

        return self._add("Cast", [name], out, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, path: str, shape: tuple[int, ...]) -> None:
        from onnx import numpy_helper

        if tuple(shape) != self.shape:
            self.dense.append(numpy_helper.from_array(np.array([-1, *shape], np.int64), f"{path}.shape"))
            self.node(f"{path}.reshaped", "Reshape", [f"{path}.shape"])
            self.shape = tuple(shape)

    def array(self, path: str, values: Any) -> str:
        from onnx import numpy_helper

        self.dense.append(numpy_helper.from_array(np.ascontiguousarray(values), path))
        return path

    def parameters(self, path: str, layer: SparseLayer, shape: tuple[int, ...]) -> list[str]:
        from onnx import helper, numpy_helper

        if self._sparse:
            positions = layer.pattern.rows.astype(np.int64) * layer.pattern.shape[1] + layer.pattern.indices
            values = numpy_helper.from_array(layer.device.get(layer.weight), f"{path}.weight")
            self.sparse.append(helper.make_sparse_tensor(values, numpy_helper.from_array(positions), shape))
        else:
            dense = np.asarray(layer.to_scipy().toarray()).reshape(shape)
            self.dense.append(numpy_helper.from_array(dense, f"{path}.weight"))
        if layer.bias is None:
            return [f"{path}.weight"]
        self.dense.append(numpy_helper.from_array(layer.device.get(layer.bias), f"{path}.bias"))
        return [f"{path}.weight", f"{path}.bias"]
