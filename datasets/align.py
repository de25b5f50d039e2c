#!/usr/bin/env python3
"""Align photos of faces to the 112x112 ArcFace template, which training and verification expect.

    python datasets/align.py --images photos --landmarks landmarks.txt --output photos_112x112
    python datasets/align.py --images photos --detector face_detection_yunet_2023mar.onnx --output photos_112x112

The five landmarks are the eyes (the one on the left of the image first), the tip of the nose and the corners of the mouth,
in pixels. They come from one of

    --landmarks FILE.txt   lines 'path x1 y1 x2 y2 x3 y3 x4 y4 x5 y5', the path in --images; '#' begins a comment
    --detector FILE.onnx   a YuNet model for OpenCV (opencv_zoo has it); of several faces the one that is large and near
                           the middle is taken: the greatest area less twice the squared distance of the centres

If the first 100 faces of a list do not fit the template, nothing is written and the order of the numbers that would fit is
named. A face whose landmarks do not fit gets no crop. --unchecked takes all landmarks as they are.

A crop has the path of its photo, with the ending .jpg (or .png with --format png). Crops that are there stay as they are,
so the same command goes on after an interruption. Photos without a crop are listed in OUTPUT/not_aligned.txt.
"""

import argparse
import multiprocessing
import os
import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nothing here is installed

from arcface.command import run
from arcface.data.alignment import align
from arcface.data.landmarks import FIRST_ROWS, complaint, wrong_order
from arcface.errors import UserError
from arcface.io.files import atomic_write, user_path
from arcface.io.images import decode_any_size

PHOTOS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
MIN_SCORE = 0.6  # of a detected face, 0 to 1
LARGEST_SIDE = 1280  # pixels, of the image that the detector sees

detector = None  # of this worker process


def read_landmarks(file):
    """{path: float64 [5, 2]} of a list of landmarks."""
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"--landmarks {file}: cannot be read ({error.strerror}); give a text file") from error
    found = {}
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
        raise UserError(f"{file}: holds no landmarks; each line is a path and ten numbers")
    return found


def find_photos(folder):
    """The paths of all photos below a folder, relative to it, sorted."""
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder; give the one with the photos")
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in PHOTOS]
    if not paths:
        raise UserError(f"--images {folder}: holds no photo ({' '.join(sorted(PHOTOS))}); give another folder")
    return sorted(map(str, paths))


def open_detector(model):
    try:
        return cv2.FaceDetectorYN.create(str(model), "", (320, 320), score_threshold=MIN_SCORE)
    except cv2.error as error:
        raise UserError(f"--detector {model}: OpenCV cannot open it as a YuNet model ({error.err}); fetch it again") from error


def detect(image):
    """The five landmarks, float64 [5, 2], of the main face; None where no face is found."""
    height, width = image.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    seen = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    detector.setInputSize((seen.shape[1], seen.shape[0]))
    faces = detector.detect(seen)[1]  # [faces, 15]: x y width height, five landmarks, score
    if faces is None or not len(faces):
        return None
    x, y, w, h = faces[:, :4].T
    off_centre = (x + w / 2 - seen.shape[1] / 2) ** 2 + (y + h / 2 - seen.shape[0] / 2) ** 2
    main = (w * h - 2 * off_centre).argmax()
    return faces[main, 4:14].reshape(5, 2).astype(np.float64) / scale


def start_worker(model):
    global detector
    detector = open_detector(model) if model else None


def make_crop(job):
    """Write one crop; returns the photo's path and what is wrong with it, or None."""
    path, source, target, landmarks, unchecked = job
    try:
        image = decode_any_size(source.read_bytes(), path)
        points = detect(image) if detector else landmarks
        if points is None:
            return path, "no face found" if detector else "no landmarks"
        if not unchecked and (problem := complaint(points)):
            return path, problem
        crop = align(image, points)
    except OSError as error:
        return path, error.strerror
    except (UserError, ValueError) as error:
        return path, str(error).removeprefix(f"{path}: ")
    target.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if target.suffix == ".jpg" else []
    with atomic_write(target) as file:
        file.write(cv2.imencode(target.suffix, crop, options)[1].tobytes())
    return path, None


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail  # one line, without the usage
    add = parser.add_argument
    add("--images", type=user_path, required=True, metavar="FOLDER", help="the photos, in any folders below it")
    add("--output", type=user_path, required=True, metavar="FOLDER", help="where the crops go")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--landmarks", type=user_path, metavar="FILE.txt", help="list of landmarks, see above")
    where.add_argument("--detector", type=user_path, metavar="FILE.onnx", help="YuNet model, see above")
    add("--unchecked", action="store_true", help="do not check whether landmarks fit a face")
    add("--format", choices=["jpg", "png"], default="jpg", help="of the crops: JPEG of quality 95, or PNG (default: %(default)s)")
    add("--num_workers", type=int, default=os.cpu_count(), metavar="N", help="processes (default: one a core)")
    return parser.parse_args(argv)


def fail(message):
    raise UserError(f"{message}; see align.py --help")


def main(argv=None):
    args = parse(argv)
    if args.num_workers < 1:
        fail(f"--num_workers {args.num_workers}: at least one process is needed")
    photos = find_photos(args.images)
    if args.output.resolve().is_relative_to(args.images.resolve()):
        fail(f"--output {args.output} lies in --images, whose photos it would join; choose another folder")
    landmarks = read_landmarks(args.landmarks) if args.landmarks else {}
    if args.landmarks and not landmarks.keys() & set(photos):
        raise UserError(
            f"{args.landmarks}: names none of the photos in {args.images}, such as {photos[0]}; its paths must begin there"
        )
    if landmarks and not args.unchecked:
        rows = np.array(list(landmarks.values())[:FIRST_ROWS]).reshape(-1, 10)
        if problem := wrong_order(rows):
            raise UserError(f"{args.landmarks}: {problem}; or take the landmarks as they are, with --unchecked")
    if args.detector:
        open_detector(args.detector)
    targets = {photo: (args.output / photo).with_suffix(f".{args.format}") for photo in photos}
    if len(set(targets.values())) < len(targets):
        raise UserError(f"--images {args.images}: two photos differ in their ending only, as a.jpg and a.png; rename one")
    jobs = [
        (photo, args.images / photo, target, landmarks.get(photo), args.unchecked)
        for photo, target in targets.items()
        if not target.exists()
    ]
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        cv2.setNumThreads(1)  # here, since a forked process may wait for ever for threads that it does not have
        with multiprocessing.Pool(args.num_workers, start_worker, [args.detector]) as pool:
            results = tqdm(pool.imap_unordered(make_crop, jobs, 16), "aligning", len(jobs), unit=" photos", disable=None)
            problems = sorted((path, problem) for path, problem in results if problem)
        with atomic_write(args.output / "not_aligned.txt") as file:
            file.writelines(f"{path}\t{problem}\n".encode(errors="surrogateescape") for path, problem in problems)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written ({error.strerror}); choose another folder") from error
    print(
        f"{args.output}: {len(jobs) - len(problems)} crops made, {len(photos) - len(jobs)} were there, {len(problems)} photos"
        f" without a crop{f', listed in {args.output}/not_aligned.txt' if problems else ''}"
    )


if __name__ == "__main__":
    run(main)
