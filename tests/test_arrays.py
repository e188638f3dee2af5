"""Arrays of other libraries: read where they lie, widened where they are narrow, refused where they are elsewhere."""

from importlib.util import find_spec

import numpy as np
import pytest
import scipy.sparse

from sparsecore import SparseLinear
from sparsecore.runtime.arrays import host_array, rows_of

from .small import numbers

LAYER = SparseLinear.from_scipy(scipy.sparse.eye_array(8, dtype=np.float32))


class Foreign:
    """An array of which only DLPack is known."""

    def __init__(self, array):
        self.array, self.dtype, self.exported = array, array.dtype, 0

    def __dlpack__(self, **options):
        self.exported += 1
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OnGPU:
    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        raise AssertionError("nothing is to be copied")


def test_dlpack_shares_memory():
    foreign = Foreign(numbers((5, 8), dtype=np.float32))
    assert np.shares_memory(host_array(foreign), foreign.array)
    y, cache = LAYER.forward(foreign)
    np.testing.assert_array_equal(y, foreign.array)
    dx, _ = LAYER.backward(foreign, cache)
    np.testing.assert_array_equal(dx, foreign.array)
    assert foreign.exported == 3
    np.testing.assert_array_equal(np.from_dlpack(y), y)


def test_narrow_floats_are_widened_exactly():
    exact = np.float32(1) / 8 * np.arange(40, dtype=np.float32).reshape(5, 8)
    narrow = [exact.astype(np.float16), Foreign(exact.astype(np.float16))]
    if find_spec("ml_dtypes"):
        narrow.append(exact.astype(__import__("ml_dtypes").bfloat16))
    for x in narrow:
        y, _ = LAYER.forward(x)
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, exact)


@pytest.mark.parametrize("gpu", [OnGPU(), type("CAI", (), {"__cuda_array_interface__": {}})()])
def test_arrays_on_a_gpu_are_refused(gpu):
    with pytest.raises(TypeError, match="on a GPU: copy it"):
        LAYER.forward(gpu)


def test_rows_are_copied_only_if_need_be():
    wide = numbers((6, 20), dtype=np.float32)
    packed = np.zeros(6, [("pad", "u1"), ("x", "f4", 8)])["x"]
    for array, shared in (
        (wide, True), (wide[::-1, 3:11], True), (wide[:, ::2], False), (wide.T, False), (packed, False),
        (wide.astype(np.float64), False), (wide.astype(">f4"), False), (wide[:1, :8], True), (wide[:0], True),
    ):  # fmt: skip
        rows = rows_of(array, np.float32)
        np.testing.assert_array_equal(rows, array)
        assert rows.dtype == np.float32 and rows.dtype.isnative
        assert np.shares_memory(rows, array) == (shared and array.size > 0)
    for x in (wide[::-1, 3:11], wide[:, ::2][:, :8], wide.T[:5, :].repeat(2, 1)[:, :8], packed):
        np.testing.assert_array_equal(LAYER.forward(x)[0], x)


def test_an_array_that_is_changed_after_forward_does_not_change_the_gradient():
    x = numbers((5, 8), dtype=np.float32)
    _, cache = LAYER.forward(x)
    before = LAYER.backward(np.ones((5, 8)), cache)[1]["weight"].copy()
    x[:] = 7
    np.testing.assert_array_equal(LAYER.backward(np.ones((5, 8)), cache)[1]["weight"], before)
