"""From arrays to a data set: kinds and labels checked, channels put first, moments computed, a part held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.answers import Answers
from sparsecore.data.columns import names_of, places
from sparsecore.data.normalisation import scales
from sparsecore.data.splits import DataError, Split, listed, not_finite, of_targets, rest, stratified
from sparsecore.errors import one_line
from sparsecore.files import memory
from sparsecore.runtime.arrays import is_real, plain_array
from sparsecore.storage.sizes import spell

HELD_OUT = 0.2  # of the samples, for a test split, where there is none
LOSSES = ("cross-entropy", "mse")
ROLES = ("x", "y", "x_test", "y_test")


@dataclass
class Given:
    """Arrays as somebody gave them.

    Attributes
    ----------
    name : str
        Of the file, for messages.
    x, y, x_test, y_test : array
        The last two may be None, both of them.
    called : mapping of str to str
        What the array of a role is called where it came from.
    said : str
        What else the data set's `source` says, after a comma.
    names : tuple of str
        Of the classes, where y are their numbers.
    columns : tuple of str
        What the columns of x are called, where x does not say so itself.
    """

    name: str
    x: Any
    y: Any
    x_test: Any = None
    y_test: Any = None
    called: Mapping[str, str] = field(default_factory=dict)
    said: str = ""
    names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def __getitem__(self, role: str) -> Any:
        return getattr(self, role)

    def wrong(self, role: str, text: str) -> DataError:
        """The error that something is wrong with an array."""
        return DataError(f"{self.name}: {self.called.get(role, role)}: {text}")


class _Labels(NamedTuple):
    """Of both splits: labels, or targets beside labels of 0; and what they mean."""

    y: list[NDArray[np.int32]]
    targets: list[NDArray[np.float32] | None]
    classes: int
    names: tuple[str, ...] = ()


def parts_of(given: Given, *, loss: str = "cross-entropy", held_out: float = HELD_OUT) -> dict[str, Any]:
    """The attributes of the data set of these arrays, as `Dataset.from_arrays` has it.

    `mean` and `std` are the training split's: of each channel of images, of all pixels of a flat sample, and of each
    column of a table, which numbers of shape (n, features) are.

    Raises
    ------
    DataError
        Names the array, what was expected and what was got.
    """
    if loss not in LOSSES:
        raise DataError(f"{given.name}: loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
    if not isinstance(held_out, int | float) or not 0 < held_out < 1:
        raise DataError(f"{given.name}: held_out: expected a fraction above 0 and below 1, got {held_out!r}")
    roles = ROLES if given.x_test is not None or given.y_test is not None else ROLES[:2]
    for role in roles:
        if given[role] is None:
            raise given.wrong(role, f"expected {', '.join(roles)}, got none")
    raw = {role: _plain(given, role) for role in roles}
    columns = given.columns or names_of(given.x)
    columns = columns if raw["x"].ndim == 2 and len(columns) == raw["x"].shape[1] else ()
    for role, array in raw.items():
        check(given, role, array.shape, array.dtype, loss)
    shape, said = raw["x"].shape[1:], ""
    xs = [_inputs(given, role, raw) for role in roles if role.startswith("x")]
    xs[1:] = [_in_order(given, "x_test", x, columns) for x in xs[1:]]
    if channels_last(shape):
        shape = (shape[2], *shape[:2])
        said = f", {spell(raw['x'].shape[1:])} taken as {spell(shape)}"
    shape = (1, *shape) if len(shape) == 2 else shape
    for role, x in zip(roles[::2], xs, strict=True):
        if len(raw[role.replace("x", "y")]) != len(x):
            raise given.wrong(role.replace("x", "y"), f"expected {len(x):,} labels, one a sample, got "
                              f"{len(raw[role.replace('x', 'y')]):,}")  # fmt: skip
    labels = (_numbers if loss == "mse" else _classes)(given, [raw[role] for role in roles[1::2]])
    splits = [_split(*parts) for parts in zip(xs, labels.y, labels.targets, strict=True)]
    train, test = splits if len(splits) == 2 else _held_out(given, splits[0], held_out)
    said = f"{'' if len(splits) == 2 else ' (held out)'}{said}{_told(labels, splits[0])}{given.said}"
    said += _lost(raw["x"], xs[0])
    table = len(shape) == 1 and train.x.dtype == np.float32
    moments = partial(moments_of, given.name, shape[0] if table or len(shape) == 3 else 1, table)
    mean, std = moments(train)
    answers = of_targets(train) if loss == "mse" else Answers(labels.names) if labels.names else None
    return {
        "name": given.name, "source": f"{given.name}: {len(train):,} train, {len(test):,} test{said}", "train": train,
        "test": test, "shape": shape, "classes": labels.classes, "mean": mean, "std": std, "moments": moments,
        "answers": answers, "columns": columns,
    }  # fmt: skip


def check(given: Given, role: str, shape: tuple[int, ...], dtype: Any, loss: str = "cross-entropy") -> None:
    """Raise DataError where an array cannot be what its role asks for, by its shape and dtype alone."""
    dtype = np.dtype(dtype)
    inputs, numbers = role.startswith("x"), loss == "mse" and role.startswith("y")
    if inputs or numbers:
        good, wanted = is_real(dtype), "numbers"
    else:
        good, wanted = dtype.kind in "iubUS", "integers"
    if not good:
        hint = "; classes may be words too, and numbers to predict need the loss mse" if dtype.kind == "f" else ""
        raise given.wrong(role, f"expected {wanted}, got {dtype}{'' if inputs or numbers else hint}")
    dimensions = (2, 3, 4) if inputs else (1, 2) if numbers else (1,)
    if len(shape) not in dimensions:
        wanted = {1: "1 dimension", 2: "1 or 2 dimensions", 3: "2, 3 or 4 dimensions"}[len(dimensions)]
        hint = "; of rows with a 1 for the class: y.argmax(1)" if dimensions == (1,) and len(shape) == 2 else ""
        raise given.wrong(role, f"expected {wanted}, got shape {shape}{hint}")
    if min(shape) < 1:
        raise given.wrong(role, f"expected at least one sample with at least one value, got shape {shape}")


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether samples can only be images of one, three or four channels, height and width first."""
    return len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) >= 8


def moments_of(
    name: str, channels: int, table: bool, split: Split
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of x/255 (uint8) or x (float32), in float64, block by block.

    A table may have constant columns, which are only shifted.
    """
    x, features = split.x, split.x.shape[1]

    def blocks() -> Any:
        return (block.reshape(len(block), channels, features // channels) for block in split.blocks())

    count = len(split) * features // channels
    mean = sum(block.sum(axis=(0, 2), dtype=np.float64) for block in blocks()) / count
    variance = sum(((block - mean[:, None]) ** 2).sum(axis=(0, 2)) for block in blocks()) / count
    std = np.sqrt(variance)
    if table:
        low = np.min([block.min(axis=0) for block in split.blocks()], axis=0).astype(np.float64)
        high = np.max([block.max(axis=0) for block in split.blocks()], axis=0).astype(np.float64)
        std = scales(std, low, high, np.float32)
    if not (low < high).any() if table else not variance.all():
        raise DataError(f"{name}: x: expected values that differ, got a constant in channel {variance.argmin()}")
    unit = 255.0 if x.dtype == np.uint8 else 1.0
    return tuple((mean / unit).tolist()), tuple((std / unit).tolist())


def _plain(given: Given, role: str) -> NDArray[Any]:
    """An array of NumPy's kinds: sparse ones filled, words of any kind as NumPy's."""
    array = given[role]
    if isinstance(array, np.memmap):
        return array
    array = array.toarray() if hasattr(array, "toarray") else array
    try:
        found = plain_array(array, f"{given.name}: {given.called.get(role, role)}")
    except (TypeError, ValueError) as error:
        raise DataError(error) from None
    if role.startswith("x") and found.dtype.hasobject and found.ndim == 2:
        _refuse_cell(given, role, found, names_of(array))
    words = found.dtype.kind == "T" or (found.dtype.kind == "O" and all(isinstance(each, str) for each in found.flat))
    if role.startswith("y") and found.dtype.kind == "S":
        return np.char.decode(found, "utf-8", "replace")
    return found.astype(object).astype(str) if role.startswith("y") and words else found


def _refuse_cell(given: Given, role: str, cells: NDArray[Any], columns: tuple[str, ...]) -> None:
    """Refuse objects that are no numbers: the first of them is named."""
    for (row, column), cell in np.ndenumerate(cells):
        if not isinstance(cell, Real | np.bool_):
            name = f"{columns[column]!r}" if len(columns) == cells.shape[1] else column + 1
            got = one_line(repr(cell), 60)
            raise given.wrong(role, f"expected numbers, got {got} in sample {row}, column {name}")


def _inputs(given: Given, role: str, raw: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Samples as rows, in uint8 or float32, each image channel by channel; a memory map stays one."""
    x, like = raw[role], raw["x"]
    if x.shape[1:] != like.shape[1:] or (x.dtype == np.uint8) != (like.dtype == np.uint8):
        raise given.wrong(role, f"expected samples like x's, {like.dtype} of shape {like.shape[1:]}, "
                          f"got {x.dtype} of shape {x.shape[1:]}")  # fmt: skip
    mapped = isinstance(x, np.memmap)
    ready = x.dtype in (np.uint8, np.float32) and x.dtype.isnative and x.flags.c_contiguous
    in_place = mapped and ready and not channels_last(x.shape[1:])
    needed, there = x.size * (1 if x.dtype == np.uint8 else 4), memory() // 2
    if mapped and not in_place and needed > there:
        raise given.wrong(role, "expected uint8 or float32 in C's order, with channels first, to be read in place: "
                          f"{x.dtype} of {spell(x.shape[1:])} needs {needed:,} bytes of memory, of which this machine "
                          f"has {there:,} to spare")  # fmt: skip
    if in_place:
        return x.reshape(len(x), -1)
    if channels_last(x.shape[1:]):
        x = np.moveaxis(x, -1, 1)
    flat = np.ascontiguousarray(np.asarray(x).reshape(len(x), -1))
    if flat.dtype == np.uint8:
        return flat
    with np.errstate(over="ignore"):
        flat = flat.astype(np.float32)
    if (found := not_finite(_split(flat, np.zeros(len(flat), np.int32), None))) is not None:
        raise given.wrong(role, f"expected finite float32 values, got NaN or Inf, first in sample {found}")
    return flat


def _in_order(given: Given, role: str, x: Any, columns: tuple[str, ...]) -> Any:
    """Samples of a table whose columns may come in another order than x's do."""
    try:
        at = places(names_of(given[role]), columns, f"{given.name}: {given.called.get(role, role)}")
    except ValueError as error:
        raise DataError(error) from None
    return x if at is None else np.ascontiguousarray(x[:, at])


def _lost(given: NDArray[Any], taken: NDArray[Any]) -> str:
    """What is said of a table's columns whose numbers differ by less than float32 tells apart."""
    if given.ndim != 2 or not len(given) or isinstance(given, np.memmap) or given.dtype in (np.uint8, np.float32):
        return ""
    lost = np.flatnonzero((given != given[0]).any(0) & (taken == taken[0]).all(0))
    if not len(lost):
        return ""
    many = f"column {lost[0] + 1}" + (f" and {len(lost) - 1} others" if len(lost) > 1 else "")
    return f"; {many} of numbers that are one in float32: subtract their mean first"


def _split(x: Any, y: NDArray[np.int32], targets: NDArray[np.float32] | None) -> Split:
    """A split; of a memory map, all its rows."""
    rows = np.arange(len(x)) if isinstance(x, np.memmap) else None
    return Split(np.asarray(x), y, targets, rows)


def _held_out(given: Given, whole: Split, fraction: float) -> tuple[Split, Split]:
    held = stratified(whole.y, round(fraction * len(whole)), seed=0)
    if not len(held):
        raise given.wrong("y", "expected enough samples of a class to hold one out for testing, "
                          f"got {len(whole)} samples in all; add more, or x_test and y_test")  # fmt: skip
    return whole.take(rest(held, len(whole))), whole.take(held)


# -- labels ------------------------------------------------------------------------------------------------------------


def _classes(given: Given, ys: list[NDArray[Any]]) -> _Labels:
    """Classes from 0: labels that count from there as they are, all others by their names, in order."""
    y, *others = ys
    used = np.unique(y)
    if len(used) < 2:
        raise given.wrong("y", f"expected two or more classes, got only the label {used[0]}")
    counted = y.dtype.kind in "iub" and used[0] == 0 and int(used[-1]) < min(len(y), 2 * len(used))
    if given.names or counted:
        classes = len(given.names) or int(used[-1]) + 1
        for role, each in zip(("y", "y_test"), ys, strict=False):
            if each.dtype.kind not in "iub" or each.min() < 0 or each.max() >= classes:
                got = each.max() if each.dtype.kind not in "iub" or each.min() >= 0 else each.min()
                raise given.wrong(role, f"expected labels 0 to {classes - 1} as in y, got {one_line(got, 60)}")
        return _Labels([each.astype(np.int32) for each in ys], [None] * len(ys), classes, given.names)
    if 2 * len(used) > len(y):
        raise given.wrong("y", f"expected classes with two or more samples each, got {len(used):,} different labels of "
                          f"{len(y):,} samples; numbers to predict need the loss mse")  # fmt: skip
    found = [np.searchsorted(used, y).astype(np.int32)]
    for each in others:
        strange = np.setdiff1d(each.astype(str), used.astype(str))
        if len(strange):
            raise given.wrong("y_test", f"expected labels as in y, {listed(used)}, got {listed(strange)}")
        found.append(np.searchsorted(used, each.astype(used.dtype)).astype(np.int32))
    return _Labels(found, [None] * len(ys), len(used), tuple(map(str, used.tolist())))


def _numbers(given: Given, ys: list[NDArray[Any]]) -> _Labels:
    """Targets, one row a sample."""
    targets = []
    for role, y in zip(("y", "y_test"), ys, strict=False):
        rows = y.reshape(len(y), -1)
        if rows.shape[1] != ys[0].reshape(len(ys[0]), -1).shape[1]:
            raise given.wrong(role, f"expected {ys[0].shape[1:]} numbers a sample as in y, got {y.shape[1:]}")
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(rows, np.float32)
        if not (finite := np.isfinite(rows).all(axis=1)).all():
            first = finite.argmin()
            raise given.wrong(role, f"expected finite float32 values, got NaN or Inf, first in sample {first}")
        targets.append(rows)
    if not np.ptp(targets[0], axis=0).any():
        raise given.wrong("y", f"expected numbers that differ, got {targets[0].flat[0]:g} alone")
    return _Labels([np.zeros(len(each), np.int32) for each in ys], list(targets), targets[0].shape[1])


def _told(labels: _Labels, whole: Split) -> str:
    """What a data set's source says of its labels."""
    if labels.targets[0] is not None:
        return f", {labels.classes} number{'s' * (labels.classes > 1)} to predict"
    absent = np.flatnonzero(np.bincount(whole.y, minlength=labels.classes) == 0)
    names = labels.names or tuple(map(str, range(labels.classes)))
    none_of = f", no sample of class {listed([names[k] for k in absent])}" if len(absent) else ""
    return (f", classes {listed(labels.names)}" if labels.names else "") + none_of
