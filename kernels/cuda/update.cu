// Flat-array arithmetic of a step: reordering values for the transposed pass, and the optimizers.

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

// v ← momentum·v + g + weight_decay·w, then w ← w − lr·v (Nesterov: w ← w − lr·(g' + momentum·v)).
extern "C" __global__ void __launch_bounds__(BLOCK) sgd(
    int64 count, real* __restrict__ w, const real* __restrict__ dw, real* __restrict__ velocity,
    const double* __restrict__ rates, int nesterov, int decays) {
  const real lr = real(rates[LR]), momentum = real(rates[MOMENTUM]);
  const real decay = decays ? real(rates[WEIGHT_DECAY]) : real(0), scale = real(rates[SCALE]);
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

// Count a step of Adam, and correct the bias of its means: 1 − βᵗ after t steps.
extern "C" __global__ void __launch_bounds__(BLOCK) tick(double* __restrict__ rates) {
  if (threadIdx.x != 0) return;
  const double steps = rates[STEPS] + 1;
  rates[STEPS] = steps;
  rates[CORRECTION1] = 1 - pow(rates[BETA1], steps);
  rates[CORRECTION2] = 1 - pow(rates[BETA2], steps);
}

// m ← β₁·m + (1−β₁)·g, v ← β₂·v + (1−β₂)·g², then w ← w − lr/(1−β₁ᵗ) · m / (√(v/(1−β₂ᵗ)) + ε). Weight decay is part of g,
// or if `decoupled` w ← (1 − lr·weight_decay)·w comes first.
extern "C" __global__ void __launch_bounds__(BLOCK) adam(
    int64 count, real* __restrict__ w, const real* __restrict__ dw, real* __restrict__ m, real* __restrict__ v,
    const double* __restrict__ rates, int decoupled, int decays) {
  const double decay = decays ? rates[WEIGHT_DECAY] : 0;
  // One loop for both: a decay that is not meant multiplies by one, or adds zero.
  const real kept = real(decoupled ? 1 - rates[LR] * decay : 1), added = real(decoupled ? 0 : decay);
  const real scale = real(rates[SCALE]), eps = real(rates[EPS]);
  const real beta1 = real(rates[BETA1]), rest1 = real(1 - rates[BETA1]);
  const real beta2 = real(rates[BETA2]), rest2 = real(1 - rates[BETA2]);
  const real rate = real(rates[LR] / rates[CORRECTION1]), root = real(1 / sqrt(rates[CORRECTION2]));
  const int64 first = int64(blockIdx.x) * BLOCK * EACH + threadIdx.x;
#pragma unroll
  for (int64 k = first; k < first + BLOCK * EACH; k += BLOCK) {
    if (k >= count) return;
    const real g = dw[k] * scale + added * w[k];
    const real mean = beta1 * m[k] + rest1 * g, square = beta2 * v[k] + rest2 * g * g;
    m[k] = mean;
    v[k] = square;
    w[k] = kept * w[k] - rate * (mean / (sqrt(square) * root + eps));
  }
}
