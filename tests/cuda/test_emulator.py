"""The emulated device itself: what it runs as a card would, what it refuses, and that its three orders differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .emulator import build, stand_in

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not() or "")

SOURCE = r"""
extern "C" __global__ void rotate(const float* x, float* y, int by) {
  __shared__ float shared[64];
  int thread = threadIdx.x + 32 * threadIdx.y;
  shared[thread] = x[64 * blockIdx.x + thread];
  __syncthreads();
  y[64 * blockIdx.x + thread] = shared[(thread + by) % 64];
}
extern "C" __global__ void reduce(const double* x, double* y, unsigned* votes) {
  double sum = x[threadIdx.x];
  for (int apart = 16; apart; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  unsigned positive = __ballot_sync(0xffffffffu, x[threadIdx.x] > 0);
  double third = __shfl_sync(0xffffffffu, x[threadIdx.x], 3);
  if (threadIdx.x == 0) y[0] = sum, y[1] = third, votes[0] = positive;
}
extern "C" __global__ void last_writer(int* y) { y[0] = threadIdx.x; }
extern "C" __global__ void unsynchronised(float* y) {
  __shared__ float shared[32];
  shared[threadIdx.x] = 1;
  y[threadIdx.x] = shared[(threadIdx.x + 1) % 32] + shared[(threadIdx.x + 31) % 32];
}
extern "C" __global__ void deadlock(int* y) {
  if (threadIdx.x == 0) __syncwarp(); else __syncthreads();
  y[threadIdx.x] = 1;
}
extern "C" __global__ void two_barriers(int* y) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  y[threadIdx.x] = 1;
}
extern "C" __global__ void outside(int* y, int at) { y[at] = 1; }
extern "C" __global__ void typed(const unsigned char* a, const long long* b, double c, int d) {}
"""


@pytest.fixture(params=["forward", "reverse", "random"])
def cupy(request: pytest.FixtureRequest) -> Any:
    with stand_in.installed(order=request.param) as module:
        yield module


def get(cupy: Any, name: str) -> Any:
    return cupy.RawModule(code=SOURCE).get_function(name)


def test_blocks_barriers_and_shared_memory(cupy):
    x, y = cupy.array(np.arange(256, dtype=np.float32), order="C"), cupy.empty(256, np.float32)
    get(cupy, "rotate")((4,), (32, 2), (x, y, np.int32(3)))
    assert np.array_equal(y.get(), np.roll(np.arange(256).reshape(4, 64), -3, 1).ravel())


def test_shuffles_and_votes(cupy):
    x = np.arange(32.0) - 3.5
    y, votes = cupy.empty(2, np.float64), cupy.empty(1, np.uint32)
    get(cupy, "reduce")((1,), (32,), (cupy.array(x, order="C"), y, votes))
    assert y.get().tolist() == [x.sum(), x[3]]
    assert votes.get()[0] == sum(1 << k for k in range(32) if x[k] > 0)


def test_orders_differ():
    last = {}
    for order in ("forward", "reverse", "random"):
        with stand_in.installed(order=order) as cupy:
            y = cupy.empty(1, np.int32)
            get(cupy, "last_writer")((1,), (1024,), (y,))
            last[order] = int(y.get()[0])
    assert (last["forward"], last["reverse"]) == (1023, 0) and 0 < last["random"] < 1023


def test_what_is_not_synchronised_goes_wrong_in_some_order():
    wrong = []
    for order in ("forward", "reverse", "random"):
        with stand_in.installed(order=order) as cupy:
            y = cupy.empty(32, np.float32)
            get(cupy, "unsynchronised")((1,), (32,), (y,))
            wrong.append(np.isnan(y.get()).any())
    assert all(wrong)


@pytest.mark.parametrize(
    "name, message", [("deadlock", "deadlock: 63 threads"), ("two_barriers", "different barriers")]
)
def test_threads_that_never_meet(cupy, name, message):
    y = cupy.zeros(64, np.int32)
    for _ in range(2):  # the device is as good as new afterwards
        with pytest.raises(stand_in.KernelFault, match=message):
            get(cupy, name)((1,), (64,), (y,))
    get(cupy, "last_writer")((1,), (64,), (y,))


def test_new_memory_is_poisoned_and_comes_back(cupy):
    for shape in ((5,), (), (0,), (3, 4)):
        assert np.isnan(cupy.empty(shape, np.float32).get()).all()
        assert not cupy.zeros(shape, np.float64).get().any()
    first = cupy.zeros(1000, np.float32)._view.ctypes.data
    assert cupy.empty(1000, np.float32)._view.ctypes.data == first


@pytest.mark.parametrize("at, message", [(16, "bounds"), (-1, "bounds"), (1 << 20, "bounds"), (-(1 << 28), "bounds")])
def test_strays_are_found_near_and_far(at, message):
    with stand_in.installed(checking=True) as cupy:
        y = cupy.zeros(16, np.int32)
        with pytest.raises(stand_in.KernelFault, match=message):
            get(cupy, "outside")((1,), (1,), (y, np.int32(at)))
        with pytest.raises(stand_in.KernelFault, match="null"):
            get(cupy, "outside")((1,), (1,), (None, np.int32(0)))
        freed = cupy.zeros(16, np.int32)
        kernel, shapes = get(cupy, "outside"), [(1, 1, 1), (1, 1, 1)]
        values = [kernel._value(0, "*i4", freed), np.array([np.int32(3)])]
        del freed
        with pytest.raises(stand_in.KernelFault, match="bounds"):
            kernel._launch(shapes, values)


def test_arguments_are_exactly_the_parameters(cupy):
    kernel = get(cupy, "typed")
    assert kernel.parameters == ["*u1", "*i8", "f8", "i4"]
    a, b = cupy.zeros(3, np.uint8), cupy.zeros(3, np.int64)
    kernel((1,), (1,), (a, b, np.float64(1), np.int32(2)))
    kernel((1,), (1,), (None, None, np.float64(1), np.int32(2)))
    with cupy.cuda.Device(1):
        elsewhere = cupy.zeros(3, np.uint8)
    for wrong in (
        (a, b, np.float64(1)),
        (a, b, 1.0, np.int32(2)),
        (a, b, np.float32(1), np.int32(2)),
        (a, b, np.float64(1), np.int64(2)),
        (b, b, np.float64(1), np.int32(2)),
        (np.zeros(3, np.uint8), b, np.float64(1), np.int32(2)),
        (elsewhere, b, np.float64(1), np.int32(2)),
    ):
        with pytest.raises(TypeError):
            kernel((1,), (1,), wrong)
    for grid, block in (((0,), (1,)), ((1,), (1025,)), ((1, 70_000), (1,))):
        with pytest.raises(stand_in.CUDADriverError):
            kernel(grid, block, (a, b, np.float64(1), np.int32(2)))


def test_host_and_device_do_not_mix(cupy):
    host, there = np.ones(3), cupy.zeros(3, np.float64)
    for mix in (
        lambda: host + there,
        lambda: there + host,
        lambda: np.asarray(there),
        lambda: np.sum(there),
        lambda: np.concatenate([host, there]),
        lambda: there.__setitem__(slice(None), host),
        lambda: host.__setitem__(slice(None), there),
        lambda: there[np.array([0, 1])],
        lambda: float(there[0]),
        lambda: list(there),
        lambda: there == 0,
        lambda: bool(there),
    ):
        with pytest.raises(TypeError):
            mix()
    there[1:] = 5
    there[0] = there[1]
    assert there.get().tolist() == [5, 5, 5]


def test_a_graph_runs_what_was_captured_again(cupy):
    kernel, y = get(cupy, "outside"), cupy.zeros(4, np.int32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        kernel((1,), (1,), (y, np.int32(2)))
        graph = stream.end_capture()
    assert y.get().tolist() == [0, 0, 0, 0]
    for _ in range(2):
        y.fill(0)
        graph.launch()
        assert y.get().tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("checking", [False, True])
def test_shared_memory_of_a_template_is_refused(checking):
    """g++ puts it beside the device's, where nothing is poisoned or checked."""
    source = """
template <int N> __device__ float first(float value) {
  __shared__ float place[N];
  place[threadIdx.x] = value;
  __syncthreads();
  return place[0];
}
extern "C" __global__ void hidden(float* y) { y[threadIdx.x] = first<32>(y[threadIdx.x]); }
"""
    with pytest.raises(build.CompileError, match="declare __shared__ in the kernel itself and pass it on, got first"):
        build.kernels(source, (), checking)
