// Flat-array arithmetic of a step: reordering values for the transposed pass, and stochastic gradient descent.

constexpr int EACH = 4;  // elements of a thread: how often it makes numbers of its own type of the rates

// Places in `rates`, which are float64 in memory, so that a recorded step reads the present ones.
enum Rate { LR, MOMENTUM, WEIGHT_DECAY, LARGEST_NORM, SCALE };

template <class Index>
__device__ __forceinline__ void reorder(int64 count, const real* data, const Index* perm, real* out) {
  const int64 q = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (q < count) out[q] = data[perm[q]];
}

// out[q] = data[perm[q]].
extern "C" __global__ void __launch_bounds__(BLOCK) reorder_4(
    int64 count, const real* __restrict__ data, const int* __restrict__ perm, real* __restrict__ out) {
  reorder(count, data, perm, out);
}
extern "C" __global__ void __launch_bounds__(BLOCK) reorder_8(
    int64 count, const real* __restrict__ data, const int64* __restrict__ perm, real* __restrict__ out) {
  reorder(count, data, perm, out);
}

// v ← momentum·v + g + weight_decay·w, then w ← w − lr·v (Nesterov: w ← w − lr·(g' + momentum·v)).
extern "C" __global__ void __launch_bounds__(BLOCK) sgd(
    int64 count, real* __restrict__ w, const real* __restrict__ dw, real* __restrict__ velocity,
    const double* __restrict__ rates, int nesterov) {
  const real lr = real(rates[LR]), momentum = real(rates[MOMENTUM]);
  const real decay = real(rates[WEIGHT_DECAY]), scale = real(rates[SCALE]);
  const int64 first = int64(blockIdx.x) * BLOCK * EACH + threadIdx.x;
#pragma unroll
  for (int64 k = first; k < first + BLOCK * EACH; k += BLOCK) {
    if (k >= count) return;
    const real g = dw[k] * scale + decay * w[k];
    const real v = momentum * velocity[k] + g;
    velocity[k] = v;
    w[k] -= lr * (nesterov ? g + momentum * v : v);
  }
}

// The squares of a block's share of dw, summed in float64.
extern "C" __global__ void __launch_bounds__(BLOCK) norm_squares(int64 count, const real* __restrict__ dw, double* __restrict__ sums) {
  __shared__ double shared[BLOCK];
  double sum = 0;
  for (int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x; k < count; k += int64(gridDim.x) * BLOCK)
    sum += double(dw[k]) * double(dw[k]);
  sum = block_sum(shared, sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// rates[SCALE] = min(1, largest / ‖dw‖). A norm that is NaN or infinite leaves NaN or zero: it must not pass for a step.
extern "C" __global__ void __launch_bounds__(BLOCK) norm_limit(int count, const double* __restrict__ sums, double* __restrict__ rates) {
  __shared__ double shared[BLOCK];
  double sum = 0;
  for (int k = threadIdx.x; k < count; k += BLOCK) sum += sums[k];
  sum = block_sum(shared, sum);
  if (threadIdx.x != 0) return;
  const double length = sqrt(sum);
  rates[SCALE] = length <= rates[LARGEST_NORM] ? 1.0 : rates[LARGEST_NORM] / length;
}
