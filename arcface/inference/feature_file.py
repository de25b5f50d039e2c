"""Files of embeddings: NAME.npz, NAME.npy with lists beside it, or NAME.parquet; written without holding all rows in memory."""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from arcface.errors import UserError
from arcface.io.files import atomic_write

PATHS, LABELS = "paths.txt", "labels.txt"  # beside a .npy


@dataclass(frozen=True, eq=False)
class Features:
    """Embeddings of images, a row for each face.

    Attributes:
        size: length D of an embedding.
        blocks: returns the rows in order, in arrays float32 [n, D].
        paths: of each row's image.
        labels: int64 [rows], whom each shows; None if that is not known.
    """

    size: int
    blocks: Callable[[], Iterable[np.ndarray]]
    paths: list[str]
    labels: np.ndarray | None


def check_output(output: Path, begun: bool) -> None:
    """Raise UserError for a file that `write_features` cannot write; where an earlier run has begun, lists beside it may exist."""
    if output.suffix not in _WRITERS:
        raise UserError(f"--output {output}: must end in .npz, .npy or .parquet")
    if output.suffix == ".parquet" and not find_spec("pyarrow"):
        raise UserError(f"--output {output}: pyarrow writes it, which is not installed; pip install pyarrow, or choose .npz")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: its directory does not exist; create it or pass another name")
    for file in [output, *([] if begun else lists_beside(output))]:
        if os.path.lexists(file):
            raise UserError(f"--output {file}: exists already; remove it, or choose another name")


def lists_beside(output: Path) -> list[Path]:
    """Return the files that come with an output, if there is something to list."""
    of_rows = [output.with_name(PATHS), output.with_name(LABELS)] if output.suffix == ".npy" else []
    return [*of_rows, unreadable_list(output)]


def unreadable_list(output: Path) -> Path:
    """Return the file that lists the images without an embedding."""
    return output.with_name(f"{output.name}.unreadable.txt")


def write_features(output: Path, features: Features) -> None:
    """Write the file that the ending of `output` asks for; it gets its name when all of it is on the disk.

    .npz has the arrays `embeddings`, `paths` and, if they are known, `labels`; .parquet has columns of these names. A .npy has the
    embeddings, and beside it are paths.txt and labels.txt, a line a row. The same features give the same bytes.

    Raises OSError if it cannot be written; UserError if a path cannot be in a list of lines.
    """
    if output.suffix == ".npy":
        _write_lists(output, features)
    with atomic_write(output) as file:
        _WRITERS[output.suffix](file, features)


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a text file, names that are no UTF-8 as they are; raises OSError if it cannot be written."""
    with atomic_write(file) as written:
        written.writelines(line.encode(errors="surrogateescape") + b"\n" for line in lines)


def _write_npy(file: IO[bytes], features: Features) -> None:
    shape = len(features.paths), features.size
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for block in features.blocks():
        file.write(block.astype("<f4").tobytes())


def _write_npz(file: BinaryIO, features: Features) -> None:
    with zipfile.ZipFile(file, "w") as archive:

        def member(name: str) -> IO[bytes]:
            return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)  # dated 1980: no time of day in the file

        with member("embeddings") as part:
            _write_npy(part, features)
        with member("paths") as part:
            np.lib.format.write_array(part, np.array(features.paths), allow_pickle=False)
        if features.labels is not None:
            with member("labels") as part:
                np.lib.format.write_array(part, features.labels, allow_pickle=False)


def _write_parquet(file: BinaryIO, features: Features) -> None:
    import pyarrow
    from pyarrow import parquet

    fields = {"embeddings": pyarrow.list_(pyarrow.float32(), features.size), "paths": pyarrow.string()}
    if features.labels is not None:
        fields["labels"] = pyarrow.int64()
    with parquet.ParquetWriter(file, pyarrow.schema(fields)) as writer:
        for rows, block in _rows_of(features):
            embeddings = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.reshape(-1)), features.size)
            columns = [embeddings, pyarrow.array(list(map(_as_utf8, features.paths[rows])))]
            if features.labels is not None:
                columns.append(pyarrow.array(features.labels[rows]))
            writer.write_table(pyarrow.table(columns, schema=writer.schema))


def _rows_of(features: Features) -> Iterator[tuple[slice, np.ndarray]]:
    start = 0
    for block in features.blocks():
        yield slice(start, start + len(block)), block
        start += len(block)


def _as_utf8(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _write_lists(output: Path, features: Features) -> None:
    if broken := next((path for path in features.paths if "\n" in path), None):
        raise UserError(f"{broken}: a line of {PATHS} cannot hold such a name; choose an --output that ends in .npz")
    write_lines(output.with_name(PATHS), features.paths)
    if features.labels is not None:
        write_lines(output.with_name(LABELS), map(str, features.labels.tolist()))


_WRITERS: dict[str, Callable[[BinaryIO, Features], None]] = {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}
