"""Trained weights opened to embed faces, for programs of one's own."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import paddle

from arcface.config import NetworkOptions
from arcface.data.photos import CropReader, Faces
from arcface.inference.embed import Embed, check_input, unit_embeddings
from arcface.inference.engines import candidates, open_first
from arcface.io.images import SIZE
from arcface.system.device import choose_device
from arcface.system.startup import threads
from arcface.weights.run_directory import trained_backbone

BATCH_SIZE = 32
BATCH_SIZE_ON_GPU = 256

Image = str | Path | bytes | np.ndarray


def default_batch_size() -> int:
    """Return how many faces to embed at once on Paddle's present device."""
    return BATCH_SIZE if paddle.get_device() == "cpu" else BATCH_SIZE_ON_GPU


class Embedder:
    """A trained backbone that turns images into unit embeddings, for a `with` block or until `close`; threads may share it.

        with arcface.Embedder("emore_arcface", detector="yunet.onnx") as embedder:
            embeddings = embedder(["anna_1.jpg", "anna_2.jpg"])      # float32 [2, D]
            similarity = embeddings[0] @ embeddings[1]

    An image is a path, the bytes of an image file, or an array in RGB, uint8: a decoded image, [height, width, 3], or an aligned
    crop as `read_image` returns it, [3, 112, 112]. With a detector, every image but such a crop is a photo, whose face is found
    and aligned; without one, every image is an aligned 112x112 crop.

    Args:
        checkpoint: directory that train.py wrote, or any with <network>.pdparams or <network>.safetensors.
        network: name of the backbone.
        embedding_size: length D of its embeddings.
        engine: what computes, as for `open_embedder`.
        device: "auto", "cpu", "gpu" or "gpu:0"...; it becomes Paddle's device for the whole process.
        detector: file of a YuNet model (.onnx) that finds the faces of photos.
        faces: "largest" for the main face of a photo, the one that is large and near the middle, or "all".
        batch_size: faces embedded at once; None is 32 on a CPU and 256 on a GPU.
        flip: add the embedding of the mirror image, as verification does.

    Raises:
        UserError: the weights are missing, damaged or of another network, the engine or detector cannot be opened, or there is no
            GPU.
        ValueError: other faces, or a batch of none.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        network: str = NetworkOptions.network,
        embedding_size: int = NetworkOptions.embedding_size,
        engine: str = "auto",
        device: str = "auto",
        detector: str | Path | None = None,
        faces: Faces = "largest",
        batch_size: int | None = None,
        flip: bool = False,
    ):
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {batch_size}")
        self._reader, self._size, self._flip = CropReader(detector, faces), embedding_size, flip
        self._engine = threading.Lock()  # most engines serve one thread at a time
        with ExitStack() as opened:
            self._embed: Embed | None = opened.enter_context(open_embedder(checkpoint, network, embedding_size, engine, device))
            self._pool = opened.enter_context(ThreadPoolExecutor(threads(), "read"))
            self._opened = opened.pop_all()
        self._batch_size = batch_size or default_batch_size()

    def __call__(self, images: Image | Iterable[Image]) -> np.ndarray:
        """Return the unit embeddings of an image, or of all that an iterable yields, in their order.

        Args:
            images: one image, an array of several, [n, 3, 112, 112] or [n, height, width, 3], or any iterable of images.

        Returns:
            float32 [n, D], a row for each face: for "all" more rows than images, which `each` keeps apart.

        Raises:
            UserError: an image cannot be read, shows no face or is no crop; the message names it.
            ValueError: an array of another shape or dtype, or the embedder is closed.
        """
        found = list(self.each(images))
        return np.concatenate(found) if found else np.zeros((0, self._size), np.float32)

    def each(self, images: Image | Iterable[Image]) -> Iterator[np.ndarray]:
        """Yield the unit embeddings of the faces of each image, float32 [faces, D], in order; otherwise as a call.

        Images are read a little ahead, and embedded in batches, so that an iterable may have any length.
        """
        several: Iterable[Image]
        if isinstance(images, str | Path | bytes):
            several = [images]
        elif isinstance(images, np.ndarray) and images.ndim < 4:
            several = [images]
        else:
            several = images
        waiting: list[list[np.ndarray]] = []
        for crops in self._read_ahead(several):
            waiting.append(crops)
            if sum(map(len, waiting)) >= self._batch_size:
                yield from self._embed_faces(waiting)
                waiting = []
        if waiting:
            yield from self._embed_faces(waiting)

    def close(self) -> None:
        """Free the memory; the embedder cannot be used any more."""
        with self._engine:
            self._embed = None
        self._opened.close()

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read_ahead(self, images: Iterable[Image]) -> Iterator[list[np.ndarray]]:
        reading: deque[Future[list[np.ndarray]]] = deque()
        try:
            for number, image in enumerate(images):
                if isinstance(image, np.ndarray):
                    _check(image)
                    image = image.copy()  # the caller may write the next image into the same array
                reading.append(self._submit(image, f"image {number}"))
                if len(reading) > 2 * threads():  # few, since arrays may be large
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()
        finally:
            for future in reading:
                future.cancel()

    def _submit(self, image: Image, name: str) -> Future[list[np.ndarray]]:
        if self._embed is None:
            raise ValueError("the embedder is closed; open another")
        return self._pool.submit(self._crops, image, name)

    def _crops(self, image: Image, name: str) -> list[np.ndarray]:
        """Return the crops of an image, each uint8 [3, 112, 112], RGB."""
        if isinstance(image, bytes):
            return self._reader.decode(image, name)
        if not isinstance(image, np.ndarray):
            return self._reader.read(image)
        if image.shape == (3, SIZE, SIZE):
            return [image]
        return self._reader.find(np.ascontiguousarray(image[..., ::-1]), name)

    def _embed_faces(self, faces: list[list[np.ndarray]]) -> list[np.ndarray]:
        """Return the embeddings of the faces of some images, image by image."""
        crops = np.stack([crop for crops in faces for crop in crops])
        with self._engine:
            if self._embed is None:
                raise ValueError("the embedder is closed; open another")
            embeddings = unit_embeddings(self._embed, crops, self._batch_size, self._flip)
        return np.split(embeddings, np.cumsum(list(map(len, faces)))[:-1])


def _check(image: np.ndarray) -> None:
    is_image = image.shape == (3, SIZE, SIZE) or (image.ndim == 3 and image.shape[2] == 3 and image.size)
    if image.dtype != np.uint8 or not is_image:
        raise ValueError(
            f"an image is uint8 [height, width, 3] or an aligned crop, uint8 [3, {SIZE}, {SIZE}], RGB, not {image.dtype}"
            f" {list(image.shape)}"
        )


@contextmanager
def open_embedder(
    checkpoint: str | Path,
    network: str = NetworkOptions.network,
    embedding_size: int = NetworkOptions.embedding_size,
    engine: str = "auto",
    device: str = "auto",
) -> Iterator[Embed]:
    """Open the backbone of a checkpoint as a function of arrays, in a `with` block; `Embedder` also reads images and photos.

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
        raises ValueError for other arrays. Its memory is freed at the end.

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
