"""Data sets: loaded by name or from a file, verified, and kept compact until a batch is packed."""

from sparsecore.data.catalogue import NAMES
from sparsecore.data.dataset import DataError, Dataset, Split
from sparsecore.data.loading import load

__all__ = ["NAMES", "DataError", "Dataset", "Split", "load"]
