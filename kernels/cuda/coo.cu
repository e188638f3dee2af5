// spmm and sddmm over connections in their order, row after row: for layers whose rows are nearly empty, or very unequal.
//
// Teams take segments of equally many connections, wherever rows end. A row that several segments share leaves a carry in
// each of them, a line of its own for every position; a second kernel adds these up in order, and writes the rows that
// have no connections.

// A team of LINE_THREADS threads takes a segment at one position. Neighbours take neighbouring positions.
extern "C" __global__ void __launch_bounds__(BLOCK) spmm_coo(
    int64 connections, int64 teams, const int* __restrict__ rows, const int* __restrict__ offsets,
    const int* __restrict__ head, const int* __restrict__ tail, int64 carries, const real* __restrict__ data,
    const real* __restrict__ x, const real* __restrict__ bias, real* __restrict__ out, const real* __restrict__ mask,
    real* __restrict__ carry, int relu, GRID_PARAMETERS) {
  const Grid grid = GRID;
  const int64 team = (int64(blockIdx.x) * BLOCK + threadIdx.x) / LINE_THREADS;
  if (team >= teams) return;
  const int position = int(team % grid.positions()), number = int(team / grid.positions());
  const int within = threadIdx.x % LINE_THREADS * WIDTH;
  const Position here(grid, position);
  carry += position * carries * LANES + within;

  const int64 begin = int64(number) * COO_SEGMENT, end = min(begin + COO_SEGMENT, connections);
  const int first = head[number], last = tail[number];
  bool at_head = true;
  int row = rows[begin];
  Vector sum = {};
  // A row ends: a first or last one that other segments share, too, leaves a carry.
  auto finish = [&](bool at_tail) {
    const int slot = at_head && first >= 0 ? first : at_tail ? last : -1;
    if (slot >= 0)
      store(carry + int64(slot) * LANES, sum.at);
    else
      write(sum, bias ? bias[row] : real(0), relu, mask, out, here.out + row * grid.out_row + within);
  };
  for (int64 p = begin; p < end; p += AHEAD) {
    int next[AHEAD];
    real value[AHEAD];
    Vector v[AHEAD];
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {  // the last one again past the end, which costs no traffic and is not used
      const int64 q = min(p + k, end - 1);
      next[k] = rows[q];
      value[k] = data[q];
      v[k] = load(x + here.x + within + int64(offsets[q]) * LANES);
    }
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      if (p + k >= end) break;
      if (next[k] != row) {
        finish(false);
        at_head = false;
        row = next[k];
        sum = Vector{};
      }
      multiply_add(sum, value[k], v[k]);
    }
  }
  finish(true);
}

// Rows of which there are several carries, or none: number k has those from slots[k] to slots[k + 1].
extern "C" __global__ void __launch_bounds__(BLOCK) carry(
    int64 teams, int64 carries, const int* __restrict__ rows, const int* __restrict__ slots,
    const real* __restrict__ carried, const real* __restrict__ bias, real* __restrict__ out,
    const real* __restrict__ mask, int relu, GRID_PARAMETERS) {
  const Grid grid = GRID;
  const int64 team = (int64(blockIdx.x) * BLOCK + threadIdx.x) / LINE_THREADS;
  if (team >= teams) return;
  const int position = int(team % grid.positions()), number = int(team / grid.positions());
  const int within = threadIdx.x % LINE_THREADS * WIDTH;
  const Position here(grid, position);
  carried += position * carries * LANES + within;
  Vector sum = {};
  for (int slot = slots[number]; slot < slots[number + 1]; slot++)
    multiply_add(sum, 1, load(carried + int64(slot) * LANES));
  write(sum, bias ? bias[rows[number]] : real(0), relu, mask, out, here.out + rows[number] * grid.out_row + within);
}

// grad[p] = ⟨dy[row[p]], x[offset[p]]⟩: a team of TEAM threads takes as many connections, whatever rows they are of.
extern "C" __global__ void __launch_bounds__(BLOCK) sddmm_coo(
    int64 connections, int slices, int slice_positions, int64 results, int more, const int* __restrict__ rows,
    const int* __restrict__ offsets, const real* __restrict__ dy, const real* __restrict__ x, real* __restrict__ grad,
    GRID_PARAMETERS) {
  const Grid grid = GRID;
  // The last warp's spare teams do the last connections again and store nothing: shuffles want whole warps.
  // No memory holds so many connections that 32 bits would not count the teams.
  const unsigned segments = unsigned((connections + TEAM - 1) / TEAM);
  const unsigned number = blockIdx.x * (BLOCK / TEAM) + threadIdx.x / TEAM;
  const int thread = threadIdx.x % TEAM, slice = min(int(number / segments), slices - 1);
  const int64 first = int64(number % segments) * TEAM;
  const int within = thread * WIDTH % LANES;
  const int stop = min((slice + 1) * slice_positions, grid.positions());
  int at = slice * slice_positions + thread * WIDTH / LANES;
  int line[TEAM], row[TEAM];
#pragma unroll
  for (int c = 0; c < TEAM; c++) {
    const int64 p = min(first + c, connections - 1);
    line[c] = offsets[p];
    row[c] = rows[p];
  }
  real sum[TEAM] = {};
  if (at < stop) {
    for (Position here(grid, at);; here.advance(grid, STEP)) {
#pragma unroll
      for (int c = 0; c < TEAM; c++) {
        const Vector slope = load(dy + here.out + row[c] * grid.out_row + within);
        sum[c] = dot(slope, load(x + here.x + int64(line[c]) * LANES + within), sum[c]);
      }
      if ((at += STEP) >= stop) break;
    }
  }
  const real slope = team_sum(sum, thread);
  const int64 p = slice * results + first + thread;
  if (number < segments * slices && first + thread < connections) grad[p] = more ? grad[p] + slope : slope;
}

// db[i] = Σ dy[i]: a team of TEAM threads takes a row.
extern "C" __global__ void __launch_bounds__(BLOCK) row_sums(
    int rows, int slices, int slice_positions, int64 results, int more, const real* __restrict__ dy, real* __restrict__ db,
    GRID_PARAMETERS) {
  const Grid grid = GRID;
  const int64 number = (int64(blockIdx.x) * BLOCK + threadIdx.x) / TEAM;
  const int thread = threadIdx.x % TEAM, slice = min(int(number / rows), slices - 1), row = int(number % rows);
  const int within = thread * WIDTH % LANES;
  const int stop = min((slice + 1) * slice_positions, grid.positions());
  real total = 0;
  for (int at = slice * slice_positions + thread * WIDTH / LANES; at < stop; at += STEP) {
    const Vector slope = load(dy + Position(grid, at).out + row * grid.out_row + within);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) total += slope.at[k];
  }
  total = team_total(total);
  const int64 i = slice * results + row;
  if (number < int64(rows) * slices && thread == 0) db[i] = more ? db[i] + total : total;
}
