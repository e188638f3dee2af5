"""A user's own data: an .npz file with x and y, checked before it is read."""

from __future__ import annotations

import zipfile
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sparsecore.data.dataset import DataError, Dataset, Split, rest, stratified
from sparsecore.data.normalisation import scales
from sparsecore.errors import one_line
from sparsecore.files import check, memory
from sparsecore.runtime.arrays import is_real
from sparsecore.storage.sizes import spell

LIMIT = 16 << 30  # bytes that the arrays may take together
BOMB_SIZE, BOMB_RATIO = 64 << 20, 200  # larger arrays that are compressed further than this cannot be data
HELD_OUT = 0.2  # of the samples, for a test split, where the file has none
BLOCK = 4096  # rows whose moments are summed at once


def read_npz(path: Path) -> Dataset:
    """The data in an .npz file.

    It holds `x`, of shape (n, features), (n, height, width) or (n, channels, height, width), uint8 (pixels, that
    training divides by 255) or floating (taken as it is, in float32); `y`, of shape (n,), integers from 0; and, if
    there is a test set, `x_test` and `y_test`. Without one a fifth of the samples is held out, the same in every run.
    `mean` and `std` are the training split's: of each channel of images, of all pixels of a flat sample, and of each
    column of a table, which floats of shape (n, features) are. Nothing is unpickled, and sizes are checked before
    anything is read.

    Images with their channels last, of 32×32×3 for example, are transposed, which the result's `source` says.

    Raises
    ------
    DataError
        Names the file, the array, what was expected and what was got.
    """
    arrays, said = _read(path), ""
    shape = arrays["x"].shape[1:]
    if _channels_last(shape):
        arrays |= {name: np.moveaxis(array, -1, 1) for name, array in arrays.items() if name.startswith("x")}
        said = f", {spell(shape)} taken as {spell(arrays['x'].shape[1:])}"
        shape = arrays["x"].shape[1:]
    if len(shape) == 2:
        shape = (1, *shape)
    whole = Split(_inputs(path, "x", arrays), _labels(path, "y", arrays))
    if whole.y.min() == whole.y.max():
        raise DataError(f"{path}: y: expected two or more classes, got only the label {whole.y[0]}")
    classes = int(whole.y.max()) + 1
    if "x_test" in arrays:
        train, test, held_out = whole, Split(_inputs(path, "x_test", arrays), _labels(path, "y_test", arrays)), ""
        if test.y.max() >= classes:
            raise DataError(f"{path}: y_test: expected labels 0 to {classes - 1} as in y, got {test.y.max()}")
    else:
        held = stratified(whole.y, round(HELD_OUT * len(whole)), seed=0)
        if not len(held):
            raise DataError(f"{path}: y: expected enough samples of a class to hold one out for testing, "
                            f"got {len(whole)} samples in all; add more, or x_test and y_test")
        train, test, held_out = whole.take(rest(held, len(whole))), whole.take(held), " (held out)"
    table = len(shape) == 1 and train.x.dtype == np.float32
    moments = partial(_moments, path, shape[0] if table or len(shape) == 3 else 1, table)
    mean, std = moments(train)
    absent = np.flatnonzero(np.bincount(whole.y) == 0)
    none_of = f", no sample of class {one_line(', '.join(map(str, absent)), 60)}" if len(absent) else ""
    source = f"{path}: {len(train):,} train, {len(test):,} test{held_out}{said}{none_of}"
    return Dataset(str(path), source, train, test, shape, classes, mean, std, moments)


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether samples can only be images of one, three or four channels, height and width first."""
    return len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) >= 8


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays in the file, of the expected kinds and number of dimensions, none of them empty."""
    try:
        size = check(path, LIMIT)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = ("x", "y", "x_test", "y_test") if {"x_test", "y_test"} & members.keys() else ("x", "y")
            for name in wanted:
                if name not in members:
                    raise DataError(f"{path}: expected arrays {', '.join(wanted)}; {name} is missing, "
                                    f"got {one_line(sorted(members)[:8], 200)}")
            declared = sum(members[name].file_size for name in wanted)
            if declared > (most := min(LIMIT, memory())):
                raise DataError(f"{path}: expected arrays of at most {most:,} bytes in all, got {declared:,}")
            if declared > max(BOMB_SIZE, BOMB_RATIO * size):
                raise DataError(f"{path}: expected data, got a file of {size:,} bytes that unpacks to "
                                f"{declared:,}, which looks like a zip bomb")
            for name in wanted:
                _check_member(path, name, archive, members[name])
            return {name: _read_member(archive, members[name]) for name in wanted}
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # zipfile, its decompressors and numpy raise some twenty kinds on foreign bytes
        said = str(getattr(error, "strerror", None) or error) or type(error).__name__
        detail = one_line(said.splitlines()[0], 200)
        raise DataError(f"{path}: expected an .npz file, could not read it ({detail})") from None


def _check_member(path: Path, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Check what a member's header declares, before its data are read."""
    with archive.open(member) as stream:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, dtype = read_header[npy.read_magic(stream)](stream)
        size = member.file_size - stream.tell()
    inputs = name.startswith("x")
    if not (dtype == np.uint8 or (dtype.kind == "f" and is_real(dtype)) if inputs else dtype.kind in "iu"):
        raise DataError(f"{path}: {name}: expected {'uint8 or floating' if inputs else 'integers'}, got {dtype}")
    if len(shape) not in ((2, 3, 4) if inputs else (1,)):
        raise DataError(f"{path}: {name}: expected {'2, 3 or 4 dimensions' if inputs else '1 dimension'}, "
                        f"got shape {shape}")
    if min(shape) < 1:
        raise DataError(f"{path}: {name}: expected at least one sample with at least one value, got shape {shape}")
    if prod(shape) * dtype.itemsize != size:
        raise DataError(f"{path}: {name}: expected {prod(shape) * dtype.itemsize:,} bytes for shape {shape}, "
                        f"got {size:,}")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        return npy.read_array(stream, allow_pickle=False)


def _inputs(path: Path, name: str, arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8] | NDArray[np.float32]:
    x, like = arrays[name], arrays["x"]
    if x.shape[1:] != like.shape[1:] or (x.dtype == np.uint8) != (like.dtype == np.uint8):
        raise DataError(f"{path}: {name}: expected samples like x's, {like.dtype} of shape {like.shape[1:]}, "
                        f"got {x.dtype} of shape {x.shape[1:]}")
    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    if flat.dtype == np.uint8:
        return flat
    with np.errstate(over="ignore"):
        flat = flat.astype(np.float32)
    finite = np.isfinite(flat).all(axis=1)
    if not finite.all():
        raise DataError(f"{path}: {name}: expected finite float32 values, got NaN or Inf, first in sample "
                        f"{finite.argmin()}")
    return flat


def _labels(path: Path, name: str, arrays: dict[str, NDArray[Any]]) -> NDArray[np.int32]:
    y, samples = arrays[name], len(arrays[name.replace("y", "x")])
    if len(y) != samples:
        raise DataError(f"{path}: {name}: expected {samples:,} labels, one a sample, got {len(y):,}")
    # There cannot be more classes than samples. A larger label is an identifier or an error, and asks for a huge head.
    if y.min() < 0 or y.max() >= len(arrays["y"]):
        raise DataError(f"{path}: {name}: expected labels from 0, fewer than the {len(arrays['y']):,} samples of y, "
                        f"got {y.min()} to {y.max()}")
    return y.astype(np.int32)


def _moments(
    path: Path, channels: int, table: bool, split: Split
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of x/255 (uint8) or x (float32), in float64, block by block.

    A table may have constant columns, which are only shifted.
    """
    x = split.x
    blocks = [x[start : start + BLOCK].reshape(-1, channels, x.shape[1] // channels)
              for start in range(0, len(x), BLOCK)]
    count = x.size // channels
    mean = sum(block.sum(axis=(0, 2), dtype=np.float64) for block in blocks) / count
    variance = sum(((block - mean[:, None]) ** 2).sum(axis=(0, 2)) for block in blocks) / count
    std = np.sqrt(variance)
    if table:
        low, high = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
        std = scales(std, low, high, np.float32)
    if not (low < high).any() if table else not variance.all():
        raise DataError(f"{path}: x: expected values that differ, got a constant in channel {variance.argmin()}")
    unit = 255.0 if x.dtype == np.uint8 else 1.0
    return tuple((mean / unit).tolist()), tuple((std / unit).tolist())
