// ReLU as a layer of its own, and the mask of its gradient.

// out = max(x, 0); NaN stays NaN.
extern "C" __global__ void __launch_bounds__(BLOCK) relu(int64 count, const word* __restrict__ x, word* __restrict__ out) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Numbers given = numbers(x[k]);
  bool keep[HALVES];
#pragma unroll
  for (int half = 0; half < HALVES; half++) keep[half] = !(given.at[half] < 0);
  out[k] = only(x[k], keep);
}

// out = dy where y > 0, and 0 elsewhere.
extern "C" __global__ void __launch_bounds__(BLOCK) mask(
    int64 count, const word* __restrict__ dy, const word* __restrict__ y, word* __restrict__ out) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k < count) out[k] = where_positive(dy[k], y[k]);
}
