"""What convert.py, check.py and merge.py share: data sets written in each layout, in order, by several threads.

What is being written is called OUTPUT.partial and takes the name OUTPUT when all of it is on the disk; the same command
goes on after an interruption, at the first image that is not there yet.
"""

import contextlib
import fcntl
import hashlib
import itertools
import os
from array import array
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from rows import NAMES, number_name
from tqdm import tqdm

from arcface.data.datasets.image_folder import ImageFolder
from arcface.data.recordio import RecordReader, encode
from arcface.errors import UserError
from arcface.io.files import atomic_write, sync_directory
from arcface.io.images import SIZE

LAYOUTS = "rec", "label", "folder"
OLD_LABELS = "old_labels.txt"  # lines 'label<TAB>old label', there where people were relabelled
AT_ONCE = 64  # images that a thread takes at a time
SYNCED = 4096  # records; at most so many more may be lost when the power fails
EXACT = 2**24  # whole numbers that a .rec can hold: it has them as float32
ENDINGS = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"BM": ".bmp", b"RIFF": ".webp"}


def check_output(output, layout, sources):
    """Raise a UserError for an output that is there, or that cannot be; for callers with long work before it."""
    files = [output]
    if layout == "rec" and not partial_of(output).exists():
        files += [output.with_suffix(".idx"), *map(output.with_name, ("property", NAMES, OLD_LABELS))]
    for file in files:
        if os.path.lexists(file):
            raise UserError(f"{file}: exists already; remove it, or choose another --output")
    if not output.parent.is_dir():
        raise UserError(f"{output}: its directory does not exist; make it or give another name")
    if (output.suffix == ".rec") != (layout == "rec"):
        raise UserError(f"{output}: the name of a .rec file ends in .rec, the name of a directory does not; choose another one")
    for source in sources:
        if isinstance(source, ImageFolder) and output.resolve().is_relative_to(source.file.resolve()):
            raise UserError(f"{output}: lies in {source.file}, whose people it would join; choose another directory")


def partial_of(output):
    return output.with_name(f"{output.name}.partial")


def write(rows, output, layout, workers):
    """Write a data set; returns the one line that says what it is. UserError if that is not possible."""
    if len(rows.people) < 2:
        raise UserError(f"{output}: would have {len(rows.people)} person; at least two are needed")
    try:
        if layout == "rec":
            there = write_records(rows, output, workers)
        else:
            there = write_files(rows, output, layout, workers)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); the same command goes on once it can") from error
    went_on = f", {there:,} of them were there" if there else ""
    return f"{output}: {len(rows):,} images of {len(rows.people):,} people{went_on}"


def content_of(image):
    """A whole number of 64 bits that stands for an image's bytes when they are compared."""
    return int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "little")


def in_order(function, rows, workers, verb):
    """Yield function([row, ...]) for all rows, in order and with a progress bar; few results wait, however many rows."""
    waiting = deque()
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(None, verb, rows.stop, unit=" images", initial=rows.start, mininterval=1, disable=None) as bar,
    ):

        def done():
            chunk, result = waiting.popleft()
            result = result.result()
            bar.update(len(chunk))
            return result

        try:
            for start in range(rows.start, rows.stop, AT_ONCE):
                chunk = range(start, min(start + AT_ONCE, rows.stop))
                waiting.append((chunk, pool.submit(function, chunk)))
                if len(waiting) > 4 * workers:
                    yield done()
            while waiting:
                yield done()
        finally:
            pool.shutdown(cancel_futures=True)


def write_records(rows, output, workers):
    """Write a .rec file, its .idx and property; returns how many records were there.

    If the labels are in order, it is InsightFace's layout: images 1, 2, ..., the header record 0 and the identities' records.
    Otherwise, and where float32 cannot hold the ranges, it is MXNet's: images 0, 1, ... only.
    """
    if len(rows.people) > EXACT:
        raise UserError(f"{output}: {len(rows.people)} people; a .rec file holds {EXACT} at most, choose another layout")
    identities = (np.diff(rows.labels) >= 0).all() and len(rows) + len(rows.people) < EXACT
    first = 1 if identities else 0

    def encode_rows(chunk):
        return [encode(int(rows.labels[row]), first + row, rows.encoded(row)) for row in chunk]

    partial = partial_of(output)
    with locked(partial) as file:
        offsets = whole_records(partial, rows, first)
        end, there = offsets.pop(), len(offsets)
        file.truncate(end)
        file.seek(end)

        def append(records):
            nonlocal end
            file.write(b"".join(records))
            file.flush()
            for record in records:
                offsets.append(end)
                end += len(record)

        for records in in_order(encode_rows, range(there, len(rows)), workers, "writing"):
            append(records)
            if len(offsets) % SYNCED < len(records):
                os.fsync(file.fileno())
        keys = range(first, first + len(rows))
        if identities:
            starts = [1, *(np.flatnonzero(np.diff(rows.labels)) + 2).tolist(), len(rows) + 1]
            people = range(len(rows) + 1, len(rows) + len(starts))
            append([encode([people.start, people.stop], 0, b"")])
            for key, start, stop in zip(people, starts, starts[1:], strict=False):
                append([encode([start, stop], key, b"")])
            keys = itertools.chain(keys, [0], people)
        os.fsync(file.fileno())
        with atomic_write(output.with_suffix(".idx")) as index:
            index.writelines(b"%d\t%d\n" % line for line in zip(keys, offsets, strict=True))
        with atomic_write(output.with_name("property")) as file:
            file.write(b"%d,%d,%d\n" % (len(rows.people), SIZE, SIZE))
        write_names(rows, output.parent)
        write_old_labels(rows, output.parent)
        os.rename(partial, output)
    sync_directory(output.parent)
    return there


def whole_records(partial, rows, first):
    """The byte offsets of the image records that an interrupted run wrote, and where the last one ends."""
    size = partial.stat().st_size // 4 * 4
    os.truncate(partial, size)
    offsets, end, same = array("q"), 0, True
    if size:
        reader = RecordReader(partial)
        with contextlib.suppress(UserError):  # the last record is not whole
            for offset, stop, header in itertools.islice(reader.headers(), len(rows)):
                same = header.id == first + len(offsets) and header.label == rows.labels[len(offsets)] and header.image_bytes
                if not same:
                    break
                offsets.append(offset)
                end = stop
    offsets.append(end)
    last = range(max(0, len(offsets) - 1 - SYNCED), len(offsets) - 1)
    if not same or any(reader.read(offsets[row], offsets[row + 1]).image != rows.encoded(row) for row in last):
        raise UserError(f"{partial}: was begun from other images or labels; remove it, or choose another --output")
    return offsets


def write_files(rows, output, layout, workers):
    """Write a directory with images/ and label.txt, or with a folder for each person; returns how many images were there."""
    folders = folder_names(rows.people) if layout == "folder" else ["images"] * len(rows.people)
    partial = partial_of(output)
    partial.mkdir(exist_ok=True)
    endings = sorted(ENDINGS.values())
    ending_of, there = np.empty(len(rows), np.uint8), 0

    def path_of(row, ending):
        return f"{folders[rows.labels[row]]}/{row:08d}{ending}"  # in a folder, too, images keep their order

    def write_images(chunk):
        found, there = [], 0
        for row in chunk:
            image = rows.encoded(row)
            ending = next((ending for mark, ending in ENDINGS.items() if image.startswith(mark)), None)
            if not ending:
                raise UserError(f"{rows.name(row)}: neither JPEG, PNG, BMP nor WebP; datasets/check.py lists all bad images")
            there += write_image(partial / path_of(row, ending), image)
            found.append(endings.index(ending))
        return chunk, found, there

    mark = partial / ".source"
    with locked(mark) as file:
        begun = file.read()
        if begun not in (b"", rows.fingerprint()):
            raise UserError(f"{partial}: was begun from other images or labels; remove it, or choose another --output")
        file.seek(0)
        file.write(rows.fingerprint())
        file.flush()
        for chunk, found, skipped in in_order(write_images, range(len(rows)), workers, "writing"):
            ending_of[chunk.start : chunk.stop] = found
            there += skipped
        if layout == "label":
            with atomic_write(partial / "label.txt") as list_file:
                for row, (ending, label) in enumerate(zip(ending_of, rows.labels, strict=True)):
                    list_file.write(b"%s\t%d\n" % (path_of(row, endings[ending]).encode(), label))
        if folders != rows.people:
            write_names(rows, partial)
        write_old_labels(rows, partial)
        mark.unlink()
        os.sync()  # one for all images
        os.rename(partial, output)
    sync_directory(output.parent)
    return there


def folder_names(people):
    """A folder's name for each label, in ascending order: the people's own where that is possible, else numbers."""
    names = list(map(os.fsencode, people))
    possible = all(0 < len(name) < 256 and not name.startswith(b".") and not set(name) & set(b"/\0\n") for name in names)
    if possible and all(name < following for name, following in zip(names, names[1:], strict=False)):
        return people
    return list(map(number_name, range(len(people))))


def write_image(path, image):
    """Write a file unless it is there with this size; whether it was there."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == len(image):
            return True
    if not path.parent.is_dir():
        path.parent.mkdir(exist_ok=True)
    path.write_bytes(image)
    return False


def write_names(rows, directory):
    """Write names.txt if any name is known."""
    for name in rows.people:
        if "\n" in name:
            raise UserError(f"{rows.sources[0].file}: the name {name!r} has a line break; rename the folder")
    if any(rows.people):
        with atomic_write(directory / NAMES) as file:
            file.writelines(b"%d\t%s\n" % (label, os.fsencode(name)) for label, name in enumerate(rows.people) if name)


def write_old_labels(rows, directory):
    """Write old_labels.txt if people were relabelled."""
    if rows.old_labels is not None:
        with atomic_write(directory / OLD_LABELS) as file:
            file.writelines(b"%d\t%d\n" % (label, old) for label, old in enumerate(rows.old_labels.tolist()))


@contextlib.contextmanager
def locked(path):
    """Open a file, made if need be, to read and write; a UserError if another process has it."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{path}: another process is writing it; wait for it, or choose another --output") from error
        yield file


def add_layout(add):
    """Add the options that say what is written and how."""
    add(
        "--layout",
        choices=LAYOUTS,
        metavar="LAYOUT",
        help="rec: a .rec file, its .idx and property; label: images/ and"
        " label.txt; folder: a folder for each person (default: rec for a name that ends in .rec, else label)",
    )
    add_workers(add)


def add_workers(add):
    add(
        "--num_workers",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="threads (default: one a core; more where files lie on a network)",
    )


def layout_of(output, layout):
    return layout or ("rec" if output.suffix == ".rec" else "label")
