// Batch normalisation: each channel's mean and variance over a batch, what is made of them, and the way back.
//
// A segment is one channel of some tiles, cut by shape alone (the number of segments comes with `partial`): a block sums one
// up, in float64 and in a fixed order, and a team joins a channel's segments. The lanes past the batch are in no sum.

constexpr int LINES = BLOCK / LINE_THREADS;  // that a block takes at once
constexpr int RESIDENT = 8;  // blocks that a multiprocessor holds while they sum: told so, the compiler spills nothing

// One channel of images (tiles, channels, pixels, LANES), in the tiles of one segment.
struct Segment {
  int channel, start, lines;

  __device__ __forceinline__ Segment(int number, int channels, int tiles, int pixels, int segments) {
    const int per = (tiles + segments - 1) / segments;
    channel = number % channels;
    start = number / channels * per;
    lines = (min(start + per, tiles) - start) * pixels;
  }
};

// How many values of a channel a segment holds.
__device__ __forceinline__ double values_of(int segment, int segments, int pixels, int batch) {
  const int tiles = (batch + SAMPLES - 1) / SAMPLES, per = (tiles + segments - 1) / segments * SAMPLES;
  return double(min((segment + 1) * per, batch) - segment * per) * pixels;
}

// What a channel's normalised values are: (x − mean) · rate + level, whose sign tells what ReLU let through. What a float of
// the mean leaves out goes into the level, so that a mean far from zero costs no digits.
struct Normal {
  double middle, unit, factor;  // the mean, one over the deviation, and that times the scale
  real mean, rate, level;

  __device__ __forceinline__ Normal(const double* found, const real* scale, const real* shift, int channel) {
    middle = found[2 * channel], unit = found[2 * channel + 1], factor = unit * double(scale[channel]);
    mean = real(middle), rate = real(factor);
    level = real(double(shift[channel]) - (middle - double(mean)) * double(rate));
  }

  __device__ __forceinline__ real operator()(real x) const { return (x - mean) * rate + level; }
};

typedef double Shared[2][BLOCK];

struct Two {
  double first, second;
};

// Two sums over a segment's values, of what `term(x, dy, sums)` adds to them; they are thread 0's. Of dy, which may lie within
// a border, the steps are told. Each thread has several lines under way, since a segment of large images has but one block.
template <int AT_ONCE, class Term>
__device__ __forceinline__ Two sum_up(
    Shared& shared, const Segment& segment, int channels, int pixels, int batch, const word* x, const word* dy,
    int columns, const Steps& steps, Term term) {
  const int within = threadIdx.x % LINE_THREADS * WIDTH;
  x += (int64(segment.start) * channels + segment.channel) * pixels * LANES + within;
  if (dy) dy += segment.start * steps.tile + segment.channel * steps.channel + within;
  batch -= segment.start * SAMPLES + within;
  Two sums = {0, 0};
  for (int line = threadIdx.x / LINE_THREADS; line < segment.lines; line += LINES * AT_ONCE) {
    Words values[AT_ONCE] = {}, slopes[AT_ONCE] = {};
    int used[AT_ONCE] = {};
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
      const int here = line + k * LINES;
      if (here >= segment.lines) continue;
      const int tile = here / pixels, pixel = here % pixels;
      values[k] = load_words(x + (int64(tile) * channels * pixels + pixel) * LANES);
      if (dy) slopes[k] = load_words(dy + tile * steps.tile + pixel / columns * steps.row + pixel % columns * steps.column);
      used[k] = batch - tile * SAMPLES;
    }
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++)
#pragma unroll
      for (int n = 0; n < NUMBERS; n++) {
        const Numbers value = numbers(values[k].at[n % WIDTH]), slope = numbers(slopes[k].at[n % WIDTH]);
        if (sample_of(n) < used[k]) term(double(value.at[n / WIDTH]), double(slope.at[n / WIDTH]), sums);
      }
  }
  return {block_sum(shared[0], sums.first), block_sum(shared[1], sums.second)};
}

// partial[channel, segment] = (mean, squares around it) of x. What is summed is what x is above the segment's first value, so
// that little is lost where the mean is far from zero, and nothing where all values are the same.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) moments(
    int channels, int tiles, int pixels, int segments, int batch, const word* __restrict__ x, double* __restrict__ partial) {
  __shared__ Shared shared;
  const Segment segment(blockIdx.x, channels, tiles, pixels, segments);
  const double origin = numbers(x[(int64(segment.start) * channels + segment.channel) * pixels * LANES]).at[0];
  const auto term = [origin](double value, double, Two& both) {
    const double apart = value - origin;
    both.first += apart;
    both.second += apart * apart;
  };
  const Two sums = sum_up<UNROLL>(shared, segment, channels, pixels, batch, x, nullptr, pixels, Steps{}, term);
  if (threadIdx.x != 0) return;
  const int number = blockIdx.x / channels;
  const double apart = sums.first / values_of(number, segments, pixels, batch);
  double* const here = partial + (int64(segment.channel) * segments + number) * 2;
  here[0] = origin + apart;
  here[1] = sums.second - sums.first * apart;
}

// partial[channel, segment] = (Σ dy, Σ dy · (x − mean)); with `relu`, dy is zero where ReLU stopped a value.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) slopes(
    int channels, int tiles, int pixels, int segments, int batch, int columns, int relu, const word* __restrict__ dy,
    STEPS_PARAMETERS(dy), const word* __restrict__ x, const double* __restrict__ found, const real* __restrict__ scale,
    const real* __restrict__ shift, double* __restrict__ partial) {
  __shared__ Shared shared;
  const Segment segment(blockIdx.x, channels, tiles, pixels, segments);
  const Normal normal(found, scale, shift, segment.channel);
  const auto term = [normal, relu](double value, double slope, Two& both) {
    if (relu && !(normal(real(value)) > 0)) slope = 0;
    both.first += slope;
    both.second += slope * (value - normal.middle);
  };
  const Two sums = sum_up<UNROLL / 2>(shared, segment, channels, pixels, batch, x, dy, columns, STEPS(dy), term);
  if (threadIdx.x != 0) return;
  double* const here = partial + (int64(segment.channel) * segments + blockIdx.x / channels) * 2;
  here[0] = sums.first;
  here[1] = sums.second;
}

// found[channel] = (mean, 1/√(variance + eps)) of all segments; the running rows move to mean and variance by `momentum`. A
// team takes a channel. Means are joined as what they are above the first, so that equal ones stay as they are.
extern "C" __global__ void __launch_bounds__(BLOCK) settle(
    int channels, int segments, int pixels, int batch, double eps, double momentum, const double* __restrict__ partial,
    real* __restrict__ mean, real* __restrict__ var, double* __restrict__ found) {
  // The last warp's spare teams do the last channel again and store nothing: shuffles want whole warps.
  const int number = (blockIdx.x * BLOCK + threadIdx.x) / TEAM, thread = threadIdx.x % TEAM;
  const int channel = min(number, channels - 1);
  partial += int64(channel) * segments * 2;
  const double total = double(batch) * pixels, origin = partial[0];
  double above = 0, squares = 0;
  for (int k = thread; k < segments; k += TEAM)
    above += (partial[2 * k] - origin) * values_of(k, segments, pixels, batch);
  above = team_total(above) / total;
  for (int k = thread; k < segments; k += TEAM) {
    const double apart = partial[2 * k] - origin - above;
    squares += partial[2 * k + 1] + apart * apart * values_of(k, segments, pixels, batch);
  }
  squares = team_total(squares);
  if (number >= channels || thread != 0) return;
  const double middle = origin + above;
  mean[channel] = real((1 - momentum) * double(mean[channel]) + momentum * middle);
  var[channel] = real((1 - momentum) * double(var[channel]) + momentum * (squares / (total - 1)));
  found[2 * channel] = middle;
  found[2 * channel + 1] = 1 / sqrt(squares / total + eps);
}

// found[channel] = (mean, 1/√(var + eps)) of the running rows.
extern "C" __global__ void __launch_bounds__(BLOCK) recall(
    int channels, double eps, const real* __restrict__ mean, const real* __restrict__ var, double* __restrict__ found) {
  const int channel = blockIdx.x * BLOCK + threadIdx.x;
  if (channel >= channels) return;
  found[2 * channel] = mean[channel];
  found[2 * channel + 1] = 1 / sqrt(double(var[channel]) + eps);
}

// totals[channel] = the sum of its segments; dscale and dshift are made of these. A team takes a channel.
extern "C" __global__ void __launch_bounds__(BLOCK) settle_slopes(
    int channels, int segments, const double* __restrict__ partial, const double* __restrict__ found,
    double* __restrict__ totals, real* __restrict__ dscale, real* __restrict__ dshift) {
  const int number = (blockIdx.x * BLOCK + threadIdx.x) / TEAM, thread = threadIdx.x % TEAM;
  const int channel = min(number, channels - 1);
  partial += int64(channel) * segments * 2;
  double first = 0, second = 0;
  for (int k = thread; k < segments; k += TEAM) {
    first += partial[2 * k];
    second += partial[2 * k + 1];
  }
  first = team_total(first), second = team_total(second);
  if (number >= channels || thread != 0) return;
  totals[2 * channel] = first;
  totals[2 * channel + 1] = second;
  dshift[channel] = real(first);
  dscale[channel] = real(second * found[2 * channel + 1]);
}

// out = (x − mean) · rate · scale + shift + around, then ReLU; zero in the lanes past the batch. `around` may be null.
extern "C" __global__ void __launch_bounds__(BLOCK) normalise(
    SHAPE_PARAMETERS, int batch, int relu, const double* __restrict__ found, const real* __restrict__ scale,
    const real* __restrict__ shift, const word* __restrict__ x, STEPS_PARAMETERS(x), const word* __restrict__ around,
    STEPS_PARAMETERS(around), word* __restrict__ out, STEPS_PARAMETERS(out)) {
  const Line here(SHAPE);
  if (!here.live) return;
  const Normal normal(found, scale, shift, here.channel);
  Vector y = load(x + here.of(STEPS(x)));
#pragma unroll
  for (int k = 0; k < NUMBERS; k++) y.at[k] = normal(y.at[k]);
  if (around) {
    const Vector other = load(around + here.of(STEPS(around)));
#pragma unroll
    for (int k = 0; k < NUMBERS; k++) y.at[k] += other.at[k];
  }
#pragma unroll
  for (int k = 0; k < NUMBERS; k++)
    y.at[k] = here.sample + sample_of(k) >= batch || (relu && y.at[k] < 0) ? real(0) : y.at[k];
  store(out + here.of(STEPS(out)), y.at);
}

// out = rate · scale · (dy − share · Σ dy − share · (x − mean) · rate² · Σ dy (x − mean)), where a value's share is one by how
// many there are in a channel; without totals, of dy alone. With `relu`, dy is zero where ReLU stopped a value.
extern "C" __global__ void __launch_bounds__(BLOCK) normalise_back(
    SHAPE_PARAMETERS, int batch, int relu, double share, const double* __restrict__ found, const real* __restrict__ scale,
    const real* __restrict__ shift, const double* __restrict__ totals, const word* __restrict__ dy, STEPS_PARAMETERS(dy),
    const word* __restrict__ x, STEPS_PARAMETERS(x), word* __restrict__ out, STEPS_PARAMETERS(out)) {
  const Line here(SHAPE);
  if (!here.live) return;
  const Normal normal(found, scale, shift, here.channel);
  Vector dx = load(dy + here.of(STEPS(dy))), value = {};
  if (totals || relu) value = load(x + here.of(STEPS(x)));
#pragma unroll
  for (int k = 0; k < NUMBERS; k++) dx.at[k] = relu && !(normal(value.at[k]) > 0) ? real(0) : dx.at[k] * normal.rate;
  if (totals) {
    const double each = normal.factor * share, incline = each * (normal.unit * normal.unit * totals[2 * here.channel + 1]);
    const real inclined = real(incline);
    const real level = real(each * totals[2 * here.channel] - (normal.middle - double(normal.mean)) * incline);
#pragma unroll
    for (int k = 0; k < NUMBERS; k++) dx.at[k] -= (value.at[k] - normal.mean) * inclined + level;
  }
#pragma unroll
  for (int k = 0; k < NUMBERS; k++) dx.at[k] = here.sample + sample_of(k) >= batch ? real(0) : dx.at[k];
  store(out + here.of(STEPS(out)), dx.at);
}
