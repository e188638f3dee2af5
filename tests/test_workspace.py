"""Workspaces: arrays made once, kept while they fit, and a child for each use."""

import numpy as np

from sparsecore.runtime.devices import cpu
from sparsecore.runtime.workspace import Workspace


def test_an_array_is_made_once_and_kept_while_it_fits():
    workspace = Workspace()
    first = workspace.array("y", (3, 4), np.float32)
    assert first.shape == (3, 4) and first.dtype == np.float32
    assert workspace.array("y", (3, 4), np.float32) is first
    assert workspace.array("y", (3, 4), "float32") is first
    for shape, dtype in [((3, 4), np.float64), ((4, 3), np.float64), ((3, 4), np.float64), ((3, 4), np.int64)]:
        other = workspace.array("y", shape, dtype)
        assert other.shape == shape and other.dtype == dtype
    assert workspace.array("y", (3, 4), np.float32) is not first, "one array a name: the last shape's is gone"
    assert workspace.array("dy", (3, 4), np.float32) is not workspace.array("y", (3, 4), np.float32)


def test_zeros_are_zero_when_new_and_never_cleared_after():
    workspace = Workspace()
    for _ in range(20):  # memory that was used before
        workspace.array("y", (1000,), np.float64).fill(np.nan)
        workspace.array("y", (1,), np.float64)
    totals = workspace.array("totals", (1000,), np.float64, zero=True)
    assert not totals.any()
    totals += 1
    assert workspace.array("totals", (1000,), np.float64, zero=True).sum() == 1000


def test_arrays_start_on_a_cache_line():
    workspace = Workspace()
    for k in range(1, 50):
        assert workspace.array(f"{k}", (k,), np.float32).ctypes.data % 64 == 0


def test_put_gives_an_array_its_name():
    workspace, flat = Workspace(), np.zeros(10, np.float32)
    workspace.put("weight", flat[2:5])
    workspace.array("weight", (3,), np.float32)[:] = 7
    assert np.array_equal(flat, [0, 0, 7, 7, 7, 0, 0, 0, 0, 0])


def test_children_are_workspaces_of_their_own():
    workspace = Workspace()
    one, two = workspace.child(0), workspace.child(1)
    assert workspace.child(0) is one and one is not two
    assert (one.device, one.kernels) == (workspace.device, workspace.kernels)
    assert one.array("y", (3,), np.float32) is not two.array("y", (3,), np.float32)


def test_bytes_are_counted_with_the_childrens():
    workspace = Workspace()
    workspace.array("y", (10,), np.float32)
    workspace.child("a").array("y", (10,), np.float64)
    workspace.child("a").child("b").array("y", (1,), np.int32)
    assert workspace.nbytes == 40 + 80 + 4


def test_the_device_is_the_processor_if_not_given():
    kernels = object()
    assert Workspace().device is cpu() and Workspace(kernels=kernels).kernels is kernels


def test_another_recorder_gets_the_same_arrays():
    workspace = Workspace(training=True, position=np.zeros(3, np.int64))
    uses = workspace, workspace.child(4), workspace.child(4).child(1)
    arrays = [each.array("y", (3,), np.float32) for each in uses]
    kernels = object()
    again = workspace.recorded_by(kernels)
    places = again, again.child(4), again.child(4).child(1)
    for place, array in zip(places, arrays, strict=True):
        assert place.array("y", (3,), np.float32) is array
        assert place.kernels is kernels and place.position is workspace.position and place.training
    assert places[1].stream == 4
    assert workspace.kernels is not kernels
