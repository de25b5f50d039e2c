"""Train and verify face-recognition embeddings in PaddlePaddle. Importing this package imports no Paddle."""

__version__ = "0.1.0"
