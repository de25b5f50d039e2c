"""A checkpoint's files and folders: names, writing through to the disk, which one is current, which are removed.

training/checkpoint.py says what lies where, and in which order it comes about.
"""

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from arcface.distributed.process_group import rank
from arcface.io.files import atomic_write, new_file, sync_directory, write_new
from arcface.weights.run_directory import BEST, LATEST, MANIFEST

_COMPLETE = re.compile(r"step_\d{8}(_\d+)?")
INCOMPLETE = re.compile(rf"\.{_COMPLETE.pattern}\.incomplete")


def head_files(owner: int, colon: str = ":") -> tuple[str, str]:
    """Return the names of the files with a rank's class centres and with their momentum."""
    return f"rank{colon}{owner}_softmax_weight.pkl", f"rank{colon}{owner}_softmax_weight_mom.pkl"


def colon_in(folder: Path) -> str:
    """Return what stands between "rank" and its number in names: a colon, unless the file system allows none."""
    if os.name == "nt":  # where a colon would begin a stream in another file
        return "_"
    try:
        write_new(folder / f"rank:{rank()}", b"")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return "_"
    (folder / f"rank:{rank()}").unlink()
    return ":"


def write(path: Path, content: bytes) -> bytes:
    """Write a file through to the disk and return its sha256."""
    write_new(path, content)
    return hashlib.sha256(content).digest()


def write_pickle(path: Path, array: np.ndarray) -> bytes:
    """Write a file as `write` would the array's pickle, without having all of that in memory."""
    digest = hashlib.sha256()
    with new_file(path) as file:

        class Both:
            """What pickle writes to."""

            def write(self, part: bytes) -> None:
                digest.update(part)
                file.write(part)

        pickle.dump(array, Both(), protocol=4)
    return digest.digest()


def free_name(output: Path, step: int) -> str:
    """Return a name for the checkpoint of a step that no folder has."""
    # A run that starts anew in an old run's directory may reach the very step that the old checkpoint has.
    name, number = f"step_{step:08d}", 1
    while (output / name).exists():
        number += 1
        name = f"step_{step:08d}_{number}"
    return name


def make_current(output: Path, name: str, files: Iterable[str], best: bool) -> None:
    """Have `latest`, with `best` the link of that name too, and the well-known names lead to a checkpoint."""
    # The best one first: a run that resumes from the checkpoint before would come here again, but not the other way round.
    for link in (BEST, LATEST) if best else (LATEST,):
        current, copied = output / link, output / f".{link}.copied"
        if current.is_dir() and not current.is_symlink():  # what `cp -rL` or `scp -r` made of the link
            remove([copied])
            os.rename(current, copied)  # the files beside `latest` are a complete checkpoint then
        if not _link(current, name):
            with atomic_write(current) as pointer:
                pointer.write(name.encode())
    for file in files:
        if not _link(output / file, f"{LATEST}/{file}"):
            with atomic_write(output / file) as copy, open(output / name / file, "rb") as original:
                shutil.copyfileobj(original, copy)
    sync_directory(output)


def remove_older(output: Path, name: str, run: str | None) -> None:
    """Remove all checkpoints but the one of this name, the best one of this run, and those that are to be kept."""
    best = output / BEST
    target = best.read_text().strip() if best.is_file() else os.readlink(best) if best.is_symlink() else None
    if target and _manifest(output / target).get("progress", {}).get("run") != run:  # of a run before, in this directory
        best.unlink()
        target = None
    others = [path for path in output.iterdir() if _COMPLETE.fullmatch(path.name) and path.name != name]
    files = _manifest(output / name).get("sha256", {})
    for file in {file for path in others for file in _manifest(path).get("sha256", {})} - set(files):
        if Path(file).name == file:  # what this checkpoint has not, such as ranks or an average: a link or a copy of old values
            (output / file).unlink(missing_ok=True)
    remove(path for path in others if path.name != target and not _manifest(path).get("keep"))
    remove(output / f".{link}.copied" for link in (LATEST, BEST))
    (output / f".{BEST}.new").unlink(missing_ok=True)  # what a crash left


def _manifest(folder: Path) -> dict:
    """Return a checkpoint's manifest; an empty one for what a removal has left."""
    try:
        return json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}


def _link(link: Path, target: str) -> bool:
    """Make a symbolic link, in place of what has its name; returns whether the file system has such links."""
    if not link.is_symlink() or os.readlink(link) != target:
        new = link.with_name(f".{link.name}.new")
        new.unlink(missing_ok=True)
        try:
            new.symlink_to(target)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            raise
        os.replace(new, link)
    return True


def remove(folders: Iterable[Path]) -> None:
    """Remove folders with all that is in them, as far as that is possible."""
    for folder in list(folders):  # what cannot be removed now is in nobody's way, and is tried again at the next save
        shutil.rmtree(folder, ignore_errors=True)
