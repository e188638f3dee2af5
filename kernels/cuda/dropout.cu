// Dropout, by counted random numbers, the same as the CPU's: which numbers are dropped does not depend on batches.

// out = x / (1 − rate), or zero with probability `rate`, by the seed, the epoch, the sample and the feature.
extern "C" __global__ void __launch_bounds__(BLOCK) dropout(
    int64 count, int features, int64 stream, double rate, const int64* __restrict__ clock, const real* __restrict__ x,
    real* __restrict__ out) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const uint64 key = mix(mix(mix(uint64(clock[2]) + GOLDEN) + uint64(clock[1])) + uint64(stream));
  const int64 line = k / LANES, tile = line / features, sample = clock[0] + tile * LANES + k % LANES;
  const uint64 drawn = mix(key + uint64(sample * features + line % features) * GOLDEN);
  // In 53 bits, as many as a double has.
  out[k] = drawn >> 11 >= uint64(rate * 9007199254740992.0) ? x[k] * real(1 / (1 - rate)) : real(0);
}
