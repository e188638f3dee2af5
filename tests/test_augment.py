"""Augmentation: what it does to images, that it hangs on seed, epoch and sample only, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import reference

from sparsecore import train
from sparsecore.data import Split
from sparsecore.data.augmentation import Augmentation
from sparsecore.data.batches import Batches
from sparsecore.runs.checkpoint import read
from sparsecore.runtime.devices import cpu
from sparsecore.runtime.tiles import LANES
from sparsecore.runtime.workspace import Workspace

from .kernel_checks import POOLS, Guarded, Launcher, assert_same_bits
from .small import Array, untiled

SHAPE = (2, 6, 5)


def images(count: int, shape: tuple[int, int, int] = SHAPE, kind: Any = np.uint8) -> Array:
    """Samples of which no two pixels are likely to be equal, and none is zero."""
    return np.random.default_rng(1).integers(1, 256, (count, int(np.prod(shape)))).astype(kind)


def store_of(x: Array, augment: Augmentation | None, dtype: Any = np.float64) -> Batches:
    return Batches(Split(x, np.arange(len(x), dtype=np.int32)), SHAPE, [0.0], [1.0], cpu(), dtype, augment)


def packed(store: Batches, start: int, batch: int) -> tuple[Array, Array]:
    """Pixels as they were stored, and the samples' numbers, which are their labels."""
    store.seek(start, batch)
    x, labels = store.pack(Workspace())
    return np.round(untiled(x).reshape(batch, *SHAPE) * 255).astype(np.uint8), labels.data[:batch].copy()


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@settings(max_examples=80)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), most=st.integers(0, 8), flip=st.booleans(),
    position=st.tuples(st.integers(0, 9), st.integers(0, 2**40), st.integers(-(2**63), 2**63 - 1)),
    batch=st.integers(1, 40), shift=st.sampled_from([0, 1, 3]),
)  # fmt: skip
def test_the_kernel_does_what_the_oracle_does(kind, size, most, flip, batch, position, shift):
    rng, memory, features = np.random.default_rng(0), Guarded(shift), int(np.prod(size))
    store, labels = memory.put(images(50, size, kind)), memory.put(rng.integers(0, 10, 50).astype(np.int32))
    order, position = memory.put(rng.permutation(50)), memory.put(np.array(position))
    out, numbers = memory.empty((batch, features), kind), memory.empty((batch,), np.int32)
    most = min(most, *(side - 1 for side in size[1:]))
    Launcher(POOLS[0]).augment(store, labels, order, position, size, most, flip, out, numbers, batch)
    memory.assert_intact()
    expected, wanted = np.empty_like(out), np.empty_like(numbers)
    reference.augment(store, labels, order, position, size, most, flip, expected, wanted, batch)
    assert np.array_equal(out, expected) and np.array_equal(numbers, wanted)


def test_every_image_is_its_sample_moved_or_mirrored_and_every_move_comes_up():
    x, seen = images(600), set()
    data = store_of(x, Augmentation(SHAPE, 2, True))
    data.shuffle(3, 1)
    got, numbers = packed(data, 0, 600)
    assert np.array_equal(numbers, data.order)
    for image, number in zip(got, numbers, strict=True):
        original = x[number].reshape(SHAPE)
        found = [
            (down, across, mirrored)
            for mirrored in (False, True)
            for down in range(-2, 3)
            for across in range(-2, 3)
            if np.array_equal(image, moved(original[..., ::-1] if mirrored else original, down, across))
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 50


def moved(image: Array, down: int, across: int) -> Array:
    wide = np.pad(image, ((0, 0), (2, 2), (2, 2)))
    return wide[:, 2 + down : 8 + down, 2 + across : 7 + across]


def test_moves_come_up_equally_often():
    x = np.tile(np.arange(1, 31, dtype=np.uint8).repeat(2), (20_000, 1))  # a pixel tells where it was
    data = store_of(x, Augmentation(SHAPE, 1, True))
    got, _ = packed(data, 0, 20_000)
    counts = np.unique(got.reshape(20_000, -1), axis=0, return_counts=True)[1]
    assert len(counts) == 18 and abs(counts - 20_000 / 18).max() < 5 * np.sqrt(20_000 / 18)


def test_it_hangs_on_seed_epoch_and_sample_only():
    x = images(64)
    data = store_of(x, Augmentation(SHAPE, 2, True))

    def by_sample(seed: int, epoch: int, cuts: list[int]) -> Array:
        data.shuffle(seed, epoch)
        parts = [packed(data, a, e - a) for a, e in zip([0, *cuts], [*cuts, 64], strict=True)]
        got, numbers = (np.concatenate(each) for each in zip(*parts, strict=True))
        return got[np.argsort(numbers)]

    once = by_sample(1, 5, [20, 21, 50])
    assert np.array_equal(once, by_sample(1, 5, [33]))
    assert not np.array_equal(once, by_sample(1, 6, [])) and not np.array_equal(once, by_sample(2, 5, []))


def test_without_a_move_or_a_mirror_nothing_changes():
    x = images(40)
    for augment in (None, Augmentation(SHAPE, 0)):
        got, numbers = packed(store_of(x, augment), 7, 20)
        assert np.array_equal(got.reshape(20, -1), x[7:27]) and np.array_equal(numbers, np.arange(7, 27))


def test_the_same_bits_on_any_number_of_threads():
    x = images(3000)

    def pack(launcher: Launcher) -> list[Array]:
        data = store_of(x, Augmentation(SHAPE, 2, True))
        data.shuffle(0, 2)
        tiles, labels = data.pack(Workspace(cpu(), launcher))
        return [tiles.data, labels.data]

    assert_same_bits(pack)


def test_spare_lanes_stay_empty():
    data = store_of(images(40), Augmentation(SHAPE, 2, True))
    data.seek(0, 21)
    x, labels = data.pack(Workspace())
    assert x.data.shape[-1] == LANES and not x.data[1, ..., 5:].any() and (labels.data[21:] == -1).all()


@pytest.mark.parametrize(
    ("shape", "most", "problem"),
    [((784,), 1, "is for images"), ((1, 5, 9), 5, "fewer pixels"), ((1, 5, 9), -1, "fewer pixels")],
)
def test_what_cannot_be_done_is_refused(shape: tuple[int, ...], most: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Augmentation(shape, most)


def test_a_store_of_other_samples_is_refused():
    with pytest.raises(ValueError, match="cannot be augmented"):
        store_of(images(3), Augmentation((1, 6, 5), 1))


def test_a_run_learns_from_it_and_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off in the middle of an epoch and gone on with on another number of threads; evaluation is as without."""
    monkeypatch.chdir(tmp_path)
    rng, labels = np.random.default_rng(0), np.arange(400) % 4
    np.savez("own.npz", x=rng.integers(0, 256, (400, 20, 20), np.uint8), y=labels)
    line = ["lenet300", "--random", "--sparsity", "0.9", "--dataset", "own.npz", "--epochs", "2", "--batch-size", "16"]
    line += ["--quiet", "--save-every", "0", "--no-curves"]

    class Cut(Exception):
        pass

    def cut(trainer: Any) -> None:
        if trainer.done == 27:
            trainer.save()
            raise Cut

    assert train.main([*line, "--augment", "2,flip", "--out", "whole", "--threads", "1"]) == 0
    assert train.main([*line, "--out", "plain"]) == 0
    from sparsecore.runs.trainer import Trainer

    with monkeypatch.context() as patch:
        report = Trainer._report
        patch.setattr(Trainer, "_report", lambda self: (report(self), cut(self))[0])
        with pytest.raises(Cut):
            train.main([*line, "--augment", "2,flip", "--out", "cut", "--check-every-step"])
    assert train.main(["--resume", "--out", "cut", "--threads", "2", "--quiet", "--no-curves"]) == 0
    whole, again, plain = (read(name).network.params for name in ("whole", "cut", "plain"))
    assert whole.tobytes() == again.tobytes() != plain.tobytes()
