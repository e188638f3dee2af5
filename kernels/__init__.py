"""Pure functions over arrays: the two kernels, gather (``spmm``) and sample (``sddmm``), for each device."""

if __name__ == "kernels":
    # Whoever looks for another package of this name, from the checkout's root, finds none: it is not this folder. Nor do
    # we, since a second copy would be compiled, and cached, a second time: it is `sparsecore.kernels`.
    raise ModuleNotFoundError("No module named 'kernels'", name="kernels")
