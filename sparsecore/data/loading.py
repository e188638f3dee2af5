"""From a name to a data set."""

from __future__ import annotations

from pathlib import Path

from sparsecore.data import cache
from sparsecore.data.catalogue import CATALOGUE, EMBEDDED, MNIST, NAMES, Entry
from sparsecore.data.dataset import DataError, Dataset
from sparsecore.data.folders import read_folder
from sparsecore.data.npz import read_npz
from sparsecore.data.sources.fetch import fetch_at_once
from sparsecore.data.subset import load_subset
from sparsecore.data.table import read_csv


def load(
    name: str | Path, *, fetch: bool = True, data_dir: str | Path | None = None, target: str | None = None,
    loss: str | None = None,
) -> Dataset:  # fmt: skip
    """Load a data set.

    Parameters
    ----------
    name : str or Path
        "mnist", "fashion-mnist", "cifar10", "mnist-subset" (8,000 + 2,000 digits that the package embeds), or the
        path of an .npz or a .csv file, or of a folder of .npy files or of images by class (see `read_npz`, `read_csv`
        and `read_folder`). "mnist" is the full set if that is in the cache or can be fetched within
        a few seconds, and otherwise the embedded subset; the result's `source` says which.
    fetch : bool
        Whether "mnist" may be fetched. The other sets never are: `python -m sparsecore.data fetch NAME` does that.
    data_dir : str or Path, optional
        The cache's folder, instead of $SPARSECORE_DATA_DIR or the platform's own.
    target : str, optional
        The column of a .csv file that is to be told.
    loss : {"cross-entropy", "mse"}, optional
        Whether classes or numbers are to be told; classes if not given.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        An unknown name, a set that is not in the cache, a file that is truncated, altered or unusable: one line
        that says what to do.
    """
    entry = CATALOGUE.get(str(name))
    if entry is None and name != EMBEDDED:
        return _own(Path(name), target, loss or "cross-entropy")
    if target is not None or loss not in (None, "cross-entropy"):
        given = f"target {target}" if target is not None else f"loss {loss}"
        raise DataError(f"{name}: is of images and their classes, got {given}, which goes with a file of your own")
    if entry is None:
        return load_subset()
    root, origin = cache.folder(data_dir), "cache"
    if entry is MNIST and not cache.holds(entry, root):
        origin = (fetch_at_once(entry, root) if fetch else None) or ""
        if not origin:
            return load_subset()
    return load_cached(entry, root, origin)


def _own(path: Path, target: str | None, loss: str) -> Dataset:
    """A user's own data, by what the path leads to."""
    table = path.suffix.lower() in (".csv", ".tsv")
    if target is not None and not table:
        raise DataError(f"{path}: target {target}: goes with a .csv file only")
    if table:
        return read_csv(path, target, loss)
    if path.suffix == ".npz":
        return read_npz(path, loss)
    try:
        if path.suffix == ".npy" and path.is_file():
            return read_folder(path.parent, loss)
        if path.is_dir():
            return read_folder(path, loss)
    except OSError:
        pass
    raise DataError(f"expected a data set, one of {', '.join(NAMES)}, or the path of an .npz file, a .csv file or a "
                    f"folder of images by class or of .npy files, got {str(path)!r}")  # fmt: skip


def load_cached(entry: Entry, root: Path, origin: str = "cache") -> Dataset:
    """A set of the catalogue from the cache's folder; `origin` is how it came there. Raises DataError."""
    if not cache.holds(entry, root):
        raise DataError(f"{entry.name} is not in {root}; fetch it: python -m sparsecore.data fetch {entry.name}")
    train, test = entry.read(cache.read(entry, root))
    source = f"{entry.title}, full: {len(train):,} train, {len(test):,} test ({origin})"
    return Dataset(entry.name, source, train, test, entry.shape, entry.classes, entry.mean, entry.std)
