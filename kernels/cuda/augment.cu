// Augmentation: samples shifted and mirrored at random, before they are converted from what their store keeps; the CPU's bits.

constexpr uint64 AUGMENTATION = 0xA5A5000000000001ull;

// Image k of the batch is row order[clock[0] + k] of the store, moved by up to `most` pixels; a thread writes one pixel.
template <class Stored>
__device__ __forceinline__ void augment(
    int64 count, int channels, int height, int width, int most, int flip, const Stored* __restrict__ store,
    const int* __restrict__ labels, const int64* __restrict__ order, const int64* __restrict__ clock,
    Stored* __restrict__ out, int* __restrict__ out_labels) {
  const int64 at = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (at >= count) return;
  const int pixels = channels * height * width;
  const int64 k = at / pixels, sample = order[clock[0] + k];
  const int pixel = int(at - k * pixels), line = pixel / width, column = pixel % width;
  const uint64 key = mix(mix(mix(uint64(clock[2]) + GOLDEN) + uint64(clock[1])) + AUGMENTATION);
  const uint64 drawn = mix(key + uint64(sample) * GOLDEN);
  const int shifts = 2 * most + 1;
  const int row = line % height + int(((drawn & 0xFFFF) * shifts) >> 16) - most;
  const int moved = column + int((((drawn >> 16) & 0xFFFF) * shifts) >> 16) - most;
  const bool inside = row >= 0 && row < height && moved >= 0 && moved < width;
  const int from = flip && ((drawn >> 32) & 1) ? width - 1 - moved : moved;
  out[at] = inside ? store[sample * pixels + (line / height * height + row) * width + from] : Stored(0);
  if (pixel == 0) out_labels[k] = labels[sample];
}

#define AUGMENT(NAME, STORED)                                                                                        \
  extern "C" __global__ void __launch_bounds__(BLOCK) NAME(                                                          \
      int64 count, int channels, int height, int width, int most, int flip, const STORED* __restrict__ store,        \
      const int* __restrict__ labels, const int64* __restrict__ order, const int64* __restrict__ clock,              \
      STORED* __restrict__ out, int* __restrict__ out_labels) {                                                      \
    augment(count, channels, height, width, most, flip, store, labels, order, clock, out, out_labels);               \
  }

AUGMENT(augment_1, unsigned char)
AUGMENT(augment_4, float)
