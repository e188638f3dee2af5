"""Networks, and runs under way, in safetensors files: written whole or not at all, believed only after every check.

A file is the parameter table by path: the values of a row `0.weight` or `stage2.0.conv1.weight` under that name, and an
optimizer's columns of it as `velocity:0.weight`; a layer's pattern is `0.indptr` and `0.indices`. The metadata say the
format and its version, the tree of layers with their kinds, configurations and shapes, what the optimizer is, and where
a run stands; `sha256` is that of the tensors and of the other metadata.

Version 1 knew flat networks only and held one column, `velocity`, as a single tensor: it is read. A version 1 reader
refuses a version 2 file by its version, in one line, and so does this one with versions to come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..data.answers import Answers
from ..data.normalisation import Normalisation
from ..errors import OneLineError, one_line
from ..files import check, memory, replace
from ..layers import KINDS, Layer, Residual, Sequential
from ..layers.registry import kind_named, name_of
from ..network import Network
from ..storage.pattern import SparsityPattern
from ..storage.sizes import fits
from ..training.optimizers import Optimizer
from .strict import plain

FORMAT, VERSION, FIRST = "sparsecore", "2", "1"
KEPT = "kept:"
"""How the names of a run's own arrays begin."""
NAME = "model.safetensors"
"""What the file is called in a run's folder."""

BEST = "best.safetensors"
"""What the file of the best epoch is called there."""

Tensors = dict[str, np.ndarray[Any, Any]]


class CheckpointError(OneLineError):
    """A checkpoint that cannot be written, read or believed; one line that names it, says what was expected and got."""


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes
    ----------
    network : Network
    columns : dict of str to array of the shape of `network.params`
        The optimizer's; empty if there are none.
    optimizer : dict or None
        The optimizer's `description`.
    state : dict
        Where a run stood; empty if the file is of a network alone.
    arrays : dict of str to uint8 array
        What a run's callbacks kept.
    """

    network: Network
    columns: dict[str, Any]
    optimizer: dict[str, Any] | None
    state: dict[str, Any]
    arrays: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        run = f", epoch {self.state['run']['epoch']}" if isinstance(self.state.get("run"), dict) else ""
        columns = f", {', '.join(self.columns)}" if self.columns else ""
        return f"Checkpoint({self.network!r}, {self.network.connections:,} connections{columns}{run})"

    @property
    def velocity(self) -> Any:
        """The column that SGD keeps, or None."""
        return self.columns.get("velocity")


def save(
    network: Network, path: str | Path, *, optimizer: Optimizer | None = None, state: dict[str, Any] | None = None,
    velocity: Any = None, arrays: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint.

    The bytes go to a temporary file beside it, which takes the name only once it is on the disk. The file
    that had the name before stays as `NAME.previous`.

    Parameters
    ----------
    network : Network
    path : str or Path
        The file, such as "model.safetensors".
    optimizer : Optimizer, optional
        Its columns and its description are kept; a column that it has not made yet is zero.
    state : dict, optional
        Anything that JSON can hold.
    velocity : array of the shape of `network.params`, optional
        SGD's column, for callers without an optimizer.
    arrays : mapping of str to uint8 array, optional
        What a run's callbacks keep beside.

    Raises
    ------
    CheckpointError
        If the file cannot be written; whatever was there before is left as it was.
    ValueError
        If a layer has been given other parameters than those in the network's table, which is what is written, or
        `arrays` holds anything but flat arrays of bytes.
    """
    network._check_own()
    _check_bytes(arrays or {})
    path = Path(path)
    columns = {} if velocity is None else {"velocity": velocity}
    if optimizer is not None:
        columns = {name: optimizer.columns.get(name) for name in optimizer.names}
    norm = network.normalisation
    description = {
        "tree": _description(network.root),
        "sparse": network.sparse,
        "normalisation": asdict(norm) if norm else None,
    }
    if network.answers is not None:
        description["answers"] = network.answers.as_json()
    kept = {f"{KEPT}{name}": np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    tensors = _tensors(network, columns) | kept
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": json.dumps(description),
        "optimizer": json.dumps(None if optimizer is None else optimizer.description(), default=plain),
        "state": json.dumps(state or {}, default=plain),
    }
    try:
        replace(path, _pieces(tensors, header | {"sha256": _checksum(tensors, header)}), previous(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be written ({reason}); what was there before is kept") from None


def load(path: str | Path) -> Network:
    """The network in a checkpoint, or in a run's folder; on the CPU, wherever it was saved from.

    Raises
    ------
    CheckpointError
        As for `read`.
    """
    return read(path).network


def read(path: str | Path, *, best: bool = False) -> Checkpoint:
    """Everything in a checkpoint, or in the one in a run's folder. Nothing is built before all of it is checked.

    Parameters
    ----------
    path : str or Path
    best : bool
        That of the best epoch on the validation split, of a run's folder.

    Raises
    ------
    CheckpointError
        If there is no such file, it is truncated or altered, of another format or version, or its parts do not fit.
    """
    path = located(path, best=best)
    try:
        return _checked(path)
    except CheckpointError as error:
        if (before := previous(path)).is_file():
            raise CheckpointError(f"{error}; the one written before it is {before}") from None
        raise


def _checked(path: Path) -> Checkpoint:
    tensors, header = _opened(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected a checkpoint of format {FORMAT!r}, got {_short(header.get('format'))}")
    version = header.get("version")
    if version not in (FIRST, VERSION):
        raise CheckpointError(
            f"{path}: expected a checkpoint of version {FIRST!r} or {VERSION!r}, got {_short(version)}"
        )
    claimed = header.pop("sha256", None)
    if (found := _checksum(tensors, header)) != claimed:
        raise CheckpointError(f"{path}: altered or truncated: expected sha256 {_short(claimed)}, got {found}")
    try:
        state = json.loads(header["state"])
        if not isinstance(state, dict):
            raise ValueError("the run's state is not a JSON object")
        description = json.loads(header["network"])
        arrays = {name.removeprefix(KEPT): tensors.pop(name) for name in list(tensors) if name.startswith(KEPT)}
        _check_bytes(arrays)
        if version == FIRST:
            columns = {name: tensors.pop(name) for name in ("velocity",) if name in tensors}
            network, optimizer = _put_together(_as_tree(description), tensors), None
        else:
            parts = {name: tensors.pop(name) for name in list(tensors) if ":" in name}
            network = _put_together(description, tensors)
            columns, optimizer = _columns(network, parts), json.loads(header["optimizer"])
        _check_columns(network, columns, optimizer)
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path}: expected an entry {_short(error.args[0])}, got none") from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path}: its parts do not fit: {_short(str(error) or type(error).__name__)}") from None
    return Checkpoint(network, columns, optimizer, state, arrays)


def _check_bytes(arrays: Mapping[str, Any]) -> None:
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 1:
            kind, shape = getattr(array, "dtype", type(array).__name__), getattr(array, "shape", "")
            raise ValueError(f"a run's own arrays are flat arrays of uint8: {name} is {kind} {shape}".rstrip())


def _check_columns(network: Network, columns: dict[str, Any], optimizer: Any) -> None:
    if not isinstance(optimizer, dict | None):
        raise ValueError("the optimizer's description is not a JSON object")
    for name, column in columns.items():
        if column.shape != network.params.shape or column.dtype != network.dtype:
            raise ValueError(
                f"{name} must be {network.dtype} of shape {network.params.shape}, got {column.dtype} {column.shape}"
            )


def located(path: str | Path, *, best: bool = False) -> Path:
    """The checkpoint's file, given it or a run's folder.

    Without hard links, a crash between two renames can leave the previous file alone, which is then taken.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    path = Path(path)
    try:
        if best and path.is_file():
            raise CheckpointError(f"{path!s:.200}: the best epoch is asked of a run's folder, got a file")
        file = path / (BEST if best else NAME) if path.is_dir() else path
        before = previous(file)
        if file.is_file():
            return file
        if before.is_file():
            return before
        if file.exists():
            return file  # whatever it is, and as will be said of it
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path!s:.200}: not a path that can be read ({error!s:.100})") from None
    if best:
        raise CheckpointError(f"{file}: no such file; a run with a validation split keeps its best epoch there")
    raise CheckpointError(f"{file}: no such file" + ("" if file == path else "; the folder holds no checkpoint"))


def previous(path: Path) -> Path:
    """Where the file is that a new one took the place of."""
    return path.with_name(path.name + ".previous")


def _description(layer: Layer) -> dict[str, Any]:
    """A layer and all that it holds, in JSON's types."""
    kind = name_of(layer)
    if kind is None:
        own = type(layer).__name__
        raise CheckpointError(
            f"{layer!r}: a checkpoint can hold only layers of {', '.join(KINDS)}, got {own}: give your own class a "
            f"name, @sparsecore.layers.register({own!r})"
        )
    pattern: SparsityPattern | None = getattr(layer, "pattern", None)
    found: dict[str, Any] = {
        "kind": kind, "config": layer.config(), "shape": pattern.shape if pattern is not None else None
    }  # fmt: skip
    if kind not in KINDS:
        found["module"] = type(layer).__module__  # for whoever is told that it is not there
    if layer.children:
        found["layers"] = {name: _description(child) for name, child in layer.children.items()}
    return found


def _tensors(network: Network, columns: dict[str, Any]) -> Tensors:
    """The table by path: values, columns and patterns."""

    def on_host(column: Any) -> Any:
        if column is None:
            return np.zeros(network.params.shape, network.dtype)
        return network.device.get(column) if network.device.owns(column) else np.asarray(column)

    values = on_host(network.table.values)
    tensors = {row.path: np.ascontiguousarray(values[row.slice]) for row in network.table.rows}
    for name, column in columns.items():
        numbers = on_host(column)
        tensors |= {f"{name}:{row.path}": np.ascontiguousarray(numbers[row.slice])
                    for row in network.table.rows if row.trained}  # fmt: skip
    for path, pattern in network.patterns.items():
        tensors |= {f"{path}.indptr": pattern.indptr, f"{path}.indices": pattern.indices}
    return tensors


def _pieces(tensors: Tensors, header: dict[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, as its format's description has them, one tensor after another.

    The library's own writer copies all tensors, twice, or writes a file of its own, which is left behind if the process
    is killed: what a network of any size takes to be saved would be twice what it takes to be kept.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # so that each begins at its alignment
    entries: dict[str, Any] = {"__metadata__": header}
    end = 0
    for name in order:
        array, begin = tensors[name], end
        end += array.nbytes
        entries[name] = {"dtype": _DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": (begin, end)}
    # Names as they are: what UTF-8 cannot hold is refused here, where no reader would take its escape.
    described = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    described += b" " * (-len(described) % 8)
    yield len(described).to_bytes(8, "little")
    yield described
    for name in order:
        yield tensors[name].reshape(-1).view(np.uint8).data


_DTYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "int32": "I32", "uint8": "U8"}


def _columns(network: Network, parts: Tensors) -> Tensors:
    """Columns as flat arrays, from their pieces `NAME:PATH`."""
    columns: Tensors = {}
    for name in dict.fromkeys(key.partition(":")[0] for key in parts):
        pieces = [parts.pop(f"{name}:{row.path}") for row in network.table.rows if row.trained]
        sizes = [row.size for row in network.table.rows if row.trained]
        if [piece.shape for piece in pieces] != [(size,) for size in sizes]:
            raise ValueError(f"column {name} does not have the shapes of the parameters")
        columns[name] = np.concatenate(pieces) if pieces else np.empty(0, network.dtype)
    if parts:
        raise ValueError(f"{next(iter(parts))} belongs to no parameter")
    return columns


def _as_tree(description: dict[str, Any]) -> dict[str, Any]:
    """Version 1's description of a network, in the form of today's."""
    layers = {str(k): line for k, line in enumerate(description["layers"])}
    tree = {"kind": "Sequential", "config": {}, "shape": None, "layers": layers}
    return {"tree": tree, "sparse": description["sparse"], "normalisation": description["normalisation"]}


def _put_together(description: dict[str, Any], tensors: Tensors) -> Network:
    parts: dict[str, Tensors] = {}
    for name, array in tensors.items():
        path, _, part = name.rpartition(".")
        parts.setdefault(path, {})[part] = array
    tree = description["tree"]
    if tree["kind"] != "Sequential":
        raise ValueError(f"expected a tree of layers, got {tree['kind']!r}")
    layers = {name: _layer(line, name, parts) for name, line in tree["layers"].items()}
    if parts:
        path, left = next(iter(parts.items()))
        name = f"{path}.{next(iter(left))}" if path else next(iter(left))
        raise ValueError(f"{name} belongs to none of the {len(layers)} layers")
    norm = description["normalisation"]
    if norm is not None:
        shape, mean, std = (tuple(norm[field]) for field in ("shape", "mean", "std"))
        norm = Normalisation(shape, mean, std, norm.get("dtype"), tuple(norm.get("columns", ())))
    answers = Answers.from_json(description.get("answers"))
    network = Network(layers, sparse=description["sparse"], normalisation=norm, answers=answers)
    if answers is not None and len(answers) != prod(network.layers[-1].out_shape):
        raise ValueError(f"answers of {len(answers)} outputs after {network.layers[-1]!r}")
    if norm is not None and not fits(norm.shape, network.layers[0].in_shape):
        raise ValueError(f"normalisation of shape {norm.shape} before {network.layers[0]!r}")
    return network


def _layer(line: dict[str, Any], path: str, parts: dict[str, Tensors]) -> Layer:
    """The layer of a description; what belongs to it is taken out of `parts`."""
    kind = kind_named(line["kind"])
    if kind is None:
        of = f" of the module {line['module']}" if "module" in line else ""
        raise ValueError(
            f"got a layer of unknown kind {line['kind']!r}{of}: first import what defines it, a class below "
            f"@sparsecore.layers.register({line['kind']!r})"
        )
    children = line["layers"] if issubclass(kind, Sequential | Residual) else line.get("layers", {})
    held = {name: _layer(child, f"{path}.{name}", parts) for name, child in children.items()}
    if held:
        layer = kind.from_children(line["config"], held)
        if layer.params or layer.kept:
            layer.take(parts.pop(path, {}))
    else:
        part = parts.pop(path, {})
        pattern = None
        if line["shape"] is not None:
            pattern = SparsityPattern(tuple(line["shape"]), part.pop("indptr"), part.pop("indices"))
        layer = kind.from_config(line["config"], pattern, part)
        own = {**layer.params, **layer.kept}
        if {name: a.dtype for name, a in own.items()} != {name: a.dtype for name, a in part.items()}:
            raise ValueError(f"{layer!r}: expected {_kinds(own)}, got {_kinds(part)}")
    sizes = (*layer.in_shape, *layer.out_shape)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"{layer!r}: sizes must be positive integers, got {sizes}")
    if layer.config() != line["config"]:
        raise ValueError(f"{layer!r}: expected the configuration {layer.config()}, got {line['config']}")
    return layer


def _kinds(arrays: Tensors) -> str:
    return ", ".join(f"{name} of {array.dtype}" for name, array in sorted(arrays.items()))


def _opened(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a safetensors file, whose reader checks lengths, offsets, dtypes and shapes."""
    from safetensors import safe_open

    try:
        check(path, memory())
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # its own, and numpy's of dtypes that it does not know
        raise CheckpointError(
            f"{path}: expected a safetensors file, could not read it ({_short(str(error))})"
        ) from None


def _checksum(tensors: Tensors, header: dict[str, str]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    total.update(json.dumps(header, sort_keys=True).encode())
    return total.hexdigest()


def _short(value: Any) -> str:
    """On one line, and cut if it is long."""
    return one_line(value if isinstance(value, str) else repr(value), 200)
