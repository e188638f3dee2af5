"""The networks of the papers, each readable as the paper's table."""

if __name__ == "models":
    # This is `sparsecore.models`: a second copy would have other classes. Whoever looks for another package of
    # this name, from the checkout's root, finds none here, as elsewhere.
    raise ModuleNotFoundError("No module named 'models'", name="models")
