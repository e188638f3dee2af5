"""Convolutions of small batches: images cut into strips, which fill the lanes that the batch leaves empty."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsecore.kernels import reference

from sparsecore.layers.conv import SparseConv2d
from sparsecore.layers.flatten import Flatten
from sparsecore.layers.linear import SparseLinear
from sparsecore.layers.residual import Residual
from sparsecore.layers.sequential import Sequential
from sparsecore.network import Network
from sparsecore.runtime.tiles import LANES
from sparsecore.runtime.workspace import Workspace
from sparsecore.storage import conv_plan
from sparsecore.topology import dense, uniform_random

from .kernel_checks import POOLS, Guarded, Launcher, assert_same_bits, assert_survives
from .small import FORMATS, Array, numbers
from .test_conv import conv, layers

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Folding(NamedTuple):
    """Images and the form of their strips; `border` is what lies around either in its memory."""

    batch: int
    channels: int
    columns: int
    rows: int
    strip_rows: int
    step: int
    top: int
    border: int
    masked: bool

    def arrays(self, dtype: Any) -> tuple[Array, Array, Array]:
        """Images, strips of the same channels and columns, and a mask for the images; NaN where nothing may be read."""
        images, mask = numbers((2, 1, self.channels, self.rows, self.columns, LANES), 0, dtype)
        images[..., self.batch :] = np.nan
        strips = numbers((1, self.channels, self.strip_rows, self.columns, LANES), 1, dtype)
        strips[..., LANES // self.batch * self.batch :] = np.nan
        return images, strips, mask

    def within(self, array: Array, fill: float) -> tuple[Array, Any]:
        """An array with a border, and where in it the given one lies."""
        b = self.border
        sides = ((0, 0), (0, 0), (b, 2 * b), (b, b), (0, 0))
        inner = np.s_[:, :, b : b + array.shape[2], b : b + array.shape[3]]
        return np.pad(array, sides, constant_values=fill), inner


sizes = st.integers(1, 5)
foldings = st.builds(
    Folding, st.integers(1, 8), st.integers(1, 3), sizes, sizes, sizes, sizes, st.integers(0, 3), st.integers(0, 2),
    st.booleans(),
)  # fmt: skip


def check_folding(launcher: Any, case: Folding, dtype: Any, memory: Guarded) -> None:
    """Both ways against the oracle, whose sums of strips are of two or three numbers; borders stay as they are."""
    images, strips, mask = case.arrays(dtype)
    for way, (given_, wanted) in {"fold": (images, strips), "unfold": (strips, images)}.items():
        (x, of_x), (seen, of_mask) = case.within(given_, np.nan), case.within(mask, np.nan)
        out, of_out = case.within(np.full_like(wanted, np.nan), 7)
        expected = out.copy()
        x, seen, written = memory.put(x), memory.put(seen), memory.empty(out.shape, dtype)
        written[...] = out
        gate = seen[of_mask] if case.masked else None
        getattr(launcher, way)(x[of_x], written[of_out], case.batch, case.step, case.top, gate)
        getattr(reference, way)(x[of_x], expected[of_out], case.batch, case.step, case.top, gate)
        memory.assert_intact()
        np.testing.assert_allclose(written, expected, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)


@dtypes
@settings(max_examples=60)
@given(case=foldings)
def test_strips_are_as_the_oracle_says(dtype: Any, case: Folding) -> None:
    check_folding(Launcher(POOLS[0]), case, dtype, Guarded(shift=case.border))


@given(case=foldings)
def test_unfolding_is_the_adjoint_of_folding(case: Folding) -> None:
    """⟨F x, s⟩ = ⟨x, Fᵀ s⟩: by the oracle, which the kernels are compared with."""
    images, strips, _ = (np.nan_to_num(array) for array in case.arrays(np.float64))
    folded, unfolded = np.empty_like(strips), np.empty_like(images)
    reference.fold(images, folded, case.batch, case.step, case.top)
    reference.unfold(strips, unfolded, case.batch, case.step, case.top)
    assert np.isclose(np.vdot(folded, strips), np.vdot(images, unfolded), rtol=1e-12, atol=1e-12)


def test_strips_have_the_same_bits_on_any_number_of_threads() -> None:
    case = Folding(3, 7, 5, 9, 4, 3, 1, 0, True)
    images, strips, mask = case.arrays(np.float32)

    def call(launcher: Launcher) -> list[Array]:
        folded, unfolded = np.empty_like(strips), np.empty_like(images)
        launcher.fold(images, folded, 3, 3, 1, mask)
        launcher.unfold(strips, unfolded, 3, 3, 1, mask)
        return [folded, unfolded]

    assert_same_bits(call)


def run_between_fences() -> None:
    from .test_other_kernels import Fenced

    for at_end in (True, False):
        for batch in range(1, 9):
            for dtype in (np.float32, np.float64):
                check_folding(Launcher(POOLS[0]), Folding(batch, 2, 3, 4, 3, 2, 1, 0, True), dtype, Fenced(at_end))


@pytest.mark.skipif(sys.platform == "win32", reason="fences are POSIX's mprotect")
def test_nothing_is_read_or_written_beyond_an_array() -> None:
    assert_survives("from tests.test_strips import run_between_fences; run_between_fences()")


# ------------------------------------------------------------------------------------------ layers


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut images into strips, however little there is to compute."""
    monkeypatch.setattr(conv_plan, "FOLD_PAYS", -1)


def results(layer: SparseConv2d, x: Array, dy: Array) -> list[Array]:
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    return [y, dx, *grads.values()]


@settings(max_examples=120)
@given(layer=layers(), batch=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_strips_give_what_images_give(layer: SparseConv2d, batch: int, seed: int) -> None:
    x, dy = numbers((batch, *layer.in_shape), seed), numbers((batch, *layer.out_shape), seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv_plan, "FOLD_PAYS", np.inf)
        assert layer.plan.strips(batch) == 1
        wanted = results(layer, x, dy)
        patch.setattr(conv_plan, "FOLD_PAYS", -1)
        assert layer.plan.strips(batch) == LANES // batch
        got = results(layer, x, dy)
    if layer.format == "csr":
        assert got[0].tobytes() == wanted[0].tobytes(), "a sum of the forward pass has the same order"
    for one, other in zip(got, wanted, strict=True):
        assert np.allclose(one, other, rtol=1e-11, atol=1e-11)


def test_strips_are_made_where_they_pay() -> None:
    """Where lanes are empty, and connections spare more than copying costs."""
    wide, thin = (
        conv(pattern, (16, 12, 12), 3, padding=1).plan
        for pattern in (dense(16, 144), uniform_random(16, 144, 0.99, np.random.default_rng(0)))
    )
    counts = [wide.strips(batch) for batch in (0, 1, 3, 5, 8, 9, 16, 24)]
    assert counts == [1, 16, 5, 3, 2, 1, 1, 1]
    assert {thin.strips(batch) for batch in range(20)} == {1}
    low = conv(dense(16, 16), (16, 1, 1), 1).plan
    assert low.strips(1) == 1, "an image of one row has no strips"
    folded = wide.folded(2)
    assert (folded.in_shape, folded.out_shape, wide.folded(1)) == ((16, 8, 12), (16, 6, 12), wide)
    assert wide.folded(2) is folded


@pytest.mark.parametrize("format", FORMATS)
def test_connections_that_are_not_stored_have_the_gradient_of_those_that_are(format: Any, always: None) -> None:
    """`gradient_at` reads the strips of the last pass: the bits of stored connections, the right numbers of others."""
    rng = np.random.default_rng(0)
    layer = conv(uniform_random(6, 36, 0.7, rng), (4, 7, 5), 3, padding=1, format=format, dtype=np.float32)
    whole = conv(dense(6, 36), (4, 7, 5), 3, padding=1, dtype=np.float32)
    x, dy = numbers((3, 4, 7, 5), 1, np.float32), numbers((3, 6, 7, 5), 2, np.float32)
    workspace = Workspace()
    _, cache = layer.forward(x, workspace)
    _, grads = layer.backward(dy, cache, workspace)
    stored = layer.gradient_at(layer.pattern, workspace.child(layer)).copy()
    assert stored.tobytes() == grads["weight"].tobytes()
    wanted = results(whole, x, dy)[2]
    assert np.allclose(layer.gradient_at(whole.pattern, workspace.child(layer)), wanted, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_connections_move_in_strips(always: None, stride: int) -> None:
    """A plan that is patched in place patches those of its strips: recorded steps go on."""
    rng = np.random.default_rng(1)
    first, second = (uniform_random(6, 36, 0.7, rng) for _ in range(2))
    weight = numbers((first.nnz,), 3, np.float32)

    def network(pattern: Any) -> Network:
        return Network([SparseConv2d(pattern, (4, 8, 6), 3, stride, padding=1, weight=weight, bias=False)])

    moved, made = network(first), network(second)
    moved.let_move(["0"])
    x, dy = numbers((5, 4, 8, 6), 4, np.float32), numbers((5, *made.layers[0].out_shape), 5, np.float32)
    plan = moved.layers[0].plan
    results(moved.layers[0], x, dy)
    offsets = plan.folded(3).forward.offsets
    moved.rewire({"0": second})
    moved.layers[0].params["weight"][:] = weight
    assert moved.layers[0].plan is plan and plan.folded(3).forward.offsets is offsets
    for one, other in zip(results(moved.layers[0], x, dy), results(made.layers[0], x, dy), strict=True):
        assert np.array_equal(one, other)


def test_a_block_of_strips_learns_as_one_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders, masks and a way around: what other layers give and ask for is the same."""
    rng = np.random.default_rng(2)
    inner = [conv(dense(4, 36), (4, 6, 6), 3, padding=1, relu=relu, seed=k) for k, relu in enumerate((True, False))]
    layers_ = [
        conv(dense(4, 27), (3, 6, 6), 3, padding=1, relu=True, seed=5), Residual(Sequential(inner), relu=True),
        Flatten((4, 6, 6)), SparseLinear(uniform_random(3, 144, 0.5, rng), dtype=np.float64, rng=rng),
    ]  # fmt: skip
    block = Sequential(layers_)
    x, dy = numbers((3, 3, 6, 6), 6), numbers((3, 3), 7)
    found = []
    for pays in (np.inf, -1):
        monkeypatch.setattr(conv_plan, "FOLD_PAYS", pays)
        y, cache = block.forward(x)
        dx, grads = block.backward(dy, cache)
        found.append([y, dx, *grads.values()])
    for one, other in zip(*found, strict=True):
        assert np.allclose(one, other, rtol=1e-11, atol=1e-11)
