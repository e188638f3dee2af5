// Pooling: the largest or the mean of each window of an image, and the way back. A thread takes one word of the result, so
// that backward each pixel gathers from the windows that it is in.

// Which pixel of a window is the largest: a byte for each number of a word, the lower one's first.
#ifdef PAIRED
typedef unsigned short mark;
#else
typedef unsigned char mark;
#endif

#define IMAGES                                                                                                \
  int64 count, int height, int width, int rows, int columns, int high, int wide, int row_step, int column_step

// Word `k` of an array of shape (planes, height, width, LANES).
struct Place {
  int lane, column, row;
  int64 plane;

  __device__ __forceinline__ Place(int64 k, int height, int width)
      : lane(k % LANES), column(k / LANES % width), row(k / LANES / width % height), plane(k / LANES / width / height) {}
};

// Where the word at a row and column of a plane lies.
__device__ __forceinline__ int64 at(int64 plane, int row, int column, int lane, int height, int width) {
  return ((plane * height + row) * width + column) * LANES + lane;
}

// The first and the last of `most` windows that hold a pixel; windows are `size` long and begin `step` apart.
__device__ __forceinline__ int first_window(int pixel, int size, int step) {
  return pixel < size ? 0 : (pixel - size) / step + 1;
}
__device__ __forceinline__ int last_window(int pixel, int step, int most) { return min(pixel / step, most - 1); }

__device__ __forceinline__ void add(Numbers& sum, const Numbers& more) {
#pragma unroll
  for (int half = 0; half < HALVES; half++) sum.at[half] += more.at[half];
}
__device__ __forceinline__ word shared_out(Numbers sum, int pixels) {
#pragma unroll
  for (int half = 0; half < HALVES; half++) sum.at[half] /= pixels;
  return packed(sum);
}

// y = the largest x of each window, and the number of its pixel. NaN counts as the largest; of NaNs, and of equals, the first
// is taken.
extern "C" __global__ void __launch_bounds__(BLOCK) max_pool(
    IMAGES, const word* __restrict__ x, word* __restrict__ y, mark* __restrict__ index) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Place here(k, rows, columns);
  x += at(here.plane, here.row * row_step, here.column * column_step, here.lane, height, width);
  Numbers best = numbers(x[0]);
  int found[HALVES] = {};
  for (int row = 0; row < high; row++)
    for (int column = 0; column < wide; column++) {
      const Numbers value = numbers(x[(row * width + column) * LANES]);
#pragma unroll
      for (int half = 0; half < HALVES; half++) {
        real& most = best.at[half];
        if (!(value.at[half] <= most) && most == most) most = value.at[half], found[half] = row * wide + column;
      }
    }
  y[k] = packed(best);
  index[k] = found[0] | found[HALVES - 1] << 8 * (HALVES - 1);
}

// dx = the sum of dy over the windows whose largest x is that pixel's.
extern "C" __global__ void __launch_bounds__(BLOCK) max_unpool(
    IMAGES, const word* __restrict__ dy, const mark* __restrict__ index, word* __restrict__ dx) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Place here(k, height, width);
  Numbers sum = {};
  for (int row = first_window(here.row, high, row_step); row <= last_window(here.row, row_step, rows); row++)
    for (int column = first_window(here.column, wide, column_step);
         column <= last_window(here.column, column_step, columns); column++) {
      const int64 window = at(here.plane, row, column, here.lane, rows, columns);
      const int pixel = (here.row - row * row_step) * wide + here.column - column * column_step;
      const int found = index[window];
#pragma unroll
      for (int half = 0; half < HALVES; half++)
        if ((found >> 8 * half & 0xff) == pixel) sum.at[half] += numbers(dy[window]).at[half];
    }
  dx[k] = packed(sum);
}

// y = the mean of each window's x.
extern "C" __global__ void __launch_bounds__(BLOCK) mean_pool(IMAGES, const word* __restrict__ x, word* __restrict__ y) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Place here(k, rows, columns);
  x += at(here.plane, here.row * row_step, here.column * column_step, here.lane, height, width);
  Numbers sum = {};
  for (int row = 0; row < high; row++)
    for (int column = 0; column < wide; column++) add(sum, numbers(x[(row * width + column) * LANES]));
  y[k] = shared_out(sum, high * wide);
}

// dx = the sum of its windows' dy, each divided by the number of its pixels.
extern "C" __global__ void __launch_bounds__(BLOCK) mean_unpool(IMAGES, const word* __restrict__ dy, word* __restrict__ dx) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Place here(k, height, width);
  Numbers sum = {};
  for (int row = first_window(here.row, high, row_step); row <= last_window(here.row, row_step, rows); row++)
    for (int column = first_window(here.column, wide, column_step);
         column <= last_window(here.column, column_step, columns); column++)
      add(sum, numbers(dy[at(here.plane, row, column, here.lane, rows, columns)]));
  dx[k] = shared_out(sum, high * wide);
}
