"""The classifier on top of the embeddings: a margin softmax whose class centres are sharded over the ranks."""
