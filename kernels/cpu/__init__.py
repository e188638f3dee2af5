"""The CPU kernels, compiled by Numba. `spmm` and `sddmm` here are for a user's own compiled functions; layers use
`launch`."""

from .embed import sddmm, spmm

__all__ = ["sddmm", "spmm"]
