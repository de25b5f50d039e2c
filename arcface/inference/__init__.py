"""Embeddings of trained backbones: engines, export, and the embedder of the Python API."""
