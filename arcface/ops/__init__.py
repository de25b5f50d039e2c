"""Kernels for training on a CPU: each .cc beside the Python that calls it."""
