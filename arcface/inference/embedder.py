"""Trained weights opened to embed faces, for programs of one's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from arcface.config import NetworkOptions
from arcface.inference.embed import Embed, check_input
from arcface.inference.engines import candidates, open_first
from arcface.system.device import choose_device
from arcface.weights.run_directory import trained_backbone


@contextmanager
def open_embedder(
    checkpoint: str | Path,
    network: str = NetworkOptions.network,
    embedding_size: int = NetworkOptions.embedding_size,
    engine: str = "auto",
    device: str = "auto",
) -> Iterator[Embed]:
    """Open the backbone of a checkpoint, to embed faces in a `with` block; its memory is freed at the end.

    Args:
        checkpoint: directory that train.py wrote, or any with <network>_ema.pdparams, else <network>.pdparams or
            <network>.safetensors.
        network: name of the backbone.
        embedding_size: length D of its embeddings.
        engine: what computes: "auto", "openvino", "paddle-inference", "onnxruntime" or "paddle"; "auto" is the fastest that
            can be built.
        device: "auto", "cpu", "gpu" or "gpu:0"...; it becomes Paddle's device for the whole process.

    Yields:
        A function from images, uint8 [n, 3, 112, 112], aligned crops in RGB, to embeddings, float32 [n, D], not normalised. It
        raises ValueError for other arrays.

    Raises:
        UserError: the weights are missing, damaged or of another network, the engine cannot be built, or there is no GPU.
    """
    choose_device(device)
    names = candidates(engine)
    backbone = trained_backbone(Path(checkpoint), network, embedding_size)
    with open_first(names, backbone, network, embedding_size) as (_, embed):

        def checked(images: np.ndarray) -> np.ndarray:
            check_input(images)
            return embed(images)

        yield checked
