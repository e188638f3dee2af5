"""What the gather asks of global memory, counted on the emulated device: hardly more than one run of x a connection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sparsecore.models.lenet300 import lenet300

from sparsecore.runtime.tiles import LANES
from sparsecore.storage.pattern import SparsityPattern
from sparsecore.storage.plan import Plan
from sparsecore.topology import fit_radix_net, uniform_random
from sparsecore.training.optimizers import SGD

from . import cost
from .emulator import stand_in
from .machines import machine

README = Path(__file__).resolve().parents[2] / "kernels" / "cuda" / "README.md"
BATCH = 128
PATTERNS = {
    "random 90%": uniform_random(300, 784, 0.9, np.random.default_rng(0)),
    "random 95%": uniform_random(300, 784, 0.95, np.random.default_rng(0)),
    "RadiX-Net 90%": fit_radix_net([[10, 10]], (784, 300, 100)).patterns[0],
    "dense": SparsityPattern.full((30, 784)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_bytes_read_a_connection(pattern, dtype):
    """Sectors of 32 bytes, against one run of x, all samples of a feature, for each connection of each group."""
    plan, tiles = Plan(pattern), BATCH // LANES
    with machine("forward", checking=True) as device:
        x = device.put(np.ones((tiles, pattern.shape[1], LANES), dtype))
        data, bias = device.put(np.ones(pattern.nnz, dtype)), device.put(np.ones(pattern.shape[0], dtype))
        out = device.empty((tiles, pattern.shape[0], LANES), dtype)
        with stand_in.sectors() as counted:
            device.launcher().spmm(plan.forward, plan.grid(tiles), data, x, bias, out, relu=True)
        layout = plan.forward
        read = int((layout.cuts[-1] - layout.cuts[0]).sum())  # connections, a group's shared ones once
        least = read * BATCH * x.itemsize
        ratio = 32 * counted[0] / least
        print(f"{ratio:.3f} of the least possible")  # shown by `pytest -rP`
        assert least < 32 * counted[0] <= 1.25 * least, ratio
        assert 32 * counted[1] == out.nbytes  # each element is written once, in whole sectors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_are_read_and_written_once(dtype):
    """By batch normalisation and by place: the images that go in and out, as kernels/cuda/README.md says."""
    shape, text = (4, 16, 6, 6, LANES), README.read_text(encoding="utf-8")
    with machine("forward", checking=True) as device:
        kernels, ones = device.launcher(), np.ones(shape, dtype)
        x, dy, around, out = (device.put(ones) for _ in range(4))
        row, found = device.put(np.ones(16, dtype)), device.put(np.ones((16, 2)))
        partial = device.put(np.ones((16, 2, 2)))
        calls = {
            "moments": lambda: kernels.moments(x, 60, partial),
            "normalise": lambda: kernels.normalise(x, found, row, row, out, 60, relu=True),
            "normalise, with an image added": lambda: kernels.normalise(x, found, row, row, out, 60, around=around),
            "slopes": lambda: kernels.slopes(dy, x, found, row, row, 60, partial, relu=True),
            "normalise_back": lambda: kernels.normalise_back(
                dy, x, found, row, row, found, out, 60, training=True, relu=True
            ),
            "place": lambda: kernels.place(x, out),
            "place, masked": lambda: kernels.place(x, out, dy),
        }
        for name, call in calls.items():
            with stand_in.sectors() as counted:
                call()
            read, written = (32 * sectors / ones.nbytes for sectors in counted)
            print(f"{name}: {read:.3f} images read, {written:.3f} written")
            sums = name in ("moments", "slopes")
            assert f"| {name} | {int(read)} | {'sums' if sums else int(written)} |" in text
            # Beside images: two sums of a segment; or six words of each channel, once a warp, which reads 16 sectors.
            assert read - int(read) <= 6 / 16 and (written < 0.02 if sums else written == 1)


def test_the_readme_has_what_the_emulator_counts():
    """kernels/cuda/README.md: the launches of a step with their bytes, and where a gather is bound by its launch."""
    text = README.read_text(encoding="utf-8")
    launches = cost.step_launches(lenet300(cost.wirings()["RadiX-Net 90%"]), BATCH, SGD(0.1, 0.9))
    assert len(launches) == 14
    for launch in launches:
        assert cost.traffic(launch) in text, f"python -m tests.cuda.cost now prints {cost.traffic(launch)}"
    assert cost.region_table(BATCH) in text
