"""Aligns photos of faces to the 112x112 template, by landmarks from a list or a detector, in parallel processes."""

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from arcface.data.alignment import align
from arcface.data.detector import FaceDetector
from arcface.data.landmarks import FIRST_ROWS, complaint, wrong_order
from arcface.data.photos import PHOTOS, photo_paths
from arcface.errors import UserError
from arcface.io.files import atomic_write, read_file
from arcface.io.images import decode_any_size, decode_photo
from arcface.options.kinds import Count, PathName

NOT_ALIGNED = "not_aligned.txt"

_detector: FaceDetector | None = None  # of this worker process


@dataclass(kw_only=True)
class AlignOptions:
    """Photos to align"""

    images: PathName
    """The photos, in any folders below this one."""
    output: PathName
    """Where the crops go."""
    landmarks: PathName | None = None
    """List of landmarks, see above."""
    detector: PathName | None = None
    """YuNet model (.onnx), see above."""
    unchecked: bool = False
    """Do not check whether landmarks fit a face."""
    format: Literal["jpg", "png"] = "jpg"
    """Of the crops: JPEG of quality 95, or PNG."""
    num_workers: Count | None = None
    """Processes; one per core when not given."""


class Photo(NamedTuple):
    """A photo to align: its path below the folder, the files to read and to write, and its landmarks, float64 [5, 2], if listed."""

    path: str
    file: Path
    crop: Path
    landmarks: np.ndarray | None
    unchecked: bool


def align_photos(options: AlignOptions) -> str:
    """Write a crop of each photo that has none yet, and the list of those that cannot have one; returns the line that says so.

    Raises UserError for an option that is wrong or landmarks in another order, before anything is written.
    """
    if bool(options.landmarks) == bool(options.detector):
        raise UserError("--landmarks and --detector: one of them is required, not both; see --help")
    folder, output = Path(options.images), Path(options.output)
    paths = find_photos(folder)
    if output.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--output {output}: lies in --images, whose photos it would join; choose another folder")
    landmarks = listed_landmarks(Path(options.landmarks), options, paths) if options.landmarks else {}
    cv2.setNumThreads(1)  # here, since a forked process may wait forever for threads that it does not have
    if options.detector:
        FaceDetector(options.detector)
    crops = {path: (output / path).with_suffix(f".{options.format}") for path in paths}
    if len(set(crops.values())) < len(crops):
        raise UserError(f"--images {folder}: two photos differ in their ending only, as a.jpg and a.png; rename one")
    photos = [
        Photo(path, folder / path, crop, landmarks.get(path), options.unchecked)
        for path, crop in crops.items()
        if not crop.exists()
    ]
    try:
        problems = _make_crops(photos, output, options)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror or error}); choose another folder") from error
    listed = f", listed in {output / NOT_ALIGNED}" if problems else ""
    return (
        f"{output}: {len(photos) - len(problems)} crops made, {len(paths) - len(photos)} existed already,"
        f" {len(problems)} photos without a crop{listed}"
    )


def find_photos(folder: Path) -> list[str]:
    """Return the paths of all photos below a folder, relative to it, sorted; raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder; pass the one with the photos")
    paths = photo_paths(folder)
    if not paths:
        raise UserError(f"--images {folder}: contains no photo ({' '.join(sorted(PHOTOS))}); pass another folder")
    return paths


def listed_landmarks(file: Path, options: AlignOptions, photos: list[str]) -> dict[str, np.ndarray]:
    """Return the landmarks of a list, float64 [5, 2] by path; raises UserError if they are not of these photos or not of faces."""
    landmarks = read_landmarks(file)
    if not landmarks.keys() & set(photos):
        raise UserError(
            f"{file}: names none of the photos in {options.images}, such as {photos[0]}; write paths relative to that folder"
        )
    if not options.unchecked:
        rows = np.array(list(landmarks.values())[:FIRST_ROWS]).reshape(-1, 10)
        if problem := wrong_order(rows):
            raise UserError(f"{file}: {problem}; or use the landmarks as they are, with --unchecked")
    return landmarks


def read_landmarks(file: Path) -> dict[str, np.ndarray]:
    """Read lines 'path x1 y1 ... x5 y5': float64 [5, 2] by path; raises UserError for a line that is wrong."""
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"--landmarks {file}: cannot be read ({error.strerror}); pass a text file") from error
    found: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        path, *numbers = line.rsplit(None, 10)
        try:
            points = np.array(numbers, np.float64).reshape(5, 2)
        except ValueError:
            points = np.array([[np.nan]])
        if not np.isfinite(points).all():
            raise UserError(f"{file} line {number}: not a path and ten numbers; correct or remove the line")
        if found.setdefault(path.strip(), points) is not points:
            raise UserError(f"{file} line {number}: {path.strip()} has landmarks already; remove one of the lines")
    if not found:
        raise UserError(f"{file}: contains no landmarks; each line is a path and ten numbers")
    return found


def make_crop(photo: Photo) -> tuple[str, str | None]:
    """Write one crop; returns the photo's path and what is wrong with it, or None. Raises OSError if it cannot be written."""
    path = photo.path
    try:
        encoded = read_file(photo.file)
        if _detector:
            image = decode_photo(encoded, path)
            points = next(iter(_detector.landmarks(image)), None)
        else:
            image, points = decode_any_size(encoded, path), photo.landmarks
        if points is None:
            return path, "no face found" if _detector else "no landmarks"
        if not photo.unchecked and (problem := complaint(points)):
            return path, problem
        crop = align(image, points)
    except OSError as error:
        return path, error.strerror
    except (UserError, ValueError) as error:
        return path, str(error).removeprefix(f"{path}: ")
    photo.crop.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if photo.crop.suffix == ".jpg" else []
    with atomic_write(photo.crop) as file:
        file.write(cv2.imencode(photo.crop.suffix, crop, options)[1].tobytes())
    return path, None


def _make_crops(photos: list[Photo], output: Path, options: AlignOptions) -> list[tuple[str, str]]:
    """Write the crops, and return and list what is wrong with the photos that get none; raises OSError."""
    output.mkdir(parents=True, exist_ok=True)
    with multiprocessing.Pool(options.num_workers or os.cpu_count(), _start_worker, [options.detector]) as pool:
        results = tqdm(pool.imap_unordered(make_crop, photos, 16), "aligning", len(photos), unit=" photos", disable=None)
        problems = sorted((path, problem) for path, problem in results if problem)
    with atomic_write(output / NOT_ALIGNED) as file:
        file.writelines(f"{path}\t{problem}\n".encode(errors="surrogateescape") for path, problem in problems)
    return problems


def _start_worker(model: str | None) -> None:
    global _detector
    _detector = FaceDetector(model) if model else None
