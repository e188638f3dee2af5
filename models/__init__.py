"""The networks of the papers, each readable as the paper's table."""

if __name__ == "models":
    raise ImportError("`models` was imported by its folder's name: write `import sparsecore.models` instead")
