"""Embeds many images into one file: in parts that an interrupted run resumes, and that the ranks divide among themselves."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import paddle

from arcface.config import EmbedConfig
from arcface.data.image_sources import Images, open_images
from arcface.data.ordered_map import ordered_map
from arcface.data.photos import CropReader
from arcface.data.unfinished import locked_partial, partial_of
from arcface.distributed.process_group import all_reduce_sum, busy, heartbeat, rank, ranks_together, world_size
from arcface.errors import UserError
from arcface.inference.embed import Embed, unit_embeddings
from arcface.inference.embedder import default_batch_size
from arcface.inference.engines import candidates, open_agreed
from arcface.inference.feature_file import Features, check_output, unreadable_list, write_features, write_lines
from arcface.io.files import atomic_write, read_file
from arcface.system.device import resolve_device, start_device
from arcface.system.startup import threads
from arcface.weights.run_directory import find_backbone, trained_backbone

PART = 512  # images; a multiple of what a thread reads at a time (ordered_map.CHUNK)


class Part(NamedTuple):
    """What has become of PART consecutive images.

    embeddings: float32 [faces, D]. images: int64 [faces], the image that each face is in. bad: int64, the images without a face or
    that cannot be read. reasons: what is wrong with these.
    """

    embeddings: np.ndarray
    images: np.ndarray
    bad: np.ndarray
    reasons: np.ndarray


def embed_images(config: EmbedConfig) -> str:
    """Embed all images and write the file; returns the line that says so, "" on ranks other than 0.

    While it is being made, OUTPUT.partial contains its parts. A part depends on its own images only, so that a run that was
    interrupted, or shared by several ranks, ends with the same bytes.

    Raises UserError if an option is wrong, no image can be embedded, or the file cannot be written.
    """
    device = resolve_device(config.device)
    candidates(config.engine)  # a missing package is reported before anything else
    output = Path(config.output)
    with ranks_together(config.rank_timeout, partial(start_device, device)):
        with busy("the loading of weights and the list of images"):
            check_output(output, partial_of(output).is_dir())
            images = open_images(config.images)
            reader = CropReader(config.detector, config.faces)
            backbone = trained_backbone(Path(config.checkpoint), config.network, config.embedding_size)
            batch_size = config.batch_size or default_batch_size()
            source = _fingerprint(config, images, batch_size)
        with open_agreed(config.engine, backbone, config.network, config.embedding_size) as (_, embed), _begun(output, source):
            numbers = range(-(-len(images.paths) // PART))
            _wait_for_all()  # until rank 0 has made the folder
            mine = [number for number in numbers[rank() :: world_size()] if not _file(output, number).exists()]
            for number, part in _parts(images, reader, partial(_unit, embed, batch_size, config), mine):
                with _writing(output), atomic_write(_file(output, number)) as file:
                    np.savez(file, **part._asdict())
            _wait_for_all()
            if rank():
                return ""
            with busy("the writing of the result"), _writing(output):
                return _write(output, config, images, [_file(output, number) for number in numbers])


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Raise UserError in place of an OSError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--output {output}: cannot be written ({reason}); correct that, then the same command resumes") from error


def _fingerprint(config: EmbedConfig, images: Images, batch_size: int) -> bytes:
    """Return 16 bytes that differ for other images, weights or options, as far as names tell of the images."""
    weights = read_file(find_backbone(Path(config.checkpoint), config.network))
    detector = read_file(config.detector) if config.detector else b""
    options = PART, config.network, config.embedding_size, config.engine, config.faces, config.flip, batch_size
    seen = hashlib.blake2b(repr(options).encode(), digest_size=16)
    for content in (weights, detector, os.fsencode(os.path.realpath(config.images))):
        seen.update(hashlib.blake2b(content).digest())
    for path in images.paths:
        seen.update(os.fsencode(path) + b"\0")
    if images.labels is not None:
        seen.update(images.labels.tobytes())
    return seen.digest()


def _begun(output: Path, source: bytes) -> AbstractContextManager[None]:
    """Create or continue the folder of parts, and hold it for a block; on rank 0 only."""
    return nullcontext() if rank() else _held(output, source)


@contextmanager
def _held(output: Path, source: bytes) -> Iterator[None]:
    folder = partial_of(output)
    with ExitStack() as held:
        with _writing(output):
            folder.mkdir(exist_ok=True)
            mark = held.enter_context(locked_partial(folder / ".source"))
            if mark.read() != source and any(folder.glob("*.npz")):
                raise UserError(f"{folder}: was begun for other images, weights or options; remove it, or choose another --output")
            mark.seek(0)
            mark.write(source)
            mark.flush()
        try:
            yield
        finally:
            if output.exists() or not any(folder.glob("*.npz")):
                shutil.rmtree(folder, ignore_errors=True)


def _wait_for_all() -> None:
    all_reduce_sum(paddle.zeros([1])).item()  # which a GPU's host has to wait for


def _file(output: Path, number: int) -> Path:
    return partial_of(output) / f"part_{number:07d}.npz"


def _unit(embed: Embed, batch_size: int, config: EmbedConfig, crops: list[np.ndarray]) -> np.ndarray:
    """Return the unit embeddings of any number of crops, float32 [n, D]."""

    def embed_and_tell(batch: np.ndarray) -> np.ndarray:
        heartbeat("the embedding of images")
        return embed(batch)

    if not crops:
        return np.zeros((0, config.embedding_size), np.float32)
    return unit_embeddings(embed_and_tell, np.stack(crops), batch_size, bool(config.flip))


def _parts(
    images: Images, reader: CropReader, unit: Callable[[list[np.ndarray]], np.ndarray], numbers: list[int]
) -> Iterator[tuple[int, Part]]:
    """Yield some of the parts of the images; they are read in threads while those before them are embedded."""
    cv2.setNumThreads(1)  # every reading thread detects by itself
    count = len(images.paths)
    ranges = [np.arange(number * PART, min((number + 1) * PART, count)) for number in numbers]
    positions = np.concatenate([np.zeros(0, np.int64), *ranges])

    def read_chunk(chunk: range) -> list[tuple[int, list[np.ndarray], str]]:
        return [(at, *_crops(images, reader, at)) for at in positions[chunk.start : chunk.stop].tolist()]

    waiting: list[tuple[int, list[np.ndarray], str]] = []
    for chunk in ordered_map(read_chunk, range(len(positions)), threads(), "embedding"):
        heartbeat("the reading of images")
        waiting += chunk
        end = waiting[-1][0] + 1
        if end % PART == 0 or end == count:
            bad = [(at, reason) for at, _, reason in waiting if reason]
            yield (
                (end - 1) // PART,
                Part(
                    unit([crop for _, crops, _ in waiting for crop in crops]),
                    np.array([at for at, crops, _ in waiting for _ in crops], np.int64),
                    np.array([at for at, _ in bad], np.int64),
                    np.array([reason for _, reason in bad], str),
                ),
            )
            waiting = []


def _crops(images: Images, reader: CropReader, position: int) -> tuple[list[np.ndarray], str]:
    """Return the crops of an image and "", or none and what is wrong with it."""
    path = images.paths[position]
    try:
        return reader.decode(images.encoded(position), path), ""
    except UserError as error:
        return [], str(error).removeprefix(f"{path}: ")


def _write(output: Path, config: EmbedConfig, images: Images, files: list[Path]) -> str:
    """Write the result of all parts and the list of bad images, and return the line that says what they are."""
    if missing := next((file for file in files if not file.exists()), None):
        raise UserError(f"{missing}: no such file; the ranks of all machines must write to one directory, pass such an --output")
    rows, bad, reasons = (np.concatenate([_read(file, name) for file in files]) for name in ("images", "bad", "reasons"))
    problems = [(images.paths[at], reason) for at, reason in zip(bad.tolist(), reasons.tolist(), strict=True)]
    if not len(rows):
        for file in files:
            file.unlink()
        raise UserError(f"{config.images}: none of {len(bad):,} images can be embedded; the first: {': '.join(problems[0])}")
    features = Features(
        config.embedding_size,
        lambda: (_read(file, "embeddings") for file in files),
        [images.paths[at] for at in rows.tolist()],
        None if images.labels is None else images.labels[rows],
    )
    listed = unreadable_list(output)
    if problems:
        write_lines(listed, map("\t".join, problems))
    else:
        listed.unlink(missing_ok=True)
    write_features(output, features)
    without = f", {len(bad):,} images without one, listed in {listed}" if problems else ""
    return f"{output}: {len(rows):,} embeddings of {len(images.paths) - len(bad):,} images{without}"


def _read(file: Path, name: str) -> np.ndarray:
    with np.load(file, allow_pickle=False) as part:
        return part[name]
