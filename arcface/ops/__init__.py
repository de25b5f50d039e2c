"""Kernels for training on a CPU, each beside the Python that calls it."""
