"""The networks of the papers, each readable as the paper's table."""

if __name__ == "models":
    # Whoever looks for another package of this name, from the checkout's root, finds none: it is not this folder. Nor do
    # we, since a second copy would be of classes that are not the first one's: it is `sparsecore.models`.
    raise ModuleNotFoundError("No module named 'models'", name="models")
