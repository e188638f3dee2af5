// Tiles of bfloat16 as tiles of float32 and back: for what computes in float32 among layers that do not.

// Words k of a tile of so many become a number of each of two tiles; of the last, of one if there is no other.
struct Where {
  int64 first, second;

  __device__ __forceinline__ Where(int64 k, int64 words) : first(k + k / words * words), second(first + words) {}
};

extern "C" __global__ void __launch_bounds__(BLOCK) widen(
    int64 count, int64 words, int64 most, const unsigned* __restrict__ x, float* __restrict__ out) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Where there(k, words);
  out[there.first] = lower(x[k]);
  if (there.second < most) out[there.second] = upper(x[k]);
}

// Rounded to the nearest, ties to even; zero where there is no second tile.
extern "C" __global__ void __launch_bounds__(BLOCK) narrow(
    int64 count, int64 words, int64 most, const float* __restrict__ x, unsigned* __restrict__ out) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Where there(k, words);
  out[k] = paired(x[there.first], there.second < most ? x[there.second] : 0.0f);
}
