// ReLU as a layer of its own, and the mask of its gradient.

// out = max(x, 0); NaN stays NaN.
extern "C" __global__ void __launch_bounds__(BLOCK) relu(int64 count, const real* __restrict__ x, real* __restrict__ out) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k < count) out[k] = x[k] < 0 ? real(0) : x[k];
}

// out = dy where y > 0, and 0 elsewhere.
extern "C" __global__ void __launch_bounds__(BLOCK) mask(
    int64 count, const real* __restrict__ dy, const real* __restrict__ y, real* __restrict__ out) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k < count) out[k] = y[k] > 0 ? dy[k] : real(0);
}
