// A small batch's images cut into strips, which lie beside one another in the lanes that the batch leaves empty, and back.
// A thread takes one number of the result.

#define STRIPS                                                                                                \
  int64 count, int x_rows, int out_rows, int columns, int batch, int step, int top, const real* __restrict__ x, \
      int64 x_plane, int64 x_row, const real* __restrict__ mask, int64 mask_plane, int64 mask_row,            \
      real* __restrict__ out, int64 out_plane, int64 out_row

// Number `k` of (channels, rows, columns, LANES), and where it lies.
struct Place {
  int lane, column, row;
  int64 channel;

  __device__ __forceinline__ Place(int64 k, int rows, int columns)
      : lane(k % LANES), column(k / LANES % columns), row(k / LANES / columns % rows), channel(k / LANES / columns / rows) {}

  __device__ __forceinline__ int64 at(int64 plane, int64 steps, int in_row, int in_lane) const {
    return channel * plane + in_row * steps + column * LANES + in_lane;
  }
};

// Row r of strip k is row k · step + r − top of the images, zero beyond their edges and where the mask, which lies as they
// do, is not positive.
extern "C" __global__ void __launch_bounds__(BLOCK) fold(STRIPS) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Place here(k, out_rows, columns);
  const int strip = here.lane / batch, sample = here.lane % batch, row = strip * step + here.row - top;
  real value = 0;
  if (strip < LANES / batch && row >= 0 && row < x_rows)
    if (!mask || mask[here.at(mask_plane, mask_row, row, sample)] > 0) value = x[here.at(x_plane, x_row, row, sample)];
  out[here.at(out_plane, out_row, here.row, here.lane)] = value;
}

// What the strips have of each row, added up; zero where there is a mask that is not positive.
extern "C" __global__ void __launch_bounds__(BLOCK) unfold(STRIPS) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count) return;
  const Place here(k, out_rows, columns);
  real sum = 0;
  if (here.lane < batch && (!mask || mask[here.at(mask_plane, mask_row, here.row, here.lane)] > 0))
    for (int strip = 0; strip < LANES / batch; strip++) {
      const int row = here.row + top - strip * step;
      if (row >= 0 && row < x_rows) sum += x[here.at(x_plane, x_row, row, strip * batch + here.lane)];
    }
  out[here.at(out_plane, out_row, here.row, here.lane)] = sum;
}
