"""Pure functions over arrays: the two kernels, gather (``spmm``) and sample (``sddmm``), for each device."""

if __name__ == "kernels":
    # A second copy under another name would be compiled, and cached, a second time.
    raise ImportError("`kernels` was imported by its folder's name: write `import sparsecore.kernels` instead")
