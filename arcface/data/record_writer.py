"""Writes a dataset as a .rec file with its .idx and property, as InsightFace hands datasets around."""

import contextlib
import itertools
import os
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from arcface.data.names import write_names, write_old_labels
from arcface.data.ordered_map import ordered_map
from arcface.data.recordio import RecordReader, encode
from arcface.data.selection import Selection
from arcface.data.unfinished import begun_otherwise, locked_partial, partial_of
from arcface.errors import UserError
from arcface.io.files import atomic_write, sync_directory
from arcface.io.images import SIZE

EXACT = 2**24  # whole numbers that a .rec holds exactly: it has them as float32
SYNCED = 4096  # records; at most so many more may be lost when the power fails


def write_records(selection: Selection, output: Path, threads: int) -> int:
    """Write a .rec file, its .idx and property, and return how many records an interrupted run had written.

    If the labels are in order, it is InsightFace's layout: images 1, 2, ..., the header record 0 and the identities' records.
    Otherwise, and where float32 cannot hold the ranges, it is MXNet's: images 0, 1, ... only.

    Raises OSError if it cannot be written; UserError if it cannot be resumed or an image cannot be read.
    """
    if selection.num_classes > EXACT:
        raise UserError(f"{output}: {selection.num_classes} identities; a .rec file holds {EXACT} at most, choose another --layout")
    in_order = (np.diff(selection.labels) >= 0).all() and len(selection) + selection.num_classes < EXACT
    first_key = 1 if in_order else 0

    def encode_chunk(chunk: range) -> list[bytes]:
        return [encode(int(selection.labels[at]), first_key + at, selection.encoded(at)) for at in chunk]

    partial = partial_of(output)
    with locked_partial(partial) as file:
        offsets = _written_offsets(partial, selection, first_key)
        end, resumed = offsets.pop(), len(offsets)
        file.truncate(end)
        file.seek(end)

        def append(records: list[bytes]) -> None:
            nonlocal end
            file.write(b"".join(records))
            file.flush()
            for record in records:
                offsets.append(end)
                end += len(record)

        for records in ordered_map(encode_chunk, range(resumed, len(selection)), threads, "writing"):
            append(records)
            if len(offsets) % SYNCED < len(records):
                os.fsync(file.fileno())
        keys: Iterable[int] = range(first_key, first_key + len(selection))
        if in_order:
            starts = [1, *(np.flatnonzero(np.diff(selection.labels)) + 2).tolist(), len(selection) + 1]
            identity_keys = range(len(selection) + 1, len(selection) + len(starts))
            append([encode([identity_keys.start, identity_keys.stop], 0, b"")])
            for key, (start, stop) in zip(identity_keys, itertools.pairwise(starts), strict=True):
                append([encode([start, stop], key, b"")])
            keys = itertools.chain(keys, [0], identity_keys)
        os.fsync(file.fileno())
        _write_companions(selection, output, zip(keys, offsets, strict=True))
        os.rename(partial, output)
    sync_directory(output.parent)
    return resumed


def _write_companions(selection: Selection, output: Path, index: Iterable[tuple[int, int]]) -> None:
    """Write the files beside a .rec file; `index` is the key and byte offset of each record."""
    with atomic_write(output.with_suffix(".idx")) as file:
        file.writelines(b"%d\t%d\n" % line for line in index)
    with atomic_write(output.with_name("property")) as file:
        file.write(b"%d,%d,%d\n" % (selection.num_classes, SIZE, SIZE))
    write_names(selection.identity_names, selection.datasets[0].file, output.parent)
    write_old_labels(selection.old_labels, output.parent)


def _written_offsets(partial: Path, selection: Selection, first_key: int) -> "array[int]":
    """Return the byte offsets of the image records that an interrupted run wrote, and where the last one ends.

    Raises UserError if they are not the selection's: all headers and the last SYNCED images are compared.
    """
    size = partial.stat().st_size // 4 * 4
    os.truncate(partial, size)
    offsets, end, is_same = array("q"), 0, True
    if size:
        reader = RecordReader(partial)
        with contextlib.suppress(UserError):  # the last record is not whole
            for offset, stop, header in itertools.islice(reader.headers(), len(selection)):
                expected = (first_key + len(offsets), selection.labels[len(offsets)])
                is_same = (header.id, header.label) == expected and header.image_bytes > 0
                if not is_same:
                    break
                offsets.append(offset)
                end = stop
    offsets.append(end)
    compared = range(max(0, len(offsets) - 1 - SYNCED), len(offsets) - 1)
    if not is_same or any(reader.read(offsets[at], offsets[at + 1]).image != selection.encoded(at) for at in compared):
        raise begun_otherwise(partial)
    return offsets
