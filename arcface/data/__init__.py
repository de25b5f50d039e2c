"""Training data: datasets of encoded images, the tools that make and check them, and the loader of batches."""
