// Packing: samples in rows become tiles of lanes, and back. A block takes CHUNK features of one tile, through shared memory,
// so that both sides are read and written along their own order.

typedef real Chunk[SAMPLES][CHUNK + 1];  // one more, so that a column lies in different banks

// Where a feature's line lies in a tile of so many: at the place that is said for it, if any are.
__device__ __forceinline__ int64 line_of(int tile, int lines, int feature, const int* places) {
  return (int64(tile) * lines + (places ? places[feature] : feature)) * LANES;
}

// The chunk's features of the tile, lane by lane; zero where there is no sample or no feature.
__device__ __forceinline__ void write_lanes(
    const Chunk& chunk, int tile, int first, int features, int lines, word* out, const int* places) {
  for (int k = threadIdx.x; k < CHUNK * LANES; k += BLOCK) {
    const int feature = first + k / LANES;
    if (feature >= features) continue;
    Numbers of_word;
#pragma unroll
    for (int half = 0; half < HALVES; half++) of_word.at[half] = chunk[k % LANES + half * LANES][k / LANES];
    out[line_of(tile, lines, feature, places) + k % LANES] = packed(of_word);
  }
}

// (batch, features) → (tiles, lines, LANES).
extern "C" __global__ void __launch_bounds__(BLOCK) pack(
    int chunks, int features, int batch, int lines, int64 x_row, const real* __restrict__ x, word* __restrict__ out,
    const int* __restrict__ places) {
  __shared__ Chunk chunk;
  const int tile = blockIdx.x / chunks, first = blockIdx.x % chunks * CHUNK;
  for (int k = threadIdx.x; k < SAMPLES * CHUNK; k += BLOCK) {
    const int lane = k / CHUNK, feature = first + k % CHUNK, sample = tile * SAMPLES + lane;
    chunk[lane][k % CHUNK] = sample < batch && feature < features ? x[sample * x_row + feature] : real(0);
  }
  __syncthreads();
  write_lanes(chunk, tile, first, features, lines, out, places);
}

// Zero in the lanes from `used` on of the tile that begins at `last`: those that hold no sample.
extern "C" __global__ void __launch_bounds__(BLOCK) clear_lanes(int64 last, int64 count, int used, word* __restrict__ x) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  const int lane = k % LANES;
  if (k >= count || lane + (HALVES - 1) * LANES < used) return;
  bool keep[HALVES];
#pragma unroll
  for (int half = 0; half < HALVES; half++) keep[half] = lane + half * LANES < used;
  x[last + k] = only(x[last + k], keep);
}

// (tiles, lines, LANES) → (batch, features).
extern "C" __global__ void __launch_bounds__(BLOCK) unpack(
    int chunks, int features, int batch, int lines, const word* __restrict__ x, real* __restrict__ out,
    const int* __restrict__ places) {
  __shared__ Chunk chunk;
  const int tile = blockIdx.x / chunks, first = blockIdx.x % chunks * CHUNK;
  for (int k = threadIdx.x; k < CHUNK * LANES; k += BLOCK) {
    const int feature = first + k / LANES;
    if (feature >= features) continue;
    const Numbers of_word = numbers(x[line_of(tile, lines, feature, places) + k % LANES]);
#pragma unroll
    for (int half = 0; half < HALVES; half++) chunk[k % LANES + half * LANES][k / LANES] = of_word.at[half];
  }
  __syncthreads();
  for (int k = threadIdx.x; k < SAMPLES * CHUNK; k += BLOCK) {
    const int lane = k / CHUNK, feature = first + k % CHUNK, sample = tile * SAMPLES + lane;
    if (sample < batch && feature < features) out[int64(sample) * features + feature] = chunk[lane][k % CHUNK];
  }
}

template <class Stored>
__device__ __forceinline__ void pack_samples(
    Chunk& chunk, int chunks, int features, int batch, const Stored* __restrict__ store, const int* __restrict__ labels,
    const int64* __restrict__ order, const int64* __restrict__ at, const real* __restrict__ scale,
    const real* __restrict__ shift, word* __restrict__ out, int* __restrict__ out_labels) {
  const int tile = blockIdx.x / chunks, first = blockIdx.x % chunks * CHUNK;
  for (int k = threadIdx.x; k < SAMPLES * CHUNK; k += BLOCK) {
    const int lane = k / CHUNK, feature = first + k % CHUNK, number = tile * SAMPLES + lane;
    real value = 0;
    if (number < batch && feature < features)
      value = real(store[order[at[0] + number] * features + feature]) * scale[feature] + shift[feature];
    chunk[lane][k % CHUNK] = value;
  }
  __syncthreads();
  write_lanes(chunk, tile, first, features, features, out, nullptr);
  const int number = tile * SAMPLES + threadIdx.x;
  if (first != 0 || threadIdx.x >= SAMPLES) return;
  // Labels come for every LANES samples: the last tile's upper halves may have none.
  if (HALVES == 1 || number / LANES * LANES < batch) out_labels[number] = number < batch ? labels[order[at[0] + number]] : -1;
}

// Gather samples order[at[0]:at[0] + batch] of a store, normalise and transpose them, and gather their labels.
#define PACK_SAMPLES(NAME, STORED)                                                                                   \
  extern "C" __global__ void __launch_bounds__(BLOCK) NAME(                                                          \
      int chunks, int features, int batch, const STORED* __restrict__ store, const int* __restrict__ labels,         \
      const int64* __restrict__ order, const int64* __restrict__ at, const real* __restrict__ scale,                 \
      const real* __restrict__ shift, word* __restrict__ out, int* __restrict__ out_labels) {                        \
    __shared__ Chunk chunk;                                                                                          \
    pack_samples(chunk, chunks, features, batch, store, labels, order, at, scale, shift, out, out_labels);           \
  }

PACK_SAMPLES(pack_samples_1, unsigned char)
PACK_SAMPLES(pack_samples_4, float)
