"""A user's own dense weights, from an .npz or .safetensors file, as a network."""

from __future__ import annotations

import re
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.npz import BOMB_RATIO, BOMB_SIZE, LIMIT
from ..errors import OneLineError, one_line
from ..files import check, memory
from ..layers.linear import SparseLinear
from ..network import Network
from ..runtime.arrays import is_real
from ..topology import dense

Arrays = dict[str, NDArray[Any]]

ROLES = re.compile(r"(?i)(weights?|biases|bias|kernel|(?<![a-z])[wb](?![a-z]))")


class WeightsError(OneLineError):
    """Weights that make no network; one line that names the file, says what was expected and what was got."""


def read_weights(path: str | Path) -> Network:
    """The network of fully connected layers in a file of dense weights.

    Each matrix is a layer, in the natural order of the names. A vector is its bias if their names differ only in the
    word for weight or bias: fc1.weight and fc1.bias, W1 and b1, 0/kernel and 0/bias. Matrices are (out_features,
    in_features), or all of them (in_features, out_features) if only then each takes what the one before gives. Every
    layer but the last is followed by a ReLU. Nothing is unpickled.

    Parameters
    ----------
    path : str or Path
        An .npz or a .safetensors file.

    Raises
    ------
    WeightsError
        If it cannot be read, or its arrays are not the weights of such a network.
    """
    path = Path(path)
    arrays = _npz(path) if path.suffix == ".npz" else _safetensors(path)
    matrices, biases = _sorted_out(path, arrays)
    if not _fit(matrices):
        matrices = {name: matrix.T for name, matrix in matrices.items()}
        if not _fit(matrices):
            shapes = ", ".join(f"{name} {matrix.T.shape}" for name, matrix in matrices.items())
            raise WeightsError(f"{path}: expected layers that each take what the one before gives, got {shapes}")
    layers, last = [], list(matrices)[-1]
    for name, matrix in matrices.items():
        bias = biases.pop(_key(name), None)
        if bias is not None and bias.shape != matrix.shape[:1]:
            raise WeightsError(f"{path}: the bias of {name} must have {matrix.shape[0]} numbers, got {bias.shape}")
        layers.append(SparseLinear(dense(*matrix.shape), matrix.ravel(), bias, relu=name != last, dtype=matrix.dtype))
    if biases:
        raise WeightsError(f"{path}: expected a matrix for each vector, got none for {', '.join(biases)}")
    return Network(layers)


def _sorted_out(path: Path, arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Matrices by name in natural order, and vectors by the part of the name that they share with their matrix.

    All are float64 if they were so, and float32 otherwise.
    """
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # a member of the archive that is not named .npy
            raise WeightsError(f"{path}: expected arrays alone, got a member {name} that is none")
        if array.dtype.kind != "f" or not is_real(array.dtype) or array.ndim not in (1, 2) or not array.size:
            raise WeightsError(f"{path}: {name}: expected floating matrices and vectors, as fully connected layers "
                               f"have, got {array.dtype} of shape {array.shape}")  # fmt: skip
    kind = np.float64 if all(array.dtype.newbyteorder("=") == np.float64 for array in arrays.values()) else np.float32
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(kind) for name, array in arrays.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{path}: {name}: expected finite {np.dtype(kind)} numbers, got NaN or Inf")
    matrices = {name: arrays[name] for name in sorted(arrays, key=_natural) if arrays[name].ndim == 2}
    vectors = {name: array for name, array in arrays.items() if array.ndim == 1}
    _check_distinct(path, {name: _natural(name) for name in matrices})
    _check_distinct(path, {name: _natural(_key(name)) for name in vectors})
    biased = {_key(name) for name in vectors}
    _check_distinct(path, {name: _natural(_key(name)) for name in matrices if _key(name) in biased})
    if not matrices:
        raise WeightsError(f"{path}: expected at least one matrix of weights, got {sorted(arrays)[:8]}")
    return matrices, {_key(name): array for name, array in vectors.items()}


def _check_distinct(path: Path, meanings: dict[str, list[Any]]) -> None:
    """Refuse names that mean the same, such as 0.weight and 00.weight, of which one would win."""
    first: dict[tuple[Any, ...], str] = {}
    for name, meaning in meanings.items():
        if (other := first.setdefault(tuple(meaning), name)) != name:
            raise WeightsError(f"{path}: expected one array for each use, got {other} and {name} for the same")


def _fit(matrices: Arrays) -> bool:
    return all(after.shape[1] == before.shape[0] for before, after in pairwise(matrices.values()))


def _key(name: str) -> str:
    return ROLES.sub("", name)


def _natural(name: str) -> list[Any]:
    """fc2 before fc10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _npz(path: Path) -> Arrays:
    try:
        size = check(path, LIMIT)
        with zipfile.ZipFile(path) as archive:
            declared = sum(info.file_size for info in archive.infolist())
        if declared > min(LIMIT, memory(), max(BOMB_SIZE, BOMB_RATIO * size)):
            raise WeightsError(f"{path}: expected weights, got a file that unpacks to {declared:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            if len(set(file.files)) < len(file.files):
                twice = max(file.files, key=file.files.count)
                raise WeightsError(f"{path}: expected one array of a name, got {twice} twice")
            return {name: file[name] for name in file.files}
    except WeightsError:
        raise
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except Exception as error:  # zipfile, its decompressors and numpy raise some twenty kinds on foreign bytes
        raise WeightsError(f"{path}: expected an .npz file, could not read it ({_first_line(error)})") from None


def _safetensors(path: Path) -> Arrays:
    from safetensors import safe_open

    try:
        check(path, memory())
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except Exception as error:  # its own, and numpy's of dtypes that it does not know
        raise WeightsError(
            f"{path}: expected a .safetensors or .npz file, could not read it ({_first_line(error)})"
        ) from None


def _first_line(error: Exception) -> str:
    said = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return one_line(said.splitlines()[0], 200)
