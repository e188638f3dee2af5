"""Places in `rates`, the float64 array on the device from which an optimizer's kernels read their numbers.

They are in memory, and not among a call's arguments, so that a recorded step reads the current ones. All optimizers
begin alike: `norm` writes SCALE, by which gradients are multiplied, and reads LARGEST_NORM. The CUDA kernels are given
these same numbers when they are compiled (`cuda/launch.py`).
"""

LR, WEIGHT_DECAY, LARGEST_NORM, SCALE = range(4)

# SGD's own.
MOMENTUM = 4
SGD_RATES = 5

# Adam's own. `tick` counts STEPS and derives the CORRECTIONs, 1 − βᵗ, from it.
BETA1, BETA2, EPS, STEPS, CORRECTION1, CORRECTION2 = range(4, 10)
ADAM_RATES = 10
