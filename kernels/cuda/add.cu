// The sum of two, which is where a way around a layer meets what came through it.

// out = a + b, then ReLU, or zero where `mask` (which may be null) is not positive; NaN stays NaN behind a ReLU. All may be
// views, and around them nothing is touched; `out` may be `a`.
extern "C" __global__ void __launch_bounds__(BLOCK) add(
    SHAPE_PARAMETERS, int relu, const word* a, STEPS_PARAMETERS(a), const word* __restrict__ b,
    STEPS_PARAMETERS(b), const word* __restrict__ mask, STEPS_PARAMETERS(mask), word* out,
    STEPS_PARAMETERS(out)) {
  const Line here(SHAPE);
  if (!here.live) return;
  Vector sum = load(a + here.of(STEPS(a)));
  const Vector other = load(b + here.of(STEPS(b)));
  Vector gate = {};
  if (mask) gate = load(mask + here.of(STEPS(mask)));
#pragma unroll
  for (int k = 0; k < NUMBERS; k++) {
    sum.at[k] += other.at[k];
    if (mask ? !(gate.at[k] > 0) : relu && sum.at[k] < 0) sum.at[k] = real(0);
  }
  store(out + here.of(STEPS(out)), sum.at);
}
