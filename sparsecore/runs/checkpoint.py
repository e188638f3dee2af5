"""Networks, and runs under way, in safetensors files: written whole or not at all, believed only after every check.

A file holds, for layer k, its parameters `k.NAME` and its pattern `k.indptr` and `k.indices`, and perhaps an
optimizer's `velocity`. The metadata say the format and its version, the layers' kinds, configurations and shapes, and
where a run stands; `sha256` is that of the tensors and of the other metadata.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.normalisation import Normalisation
from ..errors import OneLineError, one_line
from ..files import replace
from ..layers import KINDS, Layer
from ..network import Network
from ..storage.pattern import SparsityPattern

FORMAT, VERSION = "sparsecore", "1"
NAME = "model.safetensors"
"""What the file is called in a run's folder."""

Tensors = dict[str, np.ndarray[Any, Any]]


class CheckpointError(OneLineError):
    """A checkpoint that cannot be written, read or believed; one line that names it, says what was expected and got."""


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes
    ----------
    network : Network
    velocity : array of the shape of `network.params`, or None
        The optimizer's.
    state : dict
        Where a run stood; empty if the file is of a network alone.
    """

    network: Network
    velocity: Any
    state: dict[str, Any]


def save(network: Network, path: str | Path, *, velocity: Any = None, state: dict[str, Any] | None = None) -> None:
    """Write a checkpoint.

    The bytes go to a temporary file beside it, which takes the name only once it is on the disk. What had the name
    before stays as `NAME.previous`.

    Parameters
    ----------
    network : Network
    path : str or Path
        The file, such as "model.safetensors".
    velocity : array of the shape of `network.params`, optional
    state : dict, optional
        Anything that JSON can hold.

    Raises
    ------
    CheckpointError
        If the file cannot be written; whatever was there before is left as it was.
    """
    from safetensors.numpy import save as serialised

    path = Path(path)
    tensors, layers = _taken_apart(network)
    if velocity is not None:
        on_host = network.device.get(velocity) if network.device.owns(velocity) else velocity
        tensors["velocity"] = np.ascontiguousarray(on_host)
    norm = network.normalisation
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": json.dumps(
            {"layers": layers, "sparse": network.sparse, "normalisation": asdict(norm) if norm else None}
        ),
        "state": json.dumps(state or {}),
    }
    try:
        replace(path, serialised(tensors, header | {"sha256": _checksum(tensors, header)}), _previous(path))
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


def read(path: str | Path) -> Checkpoint:
    """Everything in a checkpoint, or in the one in a run's folder. Nothing is built before all of it is checked.

    Raises
    ------
    CheckpointError
        If there is no such file, it is truncated or altered, of another format or version, or its parts do not fit.
    """
    path = located(path)
    try:
        return _checked(path)
    except CheckpointError as error:
        if (previous := _previous(path)).is_file():
            raise CheckpointError(f"{error}; the one written before it is {previous}") from None
        raise


def _checked(path: Path) -> Checkpoint:
    tensors, header = _opened(path)
    for key, wanted in (("format", FORMAT), ("version", VERSION)):
        if header.get(key) != wanted:
            raise CheckpointError(f"{path}: expected a checkpoint of {key} {wanted!r}, got {_short(header.get(key))}")
    claimed = header.pop("sha256", None)
    if (found := _checksum(tensors, header)) != claimed:
        raise CheckpointError(f"{path}: altered or truncated: expected sha256 {_short(claimed)}, got {found}")
    try:
        state = json.loads(header["state"])
        if not isinstance(state, dict):
            raise ValueError("the run's state is not a JSON object")
        velocity = tensors.pop("velocity", None)
        network = _put_together(json.loads(header["network"]), tensors)
        if velocity is not None and (velocity.shape != network.params.shape or velocity.dtype != network.dtype):
            raise ValueError(f"velocity must be {network.dtype} of shape {network.params.shape}, "
                             f"got {velocity.dtype} {velocity.shape}")  # fmt: skip
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path}: expected an entry {_short(error.args[0])}, got none") from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path}: its parts do not fit: {_short(str(error) or type(error).__name__)}") from None
    return Checkpoint(network, velocity, state)


def located(path: str | Path) -> Path:
    """The checkpoint's file, given it or a run's folder.

    A crash between two renames can leave only the previous file, on systems without hard links: then that one.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    path = Path(path)
    try:
        file = path / NAME if path.is_dir() else path
        previous = _previous(file)
        if file.is_file():
            return file
        if previous.is_file():
            return previous
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path!s:.200}: not a path that can be read ({error!s:.100})") from None
    raise CheckpointError(f"{file}: no such file" + ("" if file == path else "; the folder holds no checkpoint"))


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _taken_apart(network: Network) -> tuple[Tensors, list[dict[str, Any]]]:
    tensors: Tensors = {}
    layers = []
    for k, layer in enumerate(network.layers):
        kind = type(layer).__name__
        if KINDS.get(kind) is not type(layer):
            raise CheckpointError(f"{layer!r}: a checkpoint can hold only layers of {', '.join(KINDS)}, got {kind}")
        pattern: SparsityPattern | None = getattr(layer, "pattern", None)
        arrays = {name: layer.device.get(array) for name, array in layer.params.items()}
        if pattern is not None:
            arrays |= {"indptr": pattern.indptr, "indices": pattern.indices}
        tensors |= {f"{k}.{name}": np.ascontiguousarray(array) for name, array in arrays.items()}
        layers.append({"kind": kind, "config": layer.config(), "shape": pattern.shape if pattern is not None else None})
    return tensors, layers


def _put_together(description: dict[str, Any], tensors: Tensors) -> Network:
    parts: list[Tensors] = [{} for _ in description["layers"]]
    for name, array in tensors.items():
        number, _, part = name.partition(".")
        if not number.isdecimal() or int(number) >= len(parts):
            raise ValueError(f"{name} belongs to none of the {len(parts)} layers")
        parts[int(number)][part] = array
    layers = [_layer(line, part) for line, part in zip(description["layers"], parts, strict=True)]
    norm = description["normalisation"]
    if norm is not None:
        norm = Normalisation(*(tuple(norm[field]) for field in ("shape", "mean", "std")))
    network = Network(layers, sparse=description["sparse"], normalisation=norm)
    if norm is not None and np.prod(norm.shape) != np.prod(layers[0].in_shape):
        raise ValueError(f"normalisation of shape {norm.shape} before {layers[0]!r}")
    return network


def _layer(line: dict[str, Any], part: Tensors) -> Layer:
    kind = KINDS.get(line["kind"])
    if kind is None:
        raise ValueError(f"expected layers of {', '.join(KINDS)}, got {line['kind']!r}")
    pattern = None
    if line["shape"] is not None:
        pattern = SparsityPattern(tuple(line["shape"]), part.pop("indptr"), part.pop("indices"))
    layer = kind.from_config(line["config"], pattern, part)
    sizes = (*layer.in_shape, *layer.out_shape)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"{layer!r}: sizes must be positive integers, got {sizes}")
    if {name: a.dtype for name, a in layer.params.items()} != {name: a.dtype for name, a in part.items()}:
        raise ValueError(f"{layer!r}: expected {_kinds(layer.params)}, got {_kinds(part)}")
    if layer.config() != line["config"]:
        raise ValueError(f"{layer!r}: expected the configuration {layer.config()}, got {line['config']}")
    return layer


def _kinds(arrays: Tensors) -> str:
    return ", ".join(f"{name} of {array.dtype}" for name, array in sorted(arrays.items()))


def _opened(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a safetensors file, whose reader checks lengths, offsets, dtypes and shapes."""
    from safetensors import safe_open

    try:
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
    """On one line, and not a page of it."""
    return one_line(value if isinstance(value, str) else repr(value), 200)
