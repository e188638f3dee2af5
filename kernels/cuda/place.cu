// Images copied to where something else reads them: into a border of zeros, among more channels, every second pixel.

// out = x, or zero where `mask` (which may be null) is not positive; all three may be views, and around them nothing is
// touched.
extern "C" __global__ void __launch_bounds__(BLOCK) place(
    SHAPE_PARAMETERS, const word* __restrict__ x, STEPS_PARAMETERS(x), const word* __restrict__ mask, STEPS_PARAMETERS(mask),
    word* __restrict__ out, STEPS_PARAMETERS(out)) {
  const Line here(SHAPE);
  if (!here.live) return;
  Words y = load_words(x + here.of(STEPS(x)));
  if (mask) {
    const Words gate = load_words(mask + here.of(STEPS(mask)));
#pragma unroll
    for (int k = 0; k < WIDTH; k++) y.at[k] = where_positive(y.at[k], gate.at[k]);
  }
  store(out + here.of(STEPS(out)), y.at);
}
