"""Training data: from a list of encoded images to batches of arrays."""
