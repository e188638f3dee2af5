// Packing: samples in rows become tiles of lanes, and back. A block takes CHUNK features of one tile, through shared memory,
// so that both sides are read and written along their own order.

typedef real Chunk[LANES][CHUNK + 1];  // one more, so that a column lies in different banks

// The chunk's features of the tile, lane by lane; zero where there is no sample or no feature.
__device__ __forceinline__ void write_lanes(const Chunk& chunk, int tile, int first, int features, real* out) {
  out += (int64(tile) * features + first) * LANES;
  for (int k = threadIdx.x; k < CHUNK * LANES; k += BLOCK)
    if (first + k / LANES < features) out[k] = chunk[k % LANES][k / LANES];
}

// (batch, features) → (tiles, features, LANES).
extern "C" __global__ void __launch_bounds__(BLOCK) pack(
    int chunks, int features, int batch, int64 x_row, const real* __restrict__ x, real* __restrict__ out) {
  __shared__ Chunk chunk;
  const int tile = blockIdx.x / chunks, first = blockIdx.x % chunks * CHUNK;
  for (int k = threadIdx.x; k < LANES * CHUNK; k += BLOCK) {
    const int lane = k / CHUNK, feature = first + k % CHUNK, sample = tile * LANES + lane;
    chunk[lane][k % CHUNK] = sample < batch && feature < features ? x[sample * x_row + feature] : real(0);
  }
  __syncthreads();
  write_lanes(chunk, tile, first, features, out);
}

// Zero in the lanes from `used` on of the tile that begins at `last`: those that hold no sample.
extern "C" __global__ void __launch_bounds__(BLOCK) clear_lanes(int64 last, int64 count, int used, real* __restrict__ x) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k < count && k % LANES >= used) x[last + k] = 0;
}

// (tiles, features, LANES) → (batch, features).
extern "C" __global__ void __launch_bounds__(BLOCK) unpack(
    int chunks, int features, int batch, const real* __restrict__ x, real* __restrict__ out) {
  __shared__ Chunk chunk;
  const int tile = blockIdx.x / chunks, first = blockIdx.x % chunks * CHUNK;
  x += (int64(tile) * features + first) * LANES;
  for (int k = threadIdx.x; k < CHUNK * LANES; k += BLOCK)
    if (first + k / LANES < features) chunk[k % LANES][k / LANES] = x[k];
  __syncthreads();
  for (int k = threadIdx.x; k < LANES * CHUNK; k += BLOCK) {
    const int lane = k / CHUNK, feature = first + k % CHUNK, sample = tile * LANES + lane;
    if (sample < batch && feature < features) out[int64(sample) * features + feature] = chunk[lane][k % CHUNK];
  }
}

template <class Stored>
__device__ __forceinline__ void pack_samples(
    Chunk& chunk, int chunks, int features, int batch, const Stored* __restrict__ store, const int* __restrict__ labels,
    const int64* __restrict__ order, const int64* __restrict__ at, const real* __restrict__ scale,
    const real* __restrict__ shift, real* __restrict__ out, int* __restrict__ out_labels) {
  const int tile = blockIdx.x / chunks, first = blockIdx.x % chunks * CHUNK;
  for (int k = threadIdx.x; k < LANES * CHUNK; k += BLOCK) {
    const int lane = k / CHUNK, feature = first + k % CHUNK, number = tile * LANES + lane;
    real value = 0;
    if (number < batch && feature < features)
      value = real(store[order[at[0] + number] * features + feature]) * scale[feature] + shift[feature];
    chunk[lane][k % CHUNK] = value;
  }
  __syncthreads();
  write_lanes(chunk, tile, first, features, out);
  const int number = tile * LANES + threadIdx.x;
  if (first == 0 && threadIdx.x < LANES) out_labels[number] = number < batch ? labels[order[at[0] + number]] : -1;
}

// Gather samples order[at[0]:at[0] + batch] of a store, normalise and transpose them, and gather their labels.
#define PACK_SAMPLES(NAME, STORED)                                                                                   \
  extern "C" __global__ void __launch_bounds__(BLOCK) NAME(                                                          \
      int chunks, int features, int batch, const STORED* __restrict__ store, const int* __restrict__ labels,         \
      const int64* __restrict__ order, const int64* __restrict__ at, const real* __restrict__ scale,                 \
      const real* __restrict__ shift, real* __restrict__ out, int* __restrict__ out_labels) {                        \
    __shared__ Chunk chunk;                                                                                          \
    pack_samples(chunk, chunks, features, batch, store, labels, order, at, scale, shift, out, out_labels);           \
  }

PACK_SAMPLES(pack_samples_1, unsigned char)
PACK_SAMPLES(pack_samples_4, float)
