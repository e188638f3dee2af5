"""From a name to a data set."""

from __future__ import annotations

from pathlib import Path

from sparsecore.data import cache
from sparsecore.data.catalogue import CATALOGUE, EMBEDDED, MNIST, NAMES, Entry
from sparsecore.data.dataset import DataError, Dataset
from sparsecore.data.npz import read_npz
from sparsecore.data.sources.fetch import fetch_at_once
from sparsecore.data.subset import load_subset


def load(name: str | Path, *, fetch: bool = True, data_dir: str | Path | None = None) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name : str or Path
        "mnist", "fashion-mnist", "cifar10", "mnist-subset" (8,000 + 2,000 digits that the package embeds), or the
        path of an .npz file (see `read_npz`). "mnist" is the full set if that is in the cache or can be fetched within
        a few seconds, and otherwise the embedded subset; the result's `source` says which.
    fetch : bool
        Whether "mnist" may be fetched. The other sets never are: `python -m sparsecore.data fetch NAME` does that.
    data_dir : str or Path, optional
        The cache's folder, instead of $SPARSECORE_DATA_DIR or the platform's own.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        An unknown name, a set that is not in the cache, a file that is truncated, altered or unusable: one line
        that says what to do.
    """
    if name == EMBEDDED:
        return load_subset()
    entry = CATALOGUE.get(str(name))
    if entry is None:
        if Path(name).suffix == ".npz":
            return read_npz(Path(name))
        raise DataError(f"expected a data set, one of {', '.join(NAMES)}, or the path of an .npz file, "
                        f"got {str(name)!r}")
    root, origin = cache.folder(data_dir), "cache"
    if entry is MNIST and not cache.holds(entry, root):
        origin = (fetch_at_once(entry, root) if fetch else None) or ""
        if not origin:
            return load_subset()
    return load_cached(entry, root, origin)


def load_cached(entry: Entry, root: Path, origin: str = "cache") -> Dataset:
    """A set of the catalogue from the cache's folder; `origin` is how it came there. Raises DataError."""
    if not cache.holds(entry, root):
        raise DataError(f"{entry.name} is not in {root}; fetch it: python -m sparsecore.data fetch {entry.name}")
    train, test = entry.read(cache.read(entry, root))
    source = f"{entry.title}, full: {len(train):,} train, {len(test):,} test ({origin})"
    return Dataset(entry.name, source, train, test, entry.shape, entry.classes, entry.mean, entry.std)
