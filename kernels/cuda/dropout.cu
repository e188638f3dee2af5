// Dropout, by counted random numbers, the same as the CPU's: which numbers are dropped does not depend on batches.

// out = x / (1 − rate), or zero with probability `rate`, by the seed, the epoch, the sample and the feature.
extern "C" __global__ void __launch_bounds__(BLOCK) dropout(
    int64 count, int features, int64 stream, double rate, const int64* __restrict__ position, const word* __restrict__ x,
    word* __restrict__ out) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const uint64 key = mix(mix(mix(uint64(position[2]) + GOLDEN) + uint64(position[1])) + uint64(stream));
  const int64 line = k / LANES, tile = line / features, sample = position[0] + tile * SAMPLES + k % LANES;
  Numbers y = numbers(x[k]);
#pragma unroll
  for (int half = 0; half < HALVES; half++) {
    const uint64 drawn = mix(key + uint64((sample + half * LANES) * features + line % features) * GOLDEN);
    // In 53 bits, as many as a double has.
    y.at[half] = drawn >> 11 >= uint64(rate * 9007199254740992.0) ? y.at[half] * real(1 / (1 - rate)) : real(0);
  }
  out[k] = packed(y);
}
