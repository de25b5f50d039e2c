"""A directory of a template-based verification, such as IJB-B and IJB-C, in InsightFace's layout: its lists and images.

A template is a set of images of one identity, from one or more media; `templates.py` has the arithmetic. IJB-C lists 469,375
images, 23,124 templates and 15,658,489 pairs: pairs are never in memory all at once.
"""

import math
import os
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from arcface.data.alignment import align
from arcface.data.bin_file import refuse_bcolz
from arcface.errors import UserError
from arcface.io.files import open_file, read_file
from arcface.io.images import channels_first, decode_any_size, read_image
from arcface.verification.gallery_lists import SearchLists, read_search_lists
from arcface.verification.list_lines import is_number, numbered_lines, wrong_line

# Block of the list of pairs: about 5,000 lines, whose features, twice [5000, D], still fit in a cache.
BLOCK_BYTES = 2**16


@dataclass(frozen=True, eq=False)
class IjbProtocol:
    """The images of a template-based verification, n of them, and where its pairs are listed.

    Attributes:
        name: the prefix of the files in meta/, such as "ijbc".
        directory: that of the images.
        images: bytes [n], the paths of the images below the directory.
        templates, media: int64 [n], the template and the media of each image.
        landmarks: float32 [n, 5, 2], x and y in pixels of the eyes, the nose and the corners of the mouth; None where the
            images are aligned 112x112 crops already.
        detector_scores: float32 [n], how certain the face detector was; None where the files lack them.
        pairs_file: lines of "template template 1|0", 1 for one identity; for `read_pairs`.
        positives, negatives: the numbers of its pairs of one identity and of two.
        searches: the templates of its 1:N identification; None where the files lack them.
    """

    name: str
    directory: Path
    images: np.ndarray
    templates: np.ndarray
    media: np.ndarray
    landmarks: np.ndarray | None
    detector_scores: np.ndarray | None
    pairs_file: Path
    positives: int
    negatives: int
    searches: SearchLists | None = None

    @property
    def kind(self) -> str:
        """What the log says of it."""
        searched = f", {len(self.searches.galleries)} galleries" if self.searches else ""
        return (
            f"{self.directory.parent} is an IJB-style protocol: {len(self.images):,} images,"
            f" {self.positives + self.negatives:,} pairs of templates{searched}"
        )


def read_protocol(directory: str | Path) -> IjbProtocol:
    """Read and check a protocol directory in InsightFace's layout.

        meta/<name>_face_tid_mid.txt         lines of "image template media"
        meta/<name>_template_pair_label.txt  lines of "template template 1|0", 1 for one identity
        meta/<name>_name_5pts_score.txt      lines of "image x1 y1 ... x5 y5 score", the images in the order of the first file
        loose_crop/                          the images, not aligned; or, where they or their landmarks are missing,
        images/                              112x112 crops, aligned; the file of landmarks then only gives detector scores
        meta/<name>_1N_*.csv                 the galleries and probes of an identification, if any: see `read_search_lists`

    <name> may be anything if meta/ has one such set, and otherwise is the directory's name, in lower case, without what is
    neither letter nor digit. All files are read to their end and every image is looked for, so that mistakes show
    before the images are embedded.

    Raises:
        UserError: a missing file or image, a wrong line (with its number), a pair of templates that no image belongs to, no
            pairs, or only one kind of pair.
    """
    directory = Path(directory)
    refuse_bcolz(directory)
    list_file, name = _find_list(directory)
    images, templates, media, lines = _read_list(list_file)
    landmarks_file = list_file.with_name(f"{name}_name_5pts_score.txt")
    landmarks = scores = None
    if os.path.exists(landmarks_file):
        landmarks, scores = _read_landmarks(landmarks_file, images, list_file)
    loose, aligned = directory / "loose_crop", directory / "images"
    if os.path.isdir(loose) and landmarks is not None:
        folder = loose
    elif os.path.isdir(aligned):
        folder, landmarks = aligned, None
    else:
        missing = landmarks_file if os.path.isdir(loose) else loose
        raise UserError(f"{missing}: No such file or directory; restore it, or put aligned 112x112 crops into {aligned}")
    _check_images_exist(folder, images, lines, list_file)
    pairs_file = list_file.with_name(f"{name}_template_pair_label.txt")
    counts = np.zeros(2, np.int64)
    known = np.unique(templates)
    searches = read_search_lists(list_file.parent, name, known)
    for _, is_same in read_pairs(pairs_file, known, f"checking {name}"):
        counts += np.bincount(is_same, minlength=2)
    check_kinds(pairs_file, *counts)
    negatives, positives = counts.tolist()
    return IjbProtocol(name, folder, images, templates, media, landmarks, scores, pairs_file, positives, negatives, searches)


def load_image(protocol: IjbProtocol, index: int) -> np.ndarray:
    """Return one image, aligned by its landmarks where it has them, as uint8 [3, 112, 112], RGB; it is a view.

    Raises:
        UserError: that names the image, which cannot be read, decoded or aligned.
    """
    path = protocol.directory / os.fsdecode(protocol.images[index])
    if protocol.landmarks is None:
        return read_image(path)
    try:
        image = decode_any_size(read_file(path), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; restore the image") from error
    try:
        return channels_first(align(image, protocol.landmarks[index]))
    except (ValueError, cv2.error) as error:
        raise UserError(f"{path}: cannot be aligned by its landmarks ({error}); correct them") from error


def read_pairs(
    pairs_file: str | Path, template_ids: np.ndarray, doing: str, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read a list of pairs block by block, with a progress bar labelled `doing`.

    Yields:
        rows int64 [k, 2], where in template_ids (int64 [t], ascending, t > 0) the templates of k pairs are, and is_same bool [k].

    Raises:
        UserError: the file cannot be read, a wrong line, or a template that is not in template_ids; with the line's number.
    """
    try:
        file = open_file(pairs_file)
    except OSError as error:
        raise UserError(f"{pairs_file}: {error.strerror or error}; restore the list of pairs") from error
    size = os.fstat(file.fileno()).st_size
    with file, tqdm(total=size, desc=doing, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        first_line = 1
        # The rest of the last line, but not all of a file that has no lines.
        while block := file.read(block_bytes) + file.readline(1000):
            pairs = _parse_pairs(block, first_line, pairs_file)
            rows = np.searchsorted(template_ids, pairs[:, :2])
            unknown = template_ids[np.minimum(rows, len(template_ids) - 1)] != pairs[:, :2]
            if unknown.any():
                pair, side = np.argwhere(unknown)[0]
                line = [number for number, line in enumerate(block.split(b"\n"), first_line) if line.strip()][pair]
                raise UserError(
                    f"{pairs_file} line {line}: no image belongs to template {pairs[pair, side]}; correct or remove the line"
                )
            yield rows, pairs[:, 2] == 1
            first_line += block.count(b"\n")
            bar.update(len(block))


def _parse_pairs(block: bytes, first_line: int, file: str | Path) -> np.ndarray:
    """Return the numbers in some lines of a list of pairs, int64 [k, 3]."""
    tidy = block.replace(b"\r\n", b"\n") + (b"" if block.endswith(b"\n") else b"\n")
    characters = np.frombuffer(tidy, np.uint8)
    ends = np.flatnonzero(characters < ord("0"))  # one after each number, if the lines are as they should be
    digits = np.diff(ends, prepend=-1) - 1
    if len(ends) % 3 == 0 and characters.max() <= ord("9") and digits.min() > 0 and digits.max() <= 18:
        first, second, third = characters[ends].reshape(-1, 3).T
        if np.isin([first, second], (ord(" "), ord("\t"))).all() and (third == ord("\n")).all():
            pairs = np.fromstring(tidy, np.int64, sep=" ").reshape(-1, 3)
            if pairs[:, 2].max() <= 1:
                return pairs
    # Something else than plain numbers and single spaces: thirty times slower, but it names what is wrong.
    lines = enumerate(block.split(b"\n"), first_line)
    parsed = [_parse_pair(line, number, file) for number, line in lines if line.strip()]
    return np.array(parsed, np.int64).reshape(-1, 3)


def _parse_pair(line: bytes, number: int, file: str | Path) -> list[int]:
    parts = line.split()
    if len(parts) != 3 or not all(map(is_number, parts)) or int(parts[2]) > 1:
        raise wrong_line(file, number, line, "is not two template numbers and 1 or 0")
    return [int(part) for part in parts]


def _find_list(directory: Path) -> tuple[Path, str]:
    """Return the file that lists the images, and the prefix of its name."""
    suffix = "_face_tid_mid.txt"
    found = sorted((directory / "meta").glob(f"*{suffix}"))
    if len(found) > 1:
        own = re.sub("[^a-z0-9]", "", directory.resolve().name.lower())
        found = [file for file in found if file.name == own + suffix] or found
    if len(found) != 1:
        detail = "several protocols, none of the directory's name" if found else "no such file"
        raise UserError(f"{directory / 'meta' / f'*{suffix}'}: {detail}; pass a protocol directory in InsightFace's layout")
    return found[0], found[0].name.removesuffix(suffix)


def _read_list(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, array]:
    """Return the paths of images (bytes), templates and media (int64), and the numbers of their lines."""
    images, templates, media, lines = [], array("q"), array("q"), array("q")
    for number, line in numbered_lines(file):
        parts = line.rsplit(None, 2)
        if len(parts) != 3 or not all(map(is_number, parts[1:])):
            raise wrong_line(file, number, line, "is not an image, a template number and a media number")
        if parts[0].startswith(b"/") or b".." in parts[0].split(b"/"):
            raise wrong_line(file, number, line, "has a path that leaves the directory of images")
        images.append(parts[0])
        templates.append(int(parts[1]))
        media.append(int(parts[2]))
        lines.append(number)
    if not images:
        raise UserError(f"{file}: lists no images; each line is 'image template media'")
    return np.array(images), np.array(templates), np.array(media), lines


def _read_landmarks(file: Path, images: np.ndarray, list_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the landmarks, float32 [n, 5, 2], and the detector's scores, float32 [n], of the listed images."""
    values, count = array("d"), 0
    for number, line in numbered_lines(file):
        image, *parts = line.rsplit(None, 11)
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) != 11 or not all(map(math.isfinite, numbers)):
            raise wrong_line(file, number, line, "is not an image, ten coordinates and a score")
        if count < len(images) and image != images[count]:
            raise wrong_line(file, number, line, f"is where {list_file.name} lists '{os.fsdecode(images[count])}'")
        values.extend(numbers)
        count += 1
    if count != len(images):
        raise UserError(f"{file}: lists {count} images, and {list_file.name} lists {len(images)}; restore the files")
    table = np.array(values, np.float32).reshape(-1, 11)
    return table[:, :10].reshape(-1, 5, 2), table[:, 10].copy()


def _check_images_exist(directory: Path, images: np.ndarray, lines: array, file: Path) -> None:
    # One listing of each directory instead of a look at each file: datasets lie on network file systems.
    members = defaultdict(list)
    for index, image in enumerate(images.tolist()):
        members[os.path.dirname(image)].append(index)
    for folder, indices in members.items():
        try:
            present = set(os.listdir(os.path.join(os.fsencode(directory), folder)))
        except OSError:
            present = set()
        for index in indices:
            if os.path.basename(images[index]) not in present:
                name = directory / os.fsdecode(images[index])
                raise UserError(f"{file} line {lines[index]}: {name}: no such file; restore it or remove the line")


def check_kinds(pairs_file: str | Path, negatives: int, positives: int) -> None:
    """Raise a UserError that names the list if it has pairs of one kind only, or none."""
    if not negatives or not positives:
        kind = "the same identity" if positives else "different identities"
        detail = f"all {negatives + positives} pairs show {kind}" if negatives + positives else "lists no pairs"
        raise UserError(f"{pairs_file}: {detail}; TAR at a FAR needs pairs of both kinds: restore the list")
