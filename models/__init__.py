"""The networks of the papers, each readable as the paper's table."""

if __name__ == "models":
    # This is `sparsecore.models`: a second copy would have other classes.
    # Whoever asks for another package of this name, from the checkout's root, finds none: no file, as of a bare folder,
    # and nothing to take from it.
    del __file__
    __path__ = []

    def __getattr__(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError("No module named 'models'", name="models")
