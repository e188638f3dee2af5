"""A folder of a user's own data: images in a folder for each class, or arrays in .npy files that are read in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.arrays import ROLES, Given
from sparsecore.data.dataset import Dataset
from sparsecore.data.npz import roles_of
from sparsecore.data.splits import DataError, listed
from sparsecore.errors import one_line
from sparsecore.files import check, memory

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
"""What the folders of splits are called; the first that is there."""
GREY, COLOURED = ("1", "L"), ("RGB", "RGBA", "P", "PA", "LA", "CMYK", "YCbCr", "HSV", "LAB")
"""Pillow's modes."""


def read_folder(path: Path, loss: str = "cross-entropy") -> Dataset:
    """The data in a folder.

    Either `x.npy` and `y.npy`, and if there is a test set `x_test.npy` and `y_test.npy`, under these or other usual
    names (`npz.USUAL`): x is mapped, not read, so that it may be larger than memory. Or images, all of one size, in a
    folder for each class, which has the class's name; or such folders in `train` and `test`. Without a test set a fifth
    is held out.

    Raises
    ------
    DataError
        Names the file, what was expected and what was got.
    """
    arrays = {each.stem: each for each in _within(path) if each.suffix == ".npy"}
    if arrays:
        return Dataset.of(_mapped(path, arrays), loss)
    if loss != "cross-entropy":
        raise DataError(f"{path}: expected arrays in .npy files for the loss {loss}, got a folder of images by class")
    train = next((path / name for name in TRAIN if (path / name).is_dir()), None)
    test = next((path / name for name in TEST if (path / name).is_dir()), None) if train is not None else None
    return Dataset.of(_pictures(path, [each for each in (train or path, test) if each is not None]))


def _within(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _mapped(path: Path, files: dict[str, Path]) -> Given:
    """Arrays in .npy files; samples as memory maps."""
    called = roles_of(files)
    wanted = ROLES if called.keys() & set(ROLES[2:]) else ROLES[:2]
    given = Given(str(path), None, None, called={role: f"{name}.npy" for role, name in called.items()})
    for role in wanted:
        if role not in called:
            raise DataError(f"{path}: expected {', '.join(f'{each}.npy' for each in wanted)}; {role}.npy is missing, "
                            f"got {listed([each.name for each in files.values()])}")  # fmt: skip
        file = files[called[role]]
        try:
            check(file, 1 << 62 if role.startswith("x") else memory())
            setattr(given, role, np.load(file, mmap_mode="r" if role.startswith("x") else None, allow_pickle=False))
        except Exception as error:  # numpy's reader of headers raises several kinds on foreign bytes
            said = one_line(getattr(error, "strerror", None) or error, 200)
            raise DataError(f"{file}: expected an array in an .npy file, could not read it ({said})") from None
    return given


def _pictures(path: Path, splits: Sequence[Path]) -> Given:
    """Images by class, of one or two splits."""
    folders = [[each for each in _within(split) if each.is_dir()] for split in splits]
    names = sorted((each.name for each in folders[0]), key=_place)
    if len(names) < 2:
        got = listed([each.name for each in _within(splits[0])]) or "nothing in it"
        raise DataError(f"{splits[0]}: expected images in a folder for each class, two or more, or x.npy and y.npy, "
                        f"got {got}")  # fmt: skip
    if strange := sorted({each.name for each in folders[-1]} - set(names)):
        raise DataError(f"{splits[-1]}: expected folders of the classes {listed(names)}, got {listed(strange)}")
    files = [[(file, names.index(folder.name)) for folder in each for file in _within(folder)
              if file.suffix.lower() in SUFFIXES] for each in folders]  # fmt: skip
    for split, found in zip(splits, files, strict=True):
        if not found:
            raise DataError(f"{split}: expected images, {', '.join(SUFFIXES)}, got none")
    mode, size = _like([file for each in files for file, _ in each])
    arrays: list[Any] = []
    for each in files:
        arrays += [_read([file for file, _ in each], mode, size), np.array([k for _, k in each], np.int64)]
    plain = tuple(names) == tuple(map(str, range(len(names))))
    x, y, x_test, y_test = (*arrays, None, None)[:4]
    return Given(str(path), x, y, x_test, y_test, names=() if plain else tuple(names))


def _place(name: str) -> tuple[int, int, str]:
    """Where a class comes: numbers first, in their order, then words."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _like(files: Sequence[Path]) -> tuple[str, tuple[int, int]]:
    """The mode and the size (width, height) that all images are read in."""
    mode, size, first = "L", (0, 0), files[0]
    for file in files:
        with _opened(file) as image:
            if image.mode not in (*GREY, *COLOURED):
                raise DataError(f"{file}: expected an image of 8 bits a channel, got one of Pillow's mode {image.mode}")
            if size not in ((0, 0), image.size):
                raise DataError(f"{file}: expected an image of {size[0]}×{size[1]} pixels as {first.name}, got "
                                f"{image.size[0]}×{image.size[1]}: bring all to one size first")  # fmt: skip
            size = image.size
            mode = mode if image.mode in GREY else "RGB"
    channels = 3 if mode == "RGB" else 1
    if (needed := len(files) * channels * size[0] * size[1]) > (there := memory() // 2):
        raise DataError(f"{first.parent}: {len(files):,} images need {needed:,} bytes of memory, of which this machine "
                        f"has {there:,} to spare: write them into x.npy, which is read in place")  # fmt: skip
    return mode, size


def _read(files: Sequence[Path], mode: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Images as (n, channels, height, width)."""
    channels = 3 if mode == "RGB" else 1
    found = np.empty((len(files), channels, size[1], size[0]), np.uint8)
    for k, file in enumerate(files):
        with _opened(file) as image:
            try:
                pixels = np.asarray(image.convert(mode))
            except Exception as error:  # Pillow's decoders raise whatever their formats' bytes lead to
                raise DataError(f"{file}: expected an image, could not read it ({one_line(error, 200)})") from None
        found[k] = pixels.reshape(*size[::-1], channels).transpose(2, 0, 1)
    return found


def _opened(file: Path) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError(f"{file}: images need Pillow: pip install pillow") from None
    try:
        check(file, memory())
        return Image.open(file)
    except Exception as error:  # as above
        said = one_line(getattr(error, "strerror", None) or error, 200)
        raise DataError(f"{file}: expected an image, could not read it ({said})") from None
