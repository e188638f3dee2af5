// The sum of two, which is where a way around a layer meets what came through it.

// out = a + b, then ReLU, or zero where `mask` (which may be null) is not positive; NaN stays NaN behind a ReLU.
extern "C" __global__ void __launch_bounds__(BLOCK) add(
    int64 count, int relu, const real* __restrict__ a, const real* __restrict__ b, const real* __restrict__ mask,
    real* __restrict__ out) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const real sum = a[k] + b[k];
  out[k] = (mask ? !(mask[k] > 0) : relu && sum < 0) ? real(0) : sum;
}
