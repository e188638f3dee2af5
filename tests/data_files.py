"""Small data files in the formats of the real ones, for tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparsecore.data import cache, loading
from sparsecore.data.catalogue import CATALOGUE, MNIST, Entry
from sparsecore.data.formats import IDX_FILES


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def idx_files(train: int = 20, test: int = 10) -> dict[str, bytes]:
    """Four idx files of 2×3 pictures."""
    pixels = np.arange((train + test) * 6).reshape(-1, 2, 3)
    labels = np.arange(train + test) % 10
    arrays = (pixels[:train], labels[:train], pixels[train:], labels[train:])
    return {name: idx(array) for name, array in zip(IDX_FILES, arrays, strict=True)}


def take_mnists_place(monkeypatch: pytest.MonkeyPatch, root: Path, **changes: object) -> Entry:
    """Put `idx_files` in MNIST's place in the catalogue, and the cache at `root`."""
    md5 = {name: cache.digest(data) for name, data in idx_files().items()}
    entry = replace(MNIST, shape=(1, 2, 3), md5=md5, **changes)
    monkeypatch.setitem(CATALOGUE, "mnist", entry)
    monkeypatch.setattr(loading, "MNIST", entry)
    monkeypatch.setenv("SPARSECORE_DATA_DIR", str(root))
    return entry
