"""Writes a dataset as image files: in images/ with a label.txt, or in a folder for each identity."""

import contextlib
import os
from pathlib import Path
from typing import Literal

import numpy as np

from arcface.data.names import number_name, write_names, write_old_labels
from arcface.data.ordered_map import ordered_map
from arcface.data.selection import Selection
from arcface.data.unfinished import begun_otherwise, locked_partial, partial_of
from arcface.errors import UserError
from arcface.io.files import atomic_write, sync_directory

ENDINGS = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"BM": ".bmp", b"RIFF": ".webp"}  # by an image's first bytes


def write_files(selection: Selection, output: Path, layout: Literal["label", "folder"], threads: int) -> int:
    """Write a directory of image files, and return how many of them an interrupted run had written.

    Raises OSError if it cannot be written; UserError if it cannot be resumed or an image cannot be read.
    """
    folders = folder_names(selection.identity_names) if layout == "folder" else ["images"] * selection.num_classes
    partial = partial_of(output)
    partial.mkdir(exist_ok=True)
    endings = sorted(ENDINGS.values())
    ending_of, resumed = np.empty(len(selection), np.uint8), 0

    def path_of(position: int, ending: str) -> str:
        return f"{folders[selection.labels[position]]}/{position:08d}{ending}"  # in a folder, too, images keep their order

    def write_chunk(chunk: range) -> tuple[range, list[int], int]:
        written, existing = [], 0
        for position in chunk:
            image = selection.encoded(position)
            ending = next((ending for mark, ending in ENDINGS.items() if image.startswith(mark)), None)
            if not ending:
                name = selection.name(position)
                raise UserError(f"{name}: neither JPEG, PNG, BMP nor WebP; datasets/check.py lists all bad images")
            existing += _write_image(partial / path_of(position, ending), image)
            written.append(endings.index(ending))
        return chunk, written, existing

    mark = partial / ".source"
    with locked_partial(mark) as file:
        if file.read() not in (b"", selection.fingerprint()):
            raise begun_otherwise(partial)
        file.seek(0)
        file.write(selection.fingerprint())
        file.flush()
        for chunk, written, existing in ordered_map(write_chunk, range(len(selection)), threads, "writing"):
            ending_of[chunk.start : chunk.stop] = written
            resumed += existing
        if layout == "label":
            with atomic_write(partial / "label.txt") as label_file:
                for position, (ending, label) in enumerate(zip(ending_of, selection.labels, strict=True)):
                    label_file.write(b"%s\t%d\n" % (path_of(position, endings[ending]).encode(), label))
        if folders != selection.identity_names:
            write_names(selection.identity_names, selection.datasets[0].file, partial)
        write_old_labels(selection.old_labels, partial)
        mark.unlink()
        os.sync()  # once for all images
        os.rename(partial, output)
    sync_directory(output.parent)
    return resumed


def folder_names(identity_names: list[str]) -> list[str]:
    """Return a folder's name for each label, in ascending order: the identities' own where that is possible, else numbers."""
    names = list(map(os.fsencode, identity_names))
    possible = all(0 < len(name) < 256 and not name.startswith(b".") and not set(name) & set(b"/\0\n") for name in names)
    if possible and all(name < following for name, following in zip(names, names[1:], strict=False)):
        return identity_names
    return list(map(number_name, range(len(identity_names))))


def _write_image(path: Path, image: bytes) -> bool:
    """Write a file unless it exists with this size; returns whether it existed."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == len(image):
            return True
    if not path.parent.is_dir():
        path.parent.mkdir(exist_ok=True)
    path.write_bytes(image)
    return False
