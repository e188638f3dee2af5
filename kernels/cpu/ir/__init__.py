"""Functions that emit vector code, as LLVM IR inside Numba; the loops around them are in the folder above."""
