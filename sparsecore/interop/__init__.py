"""The engine inside other libraries, each in a module of its own that imports it: `torch`, `jax`, `sklearn`."""
