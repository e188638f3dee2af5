// Pooling: the largest or the mean of each window of an image, and the way back. A thread takes one number of the result, so
// that backward each pixel gathers from the windows that it is in.

#define IMAGES                                                                                                \
  int64 count, int height, int width, int rows, int columns, int high, int wide, int row_step, int column_step

// Number `k` of an array of shape (planes, height, width, LANES).
struct Number {
  int lane, column, row;
  int64 plane;

  __device__ __forceinline__ Number(int64 k, int height, int width)
      : lane(k % LANES), column(k / LANES % width), row(k / LANES / width % height), plane(k / LANES / width / height) {}
};

// Where the number at a row and column of a plane lies.
__device__ __forceinline__ int64 at(int64 plane, int row, int column, int lane, int height, int width) {
  return ((plane * height + row) * width + column) * LANES + lane;
}

// The first and the last of `most` windows that hold a pixel; windows are `size` long and begin `step` apart.
__device__ __forceinline__ int first_window(int pixel, int size, int step) {
  return pixel < size ? 0 : (pixel - size) / step + 1;
}
__device__ __forceinline__ int last_window(int pixel, int step, int most) { return min(pixel / step, most - 1); }

// y = the largest x of each window, and the number of its pixel. NaN counts as the largest; of NaNs, and of equals, the first
// is taken.
extern "C" __global__ void __launch_bounds__(BLOCK) max_pool(
    IMAGES, const real* __restrict__ x, real* __restrict__ y, unsigned char* __restrict__ index) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Number here(k, rows, columns);
  x += at(here.plane, here.row * row_step, here.column * column_step, here.lane, height, width);
  real best = x[0];
  int found = 0;
  for (int row = 0; row < high; row++)
    for (int column = 0; column < wide; column++) {
      const real value = x[(row * width + column) * LANES];
      if (!(value <= best) && best == best) best = value, found = row * wide + column;
    }
  y[k] = best;
  index[k] = found;
}

// dx = the sum of dy over the windows whose largest x is that pixel's.
extern "C" __global__ void __launch_bounds__(BLOCK) max_unpool(
    IMAGES, const real* __restrict__ dy, const unsigned char* __restrict__ index, real* __restrict__ dx) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Number here(k, height, width);
  real sum = 0;
  for (int row = first_window(here.row, high, row_step); row <= last_window(here.row, row_step, rows); row++)
    for (int column = first_window(here.column, wide, column_step);
         column <= last_window(here.column, column_step, columns); column++) {
      const int64 window = at(here.plane, row, column, here.lane, rows, columns);
      const int pixel = (here.row - row * row_step) * wide + here.column - column * column_step;
      if (index[window] == pixel) sum += dy[window];
    }
  dx[k] = sum;
}

// y = the mean of each window's x.
extern "C" __global__ void __launch_bounds__(BLOCK) mean_pool(IMAGES, const real* __restrict__ x, real* __restrict__ y) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Number here(k, rows, columns);
  x += at(here.plane, here.row * row_step, here.column * column_step, here.lane, height, width);
  real sum = 0;
  for (int row = 0; row < high; row++)
    for (int column = 0; column < wide; column++) sum += x[(row * width + column) * LANES];
  y[k] = sum / (high * wide);
}

// dx = the sum of its windows' dy, each divided by the number of its pixels.
extern "C" __global__ void __launch_bounds__(BLOCK) mean_unpool(IMAGES, const real* __restrict__ dy, real* __restrict__ dx) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Number here(k, height, width);
  real sum = 0;
  for (int row = first_window(here.row, high, row_step); row <= last_window(here.row, row_step, rows); row++)
    for (int column = first_window(here.column, wide, column_step);
         column <= last_window(here.column, column_step, columns); column++)
      sum += dy[at(here.plane, row, column, here.lane, rows, columns)];
  dx[k] = sum / (high * wide);
}
