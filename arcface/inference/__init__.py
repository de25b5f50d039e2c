"""Embeddings without training: engines and export."""
