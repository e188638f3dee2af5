"""A user's own data: an .npz file, checked before it is read."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sparsecore.data.arrays import ROLES, Given, check
from sparsecore.data.dataset import DataError, Dataset
from sparsecore.errors import one_line
from sparsecore.files import check as check_file
from sparsecore.files import memory

LIMIT = 16 << 30  # bytes that the arrays may take together
BOMB_SIZE, BOMB_RATIO = 64 << 20, 200  # larger arrays that are compressed further than this cannot be data

USUAL = {
    "x": ("x", "x_train", "train_x", "images", "train_images", "images_train", "data", "train_data", "inputs",
          "features"),
    "y": ("y", "y_train", "train_y", "labels", "train_labels", "labels_train", "targets", "target", "label"),
    "x_test": ("x_test", "test_x", "test_images", "images_test", "test_data", "test_inputs"),
    "y_test": ("y_test", "test_y", "test_labels", "labels_test", "test_targets", "test_target"),
}  # fmt: skip
"""What arrays of data are called, in capitals or not, the first first."""


def read_npz(path: Path, loss: str = "cross-entropy") -> Dataset:
    """The data in an .npz file.

    It holds `x`, of shape (n, features), (n, height, width) or (n, channels, height, width), uint8 (pixels, that
    training divides by 255) or floating (taken as it is, in float32); `y`, of shape (n,), integers or words; and, if
    there is a test set, `x_test` and `y_test`. Other usual names, `USUAL`, do as well. All else is as
    `Dataset.from_arrays` has it. Nothing is unpickled, and sizes are checked before anything is read.

    Raises
    ------
    DataError
        Names the file, the array, what was expected and what was got.
    """
    return Dataset.of(_read(path, loss), loss)


def roles_of(names: Collection[str]) -> dict[str, str]:
    """Which of these arrays is which, by the usual names."""
    lower = {name.lower(): name for name in sorted(names, reverse=True)}
    found = {}
    for role, usual in USUAL.items():
        for name in usual:
            if name in lower and role not in found:
                found[role] = lower[name]
    return found


def _read(path: Path, loss: str) -> Given:
    """The arrays in the file, of the expected kinds and number of dimensions, none of them empty."""
    try:
        size = check_file(path, LIMIT)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            called = roles_of(members)
            wanted = ROLES if called.keys() & set(ROLES[2:]) else ROLES[:2]
            for role in wanted:
                if role not in called:
                    raise DataError(f"{path}: expected arrays {', '.join(wanted)}; {role} is missing, "
                                    f"got {one_line(sorted(members)[:8], 200)}")
            found = {role: members[called[role]] for role in wanted}
            declared = sum(member.file_size for member in found.values())
            if declared > (most := min(LIMIT, memory())):
                raise DataError(f"{path}: expected arrays of at most {most:,} bytes in all, got {declared:,}")
            if declared > max(BOMB_SIZE, BOMB_RATIO * size):
                raise DataError(f"{path}: expected data, got a file of {size:,} bytes that unpacks to "
                                f"{declared:,}, which looks like a zip bomb")
            given = Given(str(path), None, None, called=called)
            for role, member in found.items():
                _check_member(given, role, archive, member, loss)
            for role, member in found.items():
                setattr(given, role, _read_member(archive, member))
            return given
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # zipfile, its decompressors and numpy raise some twenty kinds on foreign bytes
        said = str(getattr(error, "strerror", None) or error) or type(error).__name__
        detail = one_line(said.splitlines()[0], 200)
        raise DataError(f"{path}: expected an .npz file, could not read it ({detail})") from None


def _check_member(given: Given, role: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, loss: str) -> None:
    """Check what a member's header declares, before its data are read."""
    with archive.open(member) as stream:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, dtype = read_header[npy.read_magic(stream)](stream)
        size = member.file_size - stream.tell()
    if role.startswith("x") and dtype != np.uint8 and dtype.kind != "f":
        raise given.wrong(role, f"expected uint8 or floating, got {dtype}")
    check(given, role, shape, dtype, loss)
    if prod(shape) * dtype.itemsize != size:
        raise given.wrong(role, f"expected {prod(shape) * dtype.itemsize:,} bytes for shape {shape}, got {size:,}")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        return npy.read_array(stream, allow_pickle=False)
