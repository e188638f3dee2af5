"""The CUDA kernels, compiled by NVRTC through CuPy."""
