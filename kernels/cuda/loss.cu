// Softmax cross-entropy, by log-sum-exp, and half the squared error, with their gradients, and what an epoch's progress is read from.

constexpr int PARTS = BLOCK / LANES;  // threads that share a sample's classes

// losses[s] = logsumexp(z[s]) − z[s, label]; dz = (softmax(z) − onehot) / divisor; correct[s] = 1 if argmax is the label.
// A block takes a tile. The first of equal logits is the answer; where one is NaN, none is. Lanes that hold no sample get zero.
extern "C" __global__ void __launch_bounds__(BLOCK) cross_entropy(
    int classes, int batch, int divisor, const real* __restrict__ z, const int* __restrict__ labels, real* __restrict__ dz,
    double* __restrict__ losses, int* __restrict__ correct) {
  __shared__ real peaks[PARTS][LANES], sums[PARTS][LANES];
  __shared__ int bests[PARTS][LANES], broken[PARTS][LANES];
  const int lane = threadIdx.x % LANES, part = threadIdx.x / LANES;
  const int sample = blockIdx.x * LANES + lane;
  const bool valid = sample < batch;
  const int label = valid ? labels[sample] : 0;
  z += int64(blockIdx.x) * classes * LANES + lane;
  dz += int64(blockIdx.x) * classes * LANES + lane;

  int best = min(part, classes - 1), nan = 0;
  real peak = z[best * LANES];
#pragma unroll 1
  for (int k = part; k < classes; k += PARTS) {
    const real value = z[k * LANES];
    if (value > peak) peak = value, best = k;
    nan |= value != value;
  }
  peaks[part][lane] = peak;
  bests[part][lane] = best;
  broken[part][lane] = nan;
  __syncthreads();
  for (int p = 0; p < PARTS; p++) {
    if (peaks[p][lane] > peak || (peaks[p][lane] == peak && bests[p][lane] < best))
      peak = peaks[p][lane], best = bests[p][lane];
    nan |= broken[p][lane];
  }

  real sum = 0;
#pragma unroll 1
  for (int k = part; k < classes; k += PARTS) {
    const real power = exp(z[k * LANES] - peak);
    dz[k * LANES] = power;
    sum += power;
  }
  sums[part][lane] = sum;
  __syncthreads();
  sum = 0;
  for (int p = 0; p < PARTS; p++) sum += sums[p][lane];

  const real scale = 1 / (sum * divisor), whole = real(1) / divisor;
#pragma unroll 1
  for (int k = part; k < classes; k += PARTS)
    dz[k * LANES] = valid ? dz[k * LANES] * scale - (k == label ? whole : real(0)) : real(0);
  if (part == 0) {
    losses[sample] = valid ? log(double(sum)) + (double(peak) - double(z[label * LANES])) : 0.0;
    correct[sample] = valid && !nan && best == label;
  }
}

// losses[s] = ½·Σ (z[s] − target[s])²; dz = (z − target) / divisor. A thread takes a sample, so that
// a tile's lines are read whole. Lanes that hold no sample get zero.
extern "C" __global__ void __launch_bounds__(BLOCK) squared_error(
    int features, int batch, int divisor, int lanes, const real* __restrict__ z, const real* __restrict__ targets,
    real* __restrict__ dz, double* __restrict__ losses) {
  const int sample = blockIdx.x * BLOCK + threadIdx.x;
  if (sample >= lanes) return;
  const bool valid = sample < batch;
  const int64 start = int64(sample / LANES) * features * LANES + sample % LANES;
  double loss = 0;
  for (int k = 0; k < features; k++) {
    const int64 at = start + int64(k) * LANES;
    const real apart = valid ? z[at] - targets[at] : real(0);
    loss += double(apart) * double(apart);
    dz[at] = valid ? apart / divisor : real(0);
  }
  losses[sample] = 0.5 * loss;
}

// totals += (Σ losses, Σ correct, batch), by one block.
extern "C" __global__ void __launch_bounds__(BLOCK) tally(
    int batch, const double* __restrict__ losses, const int* __restrict__ correct, double* __restrict__ totals) {
  __shared__ double shared[BLOCK], shared_right[BLOCK];
  double loss = 0, right = 0;
  for (int k = threadIdx.x; k < batch; k += BLOCK) {
    loss += losses[k];
    right += correct[k];
  }
  loss = block_sum(shared, loss);
  right = block_sum(shared_right, right);
  if (threadIdx.x != 0) return;
  totals[0] += loss;
  totals[1] += right;
  totals[2] += batch;
}
