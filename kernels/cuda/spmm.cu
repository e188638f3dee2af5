// spmm: out[i] = bias[i] + Σ_p data[p] · x[offset[p]], then ReLU, or zero where the mask is not positive. With `more`, what
// is in out is added.
//
// A warp takes one group, up to ROWS rows with the same columns, at several output positions at once, so that a line of x
// is loaded once for all rows. Where positions do not fill a warp, parts of it share the
// connections. Values and offsets come 32 connections at a time, one a lane, into shared memory, and the next 32 are
// under way while these are used.

// 32 connections of a group.
template <int ROWS>
struct Staged {
  int offset[WARP];
  alignas(16) real value[WARP][ROWS == 3 ? 4 : ROWS];  // four come in one load
};

template <int ROWS>
__device__ __forceinline__ void spmm(
    Staged<ROWS> (&staged)[BLOCK / WARP], int groups, int side, const Layout& layout, const int* __restrict__ cuts,
    const int* __restrict__ bands, int blocks, const real* __restrict__ data, const word* __restrict__ x,
    const real* __restrict__ bias, word* __restrict__ out, const word* __restrict__ mask, int relu, int more,
    const int64* __restrict__ places, const Grid& grid) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  // Neighbouring blocks take neighbouring groups at the same positions: these share lines of x in the caches.
  const int group_blocks = (groups + BLOCK / WARP - 1) / (BLOCK / WARP);
  const int group = blockIdx.x % group_blocks * (BLOCK / WARP) + warp;
  if (group >= groups) return;

  // `side` positions lie side by side in a warp, and each has `parts` teams of LINE_THREADS threads.
  const int team = lane / LINE_THREADS, parts = WARP / LINE_THREADS / side, part = team / side;
  const int position = blockIdx.x / group_blocks * side + team % side;
  const bool live = position < grid.positions();
  const Position here(grid, live ? position : 0);
  const int within = lane % LINE_THREADS * WIDTH;
  const word* const x_here = x + here.x + within;

  const int start = layout.starts[group], size = layout.starts[group + 1] - start;
  const int64 run = layout.runs[group];
  int row[ROWS];
  int64 first[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    row[r] = layout.rows[start + min(r, size - 1)];
    first[r] = layout.indptr[row[r]];
  }

  // Connections that this thread's position reads, and those that any position of the warp does.
  int begin = 0, end = cuts[blocks * groups + group];
  int low = begin, high = end;
  if (bands) {
    begin = live ? cuts[bands[2 * here.y] * groups + group] : end;
    end = live ? cuts[bands[2 * here.y + 1] * groups + group] : 0;
    low = begin, high = end;
#pragma unroll
    for (int apart = WARP / 2; apart; apart /= 2) {
      low = min(low, __shfl_xor_sync(ALL, low, apart));
      high = max(high, __shfl_xor_sync(ALL, high, apart));
    }
  }

  Vector sum[ROWS] = {};
  int offset = 0;
  real value[ROWS] = {};
  for (int done = low - WARP; done < high; done += WARP) {
    if (done >= low) {
      __syncwarp();
      staged[warp].offset[lane] = offset;
#pragma unroll
      for (int r = 0; r < ROWS; r++) staged[warp].value[lane][r] = value[r];
      __syncwarp();
    }
    if (const int next = done + WARP + lane; next < high) {
      offset = layout.offsets[run + next];
#pragma unroll
      for (int r = 0; r < ROWS; r++) value[r] = data[first[r] + next];
    }
    if (done >= low && live) {
      const int least = max(begin - done, 0), most = min(WARP, end - done);
#pragma unroll UNROLL
      for (int k = least + part; k < most; k += parts) {
        const Vector v = load(x_here + int64(staged[warp].offset[k]) * LANES);
#pragma unroll
        for (int r = 0; r < ROWS; r++) multiply_add(sum[r], staged[warp].value[k][r], v);
      }
    }
  }

  for (int apart = side * LINE_THREADS; apart < WARP; apart *= 2)
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int k = 0; k < NUMBERS; k++) sum[r].at[k] += __shfl_xor_sync(ALL, sum[r].at[k], apart);

  if (!live || part != 0) return;
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (r >= size) break;
    const int64 target = here.out + (places ? places[row[r]] : row[r] * grid.out_row) + within;
    if (more) {  // sums go on from what is there
      const Vector before = load(out + target);
#pragma unroll
      for (int k = 0; k < NUMBERS; k++) sum[r].at[k] += before.at[k];
    }
    write(sum[r], bias ? bias[row[r]] : real(0), relu, mask, out, target);
  }
}

#define SPMM(ROWS)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(BLOCK) spmm_##ROWS(                                                  \
      int groups, int side, LAYOUT_PARAMETERS, const int* __restrict__ cuts, const int* __restrict__ bands,         \
      int blocks, const real* __restrict__ data, const word* __restrict__ x, const real* __restrict__ bias,         \
      word* __restrict__ out, const word* __restrict__ mask, int relu, int more,                                    \
      const int64* __restrict__ places, GRID_PARAMETERS) {                                                          \
    __shared__ Staged<ROWS> staged[BLOCK / WARP];                                                                   \
    spmm<ROWS>(staged, groups, side, LAYOUT, cuts, bands, blocks, data, x, bias, out, mask, relu, more, places,     \
               GRID);                                                                                               \
  }

SPMM(1)
SPMM(2)
SPMM(3)
SPMM(4)
