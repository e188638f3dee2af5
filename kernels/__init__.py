"""Pure functions over arrays: the two kernels, gather (``spmm``) and sample (``sddmm``), for each device."""

if __name__ == "kernels":
    # This is `sparsecore.kernels`: a second copy would be compiled, and cached, once more. Whoever looks for another
    # package of this name, from the checkout's root, finds none here, as elsewhere.
    raise ModuleNotFoundError("No module named 'kernels'", name="kernels")
