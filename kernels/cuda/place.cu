// Images copied to where something else reads them: into a border of zeros, among more channels, every second pixel.

// out = x, or zero where `mask` (which may be null) is not positive; all three may be views, and around them nothing is
// touched.
extern "C" __global__ void __launch_bounds__(BLOCK) place(
    SHAPE_PARAMETERS, const real* __restrict__ x, STEPS_PARAMETERS(x), const real* __restrict__ mask, STEPS_PARAMETERS(mask),
    real* __restrict__ out, STEPS_PARAMETERS(out)) {
  const Line here(SHAPE);
  if (!here.live) return;
  Vector y = load(x + here.of(STEPS(x)));
  if (mask) {
    const Vector gate = load(mask + here.of(STEPS(mask)));
#pragma unroll
    for (int k = 0; k < WIDTH; k++) y.at[k] = gate.at[k] > 0 ? y.at[k] : real(0);
  }
  store(out + here.of(STEPS(out)), y.at);
}
