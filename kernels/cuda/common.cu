// What the kernels share. The launcher puts this file before each of the others, and before it the constants that Python
// uses too (`constants` in launch.py): LANES, the sizes of kernels/tuning.py and the places of kernels/rates.py. It defines
// REAL, float or double, and PAIRED where activations are in bfloat16.

typedef REAL real;
typedef long long int64;
typedef unsigned long long uint64;

// Activations are words: one number each, or two of bfloat16, which are the upper halves of two floats. A word's upper
// half is the sample LANES after its lower one's. Whatever is computed is computed with `real`.
#ifdef PAIRED
typedef unsigned word;
constexpr int HALVES = 2;
#else
typedef real word;
constexpr int HALVES = 1;
#endif

constexpr int SIZE = int(sizeof(word)) / HALVES;  // bytes of a number: 2, 4 or 8
constexpr int SAMPLES = LANES * HALVES;           // of a tile
constexpr int WIDTH = 16 / int(sizeof(word));     // words that a thread loads at once
constexpr int NUMBERS = WIDTH * HALVES;           // in them: first all lower halves, then the upper ones
constexpr int LINE_THREADS = LANES / WIDTH;       // threads that a line takes: 4 or 8
constexpr unsigned ALL = 0xffffffffu;

static_assert(WARP == 32 && BLOCK % WARP == 0 && BLOCK % LANES == 0, "a block is whole warps, and whole lines of lanes");
static_assert(TEAM >= LINE_THREADS && WARP % TEAM == 0, "a team is part of a warp, and loads a line at once");
static_assert(!(TEAM & (TEAM - 1)) && !(BLOCK & (BLOCK - 1)), "sums come together by halves");

constexpr uint64 GOLDEN = 0x9E3779B97F4A7C15ull;

// SplitMix64's finisher (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
__device__ __forceinline__ uint64 mix(uint64 z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

__device__ __forceinline__ float lower(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float upper(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// The bits of a float, whose upper half is the nearest bfloat16, ties to even. NaN stays NaN, whatever its lower half.
__device__ __forceinline__ unsigned rounded(float number) {
  const unsigned bits = __float_as_uint(number);
  return number != number ? bits | 0x00400000u : bits + 0x7fffu + (bits >> 16 & 1);
}
__device__ __forceinline__ unsigned paired(float low, float high) {
  return rounded(low) >> 16 | (rounded(high) & 0xffff0000u);
}

// The numbers of one word.
struct Numbers {
  real at[HALVES];
};

// The samples from a thread's first one to that of its number k.
__device__ constexpr int sample_of(int k) { return k % WIDTH + k / WIDTH * LANES; }

struct alignas(16) Words {
  word at[WIDTH];
};
__device__ __forceinline__ Words load_words(const word* p) { return *reinterpret_cast<const Words*>(p); }

// The numbers of 16 bytes.
#ifdef PAIRED
struct Vector {
  real at[NUMBERS];
};
__device__ __forceinline__ Vector load(const word* p) {
  const Words words = load_words(p);
  Vector v;
#pragma unroll
  for (int k = 0; k < WIDTH; k++) v.at[k] = lower(words.at[k]), v.at[WIDTH + k] = upper(words.at[k]);
  return v;
}
__device__ __forceinline__ Numbers numbers(word pair) { return {lower(pair), upper(pair)}; }
__device__ __forceinline__ word packed(const Numbers& both) { return paired(both.at[0], both.at[1]); }
// A word as it is, or zero in place of numbers that are not kept.
__device__ __forceinline__ word only(word pair, const bool (&keep)[HALVES]) {
  return pair & ((keep[0] ? 0x0000ffffu : 0) | (keep[1] ? 0xffff0000u : 0));
}
#else
typedef Words Vector;
__device__ __forceinline__ Vector load(const word* p) { return load_words(p); }
__device__ __forceinline__ Numbers numbers(word number) { return {number}; }
__device__ __forceinline__ word packed(const Numbers& one) { return one.at[0]; }
__device__ __forceinline__ word only(word number, const bool (&keep)[HALVES]) { return keep[0] ? number : word(0); }
#endif

// A word as it is, or zero in place of the numbers whose gates are not positive.
__device__ __forceinline__ word where_positive(word given, word gates) {
  const Numbers gate = numbers(gates);
  bool keep[HALVES];
#pragma unroll
  for (int half = 0; half < HALVES; half++) keep[half] = gate.at[half] > 0;
  return only(given, keep);
}

// An ordinary store, by the function that keeps the compiler from taking it apart.
__device__ __forceinline__ void store(float* p, const float* v) {
  __stwb(reinterpret_cast<float4*>(p), make_float4(v[0], v[1], v[2], v[3]));
}
__device__ __forceinline__ void store(double* p, const double* v) {
  __stwb(reinterpret_cast<double2*>(p), make_double2(v[0], v[1]));
}
__device__ __forceinline__ void store(unsigned* p, const unsigned* pairs) {
  __stwb(reinterpret_cast<uint4*>(p), make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
}
__device__ __forceinline__ void store(unsigned* p, const float* v) {
  __stwb(reinterpret_cast<uint4*>(p),
         make_uint4(paired(v[0], v[4]), paired(v[1], v[5]), paired(v[2], v[6]), paired(v[3], v[7])));
}

__device__ __forceinline__ void multiply_add(Vector& sum, real scale, const Vector& v) {
#pragma unroll
  for (int k = 0; k < NUMBERS; k++) sum.at[k] += scale * v.at[k];
}

__device__ __forceinline__ real dot(const Vector& a, const Vector& b, real sum) {
#pragma unroll
  for (int k = 0; k < NUMBERS; k++) sum += a.at[k] * b.at[k];
  return sum;
}

// Where the output positions of an operator lie (kernels/layout.py): three nested loops, steps in elements.
struct Grid {
  int outer, ys, lines;
  int64 x_outer, out_outer, x_y, out_y, x_line, out_line, out_row;

  __device__ __forceinline__ int positions() const { return outer * ys * lines; }
};

#define GRID_PARAMETERS                                                                                       \
  int outer, int64 x_outer, int64 out_outer, int ys, int64 x_y, int64 out_y, int lines, int64 x_line, int64 out_line, \
      int64 out_row
#define GRID \
  Grid { outer, ys, lines, x_outer, out_outer, x_y, out_y, x_line, out_line, out_row }

// Rows gathered into groups that share their columns (kernels/layout.py).
struct Layout {
  const int64* indptr;
  const int *rows, *starts;
  const int64* runs;
  const int* offsets;
};

#define LAYOUT_PARAMETERS                                                                                     \
  const int64 *__restrict__ indptr, const int *__restrict__ rows, const int *__restrict__ starts,             \
      const int64 *__restrict__ runs, const int *__restrict__ offsets
#define LAYOUT \
  Layout { indptr, rows, starts, runs, offsets }

// One output position, from which the walk goes on.
struct Position {
  int y, line;
  int64 x, out;

  __device__ __forceinline__ Position(const Grid& grid, int number) {
    line = number % grid.lines;
    y = number / grid.lines % grid.ys;
    int outer = number / grid.lines / grid.ys;
    x = outer * grid.x_outer + y * grid.x_y + line * grid.x_line;
    out = outer * grid.out_outer + y * grid.out_y + line * grid.out_line;
  }

  __device__ __forceinline__ void advance(const Grid& grid, int by) {
    line += by;
    x += by * grid.x_line;
    out += by * grid.out_line;
    while (line >= grid.lines) {
      line -= grid.lines;
      x += grid.x_y - grid.lines * grid.x_line;
      out += grid.out_y - grid.lines * grid.out_line;
      if (++y == grid.ys) {
        y = 0;
        x += grid.x_outer - grid.ys * grid.x_y;
        out += grid.out_outer - grid.ys * grid.out_y;
      }
    }
  }
};

// What spmm writes of a row's sum y: bias added, then ReLU, and zero where the mask is not positive.
__device__ __forceinline__ void write(Vector y, real bias, bool relu, const word* mask, word* out, int64 target) {
#pragma unroll
  for (int k = 0; k < NUMBERS; k++) y.at[k] = relu && y.at[k] + bias < 0 ? real(0) : y.at[k] + bias;
  if (mask) {
    const Vector gate = load(mask + target);
#pragma unroll
    for (int k = 0; k < NUMBERS; k++) y.at[k] = gate.at[k] > 0 ? y.at[k] : real(0);
  }
  store(out + target, y.at);
}

// sddmm is done by teams of TEAM threads, each with sums of its own for TEAM connections.
constexpr int STEP = TEAM * WIDTH / LANES;  // lines that a team loads at once: 2 or 1

// Spread over the threads of a team: thread c gets the sum for connection c. They come together by halves, which takes
// TEAM − 1 shuffles.
__device__ __forceinline__ real team_sum(real (&sum)[TEAM], int thread) {
#pragma unroll
  for (int half = TEAM / 2; half; half /= 2) {
    const bool upper = thread & half;
#pragma unroll
    for (int c = 0; c < half; c++) {
      const real keep = upper ? sum[c + half] : sum[c], give = upper ? sum[c] : sum[c + half];
      sum[c] = keep + __shfl_xor_sync(ALL, give, half);
    }
  }
  return sum[0];
}

// One sum over a team, for all its threads.
template <class Number>
__device__ __forceinline__ Number team_total(Number total) {
#pragma unroll
  for (int half = TEAM / 2; half; half /= 2) total += __shfl_xor_sync(ALL, total, half);
  return total;
}

// The sum over a block of BLOCK threads, given to thread 0; always added in the same order.
__device__ __forceinline__ double block_sum(double (&shared)[BLOCK], double value) {
  const int thread = threadIdx.x;
  shared[thread] = value;
  for (int half = BLOCK / 2; half; half /= 2) {
    __syncthreads();
    if (thread < half) shared[thread] += shared[thread + half];
  }
  return thread == 0 ? shared[0] : 0;
}

// Steps of images of shape (tiles, channels, rows, columns, LANES), which may be a view, from one to the next.
struct Steps {
  int64 tile, channel, row, column;
};

#define STEPS_PARAMETERS(NAME) int64 NAME##_tile, int64 NAME##_channel, int64 NAME##_row, int64 NAME##_column
#define STEPS(NAME) \
  Steps { NAME##_tile, NAME##_channel, NAME##_row, NAME##_column }

// A thread's 16 bytes of such images: LINE_THREADS threads take a pixel's line.
struct Line {
  bool live;
  unsigned channel, row, column, tile;
  int within, sample;

  __device__ __forceinline__ Line(unsigned lines, unsigned channels, unsigned rows, unsigned columns) {
    const unsigned number = blockIdx.x * (BLOCK / LINE_THREADS) + threadIdx.x / LINE_THREADS;
    live = number < lines;
    column = number % columns;
    row = number / columns % rows;
    channel = number / columns / rows % channels;
    tile = number / columns / rows / channels;
    within = threadIdx.x % LINE_THREADS * WIDTH;
    sample = tile * SAMPLES + within;
  }

  __device__ __forceinline__ int64 of(const Steps& steps) const {
    return tile * steps.tile + channel * steps.channel + row * steps.row + column * steps.column + within;
  }
};

#define SHAPE_PARAMETERS unsigned lines, unsigned channels, unsigned rows, unsigned columns
#define SHAPE lines, channels, rows, columns
