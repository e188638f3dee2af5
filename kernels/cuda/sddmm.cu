// sddmm: grad[p] = ⟨dy[row[p]], x[offset[p]]⟩ over all positions and samples; db[i] = Σ dy[i].
//
// A team takes a segment: up to TEAM connections of a group, up to ROWS rows with the same columns, over all positions or
// a slice of them. A thread multiplies its 16 bytes of dy with each connection's line of x, which is loaded once for
// all rows. With `more`, sums are added to what is there.

constexpr int RESIDENT = SIZE == 2 ? RESIDENT_2 : SIZE == 4 ? RESIDENT_4 : RESIDENT_8;  // blocks of a multiprocessor

template <int ROWS>
__device__ __forceinline__ void sddmm(
    int segments, int slices, int slice_positions, int64 results, int more, const int* __restrict__ segment_group,
    const int* __restrict__ segment_first, const Layout& layout, const word* __restrict__ dy, const word* __restrict__ x,
    real* __restrict__ grad, real* __restrict__ db, const Grid& grid) {
  // The last warp's spare teams do the last segment again and store nothing: shuffles want whole warps.
  const int number = (blockIdx.x * BLOCK + threadIdx.x) / TEAM, thread = threadIdx.x % TEAM;
  const bool live = number < segments * slices;
  const int segment = number % segments, slice = min(number / segments, slices - 1);
  const int group = segment_group[segment], first = segment_first[segment];
  const int start = layout.starts[group], size = layout.starts[group + 1] - start;
  int row[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) row[r] = layout.rows[start + min(r, size - 1)];
  const int count = min(TEAM, int(layout.indptr[row[0] + 1] - layout.indptr[row[0]]) - first);

  const int within = thread * WIDTH % LANES;
  const int stop = min((slice + 1) * slice_positions, grid.positions());
  int at = slice * slice_positions + thread * WIDTH / LANES;
  int line[TEAM];
#pragma unroll
  for (int c = 0; c < TEAM; c++)  // a last connection that is taken again costs no memory traffic, and is not stored
    line[c] = count > 0 ? layout.offsets[layout.runs[group] + first + min(c, count - 1)] : 0;

  real sum[ROWS][TEAM] = {}, total[ROWS] = {};
  if (at < stop) {
    for (Position here(grid, at);; here.advance(grid, STEP)) {
      Vector slope[ROWS];
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        slope[r] = load(dy + here.out + row[r] * grid.out_row + within);
#pragma unroll
        for (int k = 0; k < NUMBERS; k++) total[r] += slope[r].at[k];
      }
      if (count > 0) {
#pragma unroll
        for (int c = 0; c < TEAM; c++) {
          const Vector v = load(x + here.x + int64(line[c]) * LANES + within);
#pragma unroll
          for (int r = 0; r < ROWS; r++) sum[r][c] = dot(slope[r], v, sum[r][c]);
        }
      }
      if ((at += STEP) >= stop) break;
    }
  }

  // Several slices leave their sums side by side, for `join` to add up.
  if (slices > 1) {
    grad += slice * results;
    if (db) db += slice * results;
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const real slope = team_sum(sum[r], thread), whole = team_total(total[r]);
    if (!live || r >= size) continue;
    const int64 p = layout.indptr[row[r]] + first + thread;
    if (thread < count) grad[p] = more ? grad[p] + slope : slope;
    if (db && first == 0 && thread == 0) db[row[r]] = more ? db[row[r]] + whole : whole;
  }
}

#define SDDMM(ROWS)                                                                                           \
  extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) sddmm_##ROWS(                                    \
      int segments, int slices, int slice_positions, int64 results, int more,                                 \
      const int* __restrict__ segment_group, const int* __restrict__ segment_first, LAYOUT_PARAMETERS,        \
      const word* __restrict__ dy, const word* __restrict__ x, real* __restrict__ grad,                       \
      real* __restrict__ db, GRID_PARAMETERS) {                                                               \
    sddmm<ROWS>(segments, slices, slice_positions, results, more, segment_group, segment_first, LAYOUT, dy,   \
                x, grad, db, GRID);                                                                           \
  }

SDDMM(1)
SDDMM(2)
SDDMM(3)
SDDMM(4)

// The sums of `slices` slices, in order: `count` gradients and then `biases` of biases in each. With `more`, what is
// there comes last.
extern "C" __global__ void __launch_bounds__(BLOCK) join(
    int slices, int64 count, int64 biases, int more, const real* __restrict__ sums, real* __restrict__ grad,
    real* __restrict__ db) {
  const int64 k = int64(blockIdx.x) * BLOCK + threadIdx.x;
  if (k >= count + biases) return;
  real sum = 0;
  for (int slice = 0; slice < slices; slice++) sum += sums[slice * (count + biases) + k];
  real& out = k < count ? grad[k] : db[k - count];
  out = more ? out + sum : sum;
}
