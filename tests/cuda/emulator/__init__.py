"""A CUDA device made of g++ and one processor core, for tests: it compiles the kernels' own source and runs it.

`stand_in` gives the part of CuPy that the engine uses, on this device. Below it, `build` compiles; `cuda.h` gives g++
the words of CUDA C, `fibers.cpp` runs CUDA's threads, `memory.cpp` holds their memory, and `check.cpp` looks at every
access.
"""
