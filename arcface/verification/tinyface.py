"""TinyFace, identification of faces of low resolution: its files, and the rates by rank of its evaluation.

Cheng, Zhu and Gong, "Low-Resolution Face Recognition", ACCV 2018 (qmul-tinyface.github.io). Each probe is searched among the
matching images and the distractors, which are of nobody known.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from arcface.data.datasets.image_file import is_image_name
from arcface.distributed.process_group import rank
from arcface.errors import UserError
from arcface.inference.embed import Embed
from arcface.io.files import read_file
from arcface.io.images import SIZE, channels_first, decode_any_size
from arcface.io.mat_file import read_names_and_numbers
from arcface.verification.evaluator import embed_plain_and_flipped
from arcface.verification.identification import Identification, rank_rates, search

RANKS = (1, 5, 20)
GALLERY, DISTRACTORS, PROBES = "Gallery_Match", "Gallery_Distractor", "Probe"
UNKNOWN = -100  # the identity of distractors


@dataclass(frozen=True, eq=False)
class TinyFace:
    """The images of the protocol, n of them.

    Attributes:
        name: what log lines call it.
        directory: that of the three folders.
        images: the paths of the images: gallery, then distractors, then probes.
        identities: int64 [n], UNKNOWN for distractors.
        probes: how many of the images, at the end, are probes.
    """

    name: str
    directory: Path
    images: list[Path]
    identities: np.ndarray
    probes: int

    @property
    def kind(self) -> str:
        """What the log says of it."""
        gallery = len(self.images) - self.probes
        distractors = np.count_nonzero(self.identities == UNKNOWN)
        return (
            f"{self.directory} has TinyFace's layout: {self.probes:,} probes, {gallery:,} images searched,"
            f" {distractors:,} of them distractors"
        )


def find_tinyface(directory: Path) -> Path | None:
    """Return the directory of TinyFace's folders, this one or Testing_Set in it; None where there is none."""
    places = (directory, directory / "Testing_Set")
    return next((place for place in places if os.path.isdir(place / GALLERY) and os.path.isdir(place / PROBES)), None)


def read_tinyface(directory: Path, name: str) -> TinyFace:
    """Read and check TinyFace's test set, from the directory of its folders.

        Gallery_Match/, Probe/               images of known identities
        Gallery_Distractor/                  images of others, also in folders below it
        gallery_match_img_ID_pairs.mat       gallery_set, names of images, and gallery_ids, their identities
        probe_img_ID_pairs.mat               probe_set and probe_ids

    Raises:
        UserError: a missing file, folder or image, a damaged list, or no probe of an identity in the gallery.
    """
    gallery, gallery_ids = _read_list(directory, GALLERY, "gallery_match_img_ID_pairs.mat", "gallery_set", "gallery_ids")
    probes, probe_ids = _read_list(directory, PROBES, "probe_img_ID_pairs.mat", "probe_set", "probe_ids")
    if not np.isin(probe_ids, gallery_ids).any():
        raise UserError(f"{directory}: no probe is of an identity in the gallery; restore the lists")
    distractors = _images_below(directory / DISTRACTORS)
    identities = np.concatenate([gallery_ids, np.full(len(distractors), UNKNOWN), probe_ids])
    return TinyFace(name, directory, [*gallery, *distractors, *probes], identities, len(probes))


def identify(embed: Embed, protocol: TinyFace, batch_size: int | None) -> Identification | None:
    """Embed all images, plain and flipped embeddings summed, and search the probes; called by every rank.

    Returns the share of probes by rank on rank 0, None on the others.
    """
    plain, flipped = embed_plain_and_flipped(
        embed, lambda index: load_image(protocol.images[index]), len(protocol.images), batch_size, protocol.name
    )
    if rank():
        return None
    features = plain + flipped
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise UserError(f"{protocol.name}: the backbone's embeddings are not finite (damaged weights?); choose another checkpoint")
    features /= np.where(norms == 0, 1, norms)
    gallery = len(features) - protocol.probes
    ids = protocol.identities
    return Identification(rank_rates([search(features[gallery:], ids[gallery:], features[:gallery], ids[:gallery])], RANKS), [])


def load_image(path: Path) -> np.ndarray:
    """Return an image as uint8 [3, 112, 112], RGB, enlarged or reduced (bicubic) if it has another size."""
    try:
        image = decode_any_size(read_file(path), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; restore the image") from error
    if image.shape[:2] != (SIZE, SIZE):
        image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return channels_first(image)


def _read_list(directory: Path, folder: str, file: str, names: str, numbers: str) -> tuple[list[Path], np.ndarray]:
    """Return the images that a .mat lists and their identities, int64 [n]; raises UserError for an image that is missing."""
    listed, identities = read_names_and_numbers(directory / file, names, numbers)
    present = set(_listed(directory / folder))
    if missing := [name for name in listed if name not in present]:
        raise UserError(
            f"{directory / folder / missing[0]}: no such file, but {file} lists it ({len(missing)} of {len(listed)} images are"
            " missing); restore the images"
        )
    return [directory / folder / name for name in listed], identities


def _images_below(folder: Path) -> list[Path]:
    """Return the images in a folder and in the folders below it, sorted."""
    found = []
    for name in _listed(folder):
        if os.path.isdir(folder / name):
            found += _images_below(folder / name)
        elif is_image_name(os.fsencode(name)):
            found.append(folder / name)
    return found


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}; restore the folder") from error
