"""Pure functions over arrays: the two kernels, gather (``spmm``) and sample (``sddmm``), for each device."""

if __name__ == "kernels":
    # This is `sparsecore.kernels`: a second copy would be compiled, and cached, once more.
    # Whoever asks for another package of this name, from the checkout's root, finds none: no file, as of a bare folder,
    # and nothing to take from it.
    del __file__
    __path__ = []

    def __getattr__(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError("No module named 'kernels'", name="kernels")
